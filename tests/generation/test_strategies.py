"""Each strategy: padded, batched, single, compiled or not, the ids are the same."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from test_generate import PROMPTS, padded

from tf_gpt.generation.generate import generate

STRATEGIES = {
    "beams": {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": [3, 20]},
    "sampled beams": {"num_beams": 3, "do_sample": True, "seed": 5, "top_k": 0},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.8},
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4, "eos_token_id": 20},
    "lookup": {"prompt_lookup_num_tokens": 4, "eos_token_id": 26},
    "sampled lookup": {
        "prompt_lookup_num_tokens": 3,
        "do_sample": True,
        "seed": 5,
        "temperature": 0.4,
    },
    "guided": {"guidance_scale": 1.5},
    "assisted": {"assistant_model": True, "num_assistant_tokens": 3},
    "sampled assisted": {
        "assistant_model": True,
        "num_assistant_tokens": 3,
        "do_sample": True,
        "seed": 5,
    },
    "sampling": {"do_sample": True, "seed": 5, "top_p": 0.8, "temperature": 0.7},
}
# Each takes an XLA compilation: the plain run has one of each file.
QUICK = ("beams", "contrastive", "lookup", "guided")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            options,
            id=name,
            marks=[pytest.mark.slow] if name not in QUICK else [],
        )
        for name, options in STRATEGIES.items()
    ],
)
def test_rows_get_what_they_get_alone_compiled_or_not(model, other_model, options):
    options = {"max_new_tokens": 10, "pad_token_id": 0, **options}
    if "assistant_model" in options:
        options["assistant_model"] = other_model
    width = padded("left")["input_ids"].shape[1]
    runs = [
        model.generate(padded(side), jit_compile=jit, **options).numpy()[:, width:]
        for side, jit in (("left", False), ("right", True))
    ]
    np.testing.assert_array_equal(*runs)
    n_rows = len(runs[0]) // len(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        alone = model.generate(np.array([prompt]), jit_compile=False, **options)
        alone = alone.numpy()[:, len(prompt) :]
        together = runs[0][i * n_rows : (i + 1) * n_rows]
        np.testing.assert_array_equal(together[:, : alone.shape[1]], alone)
        assert not together[:, alone.shape[1] :].any()


def beams_by_hand(next_scores, prompt, n_new, n_beams):
    """Beam search without end tokens: plain lists of (log-probability, ids)."""
    beams = [(0.0, list(prompt))]
    for _ in range(n_new):
        candidates = []
        for total, ids in beams:
            scores = next_scores(ids).astype("float64")
            log_probs = scores - np.log(np.exp(scores).sum())
            candidates += [(total + p, [*ids, t]) for t, p in enumerate(log_probs)]
        beams = sorted(candidates, key=lambda c: -c[0])[:n_beams]
    return beams


def test_beams_are_the_best_of_those_kept(model, next_scores):
    expected = beams_by_hand(next_scores, PROMPTS[0], 6, 3)
    out = model.generate(
        np.array([PROMPTS[0]]),
        max_new_tokens=6,
        num_beams=3,
        num_return_sequences=3,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
        jit_compile=False,
    )
    assert out.sequences.numpy().tolist() == [ids for _, ids in expected]
    np.testing.assert_allclose(
        out.sequences_scores, [total for total, _ in expected], atol=1e-4
    )
    chosen = model.compute_transition_scores(
        out.sequences, out.scores, out.beam_indices
    )
    np.testing.assert_allclose(chosen.sum(axis=1), out.sequences_scores, atol=1e-5)


@pytest.mark.parametrize(
    "sampling", [{}, {"do_sample": True, "temperature": 0.3, "seed": 8}], ids=str
)
@pytest.mark.parametrize("drafter", ["lookup", "itself", "another"])
def test_guesses_change_nothing(model, other_model, drafter, sampling):
    drafting = {
        "lookup": {"prompt_lookup_num_tokens": 5},
        "itself": {"assistant_model": model, "num_assistant_tokens": 3},
        "another": {"assistant_model": other_model, "num_assistant_tokens": 4},
    }[drafter]
    options = {
        "max_new_tokens": 30,
        "repetition_penalty": 1.1,
        "return_dict_in_generate": True,
        "output_scores": True,
        "jit_compile": False,
        **sampling,
    }
    batch = padded("left")
    plain = model.generate(batch, **options)
    guessed = model.generate(batch, **options, **drafting)
    np.testing.assert_array_equal(plain.sequences, guessed.sequences)
    assert len(plain.scores) == len(guessed.scores)
    for a, b in zip(plain.scores, guessed.scores, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_right_guesses_save_steps(model):
    """A model that assists itself is right always: four tokens in each step."""
    calls = []
    decode = model._decoder.decode

    def counted(*args, **kwargs):
        calls.append(1)
        return decode(*args, **kwargs)

    decoder = dataclasses.replace(model._decoder, decode=counted, compiled={})
    config = model.generation_config.updated(max_new_tokens=16, num_assistant_tokens=3)
    tf.config.run_functions_eagerly(True)
    try:
        prompt = np.array([PROMPTS[0]])
        generate(decoder, config, prompt, assistant=model._decoder, jit_compile=False)
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(calls) == 1 + 4  # the prompt makes the first token


def test_embeddings_in_place_of_ids_give_the_same_tokens(model):
    batch = padded("left")
    table = model.transformer.tokens_embed.embeddings.numpy()
    embeds = table[batch["input_ids"]]
    expected = model.generate(batch, max_new_tokens=8).numpy()[:, -8:]
    result = model.generate(
        inputs_embeds=embeds,
        attention_mask=batch["attention_mask"],
        max_new_tokens=8,
        jit_compile=False,
    )
    np.testing.assert_array_equal(result, expected)


def test_attentions_and_hidden_states_are_those_of_the_whole_sequence(model):
    batch = padded("left")
    out = model.generate(
        batch,
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    assert [x[0].shape for x in out.attentions] == [
        (3, 2, 7, 7),
        (3, 2, 1, 8),
        (3, 2, 1, 9),
    ]
    assert [len(x) for x in out.hidden_states] == [3, 3, 3]
    last = out.hidden_states[2][-1][:, 0]
    scores = model.transformer.logits(last)
    np.testing.assert_array_equal(
        np.argmax(scores, axis=-1), out.sequences.numpy()[:, -1]
    )


def test_a_custom_processor_and_allowed_prefixes_steer(model):
    def odd_only(logits, ids, step):
        return tf.where(tf.range(logits.shape[-1]) % 2 == 1, logits, -np.inf)

    prompt = np.array([PROMPTS[0]])
    options = {"max_new_tokens": 8}
    steered = model.generate(prompt, logits_processor=[odd_only], **options)
    assert (steered.numpy()[0, 3:] % 2 == 1).all()
    seen = []

    def allowed(index, ids):
        seen.append((index, ids.tolist()))
        return list(range(1, 53, 2))

    result = model.generate(prompt, prefix_allowed_tokens_fn=allowed, **options)
    np.testing.assert_array_equal(result, steered)
    assert seen[0] == (0, PROMPTS[0])
    assert seen[-1] == (0, steered.numpy()[0, :-1].tolist())
    beams = model.generate(
        prompt, prefix_allowed_tokens_fn=allowed, num_beams=2, **options
    )
    assert (beams.numpy()[0, 3:] % 2 == 1).all()


@pytest.fixture(scope="module")
def other_model():
    import keras

    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    keras.utils.set_random_seed(8)
    return OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(
            vocab_size=53,
            n_positions=96,
            n_embd=8,
            n_layer=1,
            n_head=1,
            initializer_range=0.4,
        )
    )


ONE = np.array([[1, 2, 3]])


@dataclasses.dataclass
class Mutable:
    number: float


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "num_return_sequences=3, num_beams=2",
        ),
        ({"num_beams": 4, "num_beam_groups": 3}, "num_beam_groups=3, num_beams=4"),
        (
            {"num_beams": 4, "num_beam_groups": 2},
            "num_beam_groups=2, diversity_penalty=0",
        ),
        ({"logits_processor": [Mutable(1.0)]}, r"frozen.*Mutable\(number=1.0\)"),
        ({"penalty_alpha": 0.6, "do_sample": True}, "`penalty_alpha` and `do_sample`"),
        ({"penalty_alpha": 0.6, "top_k": 1}, "`top_k` above 1.*top_k=1"),
        ({"penalty_alpha": 1.5}, "`penalty_alpha`.*1.5"),
        (
            {"num_beams": 2, "prompt_lookup_num_tokens": 3},
            "combined: num_beams, prompt_lookup_num_tokens",
        ),
        ({"num_beams": 2, "stop_strings": "a"}, "`num_beams` and `stop_strings`"),
        ({"early_stopping": "soon", "num_beams": 2}, "`early_stopping`.*'soon'"),
        ({"length_penalty": 2.0}, "`length_penalty` has no effect without num_beams"),
        ({"diversity_penalty": 2.0}, "`diversity_penalty` has no effect without"),
        ({"temperature": 0.5}, "`temperature` has no effect without do_sample=True"),
        ({"min_p": 0.5}, "`min_p` has no effect without do_sample=True"),
        ({"min_length": 5}, "`min_length` has no effect without `eos_token_id`"),
        ({"output_scores": True}, "`output_scores` has no effect without return_dict"),
        ({"bad_words_ids": [[]]}, r"`bad_words_ids`.*\[\[\]\]"),
        ({"bad_words_ids": []}, r"`bad_words_ids`.*\[\]"),
        ({"bad_words_ids": [[60]]}, "`bad_words_ids` must be below.*60"),
        ({"sequence_bias": {(): 1.0}}, "`sequence_bias`"),
        ({"sequence_bias": [[[60], 1.0]]}, "`sequence_bias` must be below"),
        ({"suppress_tokens": [99]}, "`suppress_tokens` must be below.*99"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty`.*0.0"),
        ({"exponential_decay_length_penalty": 3}, "`exponential_decay.*Received: 3"),
        ({"do_sample": True, "min_p": 1.5}, "`min_p`.*min_p=1.5"),
        ({"do_sample": True, "typical_p": 0.0}, "`typical_p`.*typical_p=0.0"),
        ({"do_sample": True, "epsilon_cutoff": 1.0}, "epsilon_cutoff=1.0"),
        ({"do_sample": True, "eta_cutoff": -0.1}, "eta_cutoff=-0.1"),
        ({"guidance_scale": 0.5}, "`guidance_scale`.*0.5"),
        ({"negative_prompt_ids": ONE}, "no effect without `guidance_scale`"),
        (
            {"negative_prompt_ids": np.repeat(ONE, 2, 0), "guidance_scale": 2.0},
            "a row for each prompt, 1. Received: 2",
        ),
        ({"max_time": -1.0}, "`max_time`.*-1.0"),
        ({"stop_strings": "a"}, "`stop_strings` needs `tokenizer`"),
        ({"stop_strings": [""]}, "`stop_strings`"),
        ({"num_beams": 2, "streamer": str}, "streamer.*num_beams=2"),
        ({"num_beams": 2, "stopping_criteria": [len]}, "`stopping_criteria` and beams"),
        ({"no_repeat_ngram_size": -1}, "`no_repeat_ngram_size`.*-1"),
        ({"num_beams": 0}, "`num_beams`.*0"),
        ({"inputs_embeds": np.ones((1, 2, 16), "float32")}, "Received: both"),
    ],
    ids=str,
)
def test_contradictions_are_named_before_anything_compiles(model, options, message):
    before = len(model._decoder.compiled)
    with pytest.raises(ValueError, match=message):
        model.generate(ONE, max_new_tokens=4, **options)
    assert len(model._decoder.compiled) == before


def test_unfit_assistants_are_named(model):
    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1}
    for vocab_size, n_positions, message in (
        (54, 96, "53 tokens. Received: 54"),
        (53, 32, "positions, 96. Received: 32"),
    ):
        assistant = OpenAIGPTLMHeadModel(
            OpenAIGPTConfig(vocab_size=vocab_size, n_positions=n_positions, **sizes)
        )
        with pytest.raises(ValueError, match=message):
            model.generate(ONE, max_new_tokens=4, assistant_model=assistant)
