"""Logits processors: each maps (logits, ids, step) to logits of the same shape.

A processor is a frozen dataclass, checked when it is made and pure when it is
called. Its numeric fields may be tensors inside a compiled function (see
`numbers_of` and `with_numbers`), so that a new temperature compiles nothing.
"""

import dataclasses
import math

from keras import ops

# More than any vocabulary has: the `k` of `TopK` that drops nothing.
ALL_TOKENS = 2**30


@dataclasses.dataclass(frozen=True)
class Temperature:
    """Divides the logits; below 1 sharpens the distribution, above 1 flattens it.

    Args:
        temperature: Positive number.

    Call arguments:
        logits: Float (..., V).
        ids, step: Unused; every processor takes them.

    Returns:
        Float (..., V).

    Raises:
        ValueError: If `temperature` is not a positive finite number.
    """

    temperature: float

    def __post_init__(self):
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(
                "`temperature` must be a positive number; use do_sample=False for "
                f"the most probable token. Received: temperature={self.temperature}."
            )

    def __call__(self, logits, ids=None, step=None):
        return logits / self.temperature


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keeps the `k` most probable tokens, and those tied with the last of them.

    Args:
        k: How many tokens to keep, at least 1.

    Call arguments:
        logits: Float (..., V).
        ids, step: Unused.

    Returns:
        Float (..., V): `logits`, with -inf in place of the tokens dropped.

    Raises:
        ValueError: If `k` is not a positive integer.

    Source: Fan et al. 2018, section 5.2 (arXiv:1805.04833).
    """

    k: int

    def __post_init__(self):
        if self.k != int(self.k) or self.k < 1:
            raise ValueError(f"`top_k` must be at least 1. Received: top_k={self.k}.")

    def __call__(self, logits, ids=None, step=None):
        kept = ops.ones_like(logits)
        return keep_most_probable(logits, kept, ops.cast(self.k, logits.dtype))


@dataclasses.dataclass(frozen=True)
class TopP:
    """Keeps the smallest set of tokens whose probability reaches `p`.

    The most probable token always stays; tokens tied with the last one kept
    stay too, so the result does not depend on vocabulary order.

    Args:
        p: Probability mass to keep, in (0, 1]. 1 keeps every token.

    Call arguments:
        logits: Float (..., V).
        ids, step: Unused.

    Returns:
        Float (..., V): `logits`, with -inf in place of the tokens dropped.

    Raises:
        ValueError: If `p` is outside (0, 1].

    Source: Holtzman et al. 2020, section 3.1 (arXiv:1904.09751).
    """

    p: float

    def __post_init__(self):
        if not 0.0 < self.p <= 1.0:
            raise ValueError(f"`top_p` must be in (0, 1]. Received: top_p={self.p}.")

    def __call__(self, logits, ids=None, step=None):
        # A float32 sum can pass 1 before the last token.
        enough = ops.where(self.p < 1.0, ops.cast(self.p, "float32"), math.inf)
        return keep_most_probable(logits, ops.softmax(logits, axis=-1), enough)


def keep_most_probable(logits, weights, enough):
    """Keeps the highest logits, as few as it takes for their weight.

    Args:
        logits: Float32 (..., V).
        weights: Float (..., V), not negative.
        enough: Float, broadcastable to (..., 1): the weight to reach.

    Returns:
        Float32 (..., V), -inf at the tokens dropped. All are kept if even all
        weigh less than `enough`, at no cost.

    The threshold is found by bisection over the bit patterns of float32, which
    is exact after 32 halvings. Sorting 40,000 scores takes eight times as long.
    """
    total = ops.sum(weights, axis=-1)
    n_halvings = ops.where(ops.any(total >= ops.min(enough)), 32, 0)
    keys = _ordered_bits(logits)
    low = ops.full_like(keys[..., :1], -(2**31) + 1)
    high = ops.full_like(keys[..., :1], 2**31 - 1)  # above infinity's pattern

    def halve(i, low, high):
        middle = (low & high) + ops.right_shift(low ^ high, 1)  # no overflow
        weight = ops.sum(ops.where(keys >= middle, weights, 0.0), -1, keepdims=True)
        suffices = weight >= enough
        return (
            i + 1,
            ops.where(suffices, middle, low),
            ops.where(suffices, high, middle),
        )

    _, threshold, _ = ops.while_loop(
        lambda i, *_: i < n_halvings, halve, (0, low, high)
    )
    return ops.where(keys >= threshold, logits, -math.inf)


def _ordered_bits(x):
    """Returns int32 that are ordered as the float32 values are."""
    bits = ops.view(x, "int32")
    return ops.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def numbers_of(processor):
    """Returns the numeric fields of a processor, by name."""
    return {
        field.name: value
        for field in dataclasses.fields(processor)
        if isinstance(value := getattr(processor, field.name), (int, float))
        and not isinstance(value, bool)
    }


def with_numbers(processor, numbers):
    """Returns a processor like this one with other numbers, tensors perhaps.

    Its checks do not run again: they read Python numbers.
    """
    copy = object.__new__(type(processor))
    for field in dataclasses.fields(processor):
        value = numbers.get(field.name, getattr(processor, field.name))
        object.__setattr__(copy, field.name, value)
    return copy
