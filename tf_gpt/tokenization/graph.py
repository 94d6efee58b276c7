"""The fast tokenizer inside a TensorFlow graph, in core operations.

    tokenize = GraphTokenizer(tokenizer)
    ids = tokenize(["Once upon a time"])      # RaggedTensor int32 (B, None)
    text = tokenize.detokenize(ids)           # string (B,)

`TextToIds` and `IdsToText` are the same as Keras layers. All of it works eagerly,
in `tf.data`, under `tf.function` and in a SavedModel. There are no lookup tables:
what would be one is sorted constants and a binary search, so that nothing needs
to be tracked, initialised or stored beside a SavedModel.

Answers are those of `OpenAIGPTTokenizerFast`, with one limit: a word longer than
`max_word_length` is merged in stretches of that length. Work per word grows with
the square of its length, and no server should do that for 100,000 characters.

How it is done: BERT's normalization and splitting is a function of one code point
at a time, which gives its replacement and whether it joins its neighbours, stands
alone or is space. Words that are one piece are looked up whole; the others are
merged as padded rows of ids, the best pair of every row in each step.

Dimension key: B texts, N code points, W words, U different words, L characters of
the longest of them.
"""

import functools
import json
import unicodedata

import keras
import numpy as np
import tensorflow as tf
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import files
from tf_gpt.tokenization.bpe import END_OF_WORD
from tf_gpt.tokenization.fast import OpenAIGPTTokenizerFast

SPACE, JOINED, ALONE = 0, 1, 2

# Added tokens become single characters of the last private plane, which the
# normalization would remove; such characters of the text itself become \x01,
# which it also removes. So do the two that mark an added token on the way.
_FIRST_PRIVATE = 0x100000
_RESERVED = "[\x00\x02\U00100000-\U0010fffd]"
_MOST_ADDED = 0xFFFE

_NO_RANK = np.iinfo(np.int32).max
_BUCKET = 16  # words up to this length are merged apart from the longer ones
_N_FINGERPRINTS = 2**62


