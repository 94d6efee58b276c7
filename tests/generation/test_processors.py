import math

import numpy as np
import pytest
import tensorflow as tf

from tf_gpt.generation.processors import (
    Temperature,
    TopK,
    TopP,
    numbers_of,
    with_numbers,
)

MODES = pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
SHAPES = pytest.mark.parametrize("shape", [(5,), (1, 5), (2, 1, 5)], ids=str)
SCORES = [1.0, 5.0, 2.0, 4.0, 3.0]  # probabilities .01 .64 .03 .23 .09


def run(processor, logits, jit, ids=None, step=None):
    """Compiles a processor with its numbers as tensors, as generation does."""
    numbers = {name: tf.constant(v) for name, v in numbers_of(processor).items()}

    @tf.function(jit_compile=jit)
    def compiled(logits, numbers):
        return with_numbers(processor, numbers)(logits, ids, step)

    return compiled(tf.convert_to_tensor(logits, tf.float32), numbers).numpy()


@MODES
@SHAPES
def test_temperature_divides(shape, jit):
    logits = np.broadcast_to(SCORES, shape)
    np.testing.assert_allclose(run(Temperature(0.5), logits, jit), logits * 2)


@MODES
@SHAPES
@pytest.mark.parametrize(
    "k, kept", [(1, [1]), (3, [1, 3, 4]), (5, range(5)), (9, range(5))]
)
def test_top_k_keeps_the_k_highest(k, kept, shape, jit):
    result = run(TopK(k), np.broadcast_to(SCORES, shape), jit)
    expected = [s if i in kept else -math.inf for i, s in enumerate(SCORES)]
    np.testing.assert_array_equal(result, np.broadcast_to(expected, shape))


@MODES
@SHAPES
@pytest.mark.parametrize(
    "p, n_kept", [(0.01, 1), (0.6, 1), (0.7, 2), (0.9, 3), (1.0, 5)]
)
def test_top_p_keeps_the_smallest_set(p, n_kept, shape, jit):
    result = run(TopP(p), np.broadcast_to(SCORES, shape), jit)
    assert (np.isfinite(result).sum(axis=-1) == n_kept).all()
    assert np.isfinite(result[..., 1]).all()


def test_top_k_keeps_ties_with_the_last():
    kept = np.isfinite(run(TopK(2), [3.0, 1.0, 2.0, 2.0, -1.0], jit=True))
    assert kept.tolist() == [True, False, True, True, False]


def test_dropped_tokens_stay_dropped():
    logits = [1.0, -math.inf, 2.0, -math.inf]
    for processor in (TopK(3), TopP(0.999), TopP(1.0), Temperature(0.7)):
        assert np.isneginf(run(processor, logits, jit=True)).tolist() == [
            False,
            True,
            False,
            True,
        ]


@MODES
def test_filters_agree_with_sorting_on_many_random_rows(jit):
    logits = np.random.default_rng(0).normal(0, 3, (200, 1000)).astype("float32")
    descending = np.sort(logits, axis=-1)[:, ::-1]
    assert (np.isfinite(run(TopK(17), logits, jit)).sum(-1) == 17).all()
    np.testing.assert_array_equal(
        run(TopK(17), logits, jit) > -math.inf, logits >= descending[:, 16:17]
    )
    probs = np.exp(descending.astype("float64"))
    probs /= probs.sum(-1, keepdims=True)
    n_kept = (np.cumsum(probs, -1) - probs < 0.8).sum(-1)
    assert (np.isfinite(run(TopP(0.8), logits, jit)).sum(-1) == n_kept).all()


def test_top_p_of_one_keeps_everything_however_sums_round():
    logits = np.random.default_rng(1).normal(0, 8, (64, 5000))
    assert np.isfinite(run(TopP(1.0), logits, jit=True)).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Temperature(0.0), "`temperature`.*temperature=0.0"),
        (lambda: Temperature(-1.0), "`temperature`.*temperature=-1.0"),
        (lambda: Temperature(math.inf), "`temperature`.*temperature=inf"),
        (lambda: TopK(0), "`top_k`.*top_k=0"),
        (lambda: TopK(1.5), "`top_k`.*top_k=1.5"),
        (lambda: TopP(0.0), "`top_p`.*top_p=0.0"),
        (lambda: TopP(1.01), "`top_p`.*top_p=1.01"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
