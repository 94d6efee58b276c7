"""Beam search, beam sampling and diverse beam search.

K beams in G groups of k search for each prompt; a group is a search of its own,
but sees what the groups before it have chosen at the same step. Beams that end
are kept apart from those that run.

Source: transformers 4.57, whose scores and stopping rules these are (its search
has one group); Vijayakumar et al. 2016 (arXiv:1610.02424) for the groups.
"""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from tf_gpt.generation.loop import prefill, put_column, put_slice
from tf_gpt.generation.noise import gumbel

# A beam that is no candidate: far below any sum of log-probabilities.
NEVER = -1e9


class Beams(NamedTuple):
    """One group's beams of each prompt, best first.

    Args:
        ids: Int32 (B, k, S), as `loop.State.ids`.
        scores: Float32 (B, k): sums of log-probabilities, or with the length
            penalty if the beams have ended.
        origins: Int32 (B, k, N): the row among B x K that each new token was
            chosen from, -1 beyond the end.
        ended: Bool (B, k).
    """

    ids: Any
    scores: Any
    origins: Any
    ended: Any


class State(NamedTuple):
    """Where a search stands after `step` new tokens.

    Args:
        running, best: `Beams` of each group, tuples of G: those that go on, and
            the best that have ended.
        improvable: Bool (B,) of each group: whether a running beam may still
            overtake one that has ended.
        finished: Bool (B,), prompts whose search is over.
        slot_mask, n_prompt, lengths, caches, step, records: As in `loop.State`,
            of B x K rows.
    """

    running: Any
    best: Any
    improvable: Any
    finished: Any
    slot_mask: Any
    n_prompt: Any
    lengths: Any
    caches: Any
    step: Any
    records: Any


