import itertools
import random

import pytest

from tf_gpt.tokenization.bpe import merge


def merge_by_hand(word, ranks):
    """The same by its definition: join the best pair everywhere, then look again."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = set(itertools.pairwise(pieces)) & ranks.keys()
        if not pairs:
            return pieces
        best = min(pairs, key=ranks.get)
        joined, i = [], 0
        while i < len(pieces):
            if tuple(pieces[i : i + 2]) == best:
                joined.append("".join(best))
                i += 2
            else:
                joined.append(pieces[i])
                i += 1
        pieces = joined


def test_pieces_of_known_words():
    ranks = {("l", "o"): 0, ("lo", "w"): 1, ("e", "r</w>"): 2}
    assert merge("lower", ranks) == ["low", "er</w>"]
    assert merge("l", ranks) == ["l</w>"]
    assert merge("lolo", ranks) == ["lo", "l", "o</w>"]


@pytest.mark.parametrize("seed", range(8))
def test_merge_equals_its_definition_on_any_table(seed):
    """Tables that no training makes are included: pairs ranked before their parts."""
    rnd = random.Random(seed)
    pieces = [*"abc", *(c + "</w>" for c in "abc")]
    ranks = {}
    for _ in range(60):
        left, right = rnd.choice(pieces), rnd.choice(pieces)
        if not left.endswith("</w>") and (left, right) not in ranks:
            ranks[left, right] = len(ranks)
            pieces.append(left + right)
    shuffled = dict(zip(ranks, rnd.sample(range(len(ranks)), len(ranks)), strict=True))
    for table in (ranks, shuffled):
        for _ in range(300):
            word = "".join(rnd.choices("abc", k=rnd.randint(1, 25)))
            assert merge(word, table) == merge_by_hand(word, table)


def test_overlapping_pairs_are_joined_from_the_left():
    assert merge("aaaaab", {("a", "a"): 0}) == ["aa", "aa", "a", "b</w>"]


def test_a_word_of_100_000_letters_is_merged():
    # In time that grows with n log n; by the definition above it would take hours.
    ranks = {("a", "b"): 0, ("ab", "ab"): 1, ("a", "b</w>"): 2}
    assert merge("ab" * 50_000, ranks) == ["abab"] * 24_999 + ["ab", "ab</w>"]
