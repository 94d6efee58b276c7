"""`OpenAIGPTTokenizer`: words by spaCy's rules or BERT's, pieces by byte pairs."""

import functools
import logging
import re
import warnings

import tokenizers
from tokenizers import models, pre_tokenizers

from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import files, pretokenizers
from tf_gpt.tokenization.base import TokenizerBase
from tf_gpt.tokenization.bpe import END_OF_WORD, merge

logger = logging.getLogger(__name__)

# Chunks of text whose ids are remembered; when full, all are forgotten at once.
CACHE_SIZE = 2**17
_LONGEST_CACHED = 64  # characters


class OpenAIGPTTokenizer(TokenizerBase):
    """GPT's tokenizer: lower-case words, each cut into byte-pair pieces.

    Args:
        vocab_file: Path of vocab.json (OpenAI's encoder_bpe_40000.json).
        merges_file: Path of merges.txt (OpenAI's vocab_40000.bpe).
        unk_token: What characters become that the vocabulary lacks.
        pre_tokenizer: How text becomes words. "openai" as the model's authors
            did, by ftfy and spaCy; "basic" by BERT's rules, like
            `OpenAIGPTTokenizerFast`; "transformers" as transformers 4 did with
            spaCy, for models that were fine-tuned with it. None is "openai", or
            "basic" with a warning where ftfy or spaCy cannot be imported. The
            choice is saved.
        vocab, merges: The contents of the files in place of their paths: a dict
            of piece -> id, and a list of (left, right).
        added_tokens: List of (id, `AddedToken`) to add first, under these ids.
        options: Those of `TokenizerBase`.

    Raises:
        TokenizerError: If vocabulary and merges do not fit together.
        ImportError: If `pre_tokenizer` was given (or saved) and needs what is not
            installed.

    Source: Radford et al. 2018, section 4.1; `text_utils.py` as released.
    """

    def __init__(
        self,
        vocab_file=None,
        merges_file=None,
        unk_token="<unk>",
        pre_tokenizer=None,
        *,
        vocab=None,
        merges=None,
        added_tokens=(),
        **options,
    ):
        if pre_tokenizer is not None and pre_tokenizer not in pretokenizers.FLAVOURS:
            raise TokenizerError(
                "`pre_tokenizer` must be one of "
                f"{', '.join(pretokenizers.FLAVOURS)}. Received: {pre_tokenizer!r}."
            )
        if pre_tokenizer is not None:
            pretokenizers.check_available(pre_tokenizer)
        vocab, merges = files.vocabulary(vocab_file, merges_file, vocab, merges)
        files.check_vocabulary(vocab, merges, str(unk_token))
        self._vocab = vocab
        self._pieces = {index: piece for piece, index in vocab.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._flavour = pre_tokenizer
        self._words = None  # the pre-tokenizer, made when it is first needed
        self._cache = None
        self._added = {}
        self._added_pattern = None
        self._unk_id = vocab[str(unk_token)]
        self._load_added(added_tokens)
        super().__init__(unk_token=unk_token, **options)

    @classmethod
    def _from_files(cls, found, saved, added, arguments):
        name = arguments["name_or_path"]
        if files.VOCAB in found and files.MERGES in found:
            vocab = files.read_json(found[files.VOCAB])
            merges = files.read_merges(found[files.MERGES])
        else:
            table = files.read_json(found[files.TOKENIZER])
            vocab, merges = files.vocabulary_from_json(table, found[files.TOKENIZER])
        arguments.setdefault("pre_tokenizer", saved.get("pre_tokenizer"))
        if arguments["pre_tokenizer"] is None and _written_by_transformers(saved):
            # transformers says only whether its fast form was in use.
            fast = files.TOKENIZER in found
            arguments["pre_tokenizer"] = "basic" if fast else "transformers"
            logger.warning(
                "%s was written by transformers: splitting words as its %s tokenizer "
                "did, pre_tokenizer=%r. Pass `pre_tokenizer` to choose.",
                name,
                "fast" if fast else "slow",
                arguments["pre_tokenizer"],
            )
        return cls(vocab=vocab, merges=merges, added_tokens=added, **arguments)

    @property
    def pre_tokenizer(self):
        """The name of the flavour: "openai", "basic" or "transformers"."""
        return self._word_splitter() and self._flavour

    @property
    def do_lower_case(self):
        """True: GPT's vocabulary is lower-case."""
        return True

    def _word_splitter(self):
        if self._words is None:
            try:
                pretokenizers.check_available(self._flavour or "openai")
            except ImportError as error:
                if self._flavour is not None:
                    raise
                warnings.warn(
                    "Splitting words by BERT's rules (`pre_tokenizer='basic'`). GPT "
                    f"was trained on words as spaCy splits them: ids differ. {error}",
                    stacklevel=2,
                )
                self._flavour = "basic"
            self._flavour = self._flavour or "openai"
            self._words = pretokenizers.pre_tokenizer(self._flavour)
            self._cache = _ChunkIds(
                self._words.split, self._vocab, self._ranks, self._unk_id
            )
        return self._words

    # From text to ids.

    def _sequences(self, texts, is_split):
        return [_Sequence(self, text, is_split) for text in texts]

    def _text_ids(self, text):
        """Returns the ids of a text."""
        words, ids = self._word_splitter(), []
        for start, end, index in self._split_at_added(text):
            if index is not None:
                ids.append(index)
                continue
            chunks = words.chunks(text[start:end])
            try:
                ids += [i for chunk in chunks for i in self._cache[chunk]]
            except pretokenizers.NeighboursMatter:
                ids += self._cache.word_ids(words.join(chunks))
        return ids

    def _traced_tokens(self, text):
        """Returns (token, word index, (start, end)) for each token of a text."""
        words, rows, n_words = self._word_splitter(), [], 0
        for start, end, index in self._split_at_added(text):
            if index is not None:
                rows.append((self._added[index].content, n_words, (start, end)))
                n_words += 1
                continue
            for word in words.traced_words(text[start:end]):
                at = 0
                for piece in merge(word.text, self._ranks):
                    length = len(piece.removesuffix(END_OF_WORD))
                    first, last = word.span(at, at + length)
                    rows.append((piece, n_words, (start + first, start + last)))
                    at += length
                n_words += 1
        return rows

    # The vocabulary.

    def _token_to_id(self, token):
        index = self._vocab.get(token)
        if index is None:
            index = self._added_ids.get(token, self._unk_id)
        return index

    def _id_to_token(self, index):
        if index in self._pieces:
            return self._pieces[index]
        return self._added[index].content if index in self._added else None

    @property
    def _added_ids(self):
        return {token.content: index for index, token in self._added.items()}

    def _set_unknown(self, token):
        self._unk_id = self._token_to_id(token)
        self._cache = self._words = None

    def _add(self, tokens):
        for token in tokens:
            content = token.content
            if token.normalized and not token.special:
                content = token.content = pretokenizers.lower_each(content)
            index = self._vocab.get(content, self._added_ids.get(content))
            self._added[len(self) if index is None else index] = token
        self._added_pattern = None

    def _pattern_of_added(self):
        patterns = []
        # Longest first: an alternation takes the first that matches.
        for token in sorted(self._added.values(), key=lambda t: -len(t.content)):
            # OpenAI's encoder knows no special tokens: "<unk>" in a text is text.
            if token.content == self.unk_token and self._flavour == "openai":
                continue
            pattern = re.escape(token.content)
            plain = token.normalized and not token.special
            # transformers looks for all of them in the text that it lower-cased.
            if plain or self._flavour == "transformers":
                is_lower = token.content == pretokenizers.lower_each(token.content)
                pattern = f"(?i:{pattern})" if is_lower else pattern
            if token.single_word:
                pattern = rf"(?<!\w){pattern}(?!\w)"
            left = r"\s*" if token.lstrip else ""
            right = r"\s*" if token.rstrip else ""
            patterns.append(
                f"{left}(?P<t{self._added_ids[token.content]}>{pattern}){right}"
            )
        # Without tokens, a pattern that matches nowhere.
        return re.compile("|".join(patterns) or r"(?!)")

    def _split_at_added(self, text):
        """Yields (start, end, None) for text and (start, end, id) for added tokens."""
        if self._added_pattern is None:
            self._added_pattern = self._pattern_of_added()
        at = 0
        for match in self._added_pattern.finditer(text):
            if match.start() > at:
                yield at, match.start(), None
            yield *match.span(match.lastgroup), int(match.lastgroup[1:])
            at = match.end()
        if at < len(text):
            yield at, len(text), None

    # From ids to text.

    def convert_tokens_to_string(self, tokens):
        """Returns tokens joined to a text."""
        return "".join(tokens).replace(END_OF_WORD, " ").strip()

    def _decode(self, ids):
        # Added tokens stand apart, except the named special ones.
        apart = {t.content for t in self._added.values()} - set(
            self._special_tokens.values()
        )
        texts, tokens = [], []
        for token in self.convert_ids_to_tokens(ids):
            if token in apart:
                texts += [self.convert_tokens_to_string(tokens), token]
                tokens = []
            else:
                tokens.append(token)
        texts.append(self.convert_tokens_to_string(tokens))
        return " ".join(text for text in texts if text)

    # Files and training.

    def _train(self, texts, length, **options):
        pipeline = tokenizers.Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
        pipeline.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
        words = (" ".join(self._words_of(text)) for text in texts)
        return files.train(pipeline, words, length, **options)

    def _words_of(self, text):
        splitter = self._word_splitter()
        for start, end, index in self._split_at_added(text):
            if index is None:
                yield from splitter.join(splitter.chunks(text[start:end]))

    def _settings(self):
        return {"pre_tokenizer": self.pre_tokenizer}

    def _contents(self):
        return {
            files.VOCAB: files.dump_json(self._vocab),
            files.MERGES: files.dump_merges(self._ranks),
        }

    def __getstate__(self):
        # spaCy's tokenizer is made anew in the other process.
        return {**self.__dict__, "_words": None, "_cache": None}


def _written_by_transformers(saved):
    """Whether `save_pretrained` of transformers wrote a tokenizer_config.json.

    The one beside OpenAI's released vocabulary on the Hub is by hand, and has
    little but `model_max_length`.
    """
    return "added_tokens_decoder" in saved or "backend" in saved


class _ChunkIds(dict):
    """Chunk -> its ids, made when first asked for and remembered for a while."""

    def __init__(self, split, vocab, ranks, unknown):
        self._split, self._vocab, self._ranks = split, vocab, ranks
        self._unknown = unknown

    def __missing__(self, chunk):
        ids = self.word_ids(self._split(chunk))
        if len(chunk) <= _LONGEST_CACHED:
            if len(self) >= CACHE_SIZE:
                self.clear()
            self[chunk] = ids
        return ids

    def word_ids(self, words):
        return [
            self._vocab.get(piece, self._unknown)
            for word in words
            for piece in merge(word, self._ranks)
        ]


class _Sequence:
    """The ids of a text or of a list of words; the rest is found when asked for."""

    def __init__(self, tokenizer, text, is_split):
        self._tokenizer, self._texts = tokenizer, text if is_split else [text]
        self._is_split = is_split
        self.ids = [i for part in self._texts for i in tokenizer._text_ids(part)]

    @functools.cached_property
    def _rows(self):
        return [
            (token, i if self._is_split else word, offsets)
            for i, text in enumerate(self._texts)
            for token, word, offsets in self._tokenizer._traced_tokens(text)
        ]

    @property
    def tokens(self):
        return [token for token, _, _ in self._rows]

    @property
    def word_ids(self):
        return [word for _, word, _ in self._rows]

    @property
    def offsets(self):
        return [offsets for _, _, offsets in self._rows]
