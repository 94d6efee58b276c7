"""The interface that both tokenizers share.

A tokenizer supplies four things (see `TokenizerBase`): sequences from texts, its
vocabulary, new tokens, and text from ids. All the rest stands here once: special
tokens, pairs, truncation, padding, tensors, files.
"""

import json
import logging
import re

from tokenizers import AddedToken

from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import files
from tf_gpt.tokenization.encoding import PAD_VALUES, BatchEncoding, Encoding

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
NO_LIMIT = int(1e30)  # `model_max_length` of a tokenizer that knows no limit

TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDING = ("longest", "max_length", "do_not_pad")
SIDES = ("left", "right")

_CLEAN_UP = re.compile(r" (\.|\?|!|,|n't|'m|'s|'ve|'re)| ' ")


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


class TokenizerBase:
    """What `OpenAIGPTTokenizer` and `OpenAIGPTTokenizerFast` have in common.

    Args:
        model_max_length: The most tokens the model takes; the default of
            `max_length`. None for no limit.
        padding_side, truncation_side: "left" or "right".
        model_input_names: The fields that a call returns.
        clean_up_tokenization_spaces: Whether `decode` removes the spaces before
            punctuation and contractions.
        bos_token, eos_token, unk_token, sep_token, pad_token, cls_token,
        mask_token, additional_special_tokens: Special tokens. Those not in the
            vocabulary are added to its end.

    A subclass has `_vocab` (piece -> id, without added tokens), `_added` (id ->
    `AddedToken`), and the methods `_sequences`, `_add`, `_token_to_id`,
    `_id_to_token`, `_decode` and `_contents`.
    """

    vocab_files_names = {"vocab_file": files.VOCAB, "merges_file": files.MERGES}
    is_fast = False

    def __init__(
        self,
        model_max_length=None,
        padding_side="right",
        truncation_side="right",
        model_input_names=("input_ids", "attention_mask"),
        clean_up_tokenization_spaces=False,
        additional_special_tokens=(),
        name_or_path="",
        **special_tokens,
    ):
        unknown = sorted(set(special_tokens) - set(SPECIAL_TOKENS))
        if unknown:
            raise TokenizerError(
                f"{type(self).__name__} has no option {unknown[0]!r}. "
                f"Received: {', '.join(unknown)}."
            )
        self.model_max_length = (
            NO_LIMIT if model_max_length is None else model_max_length
        )
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.model_input_names = list(model_input_names)
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.name_or_path = str(name_or_path)
        self.pad_token_type_id = 0
        self._special_tokens = {}
        self._additional_special_tokens = []
        self.add_special_tokens(
            {
                **{k: v for k, v in special_tokens.items() if v is not None},
                "additional_special_tokens": list(additional_special_tokens),
            }
        )

    # Loading and saving.

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *,
        revision=None,
        subfolder=None,
        cache_dir=None,
        local_files_only=False,
        token=None,
        force_download=False,
        **options,
    ):
        """Loads a tokenizer.

        Args:
            pretrained_model_name_or_path: A directory, the name of a bundled
                preset ("mini"), or a repository on the Hub.
            revision, subfolder, cache_dir, local_files_only, token,
            force_download: Where and how to look, as in `huggingface_hub`.
            options: Arguments of the class, in place of what the files say.

        Returns:
            A tokenizer.

        Raises:
            TokenizerError: If files are missing or do not fit together.
        """
        hub_options = {
            "revision": revision,
            "subfolder": subfolder,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
            "force_download": force_download,
        }
        hub_options = {k: v for k, v in hub_options.items() if v}
        found = files.find(pretrained_model_name_or_path, **hub_options)
        saved = files.read_json(found[files.CONFIG]) if files.CONFIG in found else {}
        older = {}
        if files.SPECIAL_TOKENS in found:
            older = files.read_json(found[files.SPECIAL_TOKENS])
        arguments = _saved_arguments(saved, older)
        added = _added_tokens(saved, found)
        # The tokens of the files go first: they keep the ids that they had.
        late = {k: options.pop(k) for k in (*SPECIAL_TOKENS,) if k in options}
        tokenizer = cls._from_files(
            found,
            saved,
            added,
            {
                **arguments,
                "name_or_path": pretrained_model_name_or_path,
                **options,
            },
        )
        tokenizer.add_special_tokens({k: v for k, v in late.items() if v is not None})
        return tokenizer

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

    def save_pretrained(
        self, save_directory, filename_prefix=None, push_to_hub=False, **hub
    ):
        """Writes every file that `from_pretrained` reads.

        Args:
            save_directory: Directory, created if it is missing.
            filename_prefix: Put before each file name.
            push_to_hub: Whether to upload the files too; `hub` holds the
                arguments of `push_to_hub`, `repo_id` by default the
                directory's name.

        Returns:
            Tuple of the paths written.
        """
        if hub and not push_to_hub:
            raise TokenizerError(
                f"These options need `push_to_hub=True`. Received: {sorted(hub)}."
            )
        config = {
            **self._settings(),
            "added_tokens_decoder": {
                str(index): _token_fields(token)
                for index, token in sorted(self.added_tokens_decoder.items())
            },
            "additional_special_tokens": self.additional_special_tokens,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "model_input_names": self.model_input_names,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            # The name under which transformers finds the class, fast or not.
            "tokenizer_class": "OpenAIGPTTokenizer",
            **self._special_tokens,
        }
        contents = {
            files.CONFIG: files.dump_json(config),
            files.SPECIAL_TOKENS: files.dump_json(self.special_tokens_map),
            **self._contents(),
        }
        added = self.get_added_vocab()
        if added:
            contents[files.ADDED_TOKENS] = files.dump_json(added)
        paths = files.write(save_directory, contents, filename_prefix)
        if push_to_hub:
            import pathlib

            repo_id = hub.pop("repo_id", None) or pathlib.Path(save_directory).name
            self.push_to_hub(repo_id, **hub)
        return paths

    def push_to_hub(
        self,
        repo_id,
        commit_message=None,
        private=None,
        token=None,
        create_pr=False,
        revision=None,
    ):
        """Uploads the tokenizer's files to a repository on the Hub.

        Args:
            repo_id: "name" or "owner/name"; created if it is missing.
            commit_message, private, token, create_pr, revision: As in
                `huggingface_hub`.
        """
        import tempfile

        from tf_gpt.hub import upload_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return upload_folder(
                repo_id,
                folder,
                commit_message=commit_message or "Upload tokenizer",
                private=private,
                token=token,
                create_pr=create_pr,
                revision=revision,
            )

    def _settings(self):
        """Returns what a subclass adds to tokenizer_config.json."""
        return {}

    # The vocabulary.

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
        if _is_int(ids):
            return self._checked_token(int(ids))
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._checked_token(i) for i in _as_ids(ids) if i not in special]

    def _checked_token(self, index):
        token = self._id_to_token(index)
        if token is None:
            raise TokenizerError(
                f"An id must be in the vocabulary, 0 to {len(self) - 1}. "
                f"Received: {index}."
            )
        return token

    # Special and added tokens.

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
        """List of the special tokens, each once."""
        tokens = [*self._special_tokens.values(), *self._additional_special_tokens]
        return list(dict.fromkeys(tokens))

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
            [_to_token(token, special_tokens) for token in new_tokens if str(token)]
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
                tokens = [*kept, *map(_content, value)]
                self._additional_special_tokens = list(dict.fromkeys(tokens))
            elif name in SPECIAL_TOKENS:
                if not isinstance(value, (str, AddedToken)):
                    raise TokenizerError(
                        f"`{name}` must be a str or an AddedToken. Received: {value!r}."
                    )
                self.add_tokens(value, special_tokens=True)
                self._special_tokens[name] = _content(value)
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
        if _content(token) not in self.get_vocab():
            raise TokenizerError(
                f"`{name}` must be in the vocabulary; `add_special_tokens` puts it "
                f"there. Received: {_content(token)!r}."
            )

    # From text to ids.

    def __call__(
        self,
        text=None,
        text_pair=None,
        text_target=None,
        text_pair_target=None,
        add_special_tokens=True,
        padding=False,
        truncation=None,
        max_length=None,
        stride=0,
        is_split_into_words=False,
        pad_to_multiple_of=None,
        padding_side=None,
        return_tensors=None,
        return_token_type_ids=None,
        return_attention_mask=None,
        return_overflowing_tokens=False,
        return_special_tokens_mask=False,
        return_offsets_mapping=False,
        return_length=False,
        verbose=True,
    ):
        """Turns one text, or a batch of texts, into ids and their masks.

        Args:
            text, text_pair: A str or a list of str; with `is_split_into_words`
                a list of str or a list of those. A pair is one sequence after
                the other.
            text_target, text_pair_target: Texts that become `labels`.
            add_special_tokens: GPT puts no tokens around a text: no effect.
            padding: True or "longest", "max_length", or False.
            truncation: True or "longest_first", "only_first", "only_second",
                or False.
            max_length: In tokens; by default `model_max_length`.
            stride: Tokens that neighbouring windows share.
            is_split_into_words: Whether texts come as lists of words.
            pad_to_multiple_of: Rounds the padded length up.
            padding_side: "left" or "right", by default the tokenizer's.
            return_tensors: "tf", "np", "pt" or None for lists.
            return_token_type_ids, return_attention_mask,
            return_overflowing_tokens, return_special_tokens_mask,
            return_offsets_mapping, return_length: Fields to return.
            verbose: Whether to log a sequence longer than the model takes.

        Returns:
            `BatchEncoding`.

        Raises:
            TokenizerError: If an argument is of no use, or padding is asked for
                and there is no pad token.
        """
        options = {
            "add_special_tokens": add_special_tokens,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "stride": stride,
            "is_split_into_words": is_split_into_words,
            "pad_to_multiple_of": pad_to_multiple_of,
            "padding_side": padding_side,
            "return_tensors": return_tensors,
            "return_token_type_ids": return_token_type_ids,
            "return_attention_mask": return_attention_mask,
            "return_overflowing_tokens": return_overflowing_tokens,
            "return_special_tokens_mask": return_special_tokens_mask,
            "return_offsets_mapping": return_offsets_mapping,
            "return_length": return_length,
            "verbose": verbose,
        }
        if text is None and text_target is None:
            raise TokenizerError(
                "Either `text` or `text_target` is needed. Received: None."
            )
        if text_target is not None:
            target = self._encode(text_target, text_pair_target, **options)
            if text is None:
                return target
        batch = self._encode(text, text_pair, **options)
        if text_target is not None:
            batch["labels"] = target["input_ids"]
        return batch

    def encode(self, text, text_pair=None, **options):
        """Returns the ids of a text as a list, or a tensor (1, T).

        Takes the arguments of a call.
        """
        _check_single(text, options.get("is_split_into_words", False))
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text, text_pair=None, **options):
        """Returns what a call returns for one text."""
        _check_single(text, options.get("is_split_into_words", False))
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs, **options):
        """Returns what a call returns for a list of texts or of (text, pair)."""
        if not isinstance(batch_text_or_text_pairs, (list, tuple)):
            raise TokenizerError(
                "`batch_text_or_text_pairs` must be a list. "
                f"Received: {_shown(batch_text_or_text_pairs)}."
            )
        return self(list(batch_text_or_text_pairs), **options)

    def tokenize(self, text, pair=None, add_special_tokens=False):
        """Returns the tokens of a text as a list of str."""
        _check_text(text, "text")
        tokens = list(self._sequences([text], False)[0].tokens)
        return tokens if pair is None else tokens + self.tokenize(pair)

    def num_special_tokens_to_add(self, pair=False):
        """Returns 0: GPT puts no tokens around a text."""
        return 0

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        """Returns the ids of both sequences, one after the other."""
        return list(token_ids_0) + list(token_ids_1 or [])

    def create_token_type_ids_from_sequences(self, token_ids_0, token_ids_1=None):
        """Returns 0 for each token of the first sequence and 1 of the second."""
        return [0] * len(token_ids_0) + [1] * len(token_ids_1 or [])

    def get_special_tokens_mask(
        self, token_ids_0, token_ids_1=None, already_has_special_tokens=False
    ):
        """Returns 1 where a token is special and 0 elsewhere.

        Without `already_has_special_tokens` all are 0: GPT adds none.
        """
        ids = self.build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        special = set(self.all_special_ids) if already_has_special_tokens else ()
        return [int(i in special) for i in ids]

    def _encode(
        self,
        text,
        text_pair,
        *,
        is_split_into_words,
        padding,
        truncation,
        max_length,
        stride,
        pad_to_multiple_of,
        padding_side,
        return_tensors,
        return_overflowing_tokens,
        verbose,
        **returned,
    ):
        firsts, seconds, is_batch = _rows(text, text_pair, is_split_into_words)
        sequences = [self._sequences(firsts, is_split_into_words)]
        if seconds is not None:
            sequences.append(self._sequences(seconds, is_split_into_words))
        return self._finish(
            list(zip(*sequences, strict=True)),
            is_batch=is_batch,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_tensors=return_tensors,
            return_overflowing_tokens=return_overflowing_tokens,
            verbose=verbose,
            **returned,
        )

    def _finish(
        self,
        rows,
        *,
        is_batch,
        padding=False,
        truncation=None,
        max_length=None,
        stride=0,
        pad_to_multiple_of=None,
        padding_side=None,
        return_tensors=None,
        return_overflowing_tokens=False,
        return_token_type_ids=None,
        return_attention_mask=None,
        return_special_tokens_mask=False,
        return_offsets_mapping=False,
        return_length=False,
        verbose=True,
        add_special_tokens=True,
    ):
        """Truncates, pads and gathers rows of one or two sequences."""
        padding, truncation, max_length = self._strategies(
            padding, truncation, max_length, pad_to_multiple_of
        )
        encodings = [
            Encoding([(sequence, 0, len(sequence.ids)) for sequence in row])
            for row in rows
        ]
        batch = {"input_ids": [e.ids for e in encodings]}
        if self._returns("token_type_ids", return_token_type_ids):
            batch["token_type_ids"] = [e.type_ids for e in encodings]
        if self._returns("attention_mask", return_attention_mask):
            batch["attention_mask"] = [[1] * len(ids) for ids in batch["input_ids"]]
        if return_special_tokens_mask:
            batch["special_tokens_mask"] = [e.special_tokens_mask for e in encodings]
        if return_offsets_mapping:
            batch["offset_mapping"] = [e.offsets for e in encodings]
        self._pad(
            batch, padding, max_length, pad_to_multiple_of, padding_side, encodings
        )
        if return_length:
            batch["length"] = [len(ids) for ids in batch["input_ids"]]
        if not is_batch and return_tensors is None:
            batch = {name: value[0] for name, value in batch.items()}
        return BatchEncoding(batch, encodings, return_tensors, self.is_fast)

    def _returns(self, name, asked):
        return name in self.model_input_names if asked is None else asked

    def _strategies(self, padding, truncation, max_length, pad_to_multiple_of):
        """Returns `padding`, `truncation` and `max_length`, checked and resolved."""
        padding = {True: "longest", False: "do_not_pad", None: "do_not_pad"}.get(
            padding, padding
        )
        truncation = {
            True: "longest_first",
            False: "do_not_truncate",
            None: "do_not_truncate",
        }.get(truncation, truncation)
        _check_choice("padding", padding, PADDING)
        _check_choice("truncation", truncation, TRUNCATION)
        if padding != "do_not_pad" and self.pad_token is None:
            raise TokenizerError(
                "Padding needs a pad token: "
                "`tokenizer.add_special_tokens({'pad_token': '<pad>'})`, or "
                "`add_tokens_for(tokenizer, model)`, which also resizes the model. "
                f"Received: padding={padding!r}, pad_token=None."
            )
        needed = padding == "max_length" or truncation != "do_not_truncate"
        if max_length is None and needed:
            if self.model_max_length >= NO_LIMIT:
                raise TokenizerError(
                    "`max_length` is needed, as the tokenizer has no "
                    "`model_max_length`. Received: "
                    f"padding={padding!r}, truncation={truncation!r}."
                )
            max_length = self.model_max_length
        return padding, truncation, max_length

    def _pad(self, batch, padding, max_length, multiple, side, encodings):
        if padding == "do_not_pad":
            return
        side = side or self.padding_side
        _check_choice("padding_side", side, SIDES)
        lengths = [len(ids) for ids in batch["input_ids"]]
        target = max_length if padding == "max_length" else max(lengths, default=0)
        if multiple:
            target = -(-target // multiple) * multiple
        pads = {
            **PAD_VALUES,
            "input_ids": self.pad_token_id,
            "token_type_ids": self.pad_token_type_id,
        }
        for name, rows in batch.items():
            for i, row in enumerate(rows):
                filling = [pads[name]] * (target - len(row))
                rows[i] = filling + row if side == "left" else row + filling
        for encoding, length in zip(encodings, lengths, strict=True):
            n = max(target - length, 0)
            encoding.set_padding(
                n if side == "left" else 0,
                n if side == "right" else 0,
                self.pad_token_id,
                self.pad_token,
                self.pad_token_type_id,
            )

    # From ids to text.

    def decode(
        self,
        token_ids,
        skip_special_tokens=False,
        clean_up_tokenization_spaces=None,
    ):
        """Returns the text of ids.

        Args:
            token_ids: An int, or a list, array or tensor of T ints.
            skip_special_tokens: Whether to leave special tokens out.
            clean_up_tokenization_spaces: Whether to remove the spaces before
                punctuation and contractions; by default as the tokenizer says.

        Raises:
            TokenizerError: If an id is not in the vocabulary.
        """
        ids = [int(token_ids)] if _is_int(token_ids) else _as_ids(token_ids)
        if skip_special_tokens:
            special = set(self.all_special_ids)
            ids = [i for i in ids if i not in special]
        text = self._decode(ids)
        clean_up = clean_up_tokenization_spaces
        clean_up = self.clean_up_tokenization_spaces if clean_up is None else clean_up
        return self.clean_up_tokenization(text) if clean_up else text

    def batch_decode(self, sequences, **options):
        """Returns the texts of a list, array or tensor of B rows of ids."""
        return [self.decode(ids, **options) for ids in _to_list(sequences)]

    @staticmethod
    def clean_up_tokenization(out_string):
        """Removes the spaces before punctuation and contractions."""
        return _CLEAN_UP.sub(lambda m: m[1] or "'", out_string)

    def __repr__(self):
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, "
            f"vocab_size={self.vocab_size}, n_tokens={len(self)}, "
            f"special_tokens={self.special_tokens_map})"
        )


