"""Prefill and the loop over new tokens, for greedy decoding and sampling.

The loop knows the model as one function,

    decode(token_ids, caches, index=, position_ids=, attention_mask=, last_only=)
        -> (logits, caches)

and everything in it is a tensor of fixed shape, so that it compiles once for a
batch size, a number of prompt slots and a number of slots in all.

S slots hold a prompt of P tokens, padded on the left, and the tokens after it.
The other strategies follow this one: a frozen dataclass of what is compiled in,
with `start`, `resume` and `answer`, whose state has a `step`, the number of new
tokens, and `finished`, (B,).
"""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from tf_gpt.generation.noise import gumbel
from tf_gpt.generation.token_rules import EMPTY


class Prompt(NamedTuple):
    """The prompts of a batch, padded on the left.

    Args:
        ids, mask: Int32 (B, P).
        embeds: Float (B, P, C) in place of the ids, which are then `EMPTY`; or
            `()`.
    """

    ids: Any
    mask: Any
    embeds: Any = ()


class Rules(NamedTuple):
    """What decides about new tokens.

    Args:
        processors: Callables (logits, ids, step) -> logits, in order.
        seeds, samples: Int32 (B,), see `noise.gumbel`.
        eos_ids: Int32 (E,), the tokens that end a row; may be empty. Or (B, E),
            of each row.
        pad_id: Int scalar, what an ended row goes on with.
        n_new: Int scalar, the most new tokens; (B,) in `rows`.
        length_penalty, diversity_penalty: Float scalars; see `beam`.
        penalty_alpha: Float scalar; see `contrastive`.
        guidance_scale: Float scalar; see `Plain`.
        sampled_rows: Bool (B,); see `rows`.
    """

    processors: Any
    seeds: Any
    samples: Any
    eos_ids: Any
    pad_id: Any
    n_new: Any
    length_penalty: Any
    diversity_penalty: Any
    penalty_alpha: Any
    guidance_scale: Any
    sampled_rows: Any = ()


class State(NamedTuple):
    """Where the generation of a batch stands after `step` new tokens.

    Args:
        ids: Int32 (B, S), the tokens so far, `EMPTY` elsewhere.
        slot_mask: Int32 (B, S), 0 at the prompt's padding, 1 elsewhere: what a
            slot will hold counts, and the causal mask hides it until then.
        n_prompt: Int scalar, P.
        lengths: Int32 (B,), the number of prompt tokens of each row.
        caches: The model's caches, holding all tokens but the newest.
        finished: Bool (B,), rows that have ended.
        step: Int scalar, the number of new tokens.
        records: Dict of what is kept of each step: "scores" and "logits",
            float32 (B, N, V), as far as asked for.
    """

    ids: Any
    slot_mask: Any
    n_prompt: Any
    lengths: Any
    caches: Any
    finished: Any
    step: Any
    records: Any


