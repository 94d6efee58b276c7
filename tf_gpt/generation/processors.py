"""Logits processors that look at the logits alone: those of sampling, mostly.

A processor maps (logits, ids, step) to logits of the same shape. It is a frozen
dataclass, checked when it is made and pure when it is called. Its numeric
fields may be tensors inside a compiled function (see `numbers_of` and
`with_numbers`), so that a new temperature compiles nothing. `token_rules` has
the processors that read the tokens so far.
"""

import dataclasses
import math

import numpy as np
from keras import ops


def static(default):
    """Returns a dataclass field whose value is compiled in, never a tensor."""
    return dataclasses.field(default=default, metadata={"static": True})


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
        reached = reaching(logits, ops.ones_like(logits), ops.cast(self.k, "float32"))
        return ops.where(reached, logits, -math.inf)


@dataclasses.dataclass(frozen=True)
class TopP:
    """Keeps the smallest set of tokens whose probability reaches `p`.

    The most probable token always stays; tokens tied with the last one kept
    stay too, so the result does not depend on vocabulary order.

    Args:
        p: Probability mass to keep, in (0, 1]. 1 keeps every token.
        at_least: The fewest tokens to keep, the most probable ones.

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
    at_least: int = static(1)

    def __post_init__(self):
        if not 0.0 < self.p <= 1.0:
            raise ValueError(f"`top_p` must be in (0, 1]. Received: top_p={self.p}.")

    def __call__(self, logits, ids=None, step=None):
        # A float32 sum can pass 1 before the last token.
        enough = ops.where(self.p < 1.0, ops.cast(self.p, "float32"), math.inf)
        reached = reaching(logits, ops.softmax(logits, axis=-1), enough)
        return _keep(reached, logits, self.at_least)


@dataclasses.dataclass(frozen=True)
class MinP:
    """Keeps tokens at least `p` times as probable as the most probable one.

    Args:
        p: Share of the highest probability, in [0, 1].
        at_least: The fewest tokens to keep.

    Call arguments, returns: those of `TopP`.

    Raises:
        ValueError: If `p` is outside [0, 1].

    Source: Nguyen et al. 2024 (arXiv:2407.01082).
    """

    p: float
    at_least: int = static(1)

    def __post_init__(self):
        if not 0.0 <= self.p <= 1.0:
            raise ValueError(f"`min_p` must be in [0, 1]. Received: min_p={self.p}.")

    def __call__(self, logits, ids=None, step=None):
        probs = ops.softmax(logits, axis=-1)
        enough = self.p * ops.max(probs, axis=-1, keepdims=True)
        return _keep(probs >= enough, logits, self.at_least)


@dataclasses.dataclass(frozen=True)
class TypicalP:
    """Keeps the tokens whose surprise is nearest to the expected one.

    Args:
        p: Probability mass to keep, in (0, 1].
        at_least: The fewest tokens to keep.

    Call arguments, returns: those of `TopP`.

    Raises:
        ValueError: If `p` is outside (0, 1].

    Source: Meister et al. 2022 (arXiv:2202.00666).
    """

    p: float
    at_least: int = static(1)

    def __post_init__(self):
        if not 0.0 < self.p <= 1.0:
            raise ValueError(
                f"`typical_p` must be in (0, 1]. Received: typical_p={self.p}."
            )

    def __call__(self, logits, ids=None, step=None):
        log_probs = ops.log_softmax(logits, axis=-1)
        probs = ops.exp(log_probs)
        nearness = -ops.abs(log_probs + _entropy(log_probs))
        enough = ops.where(self.p < 1.0, ops.cast(self.p, "float32"), math.inf)
        reached = reaching(nearness, probs, enough)
        typical = reached | (nearness >= _nth_highest(nearness, self.at_least))
        return ops.where(typical, logits, -math.inf)


@dataclasses.dataclass(frozen=True)
class EpsilonCutoff:
    """Keeps tokens of at least this probability.

    Args:
        epsilon: Probability, in (0, 1).
        at_least: The fewest tokens to keep.

    Call arguments, returns: those of `TopP`.

    Raises:
        ValueError: If `epsilon` is outside (0, 1).

    Source: Hewitt et al. 2022, section 4.1 (arXiv:2210.15191).
    """

    epsilon: float
    at_least: int = static(1)

    def __post_init__(self):
        _check_cutoff("epsilon_cutoff", self.epsilon)

    def __call__(self, logits, ids=None, step=None):
        probs = ops.softmax(logits, axis=-1)
        return _keep(probs >= self.epsilon, logits, self.at_least)


@dataclasses.dataclass(frozen=True)
class EtaCutoff:
    """Keeps tokens above a probability that falls with the entropy.

    Args:
        epsilon: In (0, 1); the cut-off is the smaller of `epsilon` and
            `sqrt(epsilon) * exp(-entropy)`.
        at_least: The fewest tokens to keep.

    Call arguments, returns: those of `TopP`.

    Raises:
        ValueError: If `epsilon` is outside (0, 1).

    Source: Hewitt et al. 2022, section 4.2 (arXiv:2210.15191).
    """

    epsilon: float
    at_least: int = static(1)

    def __post_init__(self):
        _check_cutoff("eta_cutoff", self.epsilon)

    def __call__(self, logits, ids=None, step=None):
        log_probs = ops.log_softmax(logits, axis=-1)
        epsilon = ops.cast(self.epsilon, "float32")
        eta = ops.minimum(epsilon, ops.sqrt(epsilon) * ops.exp(-_entropy(log_probs)))
        return _keep(ops.exp(log_probs) >= eta, logits, self.at_least)


@dataclasses.dataclass(frozen=True)
class RemoveInvalid:
    """Replaces NaN by 0 and infinities by the largest finite numbers.

    Call arguments:
        logits: Float (..., V).
        ids, step: Unused.

    Returns:
        Float (..., V), finite.
    """

    def __call__(self, logits, ids=None, step=None):
        largest = float(np.finfo("float32").max)
        logits = ops.where(ops.isnan(logits), 0.0, logits)
        return ops.clip(logits, -largest, largest)


@dataclasses.dataclass(frozen=True)
class Renormalise:
    """Makes the scores log-probabilities again.

    Call arguments:
        logits: Float (..., V).
        ids, step: Unused.

    Returns:
        Float (..., V), whose exponentials sum to 1.
    """

    def __call__(self, logits, ids=None, step=None):
        return ops.log_softmax(logits, axis=-1)


def reaching(keys, weights, enough):
    """Finds the entries with the highest keys, as few as it takes to weigh enough.

    Args:
        keys: Float32 (..., V).
        weights: Float (..., V), not negative.
        enough: Float, broadcastable to (..., 1): the weight to reach.

    Returns:
        Bool (..., V), True for entries tied with the last one too. All are
        taken, at no cost, if even all weigh less than `enough`.

    The threshold is found by bisection over the bit patterns of float32, which
    is exact after 32 halvings. Sorting 40,000 scores takes eight times as long.
    """
    bits = _ordered_bits(keys)
    total = ops.sum(weights, axis=-1)
    n_halvings = ops.where(ops.any(total >= ops.min(enough)), 32, 0)
    low = ops.full_like(bits[..., :1], -(2**31) + 1)
    high = ops.full_like(bits[..., :1], 2**31 - 1)  # above infinity's pattern

    def halve(i, low, high):
        middle = (low & high) + ops.right_shift(low ^ high, 1)  # no overflow
        weight = ops.sum(ops.where(bits >= middle, weights, 0.0), -1, keepdims=True)
        suffices = weight >= enough
        return (
            i + 1,
            ops.where(suffices, middle, low),
            ops.where(suffices, high, middle),
        )

    _, threshold, _ = ops.while_loop(
        lambda i, *_: i < n_halvings, halve, (0, low, high)
    )
    return bits >= threshold


def _ordered_bits(x):
    """Returns int32 that are ordered as the float32 values are."""
    bits = ops.view(x, "int32")
    return ops.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _keep(kept, logits, at_least):
    kept = kept | (logits >= _nth_highest(logits, at_least))
    return ops.where(kept, logits, -math.inf)


def _nth_highest(x, n):
    if n == 1:
        return ops.max(x, axis=-1, keepdims=True)
    return ops.top_k(x, min(n, x.shape[-1]))[0][..., -1:]


def _entropy(log_probs):
    finite = ops.where(log_probs > -math.inf, log_probs, 0.0)
    return -ops.sum(ops.exp(log_probs) * finite, axis=-1, keepdims=True)


def _check_cutoff(name, value):
    if not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` must be in (0, 1). Received: {name}={value}.")


def numbers_of(processor):
    """Returns the numeric fields of a processor by name, tuples as arrays."""
    if not dataclasses.is_dataclass(processor):
        return {}
    numbers = {}
    for field in dataclasses.fields(processor):
        value = getattr(processor, field.name)
        is_number = isinstance(value, (int, float, tuple)) and not isinstance(
            value, bool
        )
        if is_number and not field.metadata.get("static"):
            numbers[field.name] = np.array(value)
    return {
        name: array.astype("float32" if array.dtype.kind == "f" else "int32")
        for name, array in numbers.items()
    }


def kind_of(processor):
    """Returns what of a processor is compiled in: all but its numbers."""
    numbers = numbers_of(processor)
    try:
        hash(processor)
    except TypeError:
        raise ValueError(
            "A processor must be a function or a frozen dataclass of numbers, tuples "
            f"and the like. Received: {processor!r}, which has no hash."
        ) from None
    if not numbers:
        return processor
    fixed = tuple(
        (field.name, getattr(processor, field.name))
        for field in dataclasses.fields(processor)
        if field.name not in numbers
    )
    return type(processor), fixed


def with_numbers(processor, numbers):
    """Returns a processor like this one with other numbers, tensors perhaps.

    Its checks do not run again: they read Python numbers.
    """
    copy = object.__new__(type(processor))
    for field in dataclasses.fields(processor):
        value = numbers.get(field.name, getattr(processor, field.name))
        object.__setattr__(copy, field.name, value)
    return copy
