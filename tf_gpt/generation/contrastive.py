"""Contrastive search: probable tokens whose hidden states do not repeat others.

Source: Su et al. 2022, section 3.2 (arXiv:2202.06417).
"""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from tf_gpt.generation.loop import add, prefill


class State(NamedTuple):
    """`loop.State`, whose caches hold the newest token too, and

    Args:
        scores: Float32 (B, V), the scores of the next token.
        directions: Float (B, S, C), the tokens' hidden states at length 1.
    """

    ids: Any
    slot_mask: Any
    n_prompt: Any
    lengths: Any
    caches: Any
    finished: Any
    step: Any
    records: Any
    scores: Any
    directions: Any


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """The strategy; its methods are those of `loop.Plain`.

    Args:
        n_candidates: How many of the most probable tokens compete. The winner
            has the highest `(1 - alpha) * probability - alpha * similarity`,
            where the similarity is the largest cosine between its hidden state
            and one before, and alpha is the rules' `penalty_alpha`.
    """

    n_candidates: int

    n_extra_slots = 0

    def start(self, decoder, prompt, n_slots, rules, records):
        scores, state, hidden = prefill(
            decoder, prompt, n_slots, records, with_hidden=True
        )
        rest = ((0, 0), (0, n_slots - hidden.shape[1]), (0, 0))
        directions = ops.pad(_normalised(hidden), rest)
        return self._choose(
            decoder, State(*state, scores=scores, directions=directions), rules
        )

    def resume(self, decoder, state, rules, until):
        def is_unfinished(*state):
            state = State(*state)
            return (state.step < until) & ~ops.all(state.finished)

        return State(
            *ops.while_loop(
                is_unfinished,
                lambda *state: tuple(self._choose(decoder, State(*state), rules)),
                tuple(state),
            )
        )

    def answer(self, state):
        """Returns a dict of `ids`, NumPy (B, S)."""
        return {"ids": ops.convert_to_numpy(state.ids)}

    def _choose(self, decoder, state, rules):
        n, batch_size = self.n_candidates, state.ids.shape[0]
        logits = scores = state.scores
        for processor in rules.processors:
            scores = processor(scores, state.ids, state.step)
        probs, tokens = ops.top_k(ops.softmax(scores, axis=-1), n)  # (B, n)
        tokens = ops.cast(tokens, "int32")
        slot = state.n_prompt + state.step
        next_scores, caches, hidden = decoder.decode(
            ops.reshape(tokens, (-1, 1)),
            _each_cache(state.caches, lambda part: ops.repeat(part, n, axis=0)),
            index=slot,
            position_ids=ops.repeat(state.lengths + state.step, n)[:, None],
            attention_mask=ops.repeat(state.slot_mask, n, axis=0),
            last_only=True,
            with_hidden=True,
        )
        candidates = ops.reshape(_normalised(hidden), (batch_size, n, -1))
        similar = ops.einsum("bnc,bsc->bns", candidates, state.directions)
        is_before = (ops.arange(state.ids.shape[1]) < slot) & (state.slot_mask == 1)
        similar = ops.max(ops.where(is_before[:, None], similar, -1.0), axis=-1)
        alpha = rules.penalty_alpha
        best = ops.argmax((1.0 - alpha) * probs - alpha * similar, axis=-1)  # (B,)
        rows = n * ops.arange(batch_size) + ops.cast(best, "int32")
        tokens = ops.take(ops.reshape(tokens, (-1,)), rows)
        tokens = ops.where(state.finished, rules.pad_id, tokens)
        direction = ops.take(
            ops.reshape(candidates, (batch_size * n, -1)), rows, axis=0
        )
        is_slot = (ops.arange(state.ids.shape[1]) == slot)[None, :, None]
        state = state._replace(
            caches=_each_cache(caches, lambda part: ops.take(part, rows, axis=0)),
            scores=ops.take(next_scores[:, 0], rows, axis=0),
            directions=ops.where(is_slot, direction[:, None], state.directions),
        )
        return add(state, tokens, {"scores": scores, "logits": logits}, rules)


def _each_cache(caches, function):
    return tuple(type(cache)(*map(function, cache)) for cache in caches)


def _normalised(hidden):
    hidden = ops.cast(hidden, "float32")
    return hidden / ops.sqrt(ops.sum(ops.square(hidden), axis=-1, keepdims=True))
