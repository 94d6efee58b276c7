"""`OpenAIGPTTokenizerFast`: BERT's words and byte pairs, on `tokenizers`."""

import json
import logging
import re

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import files
from tf_gpt.tokenization.base import TokenizerBase
from tf_gpt.tokenization.bpe import END_OF_WORD

logger = logging.getLogger(__name__)

_SURROGATE = re.compile("[\ud800-\udfff]")


class OpenAIGPTTokenizerFast(TokenizerBase):
    """GPT's byte pairs on words split by BERT's rules, in compiled code.

    Equal to `OpenAIGPTTokenizer(pre_tokenizer="basic")`; GPT's authors split
    words otherwise ("openai"), which no compiled tokenizer does.

    Args:
        vocab_file, merges_file: Paths of vocab.json and merges.txt.
        tokenizer_file: Path of a tokenizer.json, in their place.
        tokenizer_object: A `tokenizers.Tokenizer`, in their place.
        unk_token: What characters become that the vocabulary lacks.
        pre_tokenizer: "basic", the one flavour that there is here.
        vocab, merges: The contents of the files in place of their paths.
        added_tokens: List of (id, `AddedToken`) to add first, under these ids.
        options: Those of `TokenizerBase`.

    Raises:
        TokenizerError: If vocabulary and merges do not fit together, or a
            tokenizer.json is not of this kind.
    """

    vocab_files_names = {
        **TokenizerBase.vocab_files_names,
        "tokenizer_file": files.TOKENIZER,
    }
    is_fast = True

    def __init__(
        self,
        vocab_file=None,
        merges_file=None,
        tokenizer_file=None,
        unk_token="<unk>",
        pre_tokenizer="basic",
        *,
        tokenizer_object=None,
        vocab=None,
        merges=None,
        added_tokens=(),
        **options,
    ):
        if pre_tokenizer != "basic":
            raise TokenizerError(
                "`pre_tokenizer` of OpenAIGPTTokenizerFast is 'basic'; "
                f"OpenAIGPTTokenizer has others. Received: {pre_tokenizer!r}."
            )
        if tokenizer_file is not None:
            tokenizer_object = _read(tokenizer_file)
        if tokenizer_object is not None:
            _check(tokenizer_object, str(unk_token))
            self.backend_tokenizer = tokenizer_object
        else:
            vocab, merges = files.vocabulary(vocab_file, merges_file, vocab, merges)
            files.check_vocabulary(vocab, merges, str(unk_token))
            self.backend_tokenizer = _build(vocab, merges, str(unk_token))
        self._vocab = self.backend_tokenizer.get_vocab(with_added_tokens=False)
        self._unk_id = self._vocab[str(unk_token)]
        self._load_added(added_tokens)
        super().__init__(unk_token=unk_token, **options)

    @classmethod
    def _from_files(cls, found, saved, added, arguments):
        flavour = saved.get("pre_tokenizer")
        if flavour not in (None, "basic"):
            logger.warning(
                "%s was saved with pre_tokenizer=%r, which only OpenAIGPTTokenizer "
                "has: OpenAIGPTTokenizerFast splits words by BERT's rules instead.",
                arguments["name_or_path"],
                flavour,
            )
        if files.TOKENIZER in found:
            names = {"tokenizer_file": found[files.TOKENIZER]}
        else:
            names = {
                "vocab_file": found[files.VOCAB],
                "merges_file": found[files.MERGES],
            }
        return cls(**names, added_tokens=added, **arguments)

    @property
    def pre_tokenizer(self):
        """ "basic": words are split by BERT's rules."""
        return "basic"

    @property
    def do_lower_case(self):
        """True: GPT's vocabulary is lower-case."""
        return True

    # From text to ids.

    def _sequences(self, texts, is_split):
        try:
            rows = self._encode_rows(texts, is_split)
        except (TypeError, UnicodeError):
            # Half of a UTF-16 pair, which a Python str can hold and UTF-8 cannot.
            # NUL is removed from text just as such a half is.
            texts = [
                [_SURROGATE.sub("\0", word) for word in text]
                if is_split
                else _SURROGATE.sub("\0", text)
                for text in texts
            ]
            rows = self._encode_rows(texts, is_split)
        return [
            _Sequence(self.backend_tokenizer, text, is_split, row.ids)
            for text, row in zip(texts, rows, strict=True)
        ]

    def _encode_rows(self, texts, is_split):
        # The quick way does without offsets, which few ask for.
        return self.backend_tokenizer.encode_batch_fast(
            texts, is_pretokenized=is_split, add_special_tokens=False
        )

    # The vocabulary.

    @property
    def _added(self):
        return self.backend_tokenizer.get_added_tokens_decoder()

    def _token_to_id(self, token):
        index = self.backend_tokenizer.token_to_id(token)
        return self._unk_id if index is None else index

    def _id_to_token(self, index):
        return None if index < 0 else self.backend_tokenizer.id_to_token(index)

    def _set_unknown(self, token):
        self._unk_id = self.backend_tokenizer.token_to_id(token)
        self.backend_tokenizer.model.unk_token = token

    def _add(self, tokens):
        for token in tokens:
            if token.special:
                self.backend_tokenizer.add_special_tokens([token])
            else:
                self.backend_tokenizer.add_tokens([token])

    # From ids to text.

    def convert_tokens_to_string(self, tokens):
        """Returns tokens joined to a text."""
        return self.backend_tokenizer.decoder.decode(tokens)

    def _decode(self, ids):
        for index in (min(ids, default=0), max(ids, default=0)):
            self._checked_token(index)
        return self.backend_tokenizer.decode(ids, skip_special_tokens=False)

    # Files and training.

    def _train(self, texts, length, **options):
        pipeline = _build({}, [], None)
        return files.train(pipeline, texts, length, **options)

    def _settings(self):
        return {"pre_tokenizer": "basic"}

    def _contents(self):
        table = self.backend_tokenizer.to_str(pretty=True)
        merges = files.vocabulary_from_json(json.loads(table), files.TOKENIZER)[1]
        return {
            files.TOKENIZER: table,
            files.VOCAB: files.dump_json(self._vocab),
            files.MERGES: files.dump_merges(merges),
        }


