import numpy as np
import pytest

from tf_gpt.generation.generate import (
    PROMPT_BUCKETS,
    SLOT_BUCKETS,
    bucket,
    count_traces,
)
from tf_gpt.generation.streamers import TextStreamer

MODES = pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
PROMPTS = [[5, 17, 3], [41], [9, 9, 2, 30, 11, 7, 28]]


def padded(side, prompts=PROMPTS, fill=0):
    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), fill, "int32")
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        columns = (
            slice(0, len(prompt)) if side == "right" else slice(-len(prompt), None)
        )
        ids[row, columns], mask[row, columns] = prompt, 1
    return {"input_ids": ids, "attention_mask": mask}


@MODES
def test_greedy_ids_are_those_of_repeated_full_passes(model, greedy_by_hand, jit):
    prompt = PROMPTS[0]
    ids = model.generate(np.array([prompt]), max_new_tokens=20, jit_compile=jit)
    assert ids[0].numpy().tolist() == prompt + greedy_by_hand(prompt, 20)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "top_k": 0, "seed": 3}])
def test_rows_of_a_padded_batch_get_what_they_get_alone(model, side, sampling):
    batch = padded(side)
    options = {"max_new_tokens": 12, "jit_compile": False, **sampling}
    ids = model.generate(batch, **options).numpy()
    width = batch["input_ids"].shape[1]
    np.testing.assert_array_equal(ids[:, :width], batch["input_ids"])
    for row, prompt in zip(ids, PROMPTS, strict=True):
        alone = model.generate(np.array([prompt]), **options).numpy()[0, len(prompt) :]
        assert row[width:].tolist() == alone.tolist()


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_p": 0.8, "top_k": 9}]
)
def test_sampled_ids_do_not_depend_on_compilation(model, options):
    runs = [
        model.generate(
            padded("left"),
            max_new_tokens=12,
            do_sample=True,
            seed=11,
            jit_compile=jit,
            **options,
        ).numpy()
        for jit in (False, True)
    ]
    np.testing.assert_array_equal(*runs)


def test_an_end_token_stops_its_row_and_then_the_loop(model, greedy_by_hand):
    free = [greedy_by_hand(prompt, 12) for prompt in PROMPTS]
    eos = [free[0][4], free[1][6]]
    ended = [greedy_by_hand(prompt, 12, eos) for prompt in PROMPTS]
    batch = padded("left")
    ids = model.generate(batch, max_new_tokens=12, eos_token_id=eos, pad_token_id=50)
    new = ids.numpy()[:, batch["input_ids"].shape[1] :]
    longest = max(map(len, ended))
    assert new.shape[1] == longest
    for row, expected in zip(new, ended, strict=True):
        assert row.tolist() == expected + [50] * (longest - len(expected))


