"""`OpenAIGPTTokenizer`: words by spaCy's rules or BERT's, pieces by byte pairs."""

import logging
import re
import warnings

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
        ImportError: On first use, if `pre_tokenizer` was given (or saved) and
            cannot be imported.

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
        vocab, merges = files.vocabulary(vocab_file, merges_file, vocab, merges)
        files.check_vocabulary(vocab, merges, str(unk_token))
        self._vocab = vocab
        self._pieces = {index: piece for piece, index in vocab.items()}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._flavour = pre_tokenizer
        self._words = None  # the pre-tokenizer, made when it is first needed
        self._cache = {}
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
                self._words = pretokenizers.pre_tokenizer(self._flavour or "openai")
                self._flavour = self._flavour or "openai"
            except ImportError as error:
                if self._flavour is not None:
                    raise ImportError(
                        f"`pre_tokenizer={self._flavour!r}` needs ftfy and spaCy: "
                        f"pip install ftfy spacy. ({error})"
                    ) from error
                warnings.warn(
                    "ftfy or spaCy cannot be imported: splitting words by BERT's rules "
                    "(`pre_tokenizer='basic'`) instead. GPT was trained on words as "
                    f"spaCy splits them, so its ids now differ. ({error})",
                    stacklevel=2,
                )
                self._flavour = "basic"
                self._words = pretokenizers.pre_tokenizer("basic")
        return self._words

    # From text to ids.

    def _sequences(self, texts, is_split):
        if is_split:
            return [_Words(self, words) for words in texts]
        return [_Text(self, text) for text in texts]

    def _text_ids(self, text):
        """Returns the ids of a text."""
        words, cache, ids = self._word_splitter(), self._cache, []
        for part, index in self._split_at_added(text):
            if index is not None:
                ids.append(index)
                continue
            for chunk in words.chunks(part):
                chunk_ids = cache.get(chunk)
                if chunk_ids is None:
                    chunk_ids = self._chunk_ids(chunk)
                ids += chunk_ids
        return ids

    def _chunk_ids(self, chunk):
        vocab, unknown = self._vocab, self._unk_id
        ids = tuple(
            vocab.get(piece, unknown)
            for word in self._words.split(chunk)
            for piece in merge(word, self._ranks)
        )
        if len(chunk) <= _LONGEST_CACHED:
            if len(self._cache) >= CACHE_SIZE:
                self._cache.clear()
            self._cache[chunk] = ids
        return ids

    def _text_tokens(self, text):
        """Returns the pieces of a text, those too that the vocabulary lacks."""
        words, tokens = self._word_splitter(), []
        for part, index in self._split_at_added(text):
            if index is not None:
                tokens.append(self._added[index].content)
                continue
            for chunk in words.chunks(part):
                for word in words.split(chunk):
                    tokens += merge(word, self._ranks)
        return tokens

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
            if token.normalized and not token.special:
                pattern = f"(?i:{pattern})"
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
        """Yields (part, None) for text and (part, id) for an added token."""
        if self._added_pattern is None:
            self._added_pattern = self._pattern_of_added()
        start = 0
        for match in self._added_pattern.finditer(text):
            if match.start() > start:
                yield text[start : match.start()], None
            yield match[match.lastgroup], int(match.lastgroup[1:])
            start = match.end()
        if start < len(text):
            yield text[start:] if start else text, None

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

    # Files.

    def _settings(self):
        return {"pre_tokenizer": self.pre_tokenizer}

    def _contents(self):
        return {
            files.VOCAB: files.dump_json(self._vocab),
            files.MERGES: files.dump_merges(self._ranks),
        }

    def __getstate__(self):
        # spaCy's tokenizer is made anew in the other process.
        return {**self.__dict__, "_words": None, "_cache": {}}


def _written_by_transformers(saved):
    """Whether `save_pretrained` of transformers wrote a tokenizer_config.json.

    The one beside OpenAI's released vocabulary on the Hub is by hand, and has
    little but `model_max_length`.
    """
    return "added_tokens_decoder" in saved or "backend" in saved


class _Text:
    """The ids of a text; its tokens and where they stand, when asked."""

    def __init__(self, tokenizer, text):
        self._tokenizer, self._text = tokenizer, text
        self.ids = tokenizer._text_ids(text)

    @property
    def tokens(self):
        return self._tokenizer._text_tokens(self._text)


class _Words:
    """The same for a list of words."""

    def __init__(self, tokenizer, words):
        self._tokenizer, self._words = tokenizer, words
        self.ids = [i for word in words for i in tokenizer._text_ids(word)]

    @property
    def tokens(self):
        return [t for word in self._words for t in self._tokenizer._text_tokens(word)]