@dataclasses.dataclass(frozen=True)
class Plain:
    """Greedy decoding and sampling: each row gets a token a step.

    Args:
        sampled: Whether to sample, rather than take the most probable token.
        guided: Whether the second half of the batch are the negative prompts of
            the first: scores move away from theirs by the guidance scale, and
            both halves get the same tokens.

    Source: Sanchez et al. 2023 (arXiv:2306.17806) for the guidance.
    """

    sampled: bool
    guided: bool = False

    n_extra_slots = 0

    def start(self, decoder, prompt, n_slots, rules, records):
        """Runs the prompts and chooses the first new token.

        Args:
            decoder: See `generate.Decoder`.
            prompt: `Prompt`.
            n_slots: S.
            rules: `Rules`.
            records: Names of the records to keep.

        Returns:
            The state at step 1.
        """
        logits, state = prefill(decoder, prompt, n_slots, records)
        return self.choose(logits, state, rules)

    def resume(self, decoder, state, rules, until):
        """Makes tokens until there are `until`, or every row has ended.

        Args:
            decoder: See `generate.Decoder`.
            state: The state, with at least one new token.
            rules: `Rules`.
            until: Int scalar.

        Returns:
            The state.
        """

        def add_token(*state):
            state = State(*state)
            logits, caches = decode_newest(decoder, state)
            state = state._replace(caches=caches)
            return tuple(self.choose(logits, state, rules))

        return State(*ops.while_loop(is_unfinished(until), add_token, tuple(state)))

    def answer(self, state):
        """Returns a dict of `ids`, NumPy (B, S)."""
        ids = ops.convert_to_numpy(state.ids)
        return {"ids": ids[: len(ids) // 2] if self.guided else ids}

    def choose(self, logits, state, rules):
        """Chooses each row's next token and returns the state one step on."""
        step, ids, finished = state.step, state.ids, state.finished
        if self.guided:
            n_rows = logits.shape[0] // 2
            ids, finished = ids[:n_rows], finished[:n_rows]
            wanted, unwanted = ops.split(ops.log_softmax(logits, axis=-1), 2)
            logits = unwanted + rules.guidance_scale * (wanted - unwanted)
        scores = logits
        for processor in rules.processors:
            scores = processor(scores, ids, step)
        tokens = draw(scores, step, rules) if self.sampled else likeliest(scores)
        tokens = ops.where(finished, rules.pad_id, tokens)
        newest = {"scores": scores, "logits": logits}
        if self.guided:
            tokens = ops.concatenate([tokens, tokens])
            newest = {n: ops.concatenate([x, x]) for n, x in newest.items()}
        return add(state, tokens, newest, rules)


def likeliest(scores):
    """Returns each row's token with the highest of its scores (B, V), int32 (B,)."""
    return ops.cast(ops.argmax(scores, axis=-1), "int32")


def draw(scores, step, rules):
    """Returns a token for each row, drawn by its scores (B, V), int32 (B,)."""
    noise = gumbel(rules.seeds, rules.samples, step, scores.shape[-1])
    return likeliest(scores + noise)


def prefill(decoder, prompt, n_slots, records, with_hidden=False):
    """Runs the prompts and returns the scores of the first new token.

    Args:
        decoder: See `generate.Decoder`.
        prompt: `Prompt`.
        n_slots: S.
        records: Names of the records to keep.
        with_hidden: Whether to return also the prompt's hidden states.

    Returns:
        `(logits, state)`: float32 (B, V), and the `State` at step 0; and float
        (B, P, C) if `with_hidden`.
    """
    batch_size, n_prompt = ops.shape(prompt.mask)
    rest = (batch_size, n_slots - n_prompt)
    slot_mask = ops.concatenate([prompt.mask, ops.ones(rest, "int32")], axis=1)
    positions = ops.maximum(ops.cumsum(prompt.mask, axis=1) - 1, 0)
    is_token = ops.cast(prompt.mask, "bool")
    tokens = {"token_ids": ops.maximum(prompt.ids, 0)}
    if not isinstance(prompt.embeds, tuple):
        tokens = {"token_ids": None, "inputs_embeds": prompt.embeds}
    logits, caches, *hidden = decoder.decode(
        **tokens,
        caches=decoder.make_caches(batch_size, n_slots),
        index=0,
        position_ids=positions,
        attention_mask=slot_mask,
        last_only=True,
        with_hidden=with_hidden,
    )
    known = ops.where(is_token, prompt.ids, EMPTY)
    vocab_size = logits.shape[-1]
    state = State(
        ids=ops.concatenate([known, ops.full(rest, EMPTY, "int32")], axis=1),
        slot_mask=slot_mask,
        n_prompt=ops.convert_to_tensor(n_prompt, "int32"),
        lengths=ops.sum(prompt.mask, axis=1),
        caches=caches,
        finished=ops.zeros((batch_size,), "bool"),
        step=ops.convert_to_tensor(0, "int32"),
        records={name: ops.zeros((*rest, vocab_size), "float32") for name in records},
    )
    return logits[:, 0], state, *hidden


def decode_newest(decoder, state):
    """Returns `(logits, caches)` after the newest token: float32 (B, V)."""
    slot = state.n_prompt + state.step - 1
    newest = ops.take(state.ids, ops.reshape(slot, (1,)), axis=1)  # (B, 1)
    # A row that has ended is carried along, perhaps past the last position.
    positions = ops.minimum(state.lengths + state.step, decoder.n_positions) - 1
    logits, caches = decoder.decode(
        newest,
        state.caches,
        index=slot,
        position_ids=positions[:, None],
        attention_mask=state.slot_mask,
        last_only=True,
    )
    return logits[:, 0], caches


def add(state, tokens, newest, rules):
    """Returns a state one step on.

    Args:
        state: `State`, or one with the same fields and more.
        tokens: Int32 (B,).
        newest: Dict of the step's "scores" and "logits", (B, V).
        rules: `Rules`.
    """
    is_end = ops.any(tokens[:, None] == rules.eos_ids, axis=1)
    return state._replace(
        ids=put_column(state.ids, tokens, state.n_prompt + state.step),
        finished=state.finished | is_end,
        step=state.step + 1,
        records={
            name: put_slice(kept, newest[name], state.step)
            for name, kept in state.records.items()
        },
    )


def is_unfinished(until):
    """Returns the loop's condition on a `State`."""

    def condition(*state):
        state = State(*state)
        return (state.step < until) & ~ops.all(state.finished)

    return condition


def put_column(kept, new, index):
    """Returns `kept` (..., S) with `new` (...,) at `index` of the last axis."""
    is_there = ops.arange(ops.shape(kept)[-1]) == index
    return ops.where(is_there, new[..., None], kept)


def put_slice(kept, new, index):
    """Returns `kept` (B, N, V) with `new` (B, V) at step `index`.

    In place under XLA; `put_column` would go through every step's scores.
    """
    zero = ops.zeros_like(index)
    return ops.slice_update(kept, (zero, index, zero), new[:, None])