class _Sequence:
    """The ids of a text or of a list of words; the rest is found when asked for."""

    __slots__ = ("_backend", "_is_split", "_row", "_text", "ids")

    def __init__(self, backend, text, is_split, ids):
        self._backend, self._text, self._is_split = backend, text, is_split
        self.ids, self._row = ids, None

    def _encoding(self):
        if self._row is None:
            self._row = self._backend.encode(
                self._text, is_pretokenized=self._is_split, add_special_tokens=False
            )
        return self._row

    @property
    def tokens(self):
        return self._encoding().tokens

    @property
    def offsets(self):
        return self._encoding().offsets

    @property
    def word_ids(self):
        return self._encoding().word_ids


def _build(vocab, merges, unk_token):
    """Returns the `tokenizers` pipeline of GPT."""
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges,
            unk_token=unk_token,
            end_of_word_suffix=END_OF_WORD,
            fuse_unk=False,
        )
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.BPEDecoder(suffix=END_OF_WORD)
    return backend


def _read(path):
    """Returns the pipeline in a tokenizer.json."""
    # Read as JSON first, for errors that name the file.
    files.vocabulary_from_json(files.read_json(path), path)
    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.no_padding()
    backend.no_truncation()
    return backend


def _check(backend, unk_token):
    """Raises if a pipeline is not one of GPT."""
    table = json.loads(backend.to_str())
    vocab, merges = files.vocabulary_from_json(table, files.TOKENIZER)
    files.check_vocabulary(vocab, merges, unk_token)
    # transformers 5 writes a template that adds nothing.
    n_special = max(map(backend.num_special_tokens_to_add, (False, True)))
    if n_special:
        raise TokenizerError(
            "A GPT tokenizer puts no tokens around a text. Received: a "
            f"`post_processor` of type {table['post_processor']['type']!r} that adds "
            f"{n_special}."
        )
