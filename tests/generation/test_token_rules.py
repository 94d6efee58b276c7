import math

import numpy as np
import pytest
from test_processors import MODES, run

from tf_gpt.generation import token_rules as rules
from tf_gpt.generation.processors import (
    EpsilonCutoff,
    EtaCutoff,
    MinP,
    RemoveInvalid,
    Renormalise,
    TopP,
    TypicalP,
)

V = 12
# One row with padding before and room behind, and one that is full of history.
IDS = np.array([[-1, -1, 4, 5, 4, 5, 6, -1], [1, 2, 3, 1, 2, 9, 1, -1]], "int32")
TOKENS = [[4, 5, 4, 5, 6], [1, 2, 3, 1, 2, 9, 1]]
LOGITS = np.random.default_rng(0).normal(0, 2, (2, V)).astype("float32")


def expect(processor, change, jit, step=5, logits=LOGITS, ids=IDS):
    """Compares with `change(scores, tokens)`, done row by row in NumPy."""
    expected = logits.astype("float64").copy()
    for scores, tokens in zip(expected, TOKENS, strict=True):
        change(scores, tokens)
    np.testing.assert_allclose(
        run(processor, logits, jit, ids=ids, step=step), expected, rtol=1e-5
    )
    # Any rank: the rows of a batch of one batch.
    ranked = run(processor, logits[None], jit, ids=ids[None], step=step)
    np.testing.assert_allclose(ranked[0], expected, rtol=1e-5)


@MODES
@pytest.mark.parametrize("penalty", [1.5, 0.5])
def test_repetition_penalty_lowers_what_occurred(penalty, jit):
    def change(scores, tokens):
        for t in set(tokens):
            scores[t] = scores[t] * penalty if scores[t] < 0 else scores[t] / penalty

    expect(rules.RepetitionPenalty(penalty), change, jit)


@MODES
@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_no_ngram_occurs_twice(size, jit):
    def change(scores, tokens):
        for i in range(len(tokens) - size + 1):
            ngram = tokens[i : i + size]
            if size == 1 or ngram[:-1] == tokens[-(size - 1) :]:
                scores[ngram[-1]] = -math.inf

    expect(rules.NoRepeatNgram(size), change, jit)
    ids = IDS.copy()
    ids[0, 2:7], TOKENS_0 = [4, 5, 6, 4, 5], TOKENS[0]
    TOKENS[0] = [4, 5, 6, 4, 5]
    try:
        expect(rules.NoRepeatNgram(size), change, jit, ids=ids)
    finally:
        TOKENS[0] = TOKENS_0


@MODES
def test_sequence_bias_follows_what_stands_before(jit):
    pairs = [((3,), 1.5), ((6, 3), 2.0), ((5, 6, 7), -1.0), ((9, 1, 7), -math.inf)]
    words = rules.SequenceBias.padded([word for word, _ in pairs])

    def change(scores, tokens):
        for word, bias in pairs:
            if len(word) == 1 or tuple(tokens[-len(word) + 1 :]) == word[:-1]:
                scores[word[-1]] += bias

    expect(rules.SequenceBias(words, tuple(b for _, b in pairs)), change, jit)


@MODES
def test_a_sequence_longer_than_the_row_does_not_fit(jit):
    words = rules.SequenceBias.padded([(1,) * 9 + (2,)])
    expect(rules.SequenceBias(words, (5.0,)), lambda scores, tokens: None, jit)


@MODES
@pytest.mark.parametrize("length", [5, 6, 8])
def test_min_length_counts_each_row_without_padding(length, jit):
    def change(scores, tokens):
        if len(tokens) < length:
            scores[[2, 7]] = -math.inf

    expect(rules.MinLength(length, (2, 7)), change, jit)


@MODES
@pytest.mark.parametrize("step, is_changed", [(4, True), (5, False)])
def test_min_new_tokens_counts_steps(step, is_changed, jit):
    def change(scores, tokens):
        if is_changed:
            scores[[2, 7]] = -math.inf

    expect(rules.MinNewTokens(5, (2, 7)), change, jit, step=step)


@MODES
@pytest.mark.parametrize("step, is_changed", [(4, False), (5, True)])
def test_the_last_token_is_forced(step, is_changed, jit):
    def change(scores, tokens):
        if is_changed:
            scores[:] = -math.inf
            scores[[3, 4]] = 0.0

    expect(rules.ForcedLast((3, 4), 5), change, jit, step=step)


