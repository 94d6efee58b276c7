"""What a tokenizer returns: `BatchEncoding`, and `Encoding` for one row of it.

Here B is the number of rows and T the number of tokens in a row.
"""

import optree

from tf_gpt.errors import TokenizerError

# BatchEncoding field -> the `pad` value in it; `input_ids` and `token_type_ids`
# take the tokenizer's own.
PAD_VALUES = {"attention_mask": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0)}


class Encoding:
    """One row: its tokens, and where in the text they come from.

    A row is a first sequence, perhaps a second one, and padding on either side.

    Args:
        parts: List of (sequence, start, stop): tokens start to stop (None for
            the end) of something with `ids`, `tokens`, `offsets`, `word_ids`.

    Attributes:
        ids, tokens, type_ids, attention_mask, special_tokens_mask, offsets,
        word_ids, sequence_ids: Lists of T. `offsets` are (start, end) in
            characters of the text as given, or of the word where words were
            given; `word_ids` and `sequence_ids` are None at padding.
    """

    def __init__(self, parts):
        self._parts = parts
        self._pad_left = self._pad_right = 0
        self._pad = {}

    def set_padding(self, n_left, n_right, pad_id, pad_token, pad_type_id):
        """Notes what padding stands before and after the tokens."""
        self._pad_left, self._pad_right = n_left, n_right
        self._pad = {"ids": pad_id, "tokens": pad_token, "type_ids": pad_type_id}

    def __len__(self):
        return len(self.ids)

    def _padded(self, values, pad):
        return [pad] * self._pad_left + values + [pad] * self._pad_right

    def _collect(self, name, pad):
        values = []
        for sequence, start, stop in self._parts:
            values += getattr(sequence, name)[start:stop]
        if self._pad_left or self._pad_right:
            values = self._padded(values, pad)
        return values

    @property
    def n_sequences(self):
        return len(self._parts)

    @property
    def ids(self):
        return self._collect("ids", self._pad.get("ids"))

    @property
    def tokens(self):
        return self._collect("tokens", self._pad.get("tokens"))

    @property
    def offsets(self):
        return self._collect("offsets", (0, 0))

    @property
    def word_ids(self):
        return self._collect("word_ids", None)

    @property
    def sequence_ids(self):
        values = []
        for i, (sequence, start, stop) in enumerate(self._parts):
            values += [i] * len(sequence.ids[start:stop])
        return self._padded(values, None)

    @property
    def type_ids(self):
        values = [i for i in self.sequence_ids if i is not None]
        return self._padded(values, self._pad.get("type_ids"))

    @property
    def attention_mask(self):
        return [0 if i is None else 1 for i in self.sequence_ids]

    @property
    def special_tokens_mask(self):
        return [1 if i is None else 0 for i in self.sequence_ids]

    def _positions(self, sequence_index):
        """Yields (token, word, offsets) of one sequence."""
        rows = zip(self.sequence_ids, self.word_ids, self.offsets, strict=True)
        for token, (sequence, word, offsets) in enumerate(rows):
            if sequence == sequence_index:
                yield token, word, offsets

    def token_to_sequence(self, token):
        return self.sequence_ids[token]

    def token_to_word(self, token):
        return self.word_ids[token]

    def token_to_chars(self, token):
        """Returns (start, end) of a token in its text, None for padding."""
        if self.sequence_ids[token] is None:
            return None
        return self.offsets[token]

    def word_to_tokens(self, word, sequence_index=0):
        """Returns (first, last + 1) of the tokens of a word, None without any."""
        tokens = [t for t, w, _ in self._positions(sequence_index) if w == word]
        return (tokens[0], tokens[-1] + 1) if tokens else None

    def word_to_chars(self, word, sequence_index=0):
        """Returns (start, end) of a word in its text, None without tokens."""
        spans = [o for _, w, o in self._positions(sequence_index) if w == word]
        return (spans[0][0], spans[-1][1]) if spans else None

    def char_to_token(self, char, sequence_index=0):
        """Returns the token that covers a character, None if none does."""
        for token, _, (start, end) in self._positions(sequence_index):
            if start <= char < end:
                return token
        return None

    def char_to_word(self, char, sequence_index=0):
        """Returns the word that covers a character, None if none does."""
        token = self.char_to_token(char, sequence_index)
        return None if token is None else self.word_ids[token]


