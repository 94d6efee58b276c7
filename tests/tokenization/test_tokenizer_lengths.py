import itertools

import pytest

from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import lengths


@pytest.mark.parametrize("odd_to_first", [False, True])
@pytest.mark.parametrize("first", range(8))
@pytest.mark.parametrize("second", range(8))
def test_longest_first_takes_tokens_from_the_longer(first, second, odd_to_first):
    for excess in range(first + second + 1):
        a, b = lengths.kept([first, second], excess, "longest_first", odd_to_first)
        assert a + b == first + second - excess
        assert 0 <= a <= first
        assert 0 <= b <= second
        # A sequence that lost tokens is at most one longer than the other.
        if a < first:
            assert a - b >= -1
        if b < second:
            assert b - a >= -1
        if a < first and b < second:
            assert abs(a - b) <= 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("length", range(1, 15))
@pytest.mark.parametrize("size, stride", [(1, 0), (4, 0), (4, 3), (5, 2)])
def test_windows_cover_a_text_and_share_the_stride(side, length, size, stride):
    windows = [
        w for [w] in lengths.windows([length], [min(size, length)], side, stride)
    ]
    assert {i for start, stop in windows for i in range(start, stop)} == set(
        range(length)
    )
    if side == "left":
        windows = [(length - stop, length - start) for start, stop in windows]
    assert windows[0][0] == 0
    for (_, stop), (start, _) in itertools.pairwise(windows):
        assert stop - start == stride


def test_the_last_token_of_a_cut_sequence_stays():
    with pytest.raises(TokenizerError, match=r"cannot remove 3 tokens.*of 3.*\[3, 5\]"):
        lengths.kept([3, 5], 3, "only_first", False)