class GraphTokenizer(tf.Module):
    """`OpenAIGPTTokenizerFast` in core TensorFlow operations.

    Args:
        tokenizer: `OpenAIGPTTokenizerFast`.
        max_word_length: Characters of a word that are merged together; a longer
            word is merged in stretches of this many.

    Call arguments:
        text: String (B,), UTF-8. Bytes that are not UTF-8 are removed.

    Returns:
        RaggedTensor int32 (B, None).

    Raises:
        TokenizerError: If the tokenizer has what cannot be done in a graph:
            other rules than GPT's, or added tokens that are not special or take
            white space away.
    """

    def __init__(self, tokenizer, max_word_length=1000):
        super().__init__(name="graph_tokenizer")
        _check(tokenizer)
        if max_word_length < 1:
            raise TokenizerError(
                f"`max_word_length` must be 1 or more. Received: {max_word_length!r}."
            )
        self.max_word_length = max_word_length
        added = sorted(tokenizer.added_tokens_decoder.items())
        with tf.init_scope():
            self._set_patterns([token.content for _, token in added])
            self._set_code_points(len(added))
            self._set_words(tokenizer, added)
            self._set_merges(tokenizer)
            self._set_pieces(tokenizer)
        self._tokenize = tf.function(
            self._to_ids, input_signature=[tf.TensorSpec([None], tf.string)]
        )
        self._detokenize = tf.function(
            self._to_text,
            input_signature=[
                tf.RaggedTensorSpec([None, None], tf.int32),
                tf.TensorSpec([], tf.bool),
            ],
        )

    def __call__(self, text):
        return self._tokenize(tf.convert_to_tensor(text, tf.string))

    def detokenize(self, ids, skip_special_tokens=False):
        """Returns the texts of ids.

        Args:
            ids: Int (B, T) or RaggedTensor (B, None). Ids outside the vocabulary
                are left out.
            skip_special_tokens: Whether special tokens are left out too.

        Returns:
            String (B,).
        """
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        # Any kind of row splits will do; the signature has one.
        ids = tf.cast(ids, tf.int32).with_row_splits_dtype(tf.int64)
        return self._detokenize(ids, tf.cast(skip_special_tokens, tf.bool))

    # Constants.

    def _set_patterns(self, added):
        longest_first = sorted(added, key=len, reverse=True)
        self._any_added = "|".join(_escaped(token) for token in longest_first)
        self._each_added = [
            (f"\\x00{_escaped(token)}\\x02", chr(_FIRST_PRIVATE + i))
            for i, token in enumerate(added)
        ]

    def _set_code_points(self, n_added):
        *runs, expansions = _code_points()
        first, end = _FIRST_PRIVATE, _FIRST_PRIVATE + n_added
        runs = np.stack(runs, 1)
        runs = runs[(runs[:, 0] < first) | (runs[:, 0] >= end)]
        added = [(first, 1, ALONE, 0), (end, 0, SPACE, 0)] if n_added else []
        runs = np.array(sorted([*map(tuple, runs), *added]), np.int32)
        self._starts = tf.constant(runs[:, 0])
        self._counts = tf.constant(runs[:, 1])
        self._kinds = tf.constant(runs[:, 2])
        self._values = tf.constant(runs[:, 3])
        self._expansions = tf.constant(expansions)

    def _set_words(self, tokenizer, added):
        # A copy: the original would remember these words in place of a text's.
        model = tokenizers.Tokenizer.from_str(
            tokenizer.backend_tokenizer.to_str()
        ).model
        words = {chr(_FIRST_PRIVATE + i): index for i, (index, _) in enumerate(added)}
        for piece, index in tokenizer._vocab.items():
            word = piece.removesuffix(END_OF_WORD)
            if word != piece and word:
                tokens = model.tokenize(word)
                if len(tokens) == 1 and tokens[0].id == index:
                    words[word] = index
        spelled = np.array([word.encode() for word in words], object)
        fingerprints = _fingerprint(tf.constant(spelled)).numpy()
        order = np.argsort(fingerprints)
        self._words = tf.constant(spelled[order])
        self._fingerprints = tf.constant(fingerprints[order])
        self._word_ids = tf.constant(np.array([*words.values()], np.int32)[order])

    def _set_merges(self, tokenizer):
        vocab = tokenizer._vocab
        letters = sorted({ord(p[0]) for p in vocab if len(p.removesuffix("</w>")) == 1})
        _check_order(letters)
        unknown = tokenizer._unk_id
        self._letters = tf.constant(letters, tf.int32)
        self._inner = tf.constant([vocab.get(chr(c), unknown) for c in letters])
        self._final = tf.constant(
            [vocab.get(chr(c) + END_OF_WORD, unknown) for c in letters]
        )
        self._unknown = unknown
        self._none = len(vocab)  # the id of no piece, after the end of a word
        pairs, results = [], []
        settings = json.loads(tokenizer.backend_tokenizer.to_str())
        for left, right in files.vocabulary_from_json(settings, files.TOKENIZER)[1]:
            pairs.append(vocab[left] * (self._none + 1) + vocab[right])
            results.append(vocab[left + right])
        order = np.argsort(np.array(pairs, np.int64))
        self._pairs = tf.constant(np.array(pairs, np.int64)[order])
        self._ranks = tf.constant(order.astype(np.int32))
        self._results = tf.constant(np.array(results, np.int32))

    def _set_pieces(self, tokenizer):
        pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        special = set(tokenizer.all_special_ids)
        self._inner_texts = tf.constant([p.replace(END_OF_WORD, " ") for p in pieces])
        self._last_texts = tf.constant([p.replace(END_OF_WORD, "") for p in pieces])
        self._is_special = tf.constant([i in special for i in range(len(pieces))])

    # From text to ids.

    def _to_ids(self, text):
        words, word_rows = self._split(self._mark_added(text))
        words, indices = tf.unique(words)  # (U,), (W,)
        at = tf.searchsorted(self._fingerprints, _fingerprint(words))
        at = tf.minimum(at, tf.size(self._fingerprints) - 1)
        whole = tf.gather(self._words, at) == words
        others = self._merge_words(tf.boolean_mask(words, ~whole))
        ids_of_whole = tf.boolean_mask(tf.gather(self._word_ids, at), whole)
        # Rows: the words in one piece, then the others; each in its old order.
        pieces = tf.concat(
            [tf.RaggedTensor.from_tensor(ids_of_whole[:, None]), others], 0
        )
        n_whole = tf.size(ids_of_whole)
        n_before = tf.cumsum(tf.cast(whole, tf.int32), exclusive=True)
        row = tf.where(whole, n_before, n_whole + tf.range(tf.size(words)) - n_before)
        pieces = tf.gather(pieces, tf.gather(row, indices))  # (W, None)
        return tf.RaggedTensor.from_value_rowids(
            pieces.flat_values,
            tf.repeat(word_rows, pieces.row_lengths()),
            nrows=tf.size(text, tf.int64),
            validate=False,
        )

    def _mark_added(self, text):
        """Puts one private character in place of each added token."""
        text = tf.strings.regex_replace(text, _RESERVED, "\x01")
        if self._any_added:
            # Marked first, in one pass: the leftmost counts, then the longest.
            text = tf.strings.regex_replace(text, f"({self._any_added})", "\x00\\1\x02")
            for pattern, character in self._each_added:
                text = tf.strings.regex_replace(text, pattern, character)
        return text

    def _split(self, text):
        """Returns words, string (W,), and the index of each one's text (W,)."""
        decoded = tf.strings.unicode_decode(text, "UTF-8")
        points = decoded.flat_values  # (N,)
        run = tf.searchsorted(self._starts, points, side="right") - 1
        counts = tf.gather(self._counts, run)
        # One entry for each character that comes out: `source` of the N, and
        # the how many-th from there.
        source = tf.repeat(tf.range(tf.size(points)), counts)
        first = tf.cumsum(counts, exclusive=True)
        nth = tf.range(tf.size(source)) - tf.gather(first, source)
        run = tf.gather(run, source)
        value = tf.gather(self._values, run)
        expanded = tf.gather(counts, source) > 1
        points = tf.where(
            expanded,
            tf.gather(self._expansions, tf.where(expanded, value + nth, 0)),
            tf.gather(points, source) + value,
        )
        kinds = tf.gather(self._kinds, run)
        rows = tf.gather(decoded.value_rowids(), source)

        before = tf.pad(kinds, [[1, 0]], constant_values=SPACE)[:-1]
        new_row = rows != tf.pad(rows, [[1, 0]], constant_values=-1)[:-1]
        is_start = (kinds == ALONE) | (before != JOINED) | new_row
        kept = kinds != SPACE
        points = tf.boolean_mask(points, kept)
        starts = tf.where(tf.boolean_mask(is_start, kept))[:, 0]  # (W,)
        splits = tf.concat([starts, [tf.size(points, tf.int64)]], 0)
        words = tf.RaggedTensor.from_row_splits(
            points, tf.concat([[0], splits[1:]], 0), validate=False
        )
        words = tf.strings.unicode_encode(words, "UTF-8")[: tf.size(starts)]
        return words, tf.gather(tf.boolean_mask(rows, kept), starts)

    def _merge_words(self, words):
        """Returns the pieces of words, RaggedTensor int32 (U, None)."""
        letters = tf.strings.unicode_decode(words, "UTF-8")  # (U, None)
        at = tf.searchsorted(self._letters, letters.flat_values)
        at = tf.minimum(at, tf.size(self._letters) - 1)
        known = tf.gather(self._letters, at) == letters.flat_values
        word = letters.value_rowids()
        last = tf.pad(word, [[0, 1]], constant_values=-1)[1:] != word
        ids = tf.where(last, tf.gather(self._final, at), tf.gather(self._inner, at))
        ids = tf.where(known, ids, self._unknown)

        place = tf.range(tf.size(ids, tf.int64)) - tf.gather(letters.row_starts(), word)
        is_start = place % self.max_word_length == 0
        stretch_word = tf.boolean_mask(word, is_start)
        stretches = tf.RaggedTensor.from_value_rowids(
            ids,
            tf.cumsum(tf.cast(is_start, tf.int64)) - 1,
            nrows=tf.size(stretch_word, tf.int64),
            validate=False,
        )
        is_short = stretches.row_lengths() <= _BUCKET
        pieces = tf.concat(
            [
                self._merge(tf.ragged.boolean_mask(stretches, is_short)),
                self._merge(tf.ragged.boolean_mask(stretches, ~is_short)),
            ],
            0,
        )
        order = tf.concat([tf.where(is_short), tf.where(~is_short)], 0)[:, 0]
        pieces = tf.gather(pieces, tf.argsort(order))
        return tf.RaggedTensor.from_value_rowids(
            pieces.flat_values,
            tf.repeat(stretch_word, pieces.row_lengths()),
            nrows=tf.size(words, tf.int64),
            validate=False,
        )

    def _merge(self, stretches):
        """Merges rows of ids, RaggedTensor (U, None), as far as it goes."""
        ids = stretches.to_tensor(self._none)  # (U, L)
        place = tf.range(tf.shape(ids)[1])[None]  # (1, L)
        ids = tf.pad(ids, [[0, 0], [0, 1]], constant_values=self._none)
        ranks = self._rank(ids[:, :-1], ids[:, 1:])
        ids = ids[:, :-1]

        def step(ids, ranks):
            best = tf.argmin(ranks, axis=1, output_type=tf.int32)  # the leftmost
            rank = tf.reduce_min(ranks, axis=1)
            found = rank != _NO_RANK
            best = tf.where(found, best, tf.shape(ids)[1])[:, None]  # (U, 1)
            piece = tf.gather(self._results, tf.where(found, rank, 0))[:, None]
            ids = tf.where(
                place < best,
                ids,
                tf.where(place == best, piece, _left(ids, self._none)),
            )
            ranks = tf.where(place < best, ranks, _left(ranks, _NO_RANK))
            # Only the pairs on both sides of the new piece are new.
            before = tf.gather(ids, tf.maximum(best - 1, 0), batch_dims=1)
            after = tf.gather(
                ids, tf.minimum(best + 1, tf.shape(ids)[1] - 1), batch_dims=1
            )
            at_end = best + 1 >= tf.shape(ids)[1]
            after = tf.where(at_end, self._none, after)
            pair_before, pair_after = tf.unstack(
                self._rank(tf.concat([before, piece], 1), tf.concat([piece, after], 1)),
                axis=1,
            )
            found = found[:, None]
            ranks = tf.where(found & (place == best - 1), pair_before[:, None], ranks)
            ranks = tf.where(found & (place == best), pair_after[:, None], ranks)
            return ids, ranks

        ids, _ = tf.while_loop(
            lambda _, ranks: tf.reduce_any(ranks != _NO_RANK),
            step,
            (ids, ranks),
            shape_invariants=(tf.TensorShape([None, None]),) * 2,
        )
        return tf.ragged.boolean_mask(ids, ids != self._none)

    def _rank(self, left, right):
        """Returns the ranks of pairs of ids, `_NO_RANK` for those without one."""
        pairs = tf.cast(left, tf.int64) * (self._none + 1) + tf.cast(right, tf.int64)
        at = tf.searchsorted(self._pairs, tf.reshape(pairs, [-1]))
        at = tf.minimum(tf.reshape(at, tf.shape(pairs)), tf.size(self._pairs) - 1)
        found = tf.gather(self._pairs, at) == pairs
        return tf.where(found, tf.gather(self._ranks, at), _NO_RANK)

    # From ids to text.

    def _to_text(self, ids, skip_special_tokens):
        n_pieces = tf.size(self._inner_texts)
        values = ids.flat_values
        known = (values >= 0) & (values < n_pieces)
        special = tf.gather(self._is_special, tf.where(known, values, 0))
        ids = tf.ragged.boolean_mask(
            ids, ids.with_flat_values(known & ~(special & skip_special_tokens))
        )
        row = ids.value_rowids()
        last = tf.pad(row, [[0, 1]], constant_values=-1)[1:] != row
        texts = tf.where(
            last,
            tf.gather(self._last_texts, ids.flat_values),
            tf.gather(self._inner_texts, ids.flat_values),
        )
        return tf.strings.reduce_join(ids.with_flat_values(texts), axis=-1)