@dataclasses.dataclass(frozen=True)
class BeamSearch:
    """The strategy; its methods are those of `loop.Plain`.

    Args:
        n_beams: K.
        n_groups: G, which divides K.
        early_stopping: True ends a search with K ended beams; False when the
            best running beam scores below the worst ended one at its present
            length; "never" when it does at any length.
        sampled: Whether continuations are sampled, without replacement.
    """

    n_beams: int
    n_groups: int
    early_stopping: Any
    sampled: bool

    n_extra_slots = 0

    def start(self, decoder, prompt, n_slots, rules, records):
        logits, state = prefill(decoder, prompt, n_slots, records)
        state = self._first(state, *prompt.mask.shape)
        logits = ops.repeat(logits, self.n_beams, axis=0)
        return self._choose(logits, state, rules)

    def resume(self, decoder, state, rules, until):
        def is_unfinished(*state):
            state = State(*state)
            return (state.step < until) & ~ops.all(state.finished)

        def add_token(*state):
            state = State(*state)
            slot = state.n_prompt + state.step - 1  # of the newest tokens
            ids = ops.concatenate([beams.ids for beams in state.running], axis=1)
            newest = ops.take(ids, ops.reshape(slot, (1,)), axis=2)  # (B, K, 1)
            logits, caches = decoder.decode(
                ops.reshape(newest, (-1, 1)),
                state.caches,
                index=slot,
                position_ids=(state.lengths + state.step - 1)[:, None],
                attention_mask=state.slot_mask,
                last_only=True,
            )
            state = state._replace(caches=caches)
            return tuple(self._choose(logits[:, 0], state, rules))

        return State(*ops.while_loop(is_unfinished, add_token, tuple(state)))

    def answer(self, state):
        """Returns the ended beams of each prompt, best first.

        Returns:
            Dict of `ids` (B, K, S), `sequences_scores` (B, K) and
            `beam_indices` (B, K, N), NumPy.
        """
        ids, scores, origins, _ = (
            ops.concatenate(parts, axis=1) for parts in zip(*state.best, strict=True)
        )
        order = ops.argsort(-scores, axis=1)
        return {
            name: ops.convert_to_numpy(_pick(value, order))
            for name, value in (
                ("ids", ids),
                ("sequences_scores", scores),
                ("beam_indices", origins),
            )
        }

    def _first(self, state, batch_size, n_prompt):
        """Returns the state before any token, from `loop.prefill`'s."""
        size = self.n_beams // self.n_groups
        n_new = state.ids.shape[1] - n_prompt
        ids = ops.repeat(state.ids[:, None], size, axis=1)  # (B, k, S)
        origins = ops.full((batch_size, size, n_new), -1, "int32")
        nothing = ops.full((batch_size, size), NEVER, "float32")
        no = ops.zeros((batch_size, size), "bool")
        # All beams are equal yet: only the first may be continued.
        is_first = ops.arange(size)[None] == 0
        scores = ops.where(is_first, 0.0, nothing)
        each = self.n_groups * (Beams(ids, scores, origins, no),)
        return State(
            running=each,
            best=self.n_groups * (Beams(ids, nothing, origins, no),),
            improvable=self.n_groups * (ops.ones((batch_size,), "bool"),),
            finished=ops.zeros((batch_size,), "bool"),
            n_prompt=state.n_prompt,
            step=state.step,
            slot_mask=ops.repeat(state.slot_mask, self.n_beams, axis=0),
            lengths=ops.repeat(state.lengths, self.n_beams, axis=0),
            caches=tuple(
                type(cache)(*(ops.repeat(part, self.n_beams, axis=0) for part in cache))
                for cache in state.caches
            ),
            records={
                name: ops.repeat(kept, self.n_beams, axis=0)
                for name, kept in state.records.items()
            },
        )

    def _choose(self, logits, state, rules):
        """Continues every beam by a token and returns the `State` one step on."""
        step, vocab_size = state.step, logits.shape[-1]
        batch_size = state.finished.shape[0]
        ids = ops.concatenate([beams.ids for beams in state.running], axis=1)
        scores = ops.log_softmax(logits, axis=-1)
        for processor in rules.processors:
            scores = processor(scores, ops.reshape(ids, (-1, ids.shape[-1])), step)
        newest = {"scores": scores, "logits": logits}
        records = {
            name: put_slice(kept, newest[name], step)
            for name, kept in state.records.items()
        }
        noise = ops.zeros_like(scores)
        if self.sampled:
            beams = ops.tile(ops.arange(self.n_beams), (batch_size,))
            noise = gumbel(
                ops.repeat(rules.seeds, self.n_beams), beams, step, vocab_size
            )
        by_group = (batch_size, self.n_groups, -1, vocab_size)
        scores, noise = ops.reshape(scores, by_group), ops.reshape(noise, by_group)
        taken = ops.zeros((batch_size, vocab_size), "float32")
        groups, rows = [], []
        for g in range(self.n_groups):
            group_scores = scores[:, g] - rules.diversity_penalty * taken[:, None]
            *group, origin, tokens = self._choose_in_group(
                g, group_scores, noise[:, g], state, rules
            )
            groups.append(group)
            rows.append(origin)
            one_hot = ops.one_hot(tokens, vocab_size, dtype="float32")  # (B, k, V)
            taken = taken + ops.sum(one_hot, axis=1)
        running, best, improvable, over = zip(*groups, strict=True)
        rows = ops.reshape(ops.concatenate(rows, axis=1), (-1,))  # (B * K,)
        return state._replace(
            running=running,
            best=best,
            improvable=improvable,
            finished=ops.all(ops.stack(over), axis=0),
            caches=tuple(
                type(cache)(*(ops.take(part, rows, axis=0) for part in cache))
                for cache in state.caches
            ),
            step=step + 1,
            records=records,
        )

    def _choose_in_group(self, g, scores, noise, state, rules):
        running, best, improvable = (
            part[g] for part in (state.running, state.best, state.improvable)
        )
        batch_size, size, vocab_size = scores.shape
        step = state.step
        # So many candidates that `size` of them go on even if all else ends.
        n_candidates = max(2, 1 + rules.eos_ids.shape[0]) * size
        totals = scores + running.scores[:, :, None]
        flat = ops.reshape(totals, (batch_size, size * vocab_size))
        flat_noise = ops.reshape(noise, flat.shape)
        chosen = ops.cast(ops.top_k(flat + flat_noise, n_candidates)[1], "int32")
        totals = ops.take_along_axis(flat, chosen, axis=1)  # (B, n)
        beam, token = chosen // vocab_size, chosen % vocab_size
        row = beam + g * size + self.n_beams * ops.arange(batch_size)[:, None]
        candidates = Beams(
            ids=put_column(_pick(running.ids, beam), token, state.n_prompt + step),
            scores=totals,
            origins=put_column(_pick(running.origins, beam), row, step),
            ended=ops.any(token[..., None] == rules.eos_ids, axis=-1)
            | (step + 1 >= rules.n_new),
        )
        go_on = ops.where(candidates.ended, totals + NEVER, totals)
        next_scores, kept = ops.top_k(go_on, size)
        running = Beams(
            ids=_pick(candidates.ids, kept),
            scores=next_scores,
            origins=_pick(candidates.origins, kept),
            ended=ops.zeros((batch_size, size), "bool"),
        )
        best = self._with_ended(best, candidates, improvable, step, rules)
        improvable = improvable & self._may_improve(running, best, step + 1, rules)
        over = ~improvable | (step + 1 >= rules.n_new)
        if self.early_stopping is True:
            over = over | ops.all(best.ended, axis=1)
        return running, best, improvable, over, _pick(row, kept), _pick(token, kept)

    def _with_ended(self, best, candidates, improvable, step, rules):
        """Returns the best of the beams that had ended and those that now do."""
        size = best.scores.shape[1]
        n_candidates = candidates.scores.shape[1]
        # The candidates after the first `size` only stand by to be continued.
        ended = candidates.ended & (ops.arange(n_candidates)[None] < size)
        is_closed = ~improvable
        if self.early_stopping is True:
            is_closed = is_closed | ops.all(best.ended, axis=1)
        length = ops.cast(step + 1, "float32")
        scores = candidates.scores / ops.power(length, rules.length_penalty)
        scores = scores + ops.where(is_closed, NEVER, 0.0)[:, None]
        scores = scores + ops.where(ended, 0.0, NEVER)
        candidates = candidates._replace(scores=scores, ended=ended)
        both = Beams(
            *(
                ops.concatenate(pair, axis=1)
                for pair in zip(best, candidates, strict=True)
            )
        )
        kept = ops.top_k(both.scores, size)[1]
        return Beams(*(_pick(part, kept) for part in both))

    def _may_improve(self, running, best, length, rules):
        length = ops.cast(length, "float32")
        if self.early_stopping == "never":
            longest = ops.cast(rules.n_new, "float32")
            length = ops.where(rules.length_penalty > 0, longest, length)
        possible = running.scores[:, :1] / ops.power(length, rules.length_penalty)
        worst = ops.min(best.scores, axis=1, keepdims=True)
        return ops.any(possible > ops.where(best.ended, worst, NEVER), axis=1)


def _pick(x, index):
    """Returns x (B, n, ...) at `index` (B, m) of its second dimension."""
    batch_size, n = x.shape[:2]
    rows = ops.cast(index, "int32") + n * ops.arange(batch_size, dtype="int32")[:, None]
    return ops.take(ops.reshape(x, (batch_size * n, *x.shape[2:])), rows, axis=0)
