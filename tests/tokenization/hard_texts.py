"""Texts to compare tokenizers on: natural ones, and generated ones that are hard."""

import gzip
import json
import lzma
import pathlib
import random
import sys

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data"

_WORDS = str.split(
    "the of and Once upon a time Mr. Mrs. Dr. U.S. p.m. a.m. don't DON'T can't cannot "
    "gonna I'm she'd've it's John's o'clock 'tis e-mail well-known 3.5 1,000 $8.9 10KG "
    "50% x^2 AT&T C++ a.b.c Ph.D. i.e. e.g. Inc. end.Start why? no! (so) [x] {y} a/b "
    "and/or 'quoted' \"said\" -- --- ... :) :-( :o) ;) <3 ^_^ o.O 8-) =D # @user _x_ ~"
)
_ADDRESSES = str.split(
    "http://example.com/a?b=c&d=%20e#f https://www.example.co.uk/path_(x)/index.html "
    "someone@example.com ftp://10.0.0.1:21 C:\\Users\\me\\file.txt /usr/lib/x.so.1 "
    "doi:10.1000/182 #hashtag @handle 192.168.0.1 user:pass@host"
)
_CODE = (
    "def f(x, *args, **kw):\n\treturn x[0] if x else None  # comment",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]->c; } /* done */",
    "SELECT \"a\", b FROM t WHERE c <> 'd' AND e >= 1e-5;",
    '<a href="x.html">text &amp; more</a> &lt;b&gt; &#39;c&#39; &eacute;',
    'x = {\'k\': [1, 2, 3], "s": u"\\u00e9\\n"}\r\nprint(x)',
)
_EMOJI = str.split("👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 ❤️ 🇫🇷 1️⃣ 👨🏿‍💻 ☺ ☺️ 🤷🏻‍♀️")
_FOREIGN = str.split(
    "naïve café façade Zoë Straße ÆON œuvre İstanbul ΣΊΣΥΦΟΣ όσος Москва Ёлка ﬁne ﬂow "
    "ｆｕｌｌ ＷＩＤＴＨ 東京 中文 日本語のテキスト 한국어 텍스트 "
    "עִבְרִית العَرَبِيَّة हिन्दी ไทย ಠ_ಠ ½ № ™ ² ⅷ €"
)
_PUNCTUATION = "—–―…´‘’“”«»‹›„‚•·¿¡§¶†‡′″‐‑‒⁃−×÷"
_SPACES = (
    " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\u200b\ufeff"
)
_CONTROLS = (
    "\x00\x01\x02\x07\x08\x1b\x7f\x80\x9f\xad\u200c\u200d\u200e\u202a\u2060\ufffd\ufff9"
)

_RANGES = {
    "latin": [(0xC0, 0x250), (0x20, 0x7F)],
    "marks": [(0x300, 0x370), (0x61, 0x7B), (0x1AB0, 0x1AFF), (0x20D0, 0x20F1)],
    "hangul": [(0xAC00, 0xD7A4), (0x1100, 0x1200), (0x20, 0x7F)],
    "right to left": [(0x590, 0x600), (0x600, 0x700), (0x20, 0x41)],
    "cjk": [(0x3000, 0x3100), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x2A6E0)],
    "symbols": [(0x2000, 0x2C00), (0x20, 0x7F), (0xFE00, 0xFE70), (0xFF00, 0xFFF0)],
    "anything": [(0, 0xD800), (0xE000, 0x110000), (0x20, 0x7F)],
}


def natural_texts(n, seed=0):
    """Returns up to n paragraphs and task texts of the shared data, [] without it."""
    texts = []
    for path in sorted((DATA / "text").glob("*/*.txt.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as file:
            head = file.read(3_000_000)
        texts += [line for line in head.split("\n") if line]
        # Whole documents too: they have line breaks.
        texts += [document[:2000] for document in head.split("\n\n")[:300]]
    for path in sorted((DATA / "tasks").glob("*/train.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                values = json.loads(line).values()
                texts += [value for value in values if isinstance(value, str)]
    random.Random(seed).shuffle(texts)
    return texts[:n]


def generated_texts(n, seed=0, surrogates=False):
    """Returns n texts of every kind in turn.

    Args:
        surrogates: Whether some hold halves of UTF-16 pairs.
    """
    rnd = random.Random(seed)
    kinds = [
        *(lambda r=r: _characters(rnd, r) for r in _RANGES.values()),
        lambda: _mixed(rnd, _WORDS),
        lambda: _mixed(rnd, [*_WORDS, *_FOREIGN, *_PUNCTUATION, *_EMOJI]),
        lambda: _mixed(rnd, [*_WORDS, *_ADDRESSES]),
        lambda: _mixed(rnd, [*_WORDS, *_CONTROLS, *_SPACES]),
        lambda: _mojibake(rnd, _mixed(rnd, [*_FOREIGN, *_PUNCTUATION, *_WORDS])),
        lambda: rnd.choice(_CODE) + rnd.choice(_SPACES) + rnd.choice(_CODE),
        lambda: "".join(
            rnd.choice("abcdefghijklmnopqrstuvwxyzé'-.1")
            for _ in range(rnd.randint(50, 900))
        ),
        lambda: (
            rnd.choice(["a", "ab", "ha", "-", "'", ".", "é", "zq"])
            * rnd.randint(1, 400)
        ),
    ]
    if surrogates:
        halves = [chr(rnd.randrange(0xD800, 0xE000)) for _ in range(20)]
        kinds.append(lambda: _mixed(rnd, [*_WORDS, *halves]))
    return [kinds[i % len(kinds)]() for i in range(n)]


def every_code_point(step=1):
    """Returns texts that have each code point inside a word, at its end and alone."""
    points = [p for p in range(0, sys.maxunicode + 1, step) if not 0xD800 <= p < 0xE000]
    return [f"a{chr(p)}b c{chr(p)} {chr(p)}" for p in points]


def _characters(rnd, ranges):
    letters = []
    for _ in range(rnd.randint(0, 40)):
        if rnd.random() < 0.25:
            letters.append(rnd.choice(" aeThx.,'-"))
        else:
            letters.append(chr(rnd.randrange(*rnd.choice(ranges))))
    return "".join(letters)


def _mixed(rnd, pieces):
    return "".join(
        rnd.choice(pieces) + rnd.choice(["", " ", " ", " ", ",", ".", "\n", "  "])
        for _ in range(rnd.randint(1, 12))
    )


def _mojibake(rnd, text):
    wrong = rnd.choice(["cp1252", "latin-1", "cp437"])
    return text.encode("utf-8", "ignore").decode(wrong, "replace")