@keras.saving.register_keras_serializable(package="tf_gpt")
class TextToIds(keras.layers.Layer):
    """A layer that turns texts into padded ids, as `GraphTokenizer` does.

    Args:
        tokenizer: `OpenAIGPTTokenizerFast`, or the text of its tokenizer.json.
        sequence_length: The length T of every row; longer ones are cut off. None
            for that of the longest row in the batch.
        pad_token_id: The id at padding; by default the tokenizer's pad token, or
            0 without one (the mask tells it apart).
        padding_side, truncation_side: "left" or "right".
        max_word_length: As for `GraphTokenizer`.

    Call arguments:
        text: String (B,).

    Returns:
        Dict of `input_ids` and `attention_mask`, both int32 (B, T).
    """

    def __init__(
        self,
        tokenizer,
        sequence_length=None,
        pad_token_id=None,
        padding_side="right",
        truncation_side="right",
        max_word_length=1000,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_jit = False
        tokenizer = _tokenizer(tokenizer)
        if pad_token_id is None:
            pad_token_id = tokenizer.pad_token_id or 0
        self.sequence_length = sequence_length
        self.pad_token_id = pad_token_id
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.graph = GraphTokenizer(tokenizer, max_word_length)
        self._tokenizer_json = tokenizer.backend_tokenizer.to_str()

    def call(self, text):
        ids = self.graph(text)
        if self.sequence_length is not None:
            keep = slice(self.sequence_length)
            if self.truncation_side == "left":
                keep = slice(-self.sequence_length, None)
            ids = ids[:, keep]
        mask = tf.ones_like(ids)
        return {
            "input_ids": self._pad(ids, self.pad_token_id),
            "attention_mask": self._pad(mask, 0),
        }

    def _pad(self, rows, value):
        shape = [None, self.sequence_length]
        if self.padding_side == "left":
            return rows[:, ::-1].to_tensor(value, shape=shape)[:, ::-1]
        return rows.to_tensor(value, shape=shape)

    def compute_output_spec(self, text):
        shape = (text.shape[0], self.sequence_length)
        return {
            name: keras.KerasTensor(shape, "int32")
            for name in ("input_ids", "attention_mask")
        }

    def get_config(self):
        return {
            **super().get_config(),
            "tokenizer": self._tokenizer_json,
            "sequence_length": self.sequence_length,
            "pad_token_id": self.pad_token_id,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "max_word_length": self.graph.max_word_length,
        }


@keras.saving.register_keras_serializable(package="tf_gpt")
class IdsToText(keras.layers.Layer):
    """A layer that turns ids into texts.

    Args:
        tokenizer: `OpenAIGPTTokenizerFast`, or the text of its tokenizer.json.
        skip_special_tokens: Whether special tokens are left out.

    Call arguments:
        ids: Int (B, T), or RaggedTensor (B, None).

    Returns:
        String (B,).
    """

    def __init__(self, tokenizer, skip_special_tokens=True, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False
        tokenizer = _tokenizer(tokenizer)
        self.skip_special_tokens = skip_special_tokens
        self.graph = GraphTokenizer(tokenizer)
        self._tokenizer_json = tokenizer.backend_tokenizer.to_str()

    def call(self, ids):
        return self.graph.detokenize(ids, self.skip_special_tokens)

    def compute_output_spec(self, ids):
        return keras.KerasTensor((ids.shape[0],), "string")

    def get_config(self):
        return {
            **super().get_config(),
            "tokenizer": self._tokenizer_json,
            "skip_special_tokens": self.skip_special_tokens,
        }


def _left(rows, filling):
    """Moves every row one to the left."""
    return tf.pad(rows[:, 1:], [[0, 0], [0, 1]], constant_values=filling)


def _fingerprint(words):
    return tf.strings.to_hash_bucket_fast(words, _N_FINGERPRINTS)


def _escaped(token):
    """Returns a pattern of RE2 that matches a token and nothing else."""
    return "".join(c if c.isalnum() else f"\\x{{{ord(c):x}}}" for c in token)


@functools.cache
def _code_points():
    """Returns what becomes of every code point, as runs of equal treatment.

    Returns:
        `(starts, counts, kinds, values, expansions)`. Run i begins at code point
        `starts[i]`; each of its code points becomes `counts[i]` characters of
        kind `kinds[i]`. One character is the code point plus `values[i]`; two or
        more stand in `expansions` from `values[i]` on.
    """
    normalize = normalizers.BertNormalizer(lowercase=True).normalize_str
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    runs, expansions = [], [0]

    @functools.cache
    def kind_of(character):
        words = len(split(f"a{character}b"))
        return {1: JOINED, 2: SPACE, 3: ALONE}[words]

    def treatment(point):
        text = normalize(f"a{chr(point)}b")[1:-1]
        if not text:
            return 0, SPACE, 0
        # Space is put around ideographs, which thereby stand alone.
        letters = text.strip() or " "
        kind = ALONE if letters != text else kind_of(letters[0])
        if len(letters) == 1:
            return 1, kind, ord(letters) - point
        expansions.extend(map(ord, letters))
        return len(letters), kind, len(expansions) - len(letters)

    def add(point, entry):
        if not runs or runs[-1][1:] != entry or entry[0] > 1:
            runs.append((point, *entry))

    # Most stretches of Unicode are treated alike: those are tried at one go.
    step = 64
    for block in range(0, 0x110000, step):
        points = range(block, block + step)
        if 0xD800 <= block < 0xE000:
            # Halves of UTF-16 pairs, which UTF-8 cannot hold.
            add(block, (0, SPACE, 0))
            continue
        before = "".join(f"a{chr(point)}" for point in points)
        after = normalize(before)
        if after == "a" * step:
            add(block, (0, SPACE, 0))
        elif after == "".join(f"a {chr(point)} " for point in points):
            add(block, (1, ALONE, 0))
        elif after == before and len(split(after)) == 1:
            add(block, (1, JOINED, 0))
        else:
            for point in points:
                add(point, treatment(point))
    columns = [np.array(column, np.int32) for column in zip(*runs, strict=True)]
    return *columns, np.array(expansions, np.int32)


def _tokenizer(tokenizer):
    if not isinstance(tokenizer, str):
        return tokenizer
    backend = tokenizers.Tokenizer.from_str(tokenizer)
    return OpenAIGPTTokenizerFast(tokenizer_object=backend)


def _check_order(letters):
    """Raises if the order of letters could matter that normalization reorders.

    It sorts marks on one letter, which is no function of one code point at a time.
    Nearly all marks are removed afterwards; of those that stay, none is in a
    vocabulary of GPT, and unknown ones are alike.
    """
    normalize = normalizers.BertNormalizer(lowercase=True).normalize_str
    for letter in map(chr, letters):
        if unicodedata.combining(letter) and normalize(f"a{letter}") != "a":
            raise TokenizerError(
                "A graph tokenizer cannot have marks that normalization sorts. "
                f"Received: a vocabulary with {letter!a}."
            )


def _check(tokenizer):
    """Raises if a tokenizer cannot be done in a graph."""
    if not isinstance(tokenizer, OpenAIGPTTokenizerFast):
        raise TokenizerError(
            "`tokenizer` must be an OpenAIGPTTokenizerFast: ftfy and spaCy cannot run "
            f"in a graph. Received: {type(tokenizer).__name__}."
        )
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    expected = {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "BPEDecoder", "suffix": END_OF_WORD},
    }
    model_defaults = {
        "dropout": None,
        "continuing_subword_prefix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    for name, value in {**expected, **model_defaults}.items():
        part = settings if name in expected else settings["model"]
        if (part.get(name) or None) != (value or None):
            raise TokenizerError(
                f"A graph tokenizer has the rules of GPT: {name} {value!r}. "
                f"Received: {part.get(name)!r}."
            )
    for token in tokenizer.added_tokens_decoder.values():
        if token.normalized or token.lstrip or token.rstrip or token.single_word:
            raise TokenizerError(
                "In a graph, added tokens must be special ones, found exactly as they "
                f"are. Received: {token!r}."
            )
    if len(tokenizer.added_tokens_decoder) > _MOST_ADDED:
        raise TokenizerError(
            f"A graph tokenizer has at most {_MOST_ADDED} added tokens. "
            f"Received: {len(tokenizer.added_tokens_decoder)}."
        )
