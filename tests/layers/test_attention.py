import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from tf_gpt.layers.attention import (
    CausalSelfAttention,
    KVCache,
    causal_mask,
    write_slots,
)


def definition(x, c_attn, c_attn_bias, c_proj, c_proj_bias, n_head):
    """Attention of one sequence (T, C), one head and one query at a time."""
    length, n_embd = x.shape
    size = n_embd // n_head
    query, key, value = np.split(x @ c_attn + c_attn_bias, 3, axis=-1)
    merged = np.zeros_like(x)
    for head in range(n_head):
        part = slice(head * size, (head + 1) * size)
        for t in range(length):
            scores = key[: t + 1, part] @ query[t, part] / np.sqrt(size)
            weights = np.exp(scores - scores.max())
            merged[t, part] = weights / weights.sum() @ value[: t + 1, part]
    return merged @ c_proj + c_proj_bias


@pytest.fixture
def layer():
    layer = CausalSelfAttention(3, attn_pdrop=0.0, resid_pdrop=0.0)
    layer.build((None, None, 12))
    for weight in layer.weights:
        weight.assign(keras.random.normal(weight.shape, stddev=0.5, seed=3))
    return layer


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 5, 12)).astype("float32")


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_output_is_the_definition(layer, x, mode):
    def call(x):
        return layer(x, causal_mask(5, 5))[0]

    if mode != "eager":
        call = tf.function(call, jit_compile=mode == "xla")
    weights = [ops.convert_to_numpy(w) for w in layer.weights]
    want = np.stack([definition(row, *weights, n_head=3) for row in x])
    np.testing.assert_allclose(call(x), want, atol=2e-5)


def test_cached_steps_match_full_forward(layer, x):
    full, _, weights = layer(x, causal_mask(5, 5))
    cache = KVCache(ops.zeros((2, 3, 8, 4)), ops.zeros((2, 3, 8, 4)))
    first, cache, _ = layer(x[:, :2], causal_mask(2, 8), cache=cache, cache_index=0)
    np.testing.assert_allclose(first, full[:, :2], atol=1e-5)
    for t in range(2, 5):
        step, cache, read = layer(
            x[:, t : t + 1],
            causal_mask(1, 8, t),
            cache=cache,
            cache_index=ops.convert_to_tensor(t),
        )
        np.testing.assert_allclose(step, full[:, t : t + 1], atol=1e-5)
        np.testing.assert_allclose(
            read[:, :, :, :5], weights[:, :, t : t + 1], atol=1e-6
        )
        assert not np.any(read[:, :, :, 5:])
    # The caches are the keys and values of all tokens, and nothing else.
    kernel, bias = (ops.convert_to_numpy(w) for w in layer.c_attn.weights)
    _, key, value = np.split(x @ kernel + bias, 3, axis=-1)
    for kept, tokens in zip(cache, (key, value), strict=True):
        heads = tokens.reshape(2, 5, 3, 4).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(kept[:, :, :5], heads, atol=1e-5)
        assert not np.any(kept[:, :, 5:])


def test_no_cache_goes_out_as_it_came_in(layer, x):
    assert layer(x, causal_mask(5, 5))[1] == ()


def test_a_head_mask_of_zero_silences_a_head(layer, x):
    head_mask = np.array([1.0, 0.0, 1.0], "float32")[None, :, None, None]
    masked, _, weights = layer(x, causal_mask(5, 5), head_mask=head_mask)
    assert not np.asarray(weights)[:, 1].any()
    plain = layer(x, causal_mask(5, 5))[0]
    assert np.abs(masked - plain).max() > 0.1


def test_weights_read_no_later_position_and_sum_to_one(layer, x):
    weights = np.asarray(layer(x, causal_mask(5, 5))[2])
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not np.triu(weights, k=1).any()


def test_a_row_that_may_read_nothing_gives_numbers(layer, x):
    y = layer(x, np.zeros((1, 1, 5, 5), bool))[0]
    assert np.isfinite(y).all()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_the_compute_dtype_stays(x, policy):
    layer = CausalSelfAttention(3, dtype=policy)
    y, _, weights = layer(x, causal_mask(5, 5), training=True)
    assert y.dtype == weights.dtype == layer.compute_dtype


def test_heads_that_do_not_divide_raise():
    with pytest.raises(ValueError, match="n_head=5, hidden size=12"):
        CausalSelfAttention(5).build((None, None, 12))


def test_get_config_rebuilds_the_layer(layer, x):
    copy = CausalSelfAttention.from_config(layer.get_config())
    copy.build((None, None, 12))
    for new, old in zip(copy.weights, layer.weights, strict=True):
        new.assign(old)
    np.testing.assert_array_equal(
        copy(x, causal_mask(5, 5))[0], layer(x, causal_mask(5, 5))[0]
    )


@pytest.mark.parametrize("n_new", [1, 3, 6])
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_write_slots_replaces_just_these(n_new, jit):
    slots = np.arange(2 * 1 * 6 * 2, dtype="float32").reshape(2, 1, 6, 2)
    new = -np.ones((2, 1, n_new, 2), "float32")
    write = tf.function(write_slots, jit_compile=jit)
    for index in range(6 - n_new + 1):
        want = slots.copy()
        want[:, :, index : index + n_new] = -1
        np.testing.assert_array_equal(write(slots, new, tf.constant(index)), want)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_attention_computed_again_has_the_gradients_of_attention_kept(
    monkeypatch, x, rate, mode
):
    visible = causal_mask(x.shape[1], x.shape[1])

    def trained():
        keras.utils.set_random_seed(5)
        layer = CausalSelfAttention(3, attn_pdrop=rate, resid_pdrop=rate)
        layer.build((None, None, 12))
        inputs = tf.convert_to_tensor(x)

        def step(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y, _, weights = layer(inputs, visible, training=True)
                loss = tf.reduce_sum(y**2)
            variables = [inputs, *layer.trainable_variables]
            return [y, weights, *tape.gradient(loss, variables)]

        if mode != "eager":
            step = tf.function(step, jit_compile=mode == "xla")
        step(inputs)  # the second call draws other seeds
        return step(inputs), layer.non_trainable_variables

    found, seeds = trained()
    monkeypatch.setattr(
        CausalSelfAttention,
        "_attend_in_training",
        lambda self, attend, *heads: attend(*heads),
    )
    wanted, plain_seeds = trained()
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    for got, want in zip(seeds, plain_seeds, strict=True):
        np.testing.assert_array_equal(got, want)
    if rate:
        assert np.mean(np.equal(found[1], 0.0)) > 0.6  # half dropped, half unseen


@pytest.mark.parametrize("compiled", [False, True])
def test_a_gradient_of_a_gradient_is_refused_in_training_alone(layer, x, compiled):
    x, visible = tf.convert_to_tensor(x), causal_mask(x.shape[1], x.shape[1])

    def twice(training):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y, _, _ = layer(x, visible, training=training)
                loss = tf.reduce_sum(y**2)
            norm = tf.reduce_sum(inner.gradient(loss, x) ** 2)
        return outer.gradient(norm, x)

    run = tf.function(twice) if compiled else twice
    assert np.all(np.isfinite(run(False)))
    with pytest.raises(NotImplementedError, match="recompute_grad"):
        run(True)


def test_a_head_mask_gets_its_gradient_in_training(layer, x):
    visible = causal_mask(x.shape[1], x.shape[1])
    mask = tf.ones((1, 3, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(mask)
        y, _, _ = layer(x, visible, head_mask=mask, training=True)
        loss = tf.reduce_sum(y**2)
    assert np.all(np.abs(tape.gradient(loss, mask)) > 1e-3)
