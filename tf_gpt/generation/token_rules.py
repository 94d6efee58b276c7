"""Logits processors that read the tokens so far, or their number.

`ids` are (..., S): a prompt and what follows, -1 in slots of padding and in
slots that are not filled yet. So a row of a padded batch has the same tokens
as the row alone. `step` is the number of new tokens.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from tf_gpt.generation.processors import static

EMPTY = -1  # in `ids`: a slot of padding, or one that is not filled yet


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Makes tokens that have occurred less probable: positive scores are divided.

    Args:
        penalty: Positive number; negative scores are multiplied by it. Below 1
            it rewards repetition.

    Call arguments:
        logits: Float (..., V).
        ids: Int (..., S).
        step: Unused.

    Returns:
        Float (..., V).

    Raises:
        ValueError: If `penalty` is not positive.

    Source: Keskar et al. 2019, section 4.1 (arXiv:1909.05858).
    """

    penalty: float

    def __post_init__(self):
        if not 0.0 < self.penalty < math.inf:
            raise ValueError(
                "`repetition_penalty` must be a positive number. "
                f"Received: {self.penalty}."
            )

    def __call__(self, logits, ids, step=None):
        seen = _counts(ids, ids >= 0, logits.shape[-1]) > 0
        lowered = ops.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return ops.where(seen, lowered, logits)


@dataclasses.dataclass(frozen=True)
class NoRepeatNgram:
    """Drops tokens that would complete a sequence of `size` tokens a second time.

    Args:
        size: Length of the sequences, at least 1.

    Call arguments, returns: those of `RepetitionPenalty`.

    Source: Paulus et al. 2017, section 2.5 (arXiv:1705.04304).
    """

    size: int

    def __call__(self, logits, ids, step=None):
        slots = ops.arange(ids.shape[-1])
        end = _ends(ids)[..., None]  # (..., 1), the slot of the token to choose

        def compare(distance, matches):
            # Does the token so far before a slot equal the one before the end?
            before = _at(ids, slots - distance)
            newest = ops.take_along_axis(ids, ops.maximum(end - distance, 0), axis=-1)
            same = (before == newest) & (before >= 0) & (end >= distance)
            return distance + 1, matches & same

        _, matches = ops.while_loop(
            lambda distance, _: distance < self.size, compare, (1, ids >= 0)
        )
        banned = _counts(ids, matches, logits.shape[-1]) > 0
        return ops.where(banned, -math.inf, logits)


@dataclasses.dataclass(frozen=True)
class SequenceBias:
    """Adds a number to the last token of a sequence whose others stand there.

    Args:
        sequences: Tuple of tuples of tokens, all of one length; shorter ones are
            filled up with -1 on the left (see `padded`).
        biases: A number for each, or -inf to forbid it.

    Call arguments, returns: those of `RepetitionPenalty`.
    """

    sequences: tuple
    biases: tuple

    @staticmethod
    def padded(sequences):
        """Returns sequences of one length, as tuples."""
        longest = max(map(len, sequences))
        return tuple((EMPTY,) * (longest - len(s)) + tuple(s) for s in sequences)

    def __call__(self, logits, ids, step=None):
        sequences = ops.convert_to_tensor(self.sequences, "int32")  # (N, M)
        biases = ops.convert_to_tensor(self.biases, "float32")
        begins, lasts = sequences[:, :-1], sequences[:, -1]
        newest = _newest(ids, begins.shape[1])[..., None, :]  # (..., 1, M - 1)
        fits = ops.all((begins == EMPTY) | (begins == newest), axis=-1)  # (..., N)
        added = ops.where(fits, biases, 0.0)
        lasts = ops.broadcast_to(lasts, fits.shape)
        return logits + _scattered(lasts, added, logits.shape[-1])


@dataclasses.dataclass(frozen=True)
class MinLength:
    """Drops the end tokens while the sequence, prompt included, is too short.

    Args:
        length: Tokens in all before which no row may end.
        eos_ids: The end tokens.

    Call arguments, returns: those of `RepetitionPenalty`.
    """

    length: int
    eos_ids: tuple

    def __call__(self, logits, ids, step=None):
        is_short = _lengths(ids)[..., None] < self.length
        is_end = _is_among(self.eos_ids, logits)
        return ops.where(is_short & is_end, -math.inf, logits)


@dataclasses.dataclass(frozen=True)
class MinNewTokens:
    """Drops the end tokens during the first steps.

    Args:
        n_tokens: New tokens before which no row may end.
        eos_ids: The end tokens.

    Call arguments:
        logits: Float (..., V).
        ids: Unused.
        step: Int scalar.

    Returns:
        Float (..., V).
    """

    n_tokens: int
    eos_ids: tuple

    def __call__(self, logits, ids, step):
        is_end = _is_among(self.eos_ids, logits)
        return ops.where((step < self.n_tokens) & is_end, -math.inf, logits)


@dataclasses.dataclass(frozen=True)
class ForcedFirst:
    """Makes a token the only one possible after a sequence of one token.

    Args:
        token_id: The token.

    Call arguments, returns: those of `RepetitionPenalty`.
    """

    token_id: int

    def __call__(self, logits, ids, step=None):
        is_first = _lengths(ids)[..., None] == 1
        return ops.where(is_first, _only((self.token_id,), logits), logits)


@dataclasses.dataclass(frozen=True)
class ForcedLast:
    """Makes the given tokens the only ones possible at the last step.

    Args:
        token_ids: The tokens.
        last_step: The step, counted from 0.

    Call arguments, returns: those of `MinNewTokens`.
    """

    token_ids: tuple
    last_step: int

    def __call__(self, logits, ids, step):
        is_last = step == self.last_step
        return ops.where(is_last, _only(self.token_ids, logits), logits)


