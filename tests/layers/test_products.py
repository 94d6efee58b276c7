import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_gpt.layers.products import Projection, tied_logits


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (2, 1, 24), (3, 24)], ids=str)
@pytest.mark.parametrize("n_in", [24, 23])
def test_a_projection_is_the_plain_product(shape, n_in, jit):
    layer = Projection(10, bias_initializer="random_normal")
    layer.build((None, n_in))
    x = np.random.default_rng(0).normal(size=(*shape[:-1], n_in)).astype("float32")
    want = x.astype("float64") @ layer.kernel.numpy() + layer.bias.numpy()
    got = tf.function(layer, jit_compile=jit)(x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("vocab_size", [74, 97])
@pytest.mark.parametrize(
    "shape", [(1, 16), (1, 1, 16), (2, 3, 16), (13, 5, 16)], ids=str
)
def test_tied_logits_are_the_plain_product(shape, vocab_size, jit):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(vocab_size, 16)).astype("float32")
    hidden = rng.normal(size=shape).astype("float32")
    got = tf.function(tied_logits, jit_compile=jit)(hidden, table)
    np.testing.assert_allclose(got, hidden.astype("float64") @ table.T, atol=1e-5)


# Of a graph that takes any batch, and perhaps any length.
UNKNOWN = [
    ((None, 16), (1, 16)),
    ((None, 16), (5, 16)),
    ((None, 1, 16), (1, 1, 16)),
    ((None, 1, 16), (70, 1, 16)),
    ((None, None, 16), (1, 1, 16)),
    ((None, None, 16), (3, 5, 16)),
    ((None, 2, 1, 16), (3, 2, 1, 16)),
]


@pytest.mark.parametrize("known, shape", UNKNOWN, ids=str)
def test_sizes_that_a_graph_does_not_know_change_nothing(known, shape):
    rng = np.random.default_rng(2)
    table = rng.normal(size=(74, 16)).astype("float32")
    layer = Projection(10, bias_initializer="random_normal")
    layer.build((None, 16))
    x = rng.normal(size=shape).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec(known)])
    def both(x):
        return tied_logits(x, table), layer(x)

    scores, y = both(x)
    assert both.get_concrete_function().structured_outputs[1].shape == (*known[:-1], 10)
    wide = x.astype("float64")
    np.testing.assert_allclose(scores, wide @ table.T, atol=1e-5)
    want = wide @ layer.kernel.numpy() + layer.bias.numpy()
    np.testing.assert_allclose(y, want, atol=1e-5)


def test_outside_xla_a_batch_is_multiplied_as_one_matrix():
    """TensorFlow would read the kernel anew for each entry of the batch."""
    layer = Projection(10)
    layer.build((None, 16))
    function = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 16))])
    types = {op.type for op in function.get_concrete_function().graph.get_operations()}
    assert "MatMul" in types
    assert not any(name.startswith("BatchMatMul") for name in types)


def test_a_projection_takes_lora_as_dense_does():
    layer = Projection(6)
    layer.build((None, 4))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(keras.random.normal((2, 6)))
    x = np.ones((1, 4), "float32")
    want = x @ np.asarray(layer.kernel)
    np.testing.assert_allclose(layer(x), want, atol=1e-6)
