"""`generate`: checks a call, pads it to a bucket, and runs a compiled strategy."""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from tf_gpt.generation import prompts
from tf_gpt.generation.beam import BeamSearch
from tf_gpt.generation.contrastive import Contrastive
from tf_gpt.generation.loop import Plain, Prompt, Rules
from tf_gpt.generation.processors import kind_of, numbers_of, with_numbers
from tf_gpt.generation.speculative import Assistant, Lookup, Speculative
from tf_gpt.generation.stopping import StopOnText, Stopping
from tf_gpt.generation.token_rules import PrefixAllowed
from tf_gpt.outputs import ModelOutput

# Prompts are padded to one of these lengths, and the slots for prompt and
# continuation are counted in these steps, so that most calls find a function
# that is compiled already.
PROMPT_BUCKETS = (32, 64, 128, 192, 256, 384, 512)
SLOT_BUCKETS = (64, 128, 192, 256, 384, 512, 768, 1024)

# Tokens between two looks at the text, while streaming or stopping on texts.
CHUNK = 4


class GenerateOutput(ModelOutput):
    """Output of `generate` with `return_dict_in_generate=True`.

    Entries:
        sequences: Int32 (B, T + N), prompt and N new tokens.
        scores: A tuple of N float32 (B, V), after the processors, if asked for;
            (B x K, V) with K beams, whose scores are log-probabilities.
        logits: The same before the processors, if asked for.
        sequences_scores: Float32 (B,), of beams: the log-probability of the new
            tokens, with the length penalty.
        beam_indices: Int32 (B, N), of beams: the row of `scores` that each new
            token was chosen from, -1 beyond the end.
        attentions: A tuple of N tuples, one entry a layer, if asked for: what
            the prompt's tokens read, (B, H, T, T), and then what each new token
            but the last reads, (B, H, 1, T + n).
        hidden_states: The same of the hidden states, (B, T, C) and (B, 1, C);
            the embeddings come first.
    """

    sequences: object
    scores: object
    logits: object
    sequences_scores: object
    beam_indices: object
    attentions: object
    hidden_states: object


@dataclasses.dataclass(eq=False)
class Decoder:
    """What generation knows of a model.

    Args:
        decode: See `loop`. With `with_hidden=True` it returns also the hidden
            states, (B, T, C); `inputs_embeds` may stand in for the tokens.
        make_caches: (batch size, slots) -> empty caches.
        inspect: (token_ids, attention_mask) -> an output with `attentions` and
            `hidden_states`, of every layer.
        n_positions: The longest sequence.
        vocab_size: V.
        n_embd: C.
        compiled: Dict that keeps the functions compiled for this model.
    """

    decode: Callable
    make_caches: Callable
    inspect: Callable
    n_positions: int
    vocab_size: int
    n_embd: int
    compiled: dict


