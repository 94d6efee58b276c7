"""From text to lower-case words, in three flavours.

`openai`: as the model's authors did. ftfy, their standardisation, spaCy's
    English rules on the original case, then lower case.
`basic`: BERT's BasicTokenizer, which transformers uses where spaCy is missing,
    and which the fast tokenizer equals.
`transformers`: transformers 4's spaCy path. It lower-cases the text first, so
    that spaCy's rules for `Mr.` or `U.S.` no longer apply.

Each flavour works in two steps: `chunks(text)` cleans a text and cuts it at white
space, and `split(chunk)` gives the words of one chunk. A chunk's words depend on
nothing outside it, so callers may remember them; where they do, `split` raises
`NeighboursMatter`, and `join(chunks)` gives the words of all of them.
`traced_words(text)` gives the words with the place of every character.
"""

import importlib.util
import re
import unicodedata

from tf_gpt.tokenization.alignment import Traced

FLAVOURS = ("openai", "basic", "transformers")

# ftfy leaves such texts as they are; asking it takes longer than the rest.
_CLEAN_ASCII = re.compile(r"[\n -%'-~]*")

_ASCII_FORMS = str.maketrans(
    {"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"}  # dashes, dots, acute
)
_WORD = re.compile(r"\S+")
_LINE_BREAK = (re.compile(r"\s*\n\s*"), " \n ")
_SPACES = (re.compile(r"[^\S\n]+"), " ")
# OpenAI's pattern names the backslash too, but in a string that is not raw, so it
# never matched one. transformers made the string raw.
OPENAI_STEPS = (
    (re.compile(r"""(([-~!";?+,)(/*\[\]}{|_])\2*)"""), r" \1 "),
    _LINE_BREAK,
    _SPACES,
)
TRANSFORMERS_STEPS = (
    (re.compile(r"""(([-~!";?+,)(\\/*\[\]}{|_])\2*)"""), r" \1 "),
    _LINE_BREAK,
    _SPACES,
)

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


def check_available(flavour):
    """Checks, without importing it, that what a flavour needs is installed.

    Raises:
        ImportError: If ftfy or spaCy is missing.
    """
    if flavour == "basic":
        return
    for name in ("ftfy", "spacy"):
        try:
            found = importlib.util.find_spec(name) is not None
        except ValueError:  # a module that was made unavailable
            found = False
        if not found:
            raise ImportError(
                f"`pre_tokenizer={flavour!r}` needs ftfy and spaCy, and {name} is not "
                "installed: pip install ftfy spacy."
            )


def pre_tokenizer(flavour):
    """Returns the pre-tokenizer of a flavour, one of `FLAVOURS`."""
    if flavour == "basic":
        return Basic()
    return SpacyRules(lower_first=flavour == "transformers")


def standardize(text, steps=OPENAI_STEPS):
    """Sets runs of punctuation apart and straightens white space.

    Source: `text_standardize` in OpenAI's `text_utils.py`.
    """
    text = text.translate(_ASCII_FORMS)
    for pattern, template in steps:
        text = pattern.sub(template, text)
    return text.strip()


def lower_each(text):
    """Lower-cases each character by itself: a final capital sigma becomes σ."""
    if text.isascii() or "Σ" not in text:
        return text.lower()
    return text.replace("Σ", "σ").lower()


class NeighboursMatter(Exception):
    """The words of a chunk could depend on the chunks around it."""


