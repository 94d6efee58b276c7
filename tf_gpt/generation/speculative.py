"""Speculative decoding: cheap guesses, several of them checked in one step.

A drafter guesses the next tokens; the model scores all of them at once, which
costs little more than one, since the time goes into reading the weights. Each is
kept if it is the token that the model would have chosen: greedily, or by
sampling, where the noise of a step is fixed by the seed (`noise.gumbel`). So the
result is that of `loop.Plain`, token for token, whatever the drafter says.

The rows of a batch advance together, as far as the shortest agreement: batches
of one gain most.

Source: Leviathan et al. 2022 (arXiv:2211.17192); Saxena 2023, "Prompt lookup
decoding", for guesses from the text itself.
"""

import dataclasses
from typing import Any

from keras import ops

from tf_gpt.generation.loop import Plain, State, is_unfinished, prefill
from tf_gpt.generation.token_rules import EMPTY


@dataclasses.dataclass(frozen=True)
class Speculative:
    """The strategy; its methods are those of `loop.Plain`.

    Args:
        sampled: Whether the model samples.
        drafter: `Lookup` or `Assistant`.
    """

    sampled: bool
    drafter: Any

    @property
    def n_extra_slots(self):
        """Slots for guesses beyond the last token."""
        return self.drafter.n_tokens

    def start(self, decoder, prompt, n_slots, rules, records):
        plain = Plain(self.sampled)
        state = plain.start(decoder, prompt, n_slots, rules, records)
        drafts = self.drafter.prefill(prompt, n_slots)
        return state._replace(caches=(state.caches, drafts))

    def resume(self, decoder, state, rules, until):
        def add_tokens(*state):
            state = State(*state)
            caches, draft_caches = state.caches
            guesses, draft_caches = self.drafter.guess(
                state._replace(caches=draft_caches), Plain(self.sampled), rules
            )
            logits, caches = _decode_guesses(decoder, state, caches, guesses)
            state = self._check(state, guesses, logits, rules, until)
            return tuple(state._replace(caches=(caches, draft_caches)))

        return State(*ops.while_loop(is_unfinished(until), add_tokens, tuple(state)))

    def answer(self, state):
        """Returns a dict of `ids`, NumPy (B, S)."""
        return {"ids": ops.convert_to_numpy(state.ids)}

    def _check(self, state, guesses, logits, rules, until):
        """Adds tokens as long as the guesses before them were right."""
        plain = Plain(self.sampled)
        n_scored = logits.shape[1]
        caches, state = state.caches, state._replace(caches=())
        unmatched = ops.full_like(guesses[:, :1], EMPTY)
        guesses = ops.concatenate([guesses, unmatched], axis=1)  # (B, m + 1)

        def goes_on(i, agrees, *state):
            return agrees & (i < n_scored) & is_unfinished(until)(*state)

        def add_token(i, agrees, *state):
            at = ops.reshape(i, (1,))
            chosen = plain.choose(
                ops.take(logits, at, axis=1)[:, 0], State(*state), rules
            )
            slot = ops.reshape(chosen.n_prompt + chosen.step - 1, (1,))
            newest = ops.take(chosen.ids, slot, axis=1)
            is_right = newest == ops.take(guesses, at, axis=1)
            agrees = ops.all(is_right[:, 0] | chosen.finished)
            return i + 1, agrees, *chosen

        first = (ops.convert_to_tensor(0, "int32"), ops.convert_to_tensor(True))
        _, _, *state = ops.while_loop(goes_on, add_token, (*first, *state))
        return State(*state)._replace(caches=caches)


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Guesses that the text goes on as it did after the same tokens before.

    Args:
        n_tokens: How many tokens to guess.
        ngram_size: How many of the newest tokens to look for, at most; fewer
            are looked for where there is no such place.
    """

    n_tokens: int
    ngram_size: int

    def prefill(self, prompt, n_slots):
        """Returns the drafter's caches: none."""
        return ()

    def guess(self, state, plain, rules):
        """Returns `(tokens, caches)`: int32 (B, m), `EMPTY` without a guess."""
        ids, n_slots = state.ids, state.ids.shape[1]
        slots = ops.arange(n_slots)
        newest = state.n_prompt + state.step - 1
        start = ops.zeros((ids.shape[0],), "int32")  # 0: no place was found
        matches = (slots >= 1) & (slots <= newest) & (ids != EMPTY)
        for distance in range(1, self.ngram_size + 1):
            # Does the token so far before a slot equal the one before the end?
            before = ops.take(ids, ops.maximum(slots - distance, 0), axis=1)
            at = ops.reshape(ops.maximum(newest + 1 - distance, 0), (1,))
            same = (before == ops.take(ids, at, axis=1)) & (before != EMPTY)
            matches = matches & same & (slots >= distance)
            first = ops.argmax(ops.cast(matches, "int32"), axis=1)
            first = ops.cast(first, "int32")
            start = ops.where(ops.any(matches, axis=1), first, start)
        index = start[:, None] + ops.arange(self.n_tokens)
        guesses = ops.take_along_axis(ids, ops.minimum(index, n_slots - 1), axis=1)
        is_known = (start[:, None] > 0) & (index <= newest)
        return ops.where(is_known, guesses, EMPTY), ()