def generate(
    decoder,
    config,
    input_ids=None,
    attention_mask=None,
    *,
    inputs_embeds=None,
    negative_prompt_ids=None,
    negative_prompt_attention_mask=None,
    processors=(),
    prefix_allowed_tokens_fn=None,
    stopping_criteria=(),
    tokenizer=None,
    assistant=None,
    streamer=None,
    jit_compile=True,
):
    """Continues prompts; `OpenAIGPTLMHeadModel.generate` describes the arguments.

    Args:
        decoder: `Decoder`.
        config: `GenerationConfig`.
        assistant: `Decoder` of the assistant model.
    """
    batch = prompts.check(
        decoder,
        input_ids,
        attention_mask,
        inputs_embeds=inputs_embeds,
        bos_token_id=config.bos_token_id,
    )
    for name in ("output_attentions", "output_hidden_states", "min_length"):
        if inputs_embeds is not None and getattr(config, name):
            raise ValueError(f"`{name}` needs `input_ids`. Received: inputs_embeds.")
    n_new = prompts.check_length(decoder, config, batch)
    pad_id = _check_tokens(decoder, config)
    strategy = _strategy(decoder, config, assistant)
    n_rows = 1 if config.num_beams > 1 else config.num_return_sequences
    if prefix_allowed_tokens_fn is not None:
        per_prompt = max(config.num_beams, n_rows)
        allowed = PrefixAllowed(prefix_allowed_tokens_fn, per_prompt)
        processors = [allowed, *processors]
    processors = config.processors(n_new=n_new, custom=processors)
    if any(getattr(processor, "needs_python", False) for processor in processors):
        jit_compile = False
    stopping = _stopping(config, stopping_criteria, tokenizer, pad_id)
    _check_watched(config, batch, streamer, stopping)
    seeds, samples = _seeds(config, len(batch.ids))
    batch = batch.repeated(n_rows)
    negative = _negative(
        decoder,
        config,
        batch,
        negative_prompt_ids,
        negative_prompt_attention_mask,
        n_rows,
    )

    parts = [batch] if negative is None else [batch, negative]
    n_prompt = bucket(max(part.longest for part in parts), PROMPT_BUCKETS)
    n_slots = bucket(n_prompt + n_new + strategy.n_extra_slots, SLOT_BUCKETS)
    plan = _Plan(strategy, n_slots, tuple(processors), _records(config))
    prompt = _padded(parts, n_prompt)
    numbers = {
        "processors": [
            {n: ops.convert_to_tensor(v) for n, v in numbers_of(p).items()}
            for p in processors
        ],
        "rules": {
            name: ops.convert_to_tensor(value)
            for name, value in (
                ("seeds", seeds),
                ("samples", samples),
                ("eos_ids", np.array(config.eos_token_ids, "int32")),
                ("pad_id", np.int32(pad_id)),
                ("n_new", np.int32(n_new)),
                ("length_penalty", np.float32(config.length_penalty)),
                ("diversity_penalty", np.float32(config.diversity_penalty)),
                ("penalty_alpha", np.float32(config.penalty_alpha or 0.0)),
                ("guidance_scale", np.float32(config.guidance_scale or 1.0)),
            )
        },
    }
    if streamer is None and not stopping:
        until = ops.convert_to_tensor(np.int32(n_new))
        run = _compiled(decoder, plan, "run", jit_compile)
        state = run(prompt=prompt, numbers=numbers, until=until)
    else:
        state = _watched(
            decoder, plan, prompt, numbers, n_new, streamer, stopping, jit_compile
        )
    return _output(decoder, config, plan, state, batch, n_prompt, pad_id)