@dataclasses.dataclass(frozen=True)
class SuppressTokens:
    """Drops tokens at every step.

    Args:
        token_ids: The tokens.

    Call arguments, returns: those of `MinNewTokens`.
    """

    token_ids: tuple

    def __call__(self, logits, ids=None, step=None):
        return ops.where(_is_among(self.token_ids, logits), -math.inf, logits)


@dataclasses.dataclass(frozen=True)
class BeginSuppress:
    """Drops tokens at the first step that is free to choose.

    Args:
        token_ids: The tokens.
        after_forced: Whether a token is forced after a prompt of one token (see
            `ForcedFirst`): there the second step is the first free one.

    Call arguments:
        logits: Float (..., V).
        ids: Int (..., S).
        step: Int scalar.

    Returns:
        Float (..., V).
    """

    token_ids: tuple
    after_forced: bool = False

    def __call__(self, logits, ids, step):
        n_forced = 0
        if self.after_forced:
            n_forced = ops.cast(_lengths(ids)[..., None] - step == 1, "int32")
        suppressed = _is_among(self.token_ids, logits)
        return ops.where((step == n_forced) & suppressed, -math.inf, logits)


@dataclasses.dataclass(frozen=True)
class ExponentialDecay:
    """Raises the end tokens' scores more and more after some new tokens.

    Args:
        start: New tokens before it begins.
        factor: Base of the growth: after n more tokens the absolute score times
            `factor ** n - 1` is added.
        eos_ids: The end tokens.

    Call arguments, returns: those of `MinNewTokens`.
    """

    start: int
    factor: float
    eos_ids: tuple

    def __call__(self, logits, ids, step):
        excess = ops.cast(ops.maximum(step - self.start, 0), "float32")
        growth = ops.power(ops.cast(self.factor, "float32"), excess) - 1.0
        raised = logits + ops.abs(logits) * growth
        grows = _is_among(self.eos_ids, logits) & (excess > 0)
        return ops.where(grows, raised, logits)


@dataclasses.dataclass(frozen=True)
class PrefixAllowed:
    """Keeps the tokens that a Python function allows. Not for XLA.

    Args:
        function: Called as (index of the prompt, ids (n,) NumPy without
            padding); returns a list of tokens, not empty.
        rows_per_prompt: Beams or samples of each prompt.

    Call arguments, returns: those of `RepetitionPenalty`, of rank 2.

    Source: De Cao et al. 2020, section 3 (arXiv:2010.00904).
    """

    function: Callable
    rows_per_prompt: int = static(1)

    needs_python = True

    def __call__(self, logits, ids, step=None):
        import tensorflow as tf

        vocab_size = logits.shape[-1]

        def allowed(ids):
            kept = np.zeros((len(ids), vocab_size), "bool")
            for row, row_ids in enumerate(ids):
                prompt = row // self.rows_per_prompt
                tokens = list(self.function(prompt, row_ids[row_ids != EMPTY]))
                if not tokens:
                    raise ValueError(
                        "`prefix_allowed_tokens_fn` must allow a token at each "
                        f"step. Received none for prompt {prompt}."
                    )
                kept[row, tokens] = True
            return kept

        kept = tf.numpy_function(allowed, [ids], tf.bool)
        kept.set_shape(logits.shape)
        return ops.where(kept, logits, -math.inf)


def _ends(ids):
    """Returns the slot after the newest token, int (...,)."""
    after = ops.arange(ids.shape[-1], dtype="int32") + 1
    return ops.max(ops.where(ids != EMPTY, after, 0), axis=-1)


def _lengths(ids):
    return ops.sum(ops.cast(ids != EMPTY, "int32"), axis=-1)


def _newest(ids, n) -> Any:
    """Returns the last `n` tokens, (..., n), `EMPTY` where there are fewer."""
    if n == 0:
        return ids[..., :0]
    index = _ends(ids)[..., None] + ops.arange(n, dtype="int32") - n
    tokens = ops.take_along_axis(ids, ops.maximum(index, 0), axis=-1)
    return ops.where(index >= 0, tokens, EMPTY)


def _at(ids, slots):
    """Returns the tokens in `slots` (S,), `EMPTY` for those before the first."""
    tokens = ops.take(ids, ops.maximum(slots, 0), axis=-1)
    return ops.where(slots >= 0, tokens, EMPTY)


def _counts(ids, counted, vocab_size):
    """Returns how often each token stands where `counted`, float (..., V)."""
    return _scattered(ids, ops.cast(counted, "float32"), vocab_size)


def _scattered(ids, values, vocab_size):
    """Returns (..., V), the sum of the `values` (..., S) of each token."""
    leading = tuple(ids.shape[:-1])
    n_rows, n_slots = int(np.prod(leading)), ids.shape[-1]
    rows = ops.repeat(ops.arange(n_rows, dtype="int32"), n_slots)
    tokens = ops.reshape(ops.maximum(ids, 0), (-1,))
    sums = ops.scatter(
        ops.stack([rows, tokens], axis=-1),
        ops.reshape(values, (-1,)),
        (n_rows, vocab_size),
    )
    return ops.reshape(sums, (*leading, vocab_size))


def _is_among(token_ids, logits):
    """Returns bool (V,), True at the tokens."""
    token_ids = ops.convert_to_tensor(token_ids, "int32")
    tokens = ops.arange(logits.shape[-1], dtype="int32")
    return ops.any(tokens[:, None] == token_ids, axis=-1)


def _only(token_ids, logits):
    """Returns (V,) scores that leave nothing but the tokens."""
    if isinstance(token_ids, tuple):
        token_ids = ops.stack([ops.cast(t, "int32") for t in token_ids])
    return ops.where(_is_among(token_ids, logits), 0.0, -math.inf)