@MODES
def test_the_first_token_is_forced_after_one(jit):
    ids = np.array([[-1, 5, -1], [3, 5, -1]], "int32")
    result = run(rules.ForcedFirst(4), LOGITS, jit, ids=ids)
    assert np.isfinite(result[0]).nonzero()[0].tolist() == [4]
    np.testing.assert_array_equal(result[1], LOGITS[1])


@MODES
def test_tokens_are_suppressed(jit):
    def change(scores, tokens):
        scores[[3, 4]] = -math.inf

    expect(rules.SuppressTokens((3, 4)), change, jit)


@MODES
@pytest.mark.parametrize("step, is_changed", [(0, True), (1, False)])
def test_tokens_are_suppressed_at_the_first_step(step, is_changed, jit):
    def change(scores, tokens):
        if is_changed:
            scores[[3, 4]] = -math.inf

    expect(rules.BeginSuppress((3, 4)), change, jit, step=step)


@MODES
def test_the_first_free_step_comes_after_a_forced_token(jit):
    processor = rules.BeginSuppress((3,), after_forced=True)
    ids = np.array([[-1, 5, 6], [3, 5, 6]], "int32")  # prompts of one and two
    result = run(processor, LOGITS, jit, ids=ids, step=1)
    assert np.isneginf(result[:, 3]).tolist() == [True, False]


@MODES
@pytest.mark.parametrize("start", [3, 5, 7])
def test_the_end_grows_more_probable(start, jit):
    def change(scores, tokens):
        if start < 5:
            scores[2] += abs(scores[2]) * (1.3 ** (5 - start) - 1)

    expect(rules.ExponentialDecay(start, 1.3, (2,)), change, jit)


def softmax(x):
    x = np.exp(x.astype("float64") - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


MANY = np.random.default_rng(1).normal(0, 3, (50, 200)).astype("float32")


@MODES
def test_min_p_keeps_tokens_near_the_best(jit):
    probs = softmax(MANY)
    kept = probs >= 0.1 * probs.max(-1, keepdims=True)
    np.testing.assert_array_equal(np.isfinite(run(MinP(0.1), MANY, jit)), kept)


@MODES
def test_typical_p_keeps_the_expected_surprise(jit):
    probs = softmax(MANY)
    surprise = -np.log(probs)
    distance = np.abs(surprise - (probs * surprise).sum(-1, keepdims=True))
    order = np.argsort(distance, -1)
    mass = np.cumsum(np.take_along_axis(probs, order, -1), -1)
    n_kept = (mass < 0.7).sum(-1) + 1
    result = np.isfinite(run(TypicalP(0.7), MANY, jit))
    assert (result.sum(-1) == n_kept).all()
    for row, order_row, n in zip(result, order, n_kept, strict=True):
        assert row[order_row[:n]].all()


@MODES
def test_epsilon_and_eta_cut_off_the_improbable(jit):
    probs = softmax(MANY)
    entropy = -(probs * np.log(probs)).sum(-1, keepdims=True)
    eta = np.minimum(0.05, np.sqrt(0.05) * np.exp(-entropy))
    is_best = probs == probs.max(-1, keepdims=True)
    for processor, cut in ((EpsilonCutoff(0.2), 0.2), (EtaCutoff(0.05), eta)):
        result = np.isfinite(run(processor, MANY, jit))
        np.testing.assert_array_equal(result, (probs >= cut) | is_best)


@MODES
def test_at_least_some_tokens_stay(jit):
    for kind in (TopP, MinP, TypicalP, EpsilonCutoff, EtaCutoff):
        kept = np.isfinite(run(kind(0.99, 3), MANY * 9, jit)).sum(-1)
        assert (kept >= 3).all()


@MODES
def test_scores_are_made_finite_and_normalised(jit):
    logits = np.array([1.0, math.nan, math.inf, -math.inf], "float32")
    largest = np.finfo("float32").max
    assert run(RemoveInvalid(), logits, jit).tolist() == [1.0, 0.0, largest, -largest]
    result = run(Renormalise(), MANY, jit)
    np.testing.assert_allclose(result, np.log(softmax(MANY)), atol=1e-5)
