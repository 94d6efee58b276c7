"""How kernels and tables start: N(0, stddev), unless they are about to be loaded."""

import contextlib
import contextvars

import keras

_replacement = contextvars.ContextVar("initializer", default=None)


def normal(stddev):
    """Returns the initializer of the body's kernels and tables.

    Heads do not use it: a checkpoint may leave them to start fresh.

    Source: Radford et al. 2018, section 4.1: N(0, 0.02).
    """
    return _replacement.get() or keras.initializers.RandomNormal(stddev=stddev)


@contextlib.contextmanager
def initialised_by(initializer):
    """Layers built inside start from `initializer`: (shape, dtype) -> values.

    Drawing 116 million random numbers takes longer than reading the weights
    that replace them.
    """
    token = _replacement.set(initializer)
    try:
        yield
    finally:
        _replacement.reset(token)
