import keras
import numpy as np
import pytest


@pytest.fixture
def randomise():
    """Gives every weight, biases too, a value that a mistake would show."""

    def apply(model):
        for i, weight in enumerate(model.weights):
            noise = keras.random.normal(weight.shape, stddev=0.2, seed=i)
            weight.assign(weight + noise)
        return model

    return apply


@pytest.fixture
def ids(tiny_config):
    rng = np.random.default_rng(0)
    return rng.integers(0, tiny_config.vocab_size, (3, 9)).astype("int32")
