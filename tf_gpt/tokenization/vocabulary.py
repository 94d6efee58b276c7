"""Pieces and ids, and the tokens that are never split."""

from tokenizers import AddedToken

from tf_gpt.errors import TokenizerError

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def _token_property(name):
    def get(self):
        return self._special_tokens.get(name)

    def set_(self, token):
        self._set_special_token(name, token)

    return property(get, set_, doc=f"The {name.replace('_', ' ')} as a str, or None.")


def _id_property(name):
    def get(self):
        token = self._special_tokens.get(name)
        return None if token is None else self.convert_tokens_to_ids(token)

    def set_(self, index):
        token = None if index is None else self.convert_ids_to_tokens(index)
        self._set_special_token(name, token)

    return property(get, set_, doc=f"The id of the {name.replace('_', ' ')}, or None.")


class Vocabulary:
    """Pieces, their ids, and special and added tokens.

    A subclass has `_vocab` (piece -> id, without added tokens), `_added` (id ->
    `AddedToken`), and the methods `_add(tokens)`, `_set_unknown(token)`,
    `_token_to_id(token)` and `_id_to_token(index)`, the last None for an id that
    does not exist.
    """

    def _init_special_tokens(self, special_tokens, additional_special_tokens):
        unknown = sorted(set(special_tokens) - set(SPECIAL_TOKENS))
        if unknown:
            raise TokenizerError(
                f"{type(self).__name__} has no option {unknown[0]!r}. "
                f"Received: {', '.join(unknown)}."
            )
        self._special_tokens = {}
        self._additional_special_tokens = []
        self.add_special_tokens(
            {
                **{k: v for k, v in special_tokens.items() if v is not None},
                "additional_special_tokens": list(additional_special_tokens),
            }
        )

    def _load_added(self, added_tokens):
        """Adds the tokens of saved files, and checks that they keep their ids."""
        for index, token in added_tokens:
            self._add([token])
            actual = self.added_tokens_encoder.get(token.content)
            if actual != index:
                raise TokenizerError(
                    "Added tokens must have the ids after the vocabulary's, without "
                    f"gaps. Received: {token.content!r} with id {index}, where "
                    f"{actual} is next."
                )

    @property
    def vocab_size(self):
        """The number of pieces without added tokens."""
        return len(self._vocab)

    def __len__(self):
        """The number of pieces and added tokens: what the model must have."""
        return len(self._vocab) + len(self.get_added_vocab())

    def get_vocab(self):
        """Returns a dict of piece -> id, with added tokens."""
        return {**self._vocab, **self.get_added_vocab()}

    def get_added_vocab(self):
        """Returns a dict of token -> id of the tokens beyond the vocabulary."""
        return {
            token.content: index
            for index, token in sorted(self._added.items())
            if token.content not in self._vocab
        }

    @property
    def added_tokens_decoder(self):
        """Dict of id -> `AddedToken` of all tokens that are never split."""
        return dict(sorted(self._added.items()))

    @property
    def added_tokens_encoder(self):
        """Dict of token -> id of all tokens that are never split."""
        return {token.content: i for i, token in self.added_tokens_decoder.items()}

    def convert_tokens_to_ids(self, tokens):
        """Returns the id of a token, or a list of ids of a list of tokens."""
        if isinstance(tokens, str):
            return self._token_to_id(tokens)
        return [self._token_to_id(token) for token in tokens]

    def convert_ids_to_tokens(self, ids, skip_special_tokens=False):
        """Returns the token of an id, or a list of tokens of several ids.

        Raises:
            TokenizerError: If an id is not in the vocabulary.
        """
        if is_int(ids):
            return self._checked_token(int(ids))
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._checked_token(i) for i in as_ids(ids) if i not in special]

    def _checked_token(self, index):
        token = self._id_to_token(index)
        if token is None:
            raise TokenizerError(
                f"An id must be in the vocabulary, 0 to {len(self) - 1}. "
                f"Received: {index}."
            )
        return token

    bos_token = _token_property("bos_token")
    eos_token = _token_property("eos_token")
    unk_token = _token_property("unk_token")
    sep_token = _token_property("sep_token")
    pad_token = _token_property("pad_token")
    cls_token = _token_property("cls_token")
    mask_token = _token_property("mask_token")
    bos_token_id = _id_property("bos_token")
    eos_token_id = _id_property("eos_token")
    unk_token_id = _id_property("unk_token")
    sep_token_id = _id_property("sep_token")
    pad_token_id = _id_property("pad_token")
    cls_token_id = _id_property("cls_token")
    mask_token_id = _id_property("mask_token")

    @property
    def additional_special_tokens(self):
        """Special tokens without a name of their own, a list of str."""
        return list(self._additional_special_tokens)

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens):
        for token in tokens:
            self._check_known(token, "additional_special_tokens")
        self._additional_special_tokens = list(tokens)

    @property
    def additional_special_tokens_ids(self):
        return self.convert_tokens_to_ids(self._additional_special_tokens)

    @additional_special_tokens_ids.setter
    def additional_special_tokens_ids(self, ids):
        self.additional_special_tokens = self.convert_ids_to_tokens(ids)

    @property
    def special_tokens_map(self):
        """Dict of attribute -> token of the special tokens that are set."""
        known = dict(self._special_tokens)
        if self._additional_special_tokens:
            known["additional_special_tokens"] = self.additional_special_tokens
        return known

    @property
    def all_special_tokens(self):
        """List of the special tokens, named or not, each once."""
        special = [t.content for t in self.added_tokens_decoder.values() if t.special]
        named = [*self._special_tokens.values(), *self._additional_special_tokens]
        return list(dict.fromkeys(named + special))

    @property
    def all_special_ids(self):
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def add_tokens(self, new_tokens, special_tokens=False):
        """Adds tokens that are never split.

        Args:
            new_tokens: A str or `tokenizers.AddedToken`, or a list of them. As
                the text is lower-cased, a plain token matches whatever its
                case; a special one only as it is.
            special_tokens: Whether they are special: `decode` can leave them out.

        Returns:
            The number of tokens that are new in the vocabulary. The model's
            `resize_token_embeddings(len(tokenizer))` makes room for them;
            `add_tokens_for` does both.
        """
        if isinstance(new_tokens, (str, AddedToken)):
            new_tokens = [new_tokens]
        before = len(self)
        for token in new_tokens:
            if not isinstance(token, (str, AddedToken)):
                raise TokenizerError(
                    f"A token must be a str or an AddedToken. Received: {token!r}."
                )
        self._add(
            [to_token(token, special_tokens) for token in new_tokens if str(token)]
        )
        return len(self) - before

    def add_special_tokens(
        self, special_tokens_dict, replace_additional_special_tokens=True
    ):
        """Sets special tokens, and adds those the vocabulary lacks.

        Args:
            special_tokens_dict: Dict of attribute ("pad_token", ...,
                "additional_special_tokens") -> token or list of tokens.
            replace_additional_special_tokens: Whether the list replaces the
                earlier one.

        Returns:
            The number of tokens that are new in the vocabulary.
        """
        before = len(self)
        for name, value in special_tokens_dict.items():
            if name == "additional_special_tokens":
                self.add_tokens(list(value), special_tokens=True)
                kept = (
                    []
                    if replace_additional_special_tokens
                    else self.additional_special_tokens
                )
                tokens = [*kept, *map(content_of, value)]
                self._additional_special_tokens = list(dict.fromkeys(tokens))
            elif name in SPECIAL_TOKENS:
                if not isinstance(value, (str, AddedToken)):
                    raise TokenizerError(
                        f"`{name}` must be a str or an AddedToken. Received: {value!r}."
                    )
                self.add_tokens(value, special_tokens=True)
                self._special_tokens[name] = content_of(value)
                if name == "unk_token":
                    self._set_unknown(content_of(value))
            else:
                raise TokenizerError(
                    f"There is no special token {name!r}; there are "
                    f"{', '.join(SPECIAL_TOKENS)}, additional_special_tokens."
                )
        return len(self) - before

    def _set_special_token(self, name, token):
        if token is None:
            self._special_tokens.pop(name, None)
            return
        self._check_known(token, name)
        self.add_special_tokens({name: token})

    def _check_known(self, token, name):
        if content_of(token) not in self.get_vocab():
            raise TokenizerError(
                f"`{name}` must be in the vocabulary; `add_special_tokens` puts it "
                f"there. Received: {content_of(token)!r}."
            )


