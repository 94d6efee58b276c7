"""Byte-pair encoding of one word: the merge loop and nothing else."""

import heapq
import math

END_OF_WORD = "</w>"


def merge(word, ranks):
    """Splits a word into the pieces of a byte-pair vocabulary.

    Starts from single characters, the last one marked with `</w>`. The pair of
    neighbours with the lowest rank is joined wherever it stands, from left to
    right; then the next pair, until no neighbours have a rank. A heap of pairs
    keeps the work at n log n, so that a word of 100,000 characters is harmless.

    Args:
        word: Non-empty str.
        ranks: Dict of (left piece, right piece) -> rank, lowest first.

    Returns:
        List of str, the pieces in order.

    Source: Sennrich et al. 2016 (arXiv:1508.07909); `bpe` in OpenAI's
        `text_utils.py` visits pairs in the same order.
    """
    pieces = [*word[:-1], word[-1] + END_OF_WORD]
    last = len(pieces)
    following = list(range(1, last + 1))  # index of the next living piece
    previous = list(range(-1, last - 1))
    heap = []
    for i in range(last - 1):
        rank = ranks.get((pieces[i], pieces[i + 1]))
        if rank is not None:
            heap.append((rank, i, i + 1))
    heapq.heapify(heap)

    while heap:
        rank = heap[0][0]
        joined = []
        # One rank at a time: pairs that a join creates wait for the next round,
        # even if their rank is lower.
        while heap and heap[0][0] == rank:
            _, i, j = heapq.heappop(heap)
            # Stale entries: a neighbour was joined to something else meanwhile.
            if (
                following[i] != j
                or pieces[j] is None
                or ranks.get((pieces[i], pieces[j]), math.inf) != rank
            ):
                continue
            pieces[i] += pieces[j]
            pieces[j] = None
            following[i] = following[j]
            if following[i] < last:
                previous[following[i]] = i
            joined.append(i)
        for i in joined:
            for left, right in ((previous[i], i), (i, following[i])):
                if left >= 0 and right < last:
                    pair = ranks.get((pieces[left], pieces[right]))
                    if pair is not None:
                        heapq.heappush(heap, (pair, left, right))
    return [piece for piece in pieces if piece is not None]