def _rows(text, text_pair, is_split):
    """Returns (first texts, second texts or None, whether it is a batch)."""
    if is_split:
        is_batch = _is_list(text) and bool(text) and _is_list(text[0])
    else:
        is_batch = _is_list(text)
    if not is_batch:
        _check_text(text, "text", is_split)
        if text_pair is None:
            return [text], None, False
        _check_text(text_pair, "text_pair", is_split)
        return [text], [text_pair], False
    firsts, seconds = list(text), text_pair
    if (
        text_pair is None
        and firsts
        and all(isinstance(row, tuple) and len(row) == 2 for row in firsts)
    ):
        firsts, seconds = [row[0] for row in firsts], [row[1] for row in firsts]
    if seconds is not None:
        if not _is_list(seconds) or len(seconds) != len(firsts):
            raise TokenizerError(
                "`text_pair` must be a list as long as `text`. Received: "
                f"{len(firsts)} texts and {_shown(seconds)}."
            )
        for i, row in enumerate(seconds):
            _check_text(row, f"text_pair[{i}]", is_split)
        seconds = list(seconds)
    for i, row in enumerate(firsts):
        _check_text(row, f"text[{i}]", is_split)
    return firsts, seconds, True


def _is_list(value):
    return isinstance(value, (list, tuple))


