"""The weights of tiny models as a dict of path and variable, without the models."""

import keras
import numpy as np

V, P, C, L = 11, 8, 4, 2


def shapes(heads=()):
    block = {
        "attn/c_attn/kernel": (C, 3 * C),
        "attn/c_attn/bias": (3 * C,),
        "attn/c_proj/kernel": (C, C),
        "attn/c_proj/bias": (C,),
        "ln_1/gamma": (C,),
        "ln_1/beta": (C,),
        "mlp/c_fc/kernel": (C, 4 * C),
        "mlp/c_fc/bias": (4 * C,),
        "mlp/c_proj/kernel": (4 * C, C),
        "mlp/c_proj/bias": (C,),
        "ln_2/gamma": (C,),
        "ln_2/beta": (C,),
    }
    head_shapes = {
        "multiple_choice_head/summary/kernel": (C, 1),
        "multiple_choice_head/summary/bias": (1,),
        "score/kernel": (C, 3),
    }
    return (
        {"tokens_embed/embeddings": (V, C), "positions_embed/embeddings": (P, C)}
        | {f"h_{i}/{path}": shape for i in range(L) for path, shape in block.items()}
        | {path: shape for path, shape in head_shapes.items() if path.startswith(heads)}
    )


HEADS = {
    "body": ("none",),
    "double": ("multiple_choice_head",),
    "classifier": ("score",),
}


def make_variables(kind="body", seed=None):
    rng = np.random.default_rng(seed)
    return {
        path: keras.Variable(
            np.zeros(shape, "float32")
            if seed is None
            else rng.normal(size=shape).astype("float32")
        )
        for path, shape in shapes(HEADS[kind]).items()
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_array_equal(first[path].numpy(), second[path].numpy())
