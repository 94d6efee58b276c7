"""`BatchEncoding` where TensorFlow and Keras take a dict."""

import keras
import numpy as np
import tensorflow as tf

from tf_gpt import BatchEncoding

TEXTS = ["once upon a time", "the dog"]


def small_model():
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("input_ids", "attention_mask")
    }
    x = keras.layers.Embedding(300, 4)(inputs["input_ids"])
    x = x * keras.ops.cast(inputs["attention_mask"], "float32")[..., None]
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.ops.sum(x, axis=1)))
    model.compile("sgd", "mse")
    return model


def test_a_model_takes_it_as_the_dict_it_is(tokenizer):
    batch = tokenizer(TEXTS, padding=True, return_tensors="tf")
    model = small_model()
    np.testing.assert_array_equal(model(batch), model(dict(batch)))
    assert np.isfinite(model.fit(batch, np.zeros((2, 1)), verbose=0).history["loss"][0])
    np.testing.assert_allclose(
        model.predict(batch, verbose=0), model(dict(batch)), rtol=1e-6
    )
    rows = tf.data.Dataset.from_tensor_slices((batch, tf.zeros([2, 1]))).batch(2)
    assert np.isfinite(model.fit(rows, verbose=0).history["loss"][0])


def test_it_flattens_and_comes_back(tokenizer):
    batch = tokenizer(TEXTS, padding=True, return_tensors="np")
    for tree in (keras.tree, tf.nest):
        again = tree.map_structure(lambda x: x + 0, batch)
        assert isinstance(again, BatchEncoding)
        for name, value in dict(batch).items():
            np.testing.assert_array_equal(again[name], value)
    doubled = tf.function(lambda b: b["input_ids"] * 2)(batch)
    np.testing.assert_array_equal(doubled, batch.input_ids * 2)


def test_it_spreads_into_arguments(tokenizer):
    batch = tokenizer(TEXTS, padding=True)

    def call(input_ids, attention_mask):
        return input_ids, attention_mask

    assert call(**batch) == (batch["input_ids"], batch["attention_mask"])
    assert batch[0:1] == {k: v[:1] for k, v in batch.items()}
    assert batch.data == dict(batch)
