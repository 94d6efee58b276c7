"""Small models to export, and what the tests of exports share."""

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tf_gpt
from tf_gpt import OpenAIGPTConfig, OpenAIGPTTokenizerFast

OPTIONS = {
    "max_new_tokens": (6, tf.int32),
    "temperature": (0.0, tf.float32),
    "top_k": (0, tf.int32),
    "top_p": (1.0, tf.float32),
    "seed": (0, tf.int32),
    "eos_token_id": (-1, tf.int32),
}


def small_tokenizer(**options):
    """Returns a tokenizer of 8,192 pieces, the bundled model's."""
    return OpenAIGPTTokenizerFast.from_pretrained("mini", **options)


def small_model(name="OpenAIGPTLMHeadModel", seed=0, **fields):
    """Returns a random model, with scores that are far apart."""
    keras.utils.set_random_seed(seed)
    fields = {
        "vocab_size": 8192,
        "n_positions": 512,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "initializer_range": 0.3,
        "pad_token_id": 1,
        **fields,
    }
    return getattr(tf_gpt, name)(OpenAIGPTConfig(**fields))


def random_rows(lengths, vocab_size=8192, width=None, seed=0):
    """Returns (ids, lengths): int32 (B, T), what no model knows at the padding."""
    rng = np.random.default_rng(seed)
    width = width or max(lengths)
    ids = rng.integers(0, vocab_size, (len(lengths), width)).astype("int32")
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = vocab_size + 7
    return ids, np.array(lengths, "int32")


def options_of(n_rows, **given):
    """Returns all options of `generate`, a vector each."""
    return {
        name: tf.constant(
            np.broadcast_to(given.get(name, value), [n_rows]).tolist(), dtype
        )
        for name, (value, dtype) in OPTIONS.items()
    }


def alone(model, ids, **options):
    """Returns the ids that `model.generate` gives one prompt, a list."""
    return model.generate(np.array([ids]), **options).numpy()[0].tolist()


def rows_of(ids, lengths):
    """Returns padded ids as lists."""
    pairs = zip(np.asarray(ids), np.asarray(lengths), strict=True)
    return [row[:length].tolist() for row, length in pairs]


def graph_nodes(folder):
    """Yields every node of a SavedModel's graph, and (None, function)."""
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    (meta,) = saved.meta_graphs
    yield from ((node, None) for node in meta.graph_def.node)
    for function in meta.graph_def.library.function:
        yield None, function
        yield from ((node, None) for node in function.node_def)