class SpacyRules:
    """The `openai` and `transformers` flavours.

    Args:
        lower_first: Whether to lower-case the text before spaCy sees it.
    """

    def __init__(self, lower_first=False):
        import ftfy

        self.lower_first = lower_first
        self._steps = TRANSFORMERS_STEPS if lower_first else OPENAI_STEPS
        self._fix_text = ftfy.fix_text
        self._start_spacy()

    def chunks(self, text):
        if self.lower_first:
            text = lower_each(text)
        if not _CLEAN_ASCII.fullmatch(text):
            text = self._fix_text(text)
        # Not `.split()`: a line break is a word of its own, `\n</w>`.
        return [c for c in standardize(text, self._steps).split(" ") if c]

    def split(self, chunk):
        if chunk == "\n":
            return ["\n"]
        self._n_chunks += 1
        if self._n_chunks > _CHUNKS_PER_SPACY:
            self._start_spacy()
        words = [token.text for token in self._spacy(chunk)]
        # spaCy looks for its special cases in the whole text, the longest first,
        # whatever the white space between their tokens, and compares the white
        # space only then: in "why:o )" it finds ":o)", drops it for the space,
        # and has lost ":o", which it finds in "why:o" alone.
        if len(words) > 1 and words != [t.text for t in self._spacy_unsearched(chunk)]:
            raise NeighboursMatter
        return [word.lower() for word in words]

    def join(self, chunks):
        return [
            "\n" if token.is_space else token.text.lower()
            for token in self._spacy(" ".join(chunks))
        ]

    def traced_words(self, text):
        traced = Traced(text)
        if self.lower_first:
            traced = traced.map(str.lower)
        traced = traced.replaced_by(self._fix_text(traced.text))
        traced = traced.map(lambda c: c.translate(_ASCII_FORMS))
        for pattern, template in self._steps:
            traced = traced.sub(pattern, template)
        traced = traced.strip()
        words = []
        for token in self._spacy(traced.text):
            if token.is_space:
                words.append(traced[token.idx : token.idx + 1])
                continue
            word = traced[token.idx : token.idx + len(token)]
            # A word's lower case can differ from its letters' (final sigma).
            words.append(Traced(word.text.lower(), word.map(str.lower).spans))
        return words

    def _start_spacy(self):
        from spacy.lang.en import English

        self._spacy = English().tokenizer
        self._spacy_unsearched = _without_search(self._spacy)
        self._n_chunks = 0


def _without_search(spacy):
    """Returns spaCy's tokenizer, less the search for special cases inside chunks.

    It searches for those that its rules for prefixes, suffixes and infixes would
    take apart, and finds out which when it is made.
    """
    from spacy.tokenizer import Tokenizer

    made = False

    def later(rule, nothing):
        return lambda string: rule(string) if made else nothing

    unsearched = Tokenizer(
        spacy.vocab,
        rules=spacy.rules,
        prefix_search=later(spacy.prefix_search, None),
        suffix_search=later(spacy.suffix_search, None),
        infix_finditer=later(spacy.infix_finditer, ()),
        token_match=spacy.token_match,
        url_match=spacy.url_match,
    )
    made = True
    return unsearched


class Basic:
    """The `basic` flavour."""

    def chunks(self, text):
        text = lower_each(text)
        if not text.isascii() or not text.isprintable():
            text = unicodedata.normalize("NFC", "".join(map(_clean_character, text)))
        return text.split()

    def split(self, chunk):
        if not chunk.isascii():
            chunk = _strip_accents(chunk)
        return "".join(f" {c} " if is_punctuation(c) else c for c in chunk).split()

    def join(self, chunks):
        return [word for chunk in chunks for word in self.split(chunk)]

    def traced_words(self, text):
        traced = Traced(text).map(str.lower).map(_clean_character)
        traced = traced.replaced_by(unicodedata.normalize("NFC", traced.text))
        words = []
        for match in _WORD.finditer(traced.text):
            chunk = traced[match.start() : match.end()]
            chunk = chunk.map(_strip_accents).replaced_by(_strip_accents(chunk.text))
            chunk = chunk.map(lambda c: f" {c} " if is_punctuation(c) else c)
            words += [chunk[m.start() : m.end()] for m in _WORD.finditer(chunk.text)]
        return words


def _strip_accents(text):
    text = unicodedata.normalize("NFD", text)
    return "".join(c for c in text if unicodedata.category(c) != "Mn")


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