def _check_text(text, name, is_split=False):
    if is_split:
        if _is_list(text) and all(isinstance(word, str) for word in text):
            return
        rule = "a list of str, as `is_split_into_words` says"
    else:
        if isinstance(text, str):
            return
        rule = "a str"
    raise TokenizerError(f"`{name}` must be {rule}. Received: {_shown(text)}.")


def _check_single(text, is_split):
    _check_text(text, "text", is_split)


def _check_choice(name, value, choices):
    if value not in choices:
        raise TokenizerError(
            f"`{name}` must be one of {', '.join(choices)}, True or False. "
            f"Received: {value!r}."
        )


def _shown(value):
    """Returns a value for an error message, cut short."""
    text = repr(value)
    return f"{text[:80]}{'...' if len(text) > 80 else ''} ({type(value).__name__})"


def _is_int(value):
    return hasattr(value, "__index__") and not getattr(value, "shape", ())


def _to_list(values):
    return values.tolist() if hasattr(values, "tolist") else _numpy_or_list(values)


def _numpy_or_list(values):
    return values.numpy().tolist() if hasattr(values, "numpy") else list(values)


def _as_ids(ids):
    ids = _to_list(ids)
    for index in ids:
        if not _is_int(index):
            raise TokenizerError(
                f"Ids must be whole numbers in one list. Received: {_shown(index)}."
            )
    return [int(index) for index in ids]


