"""The metrics of the paper's tasks, for `compile(metrics=...)` and by hand."""

import keras
from keras import ops

IGNORED_LABEL = -100


class _Confusion(keras.metrics.Metric):
    """Counts each pair of label and prediction; a subclass reads the table.

    Update arguments:
        y_true: Int (N,) or (N, 1), classes; `IGNORED_LABEL` is left out.
        y_pred: Float (N, K), scores of K classes, K at least 2; the largest is
            the prediction.
        sample_weight: Float (N,), or None to count each as 1.
    """

    def __init__(self, name, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.counts = None

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.convert_to_tensor(y_pred)
        n_classes = y_pred.shape[-1] if len(y_pred.shape) == 2 else None
        if n_classes is None or n_classes < 2:
            raise ValueError(
                f"`{self.name}` needs scores (N, K) of a fixed number K of classes, "
                "2 or more. "
                f"Received: `y_pred` of shape {tuple(y_pred.shape)}."
            )
        if self.counts is None:
            self._build(n_classes)
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        weights = _weights(labels, sample_weight)
        predictions = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        # A label that is left out is in no row: its row is all zeros.
        rows = ops.one_hot(labels, n_classes, dtype="float32") * weights[:, None]
        columns = ops.one_hot(predictions, n_classes, dtype="float32")
        self.counts.assign_add(ops.matmul(ops.transpose(rows), columns))

    def _build(self, n_classes):
        self._check(n_classes)
        # [label, prediction]. float32 counts exactly up to 16.7 million.
        self.counts = self.add_variable(
            (n_classes, n_classes), "zeros", dtype="float32", name="counts"
        )

    def _check(self, n_classes):
        """Raises ValueError if the metric does not go with so many classes."""

    def result(self):
        if self.counts is None:  # nothing has been seen
            return ops.zeros(())
        return self._read(ops.convert_to_tensor(self.counts))


@keras.saving.register_keras_serializable(package="tf_gpt")
class F1(_Confusion):
    """Harmonic mean of precision and recall: MRPC's and QQP's metric.

    Args:
        average: "binary" for the F1 of class 1 of two; "macro" for the mean of
            every class's own F1.
        name: Name in the logs.
        dtype: Of the result; Keras's float type if None.

    Update arguments: see `_Confusion`; (N,) classes and (N, K) scores.

    Returns:
        Float scalar in [0, 1]; a class that neither occurs nor is predicted has
        an F1 of 0.

    Raises:
        ValueError: If `average` is unknown; on update, if the scores are not
            (N, K), or "binary" gets other than two classes.
    """

    def __init__(self, average="binary", name="f1", dtype=None):
        super().__init__(name=name, dtype=dtype)
        if average not in ("binary", "macro"):
            raise ValueError(
                f"`average` must be 'binary' or 'macro'. Received: {average!r}."
            )
        self.average = average

    def _check(self, n_classes):
        if self.average == "binary" and n_classes != 2:
            raise ValueError(
                "`average` 'binary' is for 2 classes; 'macro' is for any number. "
                f"Received: {n_classes} classes."
            )

    def _read(self, counts):
        right = ops.diagonal(counts)
        # 2TP / (2TP + FP + FN): a class's labels and its predictions together.
        both = ops.sum(counts, axis=0) + ops.sum(counts, axis=1)
        scores = _ratio(2 * right, both)  # (K,)
        return scores[1] if self.average == "binary" else ops.mean(scores)

    def get_config(self):
        return {**super().get_config(), "average": self.average}


@keras.saving.register_keras_serializable(package="tf_gpt")
class Matthews(_Confusion):
    """Matthews's correlation of labels and predictions: CoLA's metric.

    With K classes it is the generalisation R_K, which is the same for two.

    Args:
        name: Name in the logs.
        dtype: Of the result; Keras's float type if None.

    Update arguments: see `_Confusion`; (N,) classes and (N, K) scores.

    Returns:
        Float scalar in [-1, 1]; 0 if all labels or all predictions are equal.

    Raises:
        ValueError: On update, if the scores are not (N, K).

    Source: Gorodkin 2004, equation 8 (doi:10.1016/j.compbiolchem.2004.09.006).
    """

    def __init__(self, name="matthews", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def _read(self, counts):
        # As shares of the whole, so that no product grows large.
        shares = _ratio(counts, ops.sum(counts))
        labels, predictions = ops.sum(shares, axis=1), ops.sum(shares, axis=0)
        together = ops.trace(shares) - ops.sum(labels * predictions)
        apart = (1 - ops.sum(labels * labels)) * (1 - ops.sum(predictions**2))
        # Below what rounding leaves, one of the two does not vary.
        varies = apart > 1e-12
        return ops.where(varies, _ratio(together, ops.sqrt(ops.maximum(apart, 0))), 0.0)


@keras.saving.register_keras_serializable(package="tf_gpt")
class Pearson(keras.metrics.Metric):
    """Pearson's correlation of two numbers: STS-B's metric.

    Its state are sums, so that those of several workers add up; they are in
    float64 where the backend has it, which TensorFlow does: numbers that are a
    million times as large as they vary still come out right to four digits.

    Args:
        name: Name in the logs.
        dtype: Of the result; Keras's float type if None.

    Update arguments:
        y_true: Float or int (N,) or (N, 1).
        y_pred: Float (N,) or (N, 1).
        sample_weight: Float (N,), or None to count each as 1.

    Returns:
        Float scalar in [-1, 1]; 0 if one of the two does not vary.

    Raises:
        ValueError: On update, if there is not one prediction for each label.
    """

    def __init__(self, name="pearson", dtype=None):
        super().__init__(name=name, dtype=dtype)
        # Of weights, of both numbers, of their squares and of their product.
        self.sums = self.add_variable((6,), "zeros", dtype="float64", name="sums")

    def update_state(self, y_true, y_pred, sample_weight=None):
        x, y = (ops.cast(value, "float64") for value in (y_true, y_pred))
        if not _same_size(x, y):
            raise ValueError(
                f"`{self.name}` needs one prediction for each label. Received: "
                f"labels of shape {tuple(x.shape)}, predictions {tuple(y.shape)}."
            )
        x, y = ops.reshape(x, (-1,)), ops.reshape(y, (-1,))
        weights = ops.ones_like(x)
        if sample_weight is not None:
            weights = ops.cast(ops.reshape(sample_weight, (-1,)), "float64")
        terms = ops.stack([ops.ones_like(x), x, y, x * x, y * y, x * y])  # (6, N)
        self.sums.assign_add(ops.sum(terms * weights, axis=1))

    def result(self):
        n, x, y, xx, yy, xy = ops.unstack(ops.convert_to_tensor(self.sums), 6)
        x, y, xx, yy, xy = (_ratio(total, n) for total in (x, y, xx, yy, xy))
        spread = _variance(xx, x) * _variance(yy, y)
        value = _ratio(xy - x * y, ops.sqrt(spread))
        return ops.cast(ops.clip(value, -1, 1), self.dtype)


@keras.saving.register_keras_serializable(package="tf_gpt")
class Perplexity(keras.metrics.Metric):
    """Exponential of the mean of -log p(label) over all tokens seen.

    Args:
        name: Name in the logs.
        dtype: Of the result; Keras's float type if None.

    Update arguments:
        y_true: Int (...), token ids; `IGNORED_LABEL` is left out. Not shifted
            here: the scores at a place are compared with the label there.
        y_pred: Float (..., V), scores (logits), not probabilities.
        sample_weight: Float (...), or None to count each token as 1.

    Returns:
        Float scalar, 1 or more; 1 if nothing was seen.

    Raises:
        ValueError: On update, if the scores are not those of the labels.
    """

    def __init__(self, name="perplexity", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_variable((), "zeros", dtype="float32", name="total")
        self.count = self.add_variable((), "zeros", dtype="float32", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        labels = ops.cast(y_true, "int32")
        scores = ops.cast(y_pred, "float32")
        if len(scores.shape) != len(labels.shape) + 1:
            raise ValueError(
                f"`{self.name}` needs scores (..., V) for labels (...). Received: "
                f"labels of shape {tuple(labels.shape)}, scores {tuple(scores.shape)}."
            )
        labels = ops.reshape(labels, (-1,))
        weights = _weights(labels, sample_weight)
        losses = ops.sparse_categorical_crossentropy(
            ops.where(ops.equal(labels, IGNORED_LABEL), 0, labels),
            ops.reshape(scores, (-1, scores.shape[-1])),
            from_logits=True,
        )
        self.total.assign_add(ops.sum(losses * weights))
        self.count.assign_add(ops.sum(weights))

    def result(self):
        return ops.cast(ops.exp(_ratio(self.total, self.count)), self.dtype)


def _weights(labels, sample_weight):
    """Returns the weight (N,) of each label (N,): 0 where it is left out."""
    kept = ops.cast(ops.not_equal(labels, IGNORED_LABEL), "float32")
    if sample_weight is None:
        return kept
    return kept * ops.cast(ops.reshape(sample_weight, (-1,)), "float32")


def _variance(mean_square, mean):
    """Returns a variance, and 0 where it is no more than rounding."""
    variance = mean_square - mean * mean
    return ops.where(variance > 1e-14 * mean_square, variance, 0.0)


def _ratio(a, b):
    """Returns a / b, and 0 where b is 0."""
    is_zero = ops.equal(b, 0)
    return ops.where(is_zero, ops.zeros_like(a), a / ops.where(is_zero, 1, b))


def _same_size(x, y):
    """Returns whether (N,) or (N, 1) both hold N numbers, as far as is known."""
    shapes = [tuple(v.shape) for v in (x, y)]
    if any(len(s) not in (1, 2) or (len(s) == 2 and s[1] != 1) for s in shapes):
        return False
    a, b = (s[0] for s in shapes)
    return a is None or b is None or a == b