def content_of(token):
    return token if isinstance(token, str) else token.content


def to_token(token, special=False):
    """Returns an `AddedToken` of a str, a saved dict or an `AddedToken`."""
    if isinstance(token, dict):
        fields = {k: v for k, v in token.items() if k not in ("__type", "content")}
        return AddedToken(token["content"], **fields)
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=not special)
    if special and not token.special:
        return AddedToken(**{**token_fields(token), "special": True})
    return token


def token_fields(token):
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }


def shown(value):
    """Returns a value for an error message, cut short."""
    text = repr(value)
    return f"{text[:80]}{'...' if len(text) > 80 else ''} ({type(value).__name__})"


def is_int(value):
    """Whether a value is one whole number: an int or a scalar of some library."""
    return hasattr(value, "__index__") and not len(getattr(value, "shape", ()))


def to_list(values):
    """Returns a list, array or tensor as a list."""
    values = values.numpy() if hasattr(values, "numpy") else values
    return values.tolist() if hasattr(values, "tolist") else list(values)


def as_ids(ids):
    """Returns a list, array or tensor of ids as a list of int."""
    ids = to_list(ids)
    for index in ids:
        if not is_int(index):
            raise TokenizerError(
                f"Ids must be whole numbers in one list. Received: {shown(index)}."
            )
    return [int(index) for index in ids]
