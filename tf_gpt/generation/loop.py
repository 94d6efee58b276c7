"""Prefill and the loop over new tokens, for greedy decoding and sampling.

The loop knows the model as one function,

    decode(token_ids, caches, index=, position_ids=, attention_mask=, last_only=)
        -> (logits, caches)

and everything in it is a tensor of fixed shape, so that it compiles once for a
batch size, a number of prompt slots and a number of slots in all.

S slots hold a prompt of P tokens, padded on the left, and the tokens after it.
"""

from typing import Any, NamedTuple

from keras import ops

from tf_gpt.generation.noise import gumbel

EMPTY = -1  # in `ids`: a slot of padding, or one that is not filled yet


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


class Rules(NamedTuple):
    """What decides about a new token.

    Args:
        processors: Callables (logits, ids, step) -> logits, in order.
        sampled: Whether to sample, rather than take the most probable token.
        seeds, samples: Int32 (B,), see `noise.gumbel`; unused if not sampled.
        eos_ids: Int32 (E,), the tokens that end a row; may be empty.
        pad_id: Int scalar, what an ended row goes on with.
    """

    processors: Any
    sampled: bool
    seeds: Any
    samples: Any
    eos_ids: Any
    pad_id: Any


def prefill(decode, caches, prompt_ids, prompt_mask, n_slots):
    """Runs the prompts and returns the scores of the first new token.

    Args:
        decode: See the module.
        caches: Empty caches of `n_slots` slots.
        prompt_ids, prompt_mask: Int32 (B, P), padded on the left.
        n_slots: S.

    Returns:
        `(logits, state)`: float32 (B, V), and the `State` at step 0.
    """
    batch_size, n_prompt = prompt_ids.shape
    rest = (batch_size, n_slots - n_prompt)
    slot_mask = ops.concatenate([prompt_mask, ops.ones(rest, "int32")], axis=1)
    positions = ops.maximum(ops.cumsum(prompt_mask, axis=1) - 1, 0)
    logits, caches = decode(
        prompt_ids,
        caches,
        index=0,
        position_ids=positions,
        attention_mask=slot_mask,
        last_only=True,
    )
    known = ops.where(ops.cast(prompt_mask, "bool"), prompt_ids, EMPTY)
    state = State(
        ids=ops.concatenate([known, ops.full(rest, EMPTY, "int32")], axis=1),
        slot_mask=slot_mask,
        n_prompt=ops.convert_to_tensor(n_prompt, "int32"),
        lengths=ops.sum(prompt_mask, axis=1),
        caches=caches,
        finished=ops.zeros((batch_size,), "bool"),
        step=ops.convert_to_tensor(0, "int32"),
        records={},
    )
    return logits[:, 0], state


def choose(logits, state, rules):
    """Chooses each row's next token and returns the `State` one step on."""
    step = state.step
    scores = logits
    for processor in rules.processors:
        scores = processor(scores, state.ids, step)
    perturbed = scores
    if rules.sampled:
        noise = gumbel(rules.seeds, rules.samples, step, scores.shape[-1])
        perturbed = scores + noise
    tokens = ops.cast(ops.argmax(perturbed, axis=-1), "int32")
    tokens = ops.where(state.finished, rules.pad_id, tokens)
    is_end = ops.any(tokens[:, None] == rules.eos_ids[None], axis=1)
    newest = {"scores": scores, "logits": logits}
    return state._replace(
        ids=_put(state.ids, tokens, state.n_prompt + step),
        finished=state.finished | is_end,
        step=step + 1,
        records={
            name: _put(kept, newest[name], step) for name, kept in state.records.items()
        },
    )


def advance(decode, state, rules, until):
    """Makes tokens until there are `until` of them or every row has ended.

    Args:
        decode: See the module.
        state: `State` with at least one new token.
        rules: `Rules`.
        until: Int scalar.

    Returns:
        `State`.
    """

    def is_unfinished(state):
        return (state.step < until) & ~ops.all(state.finished)

    def add_token(state):
        slot = state.n_prompt + state.step - 1  # of the newest token
        newest = ops.take(state.ids, ops.reshape(slot, (1,)), axis=1)  # (B, 1)
        logits, caches = decode(
            newest,
            state.caches,
            index=slot,
            position_ids=(state.lengths + state.step - 1)[:, None],
            attention_mask=state.slot_mask,
            last_only=True,
        )
        return choose(logits[:, 0], state._replace(caches=caches), rules)

    return ops.while_loop(
        lambda *state: is_unfinished(State(*state)),
        lambda *state: tuple(add_token(State(*state))),
        tuple(state),
    )


def _put(kept, new, index):
    """Returns `kept` (B, S, ...) with `new` (B, ...) at column `index`."""
    columns = ops.reshape(
        ops.arange(kept.shape[1]), (-1,) + (1,) * (len(new.shape) - 1)
    )
    return ops.where(columns == index, ops.expand_dims(new, 1), kept)
