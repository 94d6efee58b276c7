"""`generate`: checks a call, pads it to a bucket, and runs a compiled strategy."""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_gpt.generation import loop
from tf_gpt.generation.processors import numbers_of, with_numbers
from tf_gpt.outputs import ModelOutput

# Prompts are padded to one of these lengths, and the slots for prompt and
# continuation are counted in these steps, so that most calls find a function
# that is compiled already.
PROMPT_BUCKETS = (32, 64, 128, 192, 256, 384, 512)
SLOT_BUCKETS = (64, 128, 192, 256, 384, 512, 768, 1024)

# Tokens between two looks at the text while streaming.
STREAMED_TOKENS = 4


class GenerateOutput(ModelOutput):
    """Output of `generate` with `return_dict_in_generate=True`.

    Entries:
        sequences: Int32 (B, T + N), prompt and N new tokens.
        scores: A tuple of N float32 (B, V), after the processors, if asked for.
        logits: The same before the processors, if asked for.
    """

    sequences: object
    scores: object
    logits: object


@dataclasses.dataclass
class Decoder:
    """What generation knows of a model.

    Args:
        decode: See `loop`.
        make_caches: (batch size, slots) -> empty caches.
        n_positions: The longest sequence.
        vocab_size: V.
        compiled: Dict that keeps the functions compiled for this model.
    """

    decode: Callable
    make_caches: Callable
    n_positions: int
    vocab_size: int
    compiled: dict


def generate(
    decoder,
    config,
    input_ids=None,
    attention_mask=None,
    *,
    processors=(),
    streamer=None,
    jit_compile=True,
):
    """Continues prompts.

    Args:
        decoder: `Decoder`.
        config: `GenerationConfig`.
        input_ids: Int (B, T), or None or (B, 0) to start from `bos_token_id`.
        attention_mask: (B, T) of 1 and 0; padding may stand on either side.
        processors: Further logits processors, called after the config's.
        streamer: Object whose `put` takes the new ids, (n,) NumPy, as they are
            made, and whose `end` is called at the end. One prompt only.
        jit_compile: Whether XLA compiles the loop; the ids are the same.

    Returns:
        Int32 tensor (B, T + N): the prompt as it came and N new tokens, filled
        up after the end of a row; or a `GenerateOutput`.

    Raises:
        ValueError: Before anything is compiled, if the prompt or the options
            cannot be served.
    """
    prompt, mask = _check_prompt(decoder, config, input_ids, attention_mask)
    n_new = _check_length(decoder, config, mask)
    if streamer is not None and len(prompt) * config.num_return_sequences != 1:
        raise ValueError(
            "A streamer takes one sequence. Received: "
            f"{len(prompt)} prompts x {config.num_return_sequences} sequences."
        )
    processors = [*config.processors(), *processors]
    eos_ids = config.eos_token_ids
    pad_id = config.pad_token_id
    if pad_id is None:
        pad_id = eos_ids[0] if eos_ids else 0
    for name, token_ids in (("eos_token_id", eos_ids), ("pad_token_id", [pad_id])):
        if any(token_id >= decoder.vocab_size for token_id in token_ids):
            raise ValueError(
                f"`{name}` must be below the vocabulary size {decoder.vocab_size}. "
                f"Received: {getattr(config, name)}."
            )
    seeds, samples = _seeds(config, len(prompt))
    prompt, mask = (
        np.repeat(a, config.num_return_sequences, axis=0) for a in (prompt, mask)
    )
    n_prompt = bucket(int(mask.sum(axis=1).max()), PROMPT_BUCKETS)
    n_slots = bucket(n_prompt + n_new, SLOT_BUCKETS)
    plan = _Plan(
        n_slots=n_slots,
        processors=tuple(processors),
        sampled=config.do_sample,
        records=tuple(
            name
            for name in ("scores", "logits")
            if config.return_dict_in_generate and getattr(config, f"output_{name}")
        ),
    )
    ids, mask = push_right(prompt, mask, n_prompt)
    arguments = {
        "prompt_ids": ops.convert_to_tensor(ids, "int32"),
        "prompt_mask": ops.convert_to_tensor(mask, "int32"),
        "until": ops.convert_to_tensor(n_new, "int32"),
    }
    numbers = {
        "processors": [
            {n: ops.convert_to_tensor(v) for n, v in numbers_of(p).items()}
            for p in processors
        ],
        "seeds": ops.convert_to_tensor(seeds, "int32"),
        "samples": ops.convert_to_tensor(samples, "int32"),
        "eos_ids": ops.convert_to_tensor(np.array(eos_ids, "int32")),
        "pad_id": ops.convert_to_tensor(pad_id, "int32"),
    }
    if streamer is None:
        run = _compiled(decoder, plan, "run", jit_compile)
        state = run(**arguments, numbers=numbers)
    else:
        state = _stream(decoder, plan, arguments, numbers, streamer, n_new, jit_compile)
    return _output(config, plan, state, prompt, n_prompt, pad_id)