class BatchEncoding(dict):
    """The fields of one or more rows: a dict that a model takes as it is.

    `batch["input_ids"]` and `batch.input_ids` are the same; `batch[0]` is the
    `Encoding` of the first row.

    Args:
        data: Dict (or pairs) of field -> list, or list of lists, of B rows.
        encodings: List of B `Encoding`, or None.
        tensor_type: "tf", "np", "pt" or None; see `convert_to_tensors`.
        is_fast: Whether the tokenizer is the one on `tokenizers`.
    """

    def __init__(self, data=(), encodings=None, tensor_type=None, is_fast=False):
        super().__init__(data)
        self.__dict__.update(encodings=encodings, is_fast=is_fast)
        self.convert_to_tensors(tensor_type)

    def __getitem__(self, key):
        if isinstance(key, str):
            return super().__getitem__(key)
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        return self._row(key)

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"BatchEncoding has no field {name!r}. Its fields: {list(self)}."
            ) from None

    def __reduce__(self):
        return BatchEncoding, (dict(self), self.encodings, None, self.is_fast)

    @property
    def data(self):
        """The fields as a plain dict."""
        return dict(self)

    @property
    def n_sequences(self):
        """1 for single texts, 2 for pairs, None where it isn't known."""
        return self.encodings[0].n_sequences if self.encodings else None

    def convert_to_tensors(self, tensor_type=None, prepend_batch_axis=False):
        """Turns every field into a tensor, in place.

        Args:
            tensor_type: "tf" for int32 tensors of TensorFlow, "np" for int64
                arrays, "pt" for int64 tensors of PyTorch, None for no change.
            prepend_batch_axis: Whether the fields are of one row, to become a
                batch of one.

        Returns:
            Itself.

        Raises:
            TokenizerError: If the type is unknown or rows differ in length.
        """
        if tensor_type is None:
            return self
        to_tensor = _tensor_function(tensor_type)
        for name, value in self.items():
            if prepend_batch_axis:
                value = [value]
            # Offsets are pairs in a list of lists; the other fields are numbers.
            lengths = {len(row) for row in value if isinstance(row, (list, tuple))}
            if len(lengths) > 1:
                raise TokenizerError(
                    "`return_tensors` needs rows of one length: pass `padding=True`, "
                    "or `truncation=True` with `max_length`. Received: "
                    f"{name!r} with lengths {sorted(lengths)}."
                )
            self[name] = to_tensor(value)
        return self

    def to(self, device):
        """Returns a copy whose PyTorch tensors are on a device."""
        moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in self.items()}
        return BatchEncoding(moved, self.encodings, is_fast=self.is_fast)

    def tokens(self, batch_index=0):
        return self._row(batch_index).tokens

    def sequence_ids(self, batch_index=0):
        return self._row(batch_index).sequence_ids

    def word_ids(self, batch_index=0):
        return self._row(batch_index).word_ids

    words = word_ids

    def token_to_sequence(self, batch_or_token, token=None):
        return self._ask("token_to_sequence", batch_or_token, token)

    def token_to_word(self, batch_or_token, token=None):
        return self._ask("token_to_word", batch_or_token, token)

    def token_to_chars(self, batch_or_token, token=None):
        return self._ask("token_to_chars", batch_or_token, token)

    def word_to_tokens(self, batch_or_word, word=None, sequence_index=0):
        return self._ask("word_to_tokens", batch_or_word, word, sequence_index)

    def word_to_chars(self, batch_or_word, word=None, sequence_index=0):
        return self._ask("word_to_chars", batch_or_word, word, sequence_index)

    def char_to_token(self, batch_or_char, char=None, sequence_index=0):
        return self._ask("char_to_token", batch_or_char, char, sequence_index)

    def char_to_word(self, batch_or_char, char=None, sequence_index=0):
        return self._ask("char_to_word", batch_or_char, char, sequence_index)

    def _row(self, index):
        if self.encodings is None:
            raise TokenizerError(
                "Only what a tokenizer returned knows its tokens, words and "
                "characters; this BatchEncoding was made from ids or from tensors."
            )
        return self.encodings[index]

    def _ask(self, method, batch_or_item, item, *args):
        """Calls a method of a row; with one index, of the first row."""
        batch_index, item = (
            (0, batch_or_item) if item is None else (batch_or_item, item)
        )
        return getattr(self._row(batch_index), method)(item, *args)


def _flatten(batch):
    keys = tuple(sorted(batch))  # the order in which optree takes a plain dict
    return tuple(batch[key] for key in keys), keys, keys


# Keras flattens inputs with optree, which takes a subclass of dict for a leaf.
optree.register_pytree_node(
    BatchEncoding,
    _flatten,
    lambda keys, values: BatchEncoding(zip(keys, values, strict=True)),
    namespace="keras",
)


def check_tensor_type(tensor_type):
    if tensor_type not in ("tf", "np", "pt", None):
        raise TokenizerError(
            "`return_tensors` must be 'tf', 'np', 'pt' or None. "
            f"Received: {tensor_type!r}."
        )


def _tensor_function(tensor_type):
    check_tensor_type(tensor_type)
    if tensor_type == "tf":
        import tensorflow as tf

        return lambda value: tf.constant(value, "int32")
    if tensor_type == "np":
        import numpy as np

        return lambda value: np.array(value, "int64")
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "`return_tensors='pt'` needs PyTorch, which is not installed."
        ) from error
    return lambda value: torch.tensor(value, dtype=torch.int64)
