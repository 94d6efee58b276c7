"""From text to lower-case words, in three flavours.

`openai`: as the model's authors did. ftfy, their standardisation, spaCy's
    English rules on the original case, then lower case.
`basic`: BERT's BasicTokenizer, which transformers uses where spaCy is missing,
    and which the fast tokenizer equals.
`transformers`: transformers 4's spaCy path. It lower-cases the text first, so
    that spaCy's rules for `Mr.` or `U.S.` no longer apply.

Each flavour works in two steps: `chunks(text)` cleans a text and cuts it at white
space, and `split(chunk)` gives the words of one chunk. A chunk's words depend on
nothing outside it, so callers may remember them.
"""

import re
import unicodedata

FLAVOURS = ("openai", "basic", "transformers")

# ftfy leaves such texts as they are; asking it takes longer than the rest.
_CLEAN_ASCII = re.compile(r"[\n -%'-~]*")

_ASCII_FORMS = str.maketrans(
    {"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"}  # dashes, dots, acute
)
# OpenAI's pattern names the backslash too, but in a string that is not raw, so it
# never matched one. transformers made the string raw.
_RUN_OF_PUNCTUATION = re.compile(r"""(([-~!";?+,)(/*\[\]}{|_])\2*)""")
_RUN_OR_BACKSLASHES = re.compile(r"""(([-~!";?+,)(\\/*\[\]}{|_])\2*)""")
_LINE_BREAK = re.compile(r"\s*\n\s*")
_SPACES = re.compile(r"[^\S\n]+")

# spaCy keeps every string that it has seen. A new one after so many chunks
# bounds the memory of long runs.
_CHUNKS_PER_SPACY = 1_000_000

_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def pre_tokenizer(flavour):
    """Returns the pre-tokenizer of a flavour.

    Raises:
        ValueError: If there is no such flavour.
        ImportError: If the flavour needs ftfy or spaCy and one is missing.
    """
    if flavour == "basic":
        return Basic()
    if flavour in FLAVOURS:
        return SpacyRules(lower_first=flavour == "transformers")
    raise ValueError(
        f"`pre_tokenizer` must be one of {', '.join(FLAVOURS)}. Received: {flavour!r}."
    )


def standardize(text, backslashes=False):
    """Sets runs of punctuation apart and straightens white space.

    Args:
        text: Str.
        backslashes: Whether runs of backslashes are set apart too.

    Source: `text_standardize` in OpenAI's `text_utils.py`.
    """
    text = text.translate(_ASCII_FORMS)
    pattern = _RUN_OR_BACKSLASHES if backslashes else _RUN_OF_PUNCTUATION
    text = pattern.sub(r" \1 ", text)
    text = _LINE_BREAK.sub(" \n ", text)
    return _SPACES.sub(" ", text).strip()


def lower_each(text):
    """Lower-cases each character by itself: a final capital sigma becomes σ."""
    if text.isascii() or "Σ" not in text:
        return text.lower()
    return text.replace("Σ", "σ").lower()


class SpacyRules:
    """The `openai` and `transformers` flavours.

    Args:
        lower_first: Whether to lower-case the text before spaCy sees it.
    """

    def __init__(self, lower_first=False):
        import ftfy

        self.lower_first = lower_first
        self._fix_text = ftfy.fix_text
        self._start_spacy()

    def chunks(self, text):
        if self.lower_first:
            text = lower_each(text)
        if not _CLEAN_ASCII.fullmatch(text):
            text = self._fix_text(text)
        # Not `.split()`: a line break is a word of its own, `\n</w>`.
        return [
            chunk for chunk in standardize(text, self.lower_first).split(" ") if chunk
        ]

    def split(self, chunk):
        return [word.lower() for word in self.tokens(chunk)]

    def tokens(self, chunk):
        """Returns spaCy's tokens of one chunk, in their original case."""
        if chunk == "\n":  # spaCy calls all white space a token
            return ["\n"]
        self._n_chunks += 1
        if self._n_chunks > _CHUNKS_PER_SPACY:
            self._start_spacy()
        return [token.text for token in self._spacy(chunk)]

    def _start_spacy(self):
        from spacy.lang.en import English

        self._spacy = English().tokenizer
        self._n_chunks = 0


class Basic:
    """The `basic` flavour."""

    def chunks(self, text):
        text = lower_each(text)
        if not text.isascii() or not text.isprintable():
            text = unicodedata.normalize("NFC", "".join(map(_clean_character, text)))
        return text.split()

    def split(self, chunk):
        word = "".join(
            c
            for c in unicodedata.normalize("NFD", chunk)
            if unicodedata.category(c) != "Mn"
        )
        return "".join(f" {c} " if is_punctuation(c) else c for c in word).split()


def _clean_character(c):
    point = ord(c)
    if point == 0 or point == 0xFFFD:
        return ""
    if c in "\t\n\r" or unicodedata.category(c) == "Zs":
        return " "
    if unicodedata.category(c).startswith("C"):
        return ""
    if any(first <= point <= last for first, last in _CJK):
        return f" {c} "
    return c


def is_punctuation(c):
    """Whether BERT's tokenizer sets a character apart as punctuation."""
    return ("!" <= c <= "~" and not c.isalnum()) or (
        unicodedata.category(c).startswith("P")
    )