@dataclasses.dataclass(frozen=True)
class Assistant:
    """Lets a smaller model of the same vocabulary guess.

    Args:
        decoder: See `generate.Decoder`; the smaller model's.
        n_tokens: How many tokens to guess.
    """

    decoder: Any
    n_tokens: int

    def prefill(self, prompt, n_slots):
        """Returns the smaller model's caches, holding the prompt."""
        return prefill(self.decoder, prompt, n_slots, ())[1].caches

    def guess(self, state, plain, rules):
        """Returns `(tokens, caches)`: int32 (B, m)."""
        # The last guess of the round before was never run: begin one token back.
        begin = state._replace(records={}, finished=ops.zeros_like(state.finished))
        slots = state.n_prompt + state.step - 2 + ops.arange(2)
        logits, caches = self._decode(
            begin, ops.take(state.ids, slots, axis=1), slots[0]
        )
        drafted = plain.choose(logits, begin._replace(caches=caches), rules)

        def add_guess(i, *drafted):
            drafted = State(*drafted)
            slot = drafted.n_prompt + drafted.step - 1
            newest = ops.take(drafted.ids, ops.reshape(slot, (1,)), axis=1)
            logits, caches = self._decode(drafted, newest, slot)
            return i + 1, *plain.choose(logits, drafted._replace(caches=caches), rules)

        _, *drafted = ops.while_loop(
            lambda i, *_: i < self.n_tokens, add_guess, (1, *drafted)
        )
        drafted = State(*drafted)
        slots = state.n_prompt + state.step + ops.arange(self.n_tokens)
        return ops.take(drafted.ids, slots, axis=1), drafted.caches

    def _decode(self, state, tokens, slot):
        logits, caches = _decode_from(
            self.decoder, state, state.caches, tokens, slot, last_only=True
        )
        return logits[:, 0], caches


def _decode_guesses(decoder, state, caches, guesses):
    """Returns the scores after the newest token and after each guess."""
    slot = state.n_prompt + state.step - 1
    newest = ops.take(state.ids, ops.reshape(slot, (1,)), axis=1)
    tokens = ops.concatenate([newest, guesses], axis=1)  # (B, m + 1)
    return _decode_from(decoder, state, caches, tokens, slot, last_only=False)


def _decode_from(decoder, state, caches, tokens, slot, last_only):
    offsets = slot - state.n_prompt + ops.arange(tokens.shape[1])
    # A guess beyond the last position is scored in vain, but must have one.
    positions = ops.minimum(state.lengths[:, None] + offsets, decoder.n_positions - 1)
    return decoder.decode(
        ops.maximum(tokens, 0),
        caches,
        index=slot,
        position_ids=positions,
        attention_mask=state.slot_mask,
        last_only=last_only,
    )
