"""The models' own losses: means over what the labels keep, in float32."""

from keras import ops

from tf_gpt.models.inputs import check_shape, concrete, dtype_name

IGNORED_LABEL = -100


def next_token_loss(logits, labels):
    """Returns the mean cross-entropy of each next token.

    Args:
        logits: Float (..., T, V).
        labels: Int (..., T), shifted here: the scores at t are compared with
            the label at t + 1. `IGNORED_LABEL` is left out.

    Returns:
        Float32 scalar; 0 if every label is left out.

    Raises:
        ValueError: If the shape, dtype or range of `labels` does not fit.
    """
    check_labels("labels", labels, tuple(logits.shape)[:-1], logits.shape[-1])
    return cross_entropy(logits[..., :-1, :], labels[..., 1:])


def cross_entropy(logits, labels):
    """Returns the mean of -log p(label) over the labels not left out.

    Args:
        logits: Float (..., N).
        labels: Int (...), in [0, N) or `IGNORED_LABEL`.

    Returns:
        Float32 scalar; 0 if every label is left out.
    """
    kept = ops.not_equal(labels, IGNORED_LABEL)
    losses = ops.sparse_categorical_crossentropy(
        ops.where(kept, labels, 0), ops.cast(logits, "float32"), from_logits=True
    )
    kept = ops.cast(kept, "float32")
    return ops.sum(losses * kept) / ops.maximum(ops.sum(kept), 1.0)


def check_labels(name, labels, shape, n_classes):
    """Raises ValueError unless `labels` are integers of this shape and range."""
    check_shape(name, labels, tuple(shape))
    if "int" not in dtype_name(labels):
        raise ValueError(
            f"`{name}` must be integers. Received: dtype {dtype_name(labels)}."
        )
    values = concrete(labels)
    if values is not None:
        values = values[values != IGNORED_LABEL]
        if values.size and (values.min() < 0 or values.max() >= n_classes):
            raise ValueError(
                f"`{name}` must be in [0, {n_classes}) or {IGNORED_LABEL}. Received "
                f"values from {values.min()} to {values.max()}."
            )
