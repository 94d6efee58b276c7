"""Greedy decoding and sampling in which every row has options of its own.

A server joins the requests of many people to one batch: each row ends at its
own number of tokens or its own end token, and is sampled by its own numbers, or
not at all. A row gets the tokens that `generate` gives it alone.
"""

import dataclasses

from keras import ops

from tf_gpt.generation.config import GenerationConfig
from tf_gpt.generation.loop import Plain, Rules, add, draw, likeliest
from tf_gpt.generation.processors import (
    ALL_TOKENS,
    Temperature,
    TopK,
    TopP,
    with_numbers,
)


@dataclasses.dataclass(frozen=True)
class ByRow(Plain):
    """`Plain` with `Rules` from `rules_by_row`."""

    sampled: bool = True

    def choose(self, logits, state, rules):
        """Chooses each row's next token and returns the state one step on."""
        best = likeliest(logits)

        def drawn():
            scores = logits
            for processor in rules.processors:
                scores = processor(scores, state.ids, state.step)
            return draw(scores, state.step, rules)

        # The noise of a whole vocabulary is not made for greedy rows alone.
        is_drawn = rules.sampled_rows & ~state.finished
        tokens = ops.cond(ops.any(is_drawn), drawn, lambda: best)
        tokens = ops.where(rules.sampled_rows, tokens, best)
        tokens = ops.where(state.finished, rules.pad_id, tokens)
        state = add(state, tokens, {}, rules)
        return state._replace(finished=state.finished | (state.step >= rules.n_new))


def rules_by_row(
    *, max_new_tokens, temperature, top_k, top_p, seed, eos_token_id, pad_id
):
    """Returns the `Rules` of a batch for `ByRow`.

    Args:
        max_new_tokens: Int32 (B,), at least 1.
        temperature: Float32 (B,); 0 takes the most probable token, and then the
            next three count for nothing.
        top_k: Int32 (B,); 0 keeps every token.
        top_p: Float32 (B,), in (0, 1].
        seed: Int32 (B,).
        eos_token_id: Int32 (B,); -1 for none.
        pad_id: Int scalar, what an ended row goes on with.
    """
    sampled = temperature > 0.0
    numbers = {
        Temperature: {"temperature": ops.where(sampled, temperature, 1.0)[:, None]},
        TopK: {"k": ops.where(top_k > 0, top_k, ALL_TOKENS)[:, None]},
        TopP: {"p": top_p[:, None]},
    }
    # Those of `generate`, in its order.
    processors = GenerationConfig(do_sample=True).processors(n_new=1)
    return Rules(
        processors=[with_numbers(p, numbers[type(p)]) for p in processors],
        seeds=seed,
        samples=ops.zeros_like(seed),
        eos_ids=eos_token_id[:, None],
        pad_id=pad_id,
        n_new=max_new_tokens,
        length_penalty=1.0,
        diversity_penalty=0.0,
        penalty_alpha=0.0,
        guidance_scale=1.0,
        sampled_rows=sampled,
    )


def row_ends(ids, n_prompt, step, rules):
    """Returns the number of new tokens of each row, its end token with them.

    Args:
        ids: Int32 (B, S), of a finished state.
        n_prompt: Int scalar, slots of the prompt.
        step: Int scalar, the state's number of new tokens.
        rules: From `rules_by_row`.

    Returns:
        Int32 (B,).
    """
    place = ops.arange(ops.shape(ids)[1]) - n_prompt  # (S,)
    is_end = (ids == rules.eos_ids) & (place >= 0) & (place < step)
    ends = ops.min(ops.where(is_end, place + 1, step), axis=1)
    return ops.minimum(ends, rules.n_new)