def _content(token):
    return token if isinstance(token, str) else token.content


def _to_token(token, special=False):
    """Returns an `AddedToken` of a str, a saved dict or an `AddedToken`."""
    if isinstance(token, dict):
        fields = {k: v for k, v in token.items() if k not in ("__type", "content")}
        return AddedToken(token["content"], **fields)
    if isinstance(token, str):
        return AddedToken(token, special=special, normalized=not special)
    if special and not token.special:
        return AddedToken(**{**_token_fields(token), "special": True})
    return token


def _token_fields(token):
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }


def _saved_arguments(saved, older):
    """Returns the arguments of `TokenizerBase` that saved files state."""
    arguments = {}
    for name in (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "model_input_names",
        "clean_up_tokenization_spaces",
    ):
        if saved.get(name) is not None:
            arguments[name] = saved[name]
    special = {**older, **saved}
    for name in SPECIAL_TOKENS:
        if special.get(name) is not None:
            arguments[name] = _to_token(special[name], special=True)
    extra = special.get("additional_special_tokens")
    # Newer transformers call it `extra_special_tokens`, a list or a table.
    extra = extra or special.get("extra_special_tokens") or []
    extra = extra.values() if isinstance(extra, dict) else extra
    arguments["additional_special_tokens"] = [_to_token(t, special=True) for t in extra]
    return arguments


def _added_tokens(saved, found):
    """Returns [(id, AddedToken)] of the saved files, in the order of ids."""
    added = {
        int(index): _to_token(token)
        for index, token in saved.get("added_tokens_decoder", {}).items()
    }
    if not added and files.TOKENIZER in found and files.VOCAB not in found:
        table = json.loads(found[files.TOKENIZER].read_text("utf-8"))
        for entry in table.get("added_tokens", []):
            index = entry.pop("id")
            added[index] = _to_token(entry)
    if files.ADDED_TOKENS in found:
        for token, index in files.read_json(found[files.ADDED_TOKENS]).items():
            added.setdefault(index, _to_token(token))
    return sorted(added.items())
