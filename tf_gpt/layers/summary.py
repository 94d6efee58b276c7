"""One vector for a whole sequence, for a head to score."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tf_gpt")
class SequenceSummary(keras.layers.Layer):
    """Reads one position (or the mean), and projects it.

    Args:
        summary_type: "cls_index" (a given position), "last", "first", "mean".
        units: Size U of the projection; None for none.
        activation: Name of a Keras activation after it, or None.
        first_dropout, last_dropout: Dropout rates before and after.
        initializer_range: Standard deviation of the initial kernel.

    Call arguments:
        hidden: Float (..., T, C).
        positions: Int (...), what "cls_index" reads; `()` for the last one.
        training: Whether to apply dropout.

    Returns:
        Float (..., U), or (..., C) without a projection.

    Raises:
        ValueError: If `summary_type` is unknown.

    Source: transformers 4.57, SequenceSummary (modeling_utils.py). There
        "last", "first" and "mean" of several choices read the axis of the
        choices; here they read the sequence.
    """

    def __init__(
        self,
        summary_type="cls_index",
        units=1,
        activation=None,
        first_dropout=0.1,
        last_dropout=0.0,
        initializer_range=0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if summary_type not in ("cls_index", "last", "first", "mean"):
            raise ValueError(
                "`summary_type` must be cls_index, last, first or mean. "
                f"Received: {summary_type!r}."
            )
        self.summary_type = summary_type
        self.units = units
        self.activation = activation
        self.first_dropout = first_dropout
        self.last_dropout = last_dropout
        self.initializer_range = initializer_range

    def build(self, hidden_shape):
        self.dropout_before = keras.layers.Dropout(
            self.first_dropout, dtype=self.dtype_policy
        )
        self.dropout_after = keras.layers.Dropout(
            self.last_dropout, dtype=self.dtype_policy
        )
        if self.units is not None:
            self.summary = keras.layers.Dense(
                self.units,
                kernel_initializer=keras.initializers.RandomNormal(
                    stddev=self.initializer_range
                ),
                dtype=self.dtype_policy,
                name="summary",
            )
            self.summary.build((None, hidden_shape[-1]))

    def call(self, hidden, positions=(), training=None):
        summary = self.dropout_before(self._read(hidden, positions), training=training)
        if self.units is not None:
            summary = self.summary(summary)
        summary = keras.activations.get(self.activation)(summary)
        return self.dropout_after(summary, training=training)

    def _read(self, hidden, positions):
        if self.summary_type == "mean":
            return ops.mean(hidden, axis=-2)
        if self.summary_type == "first":
            return hidden[..., 0, :]
        if self.summary_type == "last" or isinstance(positions, tuple):
            return hidden[..., -1, :]
        return read_positions(hidden, positions)

    def get_config(self):
        return {
            **super().get_config(),
            "summary_type": self.summary_type,
            "units": self.units,
            "activation": self.activation,
            "first_dropout": self.first_dropout,
            "last_dropout": self.last_dropout,
            "initializer_range": self.initializer_range,
        }


def read_positions(hidden, positions):
    """Returns the vector at one position of each sequence.

    Args:
        hidden: Float (..., T, C).
        positions: Int (...).

    Returns:
        Float (..., C).
    """
    indices = ops.cast(positions, "int32")[..., None, None]  # (..., 1, 1)
    return ops.squeeze(ops.take_along_axis(hidden, indices, axis=-2), -2)
