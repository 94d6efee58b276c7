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


def test_a_projection_takes_lora_as_dense_does():
    layer = Projection(6)
    layer.build((None, 4))
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(keras.random.normal((2, 6)))
    x = np.ones((1, 4), "float32")
    want = x @ np.asarray(layer.kernel)
    np.testing.assert_allclose(layer(x), want, atol=1e-6)
