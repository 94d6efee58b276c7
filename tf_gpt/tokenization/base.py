"""The interface that both tokenizers share.

A tokenizer supplies four things (see `TokenizerBase`): sequences from texts, its
vocabulary, new tokens, and text from ids. All the rest stands here once: special
tokens, pairs, truncation, padding, tensors, files.
"""

import logging
import pathlib
import re
import tempfile

from tf_gpt import hub
from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import files, lengths
from tf_gpt.tokenization.encoding import BatchEncoding, Encoding, check_tensor_type
from tf_gpt.tokenization.vocabulary import (
    SPECIAL_TOKENS,
    Vocabulary,
    as_ids,
    content_of,
    is_int,
    shown,
    to_list,
    token_fields,
)

logger = logging.getLogger(__name__)

NO_LIMIT = int(1e30)  # `model_max_length` of a tokenizer that knows no limit

_STRATEGY_OPTIONS = (
    "padding",
    "truncation",
    "max_length",
    "stride",
    "pad_to_multiple_of",
)

# In terms that TensorFlow's regular expressions share; what stays is \1\2.
CLEAN_UP = re.compile(r" (\.|\?|!|,|n't|'m|'s|'ve|'re)| (') ")


class TokenizerBase(Vocabulary):
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

    A subclass has what `Vocabulary` asks for, and the methods
        `_from_files(found, saved, added, arguments)`, a class method;
        `_sequences(texts, is_split)`: a list of objects with `ids`, `tokens`,
            `offsets` and `word_ids`, one for each text or list of words;
        `_decode(ids)`: their text;
        `_train(texts, length, **options)`: (vocab, merges) of a
            `tokenizers.trainers.BpeTrainer` with these options;
        `_contents()`: file name -> text of the files with its vocabulary.
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
        self.model_max_length = (
            NO_LIMIT if model_max_length is None else model_max_length
        )
        lengths.check_side("padding_side", padding_side)
        lengths.check_side("truncation_side", truncation_side)
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.model_input_names = list(model_input_names)
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.name_or_path = str(name_or_path)
        self.pad_token_type_id = 0
        self._warned = False
        self._init_special_tokens(special_tokens, additional_special_tokens)

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
        if files.SPECIAL_TOKENS_MAP in found:
            older = files.read_json(found[files.SPECIAL_TOKENS_MAP])
        arguments = files.saved_arguments(saved, older)
        added = files.added_tokens(saved, found)
        # The tokens of the files go first: they keep the ids that they had.
        late = {k: options.pop(k) for k in SPECIAL_TOKENS if k in options}
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
        for name, token in late.items():
            if token is None:
                setattr(tokenizer, name, None)
            else:
                tokenizer.add_special_tokens({name: token})
        return tokenizer

    def save_pretrained(
        self, save_directory, filename_prefix=None, push_to_hub=False, **hub_options
    ):
        """Writes every file that `from_pretrained` reads.

        Files that an earlier tokenizer left there and this one does not have
        (added_tokens.json, tokenizer.json) are removed: they would be read too.

        Args:
            save_directory: Directory, created if it is missing.
            filename_prefix: Put before each file name.
            push_to_hub: Whether to upload the files too; `hub_options`
                are the arguments of `push_to_hub`, `repo_id` by default the
                directory's name.

        Returns:
            Tuple of the paths written.
        """
        if hub_options and not push_to_hub:
            raise TokenizerError(
                "These options need `push_to_hub=True`. "
                f"Received: {sorted(hub_options)}."
            )
        config = {
            **self._settings(),
            "added_tokens_decoder": {
                str(index): token_fields(token)
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
            files.SPECIAL_TOKENS_MAP: files.dump_json(self.special_tokens_map),
            **self._contents(),
        }
        added = self.get_added_vocab()
        if added:
            contents[files.ADDED_TOKENS] = files.dump_json(added)
        paths = files.write(save_directory, contents, filename_prefix)
        files.remove(save_directory, set(files.ALL) - set(contents), filename_prefix)
        if push_to_hub:
            repo_id = (
                hub_options.pop("repo_id", None) or pathlib.Path(save_directory).name
            )
            self.push_to_hub(repo_id, **hub_options)
        return paths

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Writes vocab.json and merges.txt, without added tokens.

        Args:
            save_directory: Directory, created if it is missing.
            filename_prefix: Put before each file name.

        Returns:
            Tuple of both paths.
        """
        contents = self._contents()
        wanted = {name: contents[name] for name in (files.VOCAB, files.MERGES)}
        return files.write(save_directory, wanted, filename_prefix)

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
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload_folder(
                repo_id,
                folder,
                commit_message=commit_message or "Upload tokenizer",
                private=private,
                token=token,
                create_pr=create_pr,
                revision=revision,
            )

    def train_new_from_iterator(
        self,
        text_iterator,
        vocab_size,
        length=None,
        new_special_tokens=None,
        special_tokens_map=None,
        min_frequency=0,
        show_progress=False,
    ):
        """Returns a tokenizer like this one with a vocabulary of other texts.

        Args:
            text_iterator: Iterable of str, or of lists of str.
            vocab_size: The most pieces of the new vocabulary, special tokens
                included.
            length: How many there are, for the progress bar.
            new_special_tokens: List of tokens to add to the special ones.
            special_tokens_map: Dict of special token -> its new name.
            min_frequency: How often a pair must occur to be merged.
            show_progress: Whether to show a progress bar.
        """
        renamed = special_tokens_map or {}
        names = {k: renamed.get(v, v) for k, v in self._special_tokens.items()}
        others = [renamed.get(t, t) for t in self._additional_special_tokens]
        others += map(content_of, new_special_tokens or ())
        settings = self._settings()
        settings["additional_special_tokens"] = others
        for name in (
            "model_max_length",
            "padding_side",
            "truncation_side",
            "model_input_names",
            "clean_up_tokenization_spaces",
        ):
            settings[name] = getattr(self, name)
        vocab, merges = self._train(
            (
                t
                for text in text_iterator
                for t in ([text] if isinstance(text, str) else text)
            ),
            length=length,
            vocab_size=vocab_size,
            special_tokens=list(dict.fromkeys([*names.values(), *others])),
            min_frequency=min_frequency,
            show_progress=show_progress,
        )
        return type(self)(vocab=vocab, merges=merges, **names, **settings)

    def _settings(self):
        """Returns what a subclass adds to tokenizer_config.json."""
        return {}

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
                f"Received: {shown(batch_text_or_text_pairs)}."
            )
        return self(list(batch_text_or_text_pairs), **options)

    def tokenize(self, text, pair=None, add_special_tokens=False):
        """Returns the tokens of a text as a list of str."""
        _check_text(text, "text")
        tokens = list(self._sequences([text], False)[0].tokens)
        return tokens if pair is None else tokens + self.tokenize(pair)

    @property
    def max_len_single_sentence(self):
        """The most tokens of a single text."""
        return self.model_max_length

    @property
    def max_len_sentences_pair(self):
        """The most tokens of a pair of texts."""
        return self.model_max_length

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

    def _encode(self, text, text_pair, *, is_split_into_words, **options):
        firsts, seconds, is_batch = _rows(text, text_pair, is_split_into_words)
        # Found out here, before any text is split, and again where it is used.
        self._strategies(**{name: options[name] for name in _STRATEGY_OPTIONS})
        if options["padding_side"] is not None:
            lengths.check_side("padding_side", options["padding_side"])
        check_tensor_type(options["return_tensors"])
        sequences = [self._sequences(firsts, is_split_into_words)]
        if seconds is not None:
            sequences.append(self._sequences(seconds, is_split_into_words))
        rows = list(zip(*sequences, strict=True))
        return self._finish(rows, is_batch=is_batch, **options)

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
            padding, truncation, max_length, stride, pad_to_multiple_of
        )
        if truncation == "do_not_truncate":
            if return_overflowing_tokens:
                raise TokenizerError(
                    "`return_overflowing_tokens` needs `truncation`. Received: "
                    "truncation=False."
                )
            encodings = [Encoding([(s, 0, None) for s in row]) for row in rows]
        else:
            encodings, overflow = self._truncate(
                rows, truncation, max_length, stride, return_overflowing_tokens
            )
        batch = {"input_ids": [e.ids for e in encodings]}
        if self._returns("token_type_ids", return_token_type_ids):
            batch["token_type_ids"] = [e.type_ids for e in encodings]
        if self._returns("attention_mask", return_attention_mask):
            batch["attention_mask"] = [[1] * len(ids) for ids in batch["input_ids"]]
        if return_special_tokens_mask:
            batch["special_tokens_mask"] = [
                [0] * len(ids) for ids in batch["input_ids"]
            ]
        if return_offsets_mapping:
            batch["offset_mapping"] = [e.offsets for e in encodings]
        if verbose:
            self._warn_if_long(batch["input_ids"], max_length)
        paddings = self._pad(
            batch, padding, max_length, pad_to_multiple_of, padding_side
        )
        for encoding, (n_left, n_right) in zip(encodings, paddings, strict=False):
            encoding.set_padding(
                n_left,
                n_right,
                self.pad_token_id,
                self.pad_token,
                self.pad_token_type_id,
            )
        if return_overflowing_tokens:
            batch.update(overflow)
        if return_length:
            batch["length"] = [len(ids) for ids in batch["input_ids"]]
        is_batch = is_batch or "overflow_to_sample_mapping" in batch
        if not is_batch and return_tensors is None:
            batch = {name: value[0] for name, value in batch.items()}
        return BatchEncoding(batch, encodings, return_tensors, self.is_fast)

    def _truncate(
        self, rows, truncation, max_length, stride, return_overflowing_tokens
    ):
        """Returns rows cut to `max_length`, and the fields for what was cut off."""
        side = self.truncation_side
        encodings, samples, tails, excesses = [], [], [], []
        for i, row in enumerate(rows):
            counts = [len(sequence.ids) for sequence in row]
            excess = max(sum(counts) - max_length, 0)
            sizes = lengths.kept(counts, excess, truncation, not self.is_fast)
            windows = [list(map(lengths.span_kept, counts, sizes, [side] * len(row)))]
            if return_overflowing_tokens and self.is_fast:
                windows = lengths.windows(counts, sizes, side, stride)
            elif return_overflowing_tokens:
                tails.append(self._tail(row, counts, sizes, truncation, stride))
                excesses.append(excess)
            for window in windows:
                parts = zip(row, window, strict=True)
                encodings.append(Encoding([(part, *span) for part, span in parts]))
                samples.append(i)
        if self.is_fast:
            return encodings, {"overflow_to_sample_mapping": samples}
        return encodings, {
            "overflowing_tokens": tails,
            "num_truncated_tokens": excesses,
        }

    def _tail(self, row, counts, sizes, truncation, stride):
        """Returns the ids that were cut off, and `stride` of those next to them."""
        if len(row) == 2 and truncation == "longest_first":
            raise TokenizerError(
                "A pair cut longest first is cut in two places, and "
                "OpenAIGPTTokenizer returns the tokens of one. Received: "
                "truncation='longest_first', return_overflowing_tokens=True."
            )
        ids = []
        for sequence, n, size in zip(row, counts, sizes, strict=True):
            start, stop = lengths.span_cut_off(n, size, self.truncation_side, stride)
            ids += sequence.ids[start:stop]
        return ids

    def _warn_if_long(self, rows, max_length):
        longest = max(map(len, rows), default=0)
        if longest > self.model_max_length and max_length is None and not self._warned:
            self._warned = True
            logger.warning(
                "A sequence of %d tokens is longer than the model takes (%d). Pass "
                "`truncation=True` to cut it.",
                longest,
                self.model_max_length,
            )

    def _returns(self, name, asked):
        return name in self.model_input_names if asked is None else asked

    def _strategies(self, padding, truncation, max_length, stride, pad_to_multiple_of):
        """Returns `padding`, `truncation` and `max_length`, checked and resolved."""
        if max_length is not None and padding in (False, None) and truncation is None:
            truncation = True
        padding = lengths.choice("padding", padding, lengths.PADDING)
        truncation = lengths.choice("truncation", truncation, lengths.TRUNCATION)
        if padding != "do_not_pad" and self.pad_token is None:
            raise TokenizerError(
                "Padding needs a pad token: "
                "`tokenizer.add_special_tokens({'pad_token': '<pad>'})`, or "
                "`add_tokens_for(tokenizer, model)`, which also resizes the model. "
                f"Received: padding={padding!r}, pad_token=None."
            )
        for name, value, least in (
            ("max_length", max_length, 1),
            ("stride", stride, 0),
            ("pad_to_multiple_of", pad_to_multiple_of, 1),
        ):
            if value is not None and (not is_int(value) or value < least):
                raise TokenizerError(
                    f"`{name}` must be a whole number of {least} or more. "
                    f"Received: {value!r}."
                )
        if truncation == "do_not_truncate" and padding != "max_length":
            return padding, truncation, None
        if max_length is None:
            if self.model_max_length >= NO_LIMIT:
                raise TokenizerError(
                    "`max_length` is needed, as the tokenizer has no "
                    "`model_max_length`. Received: "
                    f"padding={padding!r}, truncation={truncation!r}."
                )
            max_length = self.model_max_length
        both = padding != "do_not_pad" and truncation != "do_not_truncate"
        if both and pad_to_multiple_of and max_length % pad_to_multiple_of:
            raise TokenizerError(
                "With truncation and padding, `max_length` must be a multiple of "
                f"`pad_to_multiple_of`. Received: max_length={max_length}, "
                f"pad_to_multiple_of={pad_to_multiple_of}."
            )
        return padding, truncation, max_length

    def _pad(self, batch, padding, max_length, multiple, side):
        """Pads lists of rows in place; returns [(left, right)] of what it added."""
        side = self.padding_side if side is None else side
        lengths.check_side("padding_side", side)
        if padding == "do_not_pad":
            return []
        target = max_length
        if padding == "longest":
            target = max(map(len, batch["input_ids"]), default=0)
        if multiple:
            target = -(-target // multiple) * multiple
        pad_values = {
            "input_ids": self.pad_token_id,
            "token_type_ids": self.pad_token_type_id,
        }
        return lengths.pad(batch, target, side, pad_values)

    def pad(
        self,
        encoded_inputs,
        padding=True,
        max_length=None,
        pad_to_multiple_of=None,
        padding_side=None,
        return_attention_mask=None,
        return_tensors=None,
        verbose=True,
    ):
        """Pads what earlier calls returned, as a collator does.

        Args:
            encoded_inputs: A dict of field -> list (one row) or list of lists
                (B rows), or a list of B dicts; lists, arrays or tensors. Fields
                that a tokenizer does not return stay as they are.
            padding, max_length, pad_to_multiple_of, padding_side,
            return_attention_mask, return_tensors: As for a call.

        Returns:
            `BatchEncoding`.
        """
        if _is_list(encoded_inputs):
            fields = list(encoded_inputs[0]) if encoded_inputs else []
            if any(set(row) != set(fields) for row in encoded_inputs):
                raise TokenizerError(
                    "`encoded_inputs` must be rows of the same fields. Received: "
                    f"{[sorted(row) for row in encoded_inputs]}."
                )
            encoded_inputs = {f: [row[f] for row in encoded_inputs] for f in fields}
        if "input_ids" not in encoded_inputs:
            raise TokenizerError(
                "`encoded_inputs` must hold 'input_ids'. "
                f"Received: {list(encoded_inputs)}."
            )
        batch = {name: to_list(value) for name, value in encoded_inputs.items()}
        is_batch = not batch["input_ids"] or not is_int(batch["input_ids"][0])
        if not is_batch:
            batch = {name: [value] for name, value in batch.items()}
        batch["input_ids"] = [as_ids(row) for row in batch["input_ids"]]
        padding, _, max_length = self._strategies(
            padding, False, max_length, 0, pad_to_multiple_of
        )
        if self._returns("attention_mask", return_attention_mask):
            batch.setdefault(
                "attention_mask", [[1] * len(r) for r in batch["input_ids"]]
            )
        self._pad(batch, padding, max_length, pad_to_multiple_of, padding_side)
        if not is_batch and return_tensors is None:
            batch = {name: rows[0] for name, rows in batch.items()}
        return BatchEncoding(batch, None, return_tensors, self.is_fast)

    def prepare_for_model(self, ids, pair_ids=None, **options):
        """Returns what a call returns, for ids in place of a text.

        Args:
            ids, pair_ids: Lists of ids of the first and the second sequence.
            options: Those of a call, but for `is_split_into_words` and
                `return_offsets_mapping`.
        """
        if options.pop("return_offsets_mapping", False):
            raise TokenizerError(
                "Ids have no place in a text. Received: return_offsets_mapping=True."
            )
        options.pop("prepend_batch_axis", None)
        row = [_Ids(self, part) for part in (ids, pair_ids) if part is not None]
        return self._finish([row], is_batch=False, **options)

    def truncate_sequences(
        self,
        ids,
        pair_ids=None,
        num_tokens_to_remove=0,
        truncation_strategy="longest_first",
        stride=0,
    ):
        """Removes tokens from one or two lists of ids.

        Returns:
            `(ids, pair_ids, overflowing)`: the lists cut, and the ids that were
            cut off; none of a pair that is cut longest first.
        """
        truncation = lengths.choice(
            "truncation_strategy", truncation_strategy, lengths.TRUNCATION
        )
        if truncation == "do_not_truncate" or num_tokens_to_remove <= 0:
            return ids, pair_ids, []
        row = [_Ids(self, part) for part in (ids, pair_ids) if part is not None]
        counts = [len(sequence.ids) for sequence in row]
        sizes = lengths.kept(counts, num_tokens_to_remove, truncation, not self.is_fast)
        tail = []
        if len(row) == 1 or truncation != "longest_first":
            tail = self._tail(row, counts, sizes, truncation, stride)
        parts = []
        for sequence, n, size in zip(row, counts, sizes, strict=True):
            start, stop = lengths.span_kept(n, size, self.truncation_side)
            parts.append(sequence.ids[start:stop])
        return parts[0], (parts[1] if len(parts) == 2 else None), tail

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
        ids = [int(token_ids)] if is_int(token_ids) else as_ids(token_ids)
        if skip_special_tokens:
            special = set(self.all_special_ids)
            ids = [i for i in ids if i not in special]
        text = self._decode(ids)
        clean_up = clean_up_tokenization_spaces
        clean_up = self.clean_up_tokenization_spaces if clean_up is None else clean_up
        return self.clean_up_tokenization(text) if clean_up else text

    def batch_decode(self, sequences, **options):
        """Returns the texts of a list, array or tensor of B rows of ids."""
        return [self.decode(ids, **options) for ids in to_list(sequences)]

    @staticmethod
    def clean_up_tokenization(out_string):
        """Removes the spaces before punctuation and contractions."""
        return CLEAN_UP.sub(r"\1\2", out_string)

    def __repr__(self):
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, "
            f"vocab_size={self.vocab_size}, n_tokens={len(self)}, "
            f"special_tokens={self.special_tokens_map})"
        )


class _Ids:
    """A sequence that was given as ids."""

    def __init__(self, tokenizer, ids):
        self._tokenizer, self.ids = tokenizer, as_ids(ids)

    @property
    def tokens(self):
        return self._tokenizer.convert_ids_to_tokens(self.ids)

    @property
    def offsets(self):
        raise TokenizerError("Ids have no place in a text, and no words.")

    word_ids = offsets


def _rows(text, text_pair, is_split):
    """Returns (first texts, second texts or None, whether it is a batch)."""
    if is_split:
        is_batch = _is_list(text) and bool(text) and _is_list(text[0])
    else:
        is_batch = _is_list(text)
        if is_batch and not text:
            raise TokenizerError(
                "`text` must be a str or a list with at least one. Received: []."
            )
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
                f"{len(firsts)} texts and {shown(seconds)}."
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
    raise TokenizerError(f"`{name}` must be {rule}. Received: {shown(text)}.")


def _check_single(text, is_split):
    _check_text(text, "text", is_split)
