"""A model small enough to compile many times, and its own plain forward pass."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="session")
def model():
    """A random language model whose scores differ from token to token."""
    import keras

    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    keras.utils.set_random_seed(7)
    return OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(
            vocab_size=53,
            n_positions=96,
            n_embd=16,
            n_layer=2,
            n_head=2,
            initializer_range=0.4,
        )
    )


@pytest.fixture(scope="session")
def next_scores(model):
    """The scores (V,) after a list of ids, by one plain pass over all of them.

    Padded on the right, where nothing looks, so that one graph serves all.
    """
    forward = tf.function(lambda ids: model(ids, training=False).logits)

    def scores(ids):
        padded = np.zeros((1, 96), "int32")
        padded[0, : len(ids)] = ids
        return forward(tf.constant(padded))[0, len(ids) - 1].numpy()

    return scores


@pytest.fixture(scope="session")
def greedy_by_hand(next_scores):
    """Greedy continuation by repeated full passes: (ids, n_new) -> new ids."""

    def continue_(ids, n_new, eos=(), choose=lambda scores, ids: scores):
        new = []
        while len(new) < n_new and not (new and new[-1] in eos):
            ids_so_far = [*ids, *new]
            scores = choose(next_scores(ids_so_far), ids_so_far)
            new.append(int(np.argmax(scores)))
        return new

    return continue_
