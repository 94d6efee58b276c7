import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_gpt.layers.attention import causal_mask
from tf_gpt.layers.block import FeedForward, TransformerBlock, gelu_in_training
from tf_gpt.layers.summary import SequenceSummary


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


BY_HAND = {
    "gelu": tanh_gelu,
    "gelu_new": tanh_gelu,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("afn", BY_HAND)
def test_feed_forward_honours_its_activation(afn):
    layer = FeedForward(afn, initializer_range=1.0)
    layer.build((None, None, 4))
    x = np.linspace(-3, 3, 24, dtype="float32").reshape(2, 3, 4)
    fc, fc_bias, proj, proj_bias = (w.numpy().astype("float64") for w in layer.weights)
    want = BY_HAND[afn](x @ fc + fc_bias) @ proj + proj_bias
    np.testing.assert_allclose(layer(x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 4e-2)])
def test_the_derivative_of_gelu_in_training_is_its_definitions(
    dtype, tolerance, jit_compile
):
    # `1 - t^2` loses digits where t is near 1, as it does in TensorFlow's derivative.
    x = np.linspace(-6, 6, 241)
    points = tf.cast(x, dtype)

    @tf.function(jit_compile=jit_compile)
    def value_and_gradient(points):
        with tf.GradientTape() as tape:
            tape.watch(points)
            y = gelu_in_training(points)
        return y, tape.gradient(y, points, output_gradients=3 * tf.ones_like(points))

    value, gradient = value_and_gradient(points)
    assert value.dtype == gradient.dtype == dtype
    x = points.numpy().astype("float64")
    by_difference = (tanh_gelu(x + 1e-5) - tanh_gelu(x - 1e-5)) / 2e-5
    np.testing.assert_allclose(
        tf.cast(value, "float64"), tanh_gelu(x), rtol=tolerance, atol=tolerance
    )
    np.testing.assert_allclose(
        tf.cast(gradient, "float64"), 3 * by_difference, rtol=tolerance, atol=tolerance
    )


def test_a_feed_forward_layer_trains_as_it_infers():
    layer = FeedForward(resid_pdrop=0.0, initializer_range=1.0)
    layer.build((None, None, 4))
    x = tf.constant(np.linspace(-3, 3, 24, dtype="float32").reshape(2, 3, 4))
    found = {}
    for training in (False, True):
        with tf.GradientTape() as tape:
            y = layer(x, training=training)
        found[training] = [y, *tape.gradient(y, layer.trainable_variables)]
    for a, b in zip(found[False], found[True], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_an_unknown_activation_raises():
    with pytest.raises(ValueError, match="'erf'"):
        FeedForward("erf")


def test_a_block_normalises_after_each_sum():
    block = TransformerBlock(2, initializer_range=0.5)
    block.build((None, None, 8))
    x = np.random.default_rng(0).normal(size=(1, 4, 8)).astype("float32")
    visible = causal_mask(4, 4)

    def norm(h):
        return (h - h.mean(-1, keepdims=True)) / np.sqrt(
            h.var(-1, keepdims=True) + 1e-5
        )

    middle = norm(x + np.asarray(block.attn(x, visible)[0]))
    want = norm(middle + np.asarray(block.mlp(middle.astype("float32"))))
    np.testing.assert_allclose(block(x, visible)[0], want, atol=2e-5)


@pytest.mark.parametrize("summary_type", ["cls_index", "last", "first", "mean"])
@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 3, 5, 4)], ids=str)
def test_a_summary_reads_the_sequence(summary_type, shape):
    hidden = np.random.default_rng(0).normal(size=shape).astype("float32")
    positions = np.random.default_rng(1).integers(0, 5, shape[:-2])
    layer = SequenceSummary(summary_type, units=None, activation="tanh")
    got = layer(hidden, positions=positions)
    flat = hidden.reshape(-1, 5, 4)
    want = {
        "cls_index": [h[p] for h, p in zip(flat, positions.ravel(), strict=True)],
        "last": flat[:, -1],
        "first": flat[:, 0],
        "mean": flat.mean(1),
    }[summary_type]
    np.testing.assert_allclose(
        got, np.tanh(np.reshape(want, (*shape[:-2], 4))), atol=1e-6
    )


@pytest.mark.parametrize(
    "layer",
    [
        FeedForward("relu", 0.2, 0.3),
        TransformerBlock(2, "relu", 0.2, 0.3, 1e-4, 0.5, 6),
        SequenceSummary("mean", 3, "tanh", 0.2, 0.3, 0.4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_get_config_keeps_every_argument(layer):
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert copy.get_config() == layer.get_config()
