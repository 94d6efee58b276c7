"""Text that remembers which characters of the original each of its own came from."""

import difflib
import re

# Where two stretches of text have nothing in common, comparing them takes work in
# proportion to the product of their lengths. Beyond this it is not done: every
# character of the new stretch stands for all of the old one.
_MOST_COMPARISONS = 1_000_000

_WORD_OR_SPACE = re.compile(r"\s+|\S+")


class Traced:
    """A text and, for each character, its span in the original text.

    Args:
        text: Str.
        spans: List of (start, end) for each character of `text`; by default
            `text` is the original.
    """

    def __init__(self, text, spans=None):
        self.text = text
        self.spans = [(i, i + 1) for i in range(len(text))] if spans is None else spans

    def __getitem__(self, part):
        return Traced(self.text[part], self.spans[part])

    def span(self, start, end):
        """Returns where the characters from start to end came from."""
        spans = self.spans[start:end]
        return min(s for s, _ in spans), max(e for _, e in spans)

    def map(self, function):
        """Returns the text with each character replaced by a str."""
        pieces = [function(character) for character in self.text]
        spans = [
            span
            for piece, span in zip(pieces, self.spans, strict=True)
            for _ in range(len(piece))
        ]
        return Traced("".join(pieces), spans)

    def sub(self, pattern, template):
        """Returns the text with each match of a pattern replaced.

        Args:
            pattern: Compiled regular expression.
            template: Str in place of the match; `\\1` in it is all of the match.
        """
        before, keep, after = template.partition(r"\1")
        pieces, spans, at = [], [], 0
        for match in pattern.finditer(self.text):
            start, end = match.span()
            whole = self.span(start, end)
            kept = self[start:end] if keep else Traced("", [])
            pieces += [self.text[at:start], before, kept.text, after]
            spans += self.spans[at:start]
            spans += [whole] * len(before) + kept.spans + [whole] * len(after)
            at = end
        pieces.append(self.text[at:])
        return Traced("".join(pieces), spans + self.spans[at:])

    def strip(self):
        start = len(self.text) - len(self.text.lstrip())
        return self[start : max(start, len(self.text.rstrip()))]

    def replaced_by(self, new):
        """Returns `new`, a changed copy of the text, with each character traced.

        Words that both share are matched first, then characters of the rest.
        """
        if new == self.text:
            return self
        spans = []
        for old_start, old_end, new_start, new_end in _changes(self.text, new):
            spans += self._spans_of_change(
                old_start, old_end, new[new_start:new_end], len(spans)
            )
        return Traced(new, spans)

    def _spans_of_change(self, start, end, new, position):
        old = self.text[start:end]
        if old == new or len(old) == len(new):
            return self.spans[start:end]
        if not old:  # inserted: stands where it was put in
            at = self.spans[start - 1][1] if start else 0
            return [(at, at)] * len(new)
        if len(old) * len(new) > _MOST_COMPARISONS:
            return [self.span(start, end)] * len(new)
        spans = []
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        for _, i, j, k, m in matcher.get_opcodes():
            if k == m:  # removed: "amp;" of "&amp;" belongs to the "&" before it
                if spans:
                    spans[-1] = (spans[-1][0], self.spans[start + j - 1][1])
            elif j - i == m - k:
                spans += self.spans[start + i : start + j]
            elif i == j:
                at = self.spans[start + i - 1][1] if start + i else 0
                spans += [(at, at)] * (m - k)
            else:
                spans += [self.span(start + i, start + j)] * (m - k)
        return spans


def _changes(old, new):
    """Yields (old start, old end, new start, new end) that cover both texts."""
    olds, news = _WORD_OR_SPACE.findall(old), _WORD_OR_SPACE.findall(new)
    matcher = difflib.SequenceMatcher(None, olds, news)
    i = j = 0
    for _, a, b, c, d in matcher.get_opcodes():
        i_end = i + sum(map(len, olds[a:b]))
        j_end = j + sum(map(len, news[c:d]))
        yield i, i_end, j, j_end
        i, j = i_end, j_end