def bucket(size, buckets):
    """Returns the smallest bucket that holds `size`, or a multiple of the last."""
    for limit in buckets:
        if size <= limit:
            return limit
    return -(-size // buckets[-1]) * buckets[-1]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What decides which function is compiled. Numbers are not among it."""

    strategy: Any
    n_slots: int
    processors: tuple
    records: tuple

    def key(self):
        """Processors of one kind share a function: their numbers are tensors."""
        kinds = tuple(kind_of(processor) for processor in self.processors)
        return self.strategy, self.n_slots, kinds, self.records

    def rules(self, numbers):
        """Returns the loop's `Rules`, on tensors."""
        processors = [
            with_numbers(processor, values) if values else processor
            for processor, values in zip(
                self.processors, numbers["processors"], strict=True
            )
        ]
        return Rules(processors=processors, **numbers["rules"])


def _functions(decoder, plan):
    """Returns the functions of a plan: all at once, or begun and continued."""
    strategy = plan.strategy

    def start(prompt, numbers, until):
        rules = plan.rules(numbers)
        return strategy.start(decoder, prompt, plan.n_slots, rules, plan.records)

    def resume(state, numbers, until):
        return strategy.resume(decoder, state, plan.rules(numbers), until)

    def run(prompt, numbers, until):
        state = start(prompt, numbers, until)
        state = resume(state, numbers, until)
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


def _strategy(decoder, config, assistant):
    """Returns the strategy that the options ask for."""
    guided = config.guidance_scale not in (None, 1, 1.0)
    if assistant is not None:
        for name, is_set in (
            ("num_beams", config.num_beams > 1),
            ("penalty_alpha", config.penalty_alpha is not None),
            ("prompt_lookup_num_tokens", config.prompt_lookup_num_tokens is not None),
            ("guidance_scale", guided),
        ):
            if is_set:
                raise ValueError(
                    f"`assistant_model` and `{name}` cannot be combined. Received: "
                    f"{name}={getattr(config, name)!r}."
                )
        if assistant.vocab_size != decoder.vocab_size:
            raise ValueError(
                "`assistant_model` must have this model's vocabulary, "
                f"{decoder.vocab_size} tokens. Received: {assistant.vocab_size}."
            )
        if assistant.n_positions < decoder.n_positions:
            raise ValueError(
                "`assistant_model` must have at least this model's positions, "
                f"{decoder.n_positions}. Received: {assistant.n_positions}."
            )
        drafter = Assistant(assistant, config.num_assistant_tokens)
        return Speculative(config.do_sample, drafter)
    if config.num_beams > 1:
        return BeamSearch(
            config.num_beams,
            config.num_beam_groups,
            config.early_stopping,
            config.do_sample,
        )
    if config.penalty_alpha is not None:
        return Contrastive(min(config.top_k, decoder.vocab_size))
    if config.prompt_lookup_num_tokens is not None:
        size = config.max_matching_ngram_size or 2
        return Speculative(
            config.do_sample, Lookup(config.prompt_lookup_num_tokens, size)
        )
    return Plain(config.do_sample, guided)


def _check_tokens(decoder, config):
    """Checks the options' tokens against the vocabulary; returns the padding's."""
    pad_id = config.pad_token_id
    if pad_id is None:
        pad_id = config.eos_token_ids[0] if config.eos_token_ids else 0
    for name, token_ids in config.tokens().items():
        if any(token_id >= decoder.vocab_size for token_id in token_ids):
            raise ValueError(
                f"`{name}` must be below the vocabulary size {decoder.vocab_size}. "
                f"Received: {getattr(config, name)}."
            )
    return pad_id


def _stopping(config, criteria, tokenizer, pad_id):
    criteria = list(criteria)
    if config.stop_texts:
        if tokenizer is None:
            raise ValueError(
                "`stop_strings` needs `tokenizer`, which turns ids into text. "
                "Received: tokenizer=None."
            )
        criteria.append(StopOnText(tokenizer, config.stop_texts))
    return Stopping(criteria, config.max_time, config.eos_token_ids, pad_id)


def _check_watched(config, batch, streamer, stopping):
    n_prompts, n_beams = len(batch.ids), config.num_beams
    if streamer is not None and n_prompts * config.num_return_sequences * n_beams != 1:
        raise ValueError(
            "A streamer takes one sequence. Received: "
            f"{n_prompts} prompts x {config.num_return_sequences} sequences, "
            f"num_beams={n_beams}."
        )
    if stopping and n_beams > 1:
        raise ValueError(
            "`stopping_criteria` and beams cannot be combined. "
            f"Received: num_beams={n_beams}."
        )


def _negative(decoder, config, batch, ids, mask, n_rows):
    """Returns the negative prompts as a `Batch`, None without guidance."""
    if config.guidance_scale in (None, 1, 1.0):
        if ids is not None or mask is not None:
            raise ValueError(
                "`negative_prompt_ids` has no effect without `guidance_scale` above 1. "
                f"Received: guidance_scale={config.guidance_scale}."
            )
        return None
    if batch.embeds is not None:
        raise ValueError("`guidance_scale` and `inputs_embeds` cannot be combined.")
    if ids is None:  # each prompt's last token
        last = [
            row[kept == 1][-1:] for row, kept in zip(batch.ids, batch.mask, strict=True)
        ]
        return prompts.check(decoder, np.stack(last))
    negative = prompts.check(decoder, ids, mask, name="negative_prompt_ids")
    if len(negative.ids) * n_rows != len(batch.ids):
        raise ValueError(
            "`negative_prompt_ids` must have a row for each prompt, "
            f"{len(batch.ids) // n_rows}. Received: {len(negative.ids)}."
        )
    prompts.check_length(decoder, config, negative)
    return negative.repeated(n_rows)


def _records(config):
    if not config.return_dict_in_generate:
        return ()
    return tuple(n for n in ("scores", "logits") if getattr(config, f"output_{n}"))


def _padded(parts, width):
    """Returns the `Prompt` of one or two batches, on tensors."""
    ids, mask, embeds = [], [], ()
    for part in parts:
        ids.append(prompts.push_right(part.ids, part.mask, width))
        mask.append(prompts.push_right(part.mask, part.mask, width))
        if part.embeds is not None:
            embeds = prompts.push_right(part.embeds, part.mask, width)
            embeds = ops.convert_to_tensor(embeds, "float32")
    return Prompt(
        ids=ops.convert_to_tensor(np.concatenate(ids), "int32"),
        mask=ops.convert_to_tensor(np.concatenate(mask), "int32"),
        embeds=embeds,
    )


def _seeds(config, n_prompts):
    """Returns `(seeds, samples)`, one of each for every row."""
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
    n_samples = 1 if config.num_beams > 1 else config.num_return_sequences
    return (
        np.repeat(np.array(seed, "int32"), n_samples),
        np.tile(np.arange(n_samples, dtype="int32"), n_prompts),
    )


def _watched(decoder, plan, prompt, numbers, n_new, streamer, stopping, jit_compile):
    """Runs the loop in chunks, and looks at the tokens between them."""
    until = ops.convert_to_tensor(np.int32(1))
    start = _compiled(decoder, plan, "start", jit_compile)
    resume = _compiled(decoder, plan, "resume", jit_compile)
    state = start(prompt=prompt, numbers=numbers, until=until)
    n_prompt = prompt.mask.shape[1]
    told = 0
    while True:
        step = int(state.step)
        finished = bool(ops.convert_to_numpy(state.finished).all())
        if stopping:
            n_rows = numbers["rules"]["seeds"].shape[0]
            state, step, finished = _stopped(stopping, state, n_rows, n_prompt, step)
        if streamer is not None:
            ids = ops.convert_to_numpy(state.ids)[0, n_prompt + told : n_prompt + step]
            streamer.put(ids)
            told = step
        if step >= n_new or finished or stopping.is_late():
            if streamer is not None:
                streamer.end()
            return state
        until = ops.convert_to_tensor(np.int32(min(step + CHUNK, n_new)))
        state = resume(state=state, numbers=numbers, until=until)


def _stopped(stopping, state, n_rows, n_prompt, step):
    """Returns `(state, step, finished)` after the criteria have been asked."""
    # Writable copies. With guidance the second half repeats the new tokens.
    ids = np.array(ops.convert_to_numpy(state.ids))
    finished = np.array(ops.convert_to_numpy(state.finished))
    ended, step = stopping.cut(ids[:n_rows], n_prompt, step)
    finished[ended] = True
    ids[n_rows:, n_prompt:] = ids[: len(ids) - n_rows, n_prompt:]
    finished[n_rows:] = finished[: len(ids) - n_rows]
    state = state._replace(
        ids=ops.convert_to_tensor(ids),
        finished=ops.convert_to_tensor(finished),
        step=ops.convert_to_tensor(np.int32(step)),
    )
    return state, step, bool(finished.all())


def _output(decoder, config, plan, state, batch, n_prompt, pad_id):
    answer = plan.strategy.answer(state)
    n_new = int(state.step)
    entries = {}
    if config.num_beams > 1:
        n_kept = config.num_return_sequences
        answer = {n: v[:, :n_kept].reshape(-1, *v.shape[2:]) for n, v in answer.items()}
        batch = batch.repeated(n_kept)
        n_new = int((answer["beam_indices"] >= 0).sum(axis=1).max())
        entries["sequences_scores"] = ops.convert_to_tensor(answer["sequences_scores"])
        entries["beam_indices"] = ops.convert_to_tensor(
            answer["beam_indices"][:, :n_new]
        )
    new = answer["ids"][:, n_prompt : n_prompt + n_new]
    new = np.where(new < 0, pad_id, new)
    sequences = new
    if batch.embeds is None:
        sequences = np.concatenate([batch.ids, new], axis=1)
    entries["sequences"] = ops.convert_to_tensor(sequences, "int32")
    if not config.return_dict_in_generate:
        return entries["sequences"]
    n_rows = len(new) if config.num_beams == 1 else None
    for name in plan.records:
        kept = state.records[name][:n_rows]
        entries[name] = tuple(kept[:, i] for i in range(int(state.step)))
    if config.output_attentions or config.output_hidden_states:
        entries.update(_inspected(decoder, config, batch, new))
    return GenerateOutput(entries)


def _inspected(decoder, config, batch, new):
    """Returns the attentions and hidden states of each step, as asked for.

    A causal model's are those of one pass over the whole sequence.
    """
    n_prompt, n_new = batch.ids.shape[1], new.shape[1]
    ids = np.concatenate([batch.ids, new[:, :-1]], axis=1)
    mask = np.concatenate([batch.mask, np.ones_like(new[:, :-1])], axis=1)
    out = decoder.inspect(ops.convert_to_tensor(ids), ops.convert_to_tensor(mask))
    ends = [n_prompt + i for i in range(n_new)]
    entries = {}
    if config.output_attentions:
        entries["attentions"] = tuple(
            tuple(x[:, :, end - 1 if i else 0 : end, :end] for x in out.attentions)
            for i, end in enumerate(ends)
        )
    if config.output_hidden_states:
        entries["hidden_states"] = tuple(
            tuple(x[:, end - 1 if i else 0 : end] for x in out.hidden_states)
            for i, end in enumerate(ends)
        )
    return entries
