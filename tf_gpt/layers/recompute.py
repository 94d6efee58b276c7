"""Less memory in training: what is cheap is computed again when its gradient is due."""

import keras


def with_fixed_dropout(function, dropouts):
    """Returns `function`, for which these layers drop the same values at each call.

    The seeds are drawn here, once, as a call would draw them. TensorFlow calls
    Python again for the gradient: with other seeds that would be the gradient of
    another function.

    Args:
        function: Calls the layers, each at most once.
        dropouts: `keras.layers.Dropout` layers.
    """
    generators = [layer.seed_generator for layer in dropouts if layer.rate > 0]
    seeds = [(generator.state, generator.next()) for generator in generators]

    def call(*arguments):
        with keras.StatelessScope(state_mapping=seeds):
            return function(*arguments)

    return call