def bucket(size, buckets):
    """Returns the smallest bucket that holds `size`, or a multiple of the last."""
    for limit in buckets:
        if size <= limit:
            return limit
    return -(-size // buckets[-1]) * buckets[-1]


def push_right(ids, mask, width):
    """Moves each row's tokens, in order, to the right end of `width` columns.

    Args:
        ids, mask: Int (B, T), with at most `width` tokens a row.
        width: P.

    Returns:
        `(ids, mask)`, int32 (B, P): zeros, then the tokens where mask was 1.
    """
    pushed = np.zeros((2, len(ids), width), "int32")
    for row, (row_ids, row_mask) in enumerate(zip(ids, mask, strict=True)):
        kept = row_ids[row_mask == 1]
        if kept.size:
            pushed[0, row, -kept.size :] = kept
            pushed[1, row, -kept.size :] = 1
    return pushed[0], pushed[1]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What decides which function is compiled. Numbers are not among it."""

    n_slots: int
    processors: tuple
    sampled: bool
    records: tuple

    def key(self):
        """Processors of one kind share a function: their numbers are tensors."""
        kinds = tuple(
            (type(p), tuple(numbers_of(p))) if numbers_of(p) else p
            for p in self.processors
        )
        return self.n_slots, kinds, self.sampled, self.records

    def rules(self, numbers):
        """Returns the loop's `Rules`, on tensors."""
        processors = [
            with_numbers(processor, values) if values else processor
            for processor, values in zip(
                self.processors, numbers["processors"], strict=True
            )
        ]
        rest = {k: v for k, v in numbers.items() if k != "processors"}
        return loop.Rules(processors=processors, sampled=self.sampled, **rest)


def _functions(decoder, plan):
    """Returns the functions of a plan: all at once, or begun and continued."""

    def start(prompt_ids, prompt_mask, until, numbers):
        batch_size = prompt_ids.shape[0]
        caches = decoder.make_caches(batch_size, plan.n_slots)
        logits, state = loop.prefill(
            decoder.decode, caches, prompt_ids, prompt_mask, plan.n_slots
        )
        n_kept = plan.n_slots - prompt_ids.shape[1]
        records = {
            name: ops.zeros((batch_size, n_kept, decoder.vocab_size), "float32")
            for name in plan.records
        }
        return loop.choose(logits, state._replace(records=records), plan.rules(numbers))

    def resume(state, until, numbers):
        rules = plan.rules(numbers)
        return loop.State(*loop.advance(decoder.decode, state, rules, until))

    def run(prompt_ids, prompt_mask, until, numbers):
        state = start(prompt_ids, prompt_mask, until, numbers)
        state = resume(state, until, numbers)
        return state._replace(caches=())  # of no use to the caller

    return {"start": start, "resume": resume, "run": run}


def _compiled(decoder, plan, name, jit_compile):
    key = (name, plan.key(), jit_compile)
    if key not in decoder.compiled:
        function = _functions(decoder, plan)[name]
        decoder.compiled[key] = compile_function(function, jit_compile)
    return decoder.compiled[key]


def compile_function(function, jit_compile):
    """Compiles a function of tensors for Keras's backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=jit_compile, autograph=False)
    if backend == "jax" and jit_compile:
        import jax

        return jax.jit(function)
    return function


def count_traces(compiled):
    """Returns how often TensorFlow has traced the functions of a `Decoder`."""
    return sum(f.experimental_get_tracing_count() for f in compiled.values())


def _stream(decoder, plan, arguments, numbers, streamer, n_new, jit_compile):
    state = _compiled(decoder, plan, "start", jit_compile)(**arguments, numbers=numbers)
    resume = _compiled(decoder, plan, "resume", jit_compile)
    n_prompt = arguments["prompt_ids"].shape[1]
    told = 0
    while True:
        step = int(state.step)
        ids = ops.convert_to_numpy(state.ids)[0, n_prompt + told : n_prompt + step]
        streamer.put(ids)
        told = step
        if step >= n_new or bool(ops.convert_to_numpy(state.finished).all()):
            streamer.end()
            return state
        until = ops.convert_to_tensor(min(step + STREAMED_TOKENS, n_new), "int32")
        state = resume(state=state, until=until, numbers=numbers)


def _output(config, plan, state, prompt, n_prompt, pad_id):
    n_new = int(state.step)
    new = state.ids[:, n_prompt : n_prompt + n_new]
    sequences = ops.concatenate([ops.convert_to_tensor(prompt, "int32"), new], axis=1)
    if not config.return_dict_in_generate:
        return sequences
    records = {
        name: tuple(state.records[name][:, i] for i in range(n_new))
        for name in plan.records
    }
    return GenerateOutput(sequences=sequences, **records)


def _check_prompt(decoder, config, input_ids, attention_mask):
    """Returns the prompts and their mask as NumPy (B, T), T at least 1."""
    ids = None if input_ids is None else _as_array("input_ids", input_ids)
    if ids is None or ids.shape[1] == 0:
        if config.bos_token_id is None:
            raise ValueError(
                "An empty prompt starts from `bos_token_id`, and there is none. "
                "Pass bos_token_id=, or a prompt."
            )
        batch_size = 1 if ids is None else len(ids)
        ids = np.full((batch_size, 1), config.bos_token_id, "int32")
        attention_mask = None
    if ids.size == 0:
        raise ValueError(f"`input_ids` must hold a prompt. Received: {ids.shape}.")
    mask = (
        np.ones_like(ids)
        if attention_mask is None
        else _as_array("attention_mask", attention_mask)
    )
    if mask.shape != ids.shape:
        raise ValueError(
            f"`attention_mask` must have the shape of `input_ids`, {ids.shape}. "
            f"Received: {mask.shape}."
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            "`attention_mask` must be of 1 and 0. "
            f"Received values from {mask.min()} to {mask.max()}."
        )
    empty = np.flatnonzero(mask.sum(axis=1) == 0)
    if empty.size:
        raise ValueError(
            "Every row must have a token that `attention_mask` keeps. "
            f"Received none in rows {empty.tolist()}."
        )
    kept = ids[mask == 1]
    if kept.min() < 0 or kept.max() >= decoder.vocab_size:
        raise ValueError(
            f"`input_ids` must be in [0, {decoder.vocab_size}). Received values from "
            f"{kept.min()} to {kept.max()}."
        )
    return ids.astype("int32"), mask.astype("int32")


def _as_array(name, value) -> Any:
    try:
        array = np.asarray(value)
    except Exception:  # a tensor that is not on the host, or a symbolic one
        array = ops.convert_to_numpy(value)
    if array.size == 0:
        array = array.astype("int32")
    if array.dtype == bool:
        array = array.astype("int32")
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be integers of shape (B, T). "
            f"Received: {array.dtype} {array.shape}."
        )
    return array


def _check_length(decoder, config, mask):
    """Returns the number of tokens to add."""
    longest = int(mask.sum(axis=1).max())
    if longest > decoder.n_positions:
        raise ValueError(
            f"A prompt may have at most n_positions={decoder.n_positions} tokens. "
            f"Received: {longest}."
        )
    n_new = config.max_new_tokens
    if n_new is None:
        n_new = config.max_length - mask.shape[1]
        if n_new < 1:
            raise ValueError(
                "`max_length` counts the prompt and must leave room after it; or "
                f"pass max_new_tokens. Received: max_length={config.max_length}, a "
                f"prompt of {mask.shape[1]} tokens."
            )
    if longest + n_new > decoder.n_positions:
        raise ValueError(
            "Prompt and new tokens must fit into "
            f"n_positions={decoder.n_positions}. Received: a prompt of {longest} "
            f"tokens and {n_new} new ones."
        )
    return n_new


def _seeds(config, n_prompts):
    """Returns `(seeds, samples)`, one of each for every returned row."""
    seed = config.seed
    if seed is None:
        seed = secrets.randbelow(2**31)
    if not isinstance(seed, (list, tuple)):
        seed = [seed] * n_prompts
    if len(seed) != n_prompts:
        raise ValueError(
            f"`seed` must be one integer or one a prompt, {n_prompts}. "
            f"Received: {len(seed)}."
        )
    n_samples = config.num_return_sequences
    return (
        np.repeat(np.array(seed, "int32"), n_samples),
        np.tile(np.arange(n_samples, dtype="int32"), n_prompts),
    )