def test_scores_are_those_of_the_plain_pass(model, next_scores):
    out = model.generate(
        np.array([PROMPTS[0]]),
        max_new_tokens=5,
        do_sample=True,
        temperature=0.5,
        top_k=3,
        seed=1,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    assert len(out.scores) == len(out.logits) == 5
    ids = out.sequences[0].numpy().tolist()
    for i in range(5):
        expected = next_scores(ids[: 3 + i])
        np.testing.assert_allclose(out.logits[i][0], expected, atol=2e-5)
        scores = out.scores[i][0].numpy()
        kept = np.argsort(expected)[-3:]
        assert set(np.flatnonzero(np.isfinite(scores))) == set(kept)
        np.testing.assert_allclose(scores[kept], expected[kept] / 0.5, atol=5e-5)
        assert ids[3 + i] in kept


def test_samples_follow_the_scores(model, next_scores):
    n = 4000
    ids = model.generate(
        np.repeat([PROMPTS[0]], n, axis=0),
        max_new_tokens=1,
        do_sample=True,
        top_k=0,
        seed=list(range(n)),
    )
    counts = np.bincount(ids.numpy()[:, -1], minlength=53)
    expected = np.exp(next_scores(PROMPTS[0]).astype("float64"))
    expected *= n / expected.sum()
    common = expected > 5
    chi_square = ((counts - expected) ** 2 / expected)[common].sum()
    assert chi_square < 2.5 * common.sum()


def test_several_samples_differ_and_the_first_is_the_only_one(model):
    options = {"max_new_tokens": 12, "do_sample": True, "seed": 4, "top_k": 0}
    one = model.generate(np.array([PROMPTS[0]]), **options).numpy()
    three = model.generate(
        np.array([PROMPTS[0]]), num_return_sequences=3, **options
    ).numpy()
    assert three.shape[0] == 3
    assert len({tuple(row) for row in three}) == 3
    np.testing.assert_array_equal(three[:1], one)


def test_new_lengths_and_numbers_compile_nothing(model):
    model._decoder.compiled.clear()
    for n_prompt in (5, 17, 40):
        for i, n_new in enumerate((10, 20, 30)):
            model.generate(
                np.arange(n_prompt)[None] + 1,
                max_new_tokens=n_new,
                do_sample=True,
                temperature=0.5 + 0.3 * i,
                top_k=10 + i,
                top_p=0.7 + 0.1 * i,
                seed=n_prompt,
                eos_token_id=52 - i,
            )
    assert count_traces(model._decoder.compiled) <= 2


def test_fifty_calls_trace_once_for_each_strategy_bucket_and_batch_size(model):
    """One function at most for each (strategy, prompt bucket, slots, batch)."""
    random = np.random.default_rng(0)
    model._decoder.compiled.clear()
    wanted = set()
    for call in range(50):
        batch_size, length = (1, 2)[call % 2], int(random.integers(1, 40))
        n_new = int(random.integers(1, 25))
        strategy = call % 3
        options = [
            {"repetition_penalty": float(random.uniform(0.8, 1.5))},
            {
                "do_sample": True,
                "seed": call,
                "temperature": float(random.uniform(0.5, 1.5)),
                "top_k": int(random.integers(0, 50)),
                "top_p": float(random.uniform(0.5, 1)),
            },
            {
                "num_beams": 2,
                "length_penalty": float(random.uniform(0, 2)),
                "eos_token_id": int(random.integers(0, 53)),
            },
        ][strategy]
        ids = random.integers(0, 53, (batch_size, length))
        model.generate(ids, max_new_tokens=n_new, jit_compile=False, **options)
        n_prompt = bucket(length, PROMPT_BUCKETS)
        n_slots = bucket(n_prompt + n_new, SLOT_BUCKETS)
        wanted.add((strategy, n_prompt, n_slots, batch_size))
    assert count_traces(model._decoder.compiled) == len(wanted)


def test_neutral_numbers_share_the_sampling_function(model):
    model._decoder.compiled.clear()
    for options in ({}, {"temperature": 0.5}, {"top_k": 0}, {"top_p": 0.5, "top_k": 3}):
        prompt = np.array([PROMPTS[0]])
        model.generate(prompt, max_new_tokens=4, do_sample=True, seed=1, **options)
    assert count_traces(model._decoder.compiled) == 1


def test_an_empty_prompt_starts_from_the_bos_token(model, greedy_by_hand):
    ids = model.generate(max_new_tokens=6, bos_token_id=8)
    assert ids.numpy().tolist() == [[8, *greedy_by_hand([8], 6)]]
    empty = np.zeros((1, 0), "int32")
    again = model.generate(empty, max_new_tokens=6, bos_token_id=8)
    np.testing.assert_array_equal(ids, again)


class Letters:
    """A tokenizer of two-letter words: even ids end a word."""

    def decode(self, ids, skip_special_tokens=True):
        return "".join("x " if i % 2 == 0 else "y" for i in ids).strip()


def test_streamed_text_is_the_whole_text_in_whole_words(model):
    pieces = []
    streamer = TextStreamer(Letters(), pieces.append)
    prompt = np.array([PROMPTS[2]])
    ids = model.generate(prompt, max_new_tokens=25, streamer=streamer)
    plain = model.generate(prompt, max_new_tokens=25)
    np.testing.assert_array_equal(ids, plain)
    assert "".join(pieces) == Letters().decode(plain.numpy()[0, 7:])
    assert len(pieces) > 2
    assert all(piece[0] == " " for piece in pieces[1:])


ONE = np.array([[1, 2, 3]])


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((np.ones((1, 97), "int32"),), {}, "at most n_positions=96.*Received: 97"),
        ((ONE,), {"max_new_tokens": 94}, "n_positions=96.*of 3.*94 new"),
        ((ONE,), {"max_length": 3}, "max_length=3, a prompt of 3"),
        ((), {}, "`bos_token_id`, and there is none"),
        ((np.array([[1, 53]]),), {}, r"\[0, 53\).*1 to 53"),
        ((np.array([[1, -1]]),), {}, r"\[0, 53\).*-1 to 1"),
        ((np.array([[1.5]]),), {}, "integers of shape.*float64"),
        ((np.array([1, 2]),), {}, r"integers of shape \(B, T\).*\(2,\)"),
        ((ONE, np.array([[0, 0, 0]])), {}, r"none in rows \[0\]"),
        ((ONE, np.array([[1, 1]])), {}, r"`attention_mask`.*\(1, 2\)"),
        ((ONE, np.array([[1, 2, 1]])), {}, "`attention_mask`.*1 to 2"),
        ((ONE,), {"eos_token_id": 53}, "`eos_token_id`.*53"),
        ((ONE,), {"pad_token_id": 60}, "`pad_token_id`.*60"),
        ((ONE,), {"do_sample": True, "seed": [1, 2]}, "`seed`.*Received: 2"),
        ((ONE,), {"temprature": 0.5}, "temprature"),
        ((ONE,), {"do_sample": True, "temperature": 0.0}, "temperature=0.0"),
        ((ONE,), {"do_sample": True, "temperature": -1.0}, "temperature=-1.0"),
        ((ONE,), {"do_sample": True, "top_p": 1.2}, "top_p=1.2"),
        ((ONE,), {"max_new_tokens": -4}, "`max_new_tokens`.*-4"),
        ((np.repeat(ONE, 2, 0),), {"streamer": object()}, "streamer.*2 prompts"),
    ],
)
def test_bad_input_is_named_before_anything_compiles(
    model, arguments, options, message
):
    before = len(model._decoder.compiled)
    with pytest.raises(ValueError, match=message):
        model.generate(*arguments, **options)
    assert len(model._decoder.compiled) == before
