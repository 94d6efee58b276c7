"""The models' own losses: means over what the labels keep, in float32."""

from keras import ops

from tf_gpt.models.inputs import check_shape, concrete, dtype_name

IGNORED_LABEL = -100

# Tokens whose scores exist at the same time in a loss. Fewer would add up the
# table's gradient more often, more would take more memory: with the released
# vocabulary, 512 tokens have 83 MB of scores, and the gradient has 124 MB.
CHUNK_TOKENS = 512


def next_token_loss(hidden, table, labels, per_row=False, **options):
    """Returns the mean cross-entropy of each next token.

    Args:
        hidden: Float (..., T, C), the last block's output.
        table: Float (V, C), to which the language-model head is tied.
        labels: Int (..., T), shifted here: the scores at t are compared with
            the label at t + 1. `IGNORED_LABEL` is left out.
        per_row: Whether the mean is the mean of each row's own mean, in place
            of that over all tokens: the weight of a token then depends on its
            row's length. A row that keeps no label counts as 0.
        **options: Those of `tied_cross_entropy`.

    Returns:
        Float32 scalar; 0 if every label is left out.

    Raises:
        ValueError: If the shape, dtype or range of `labels` does not fit.

    Source: OpenAI, finetune-transformer-lm, train.py, model (`per_row`);
        transformers 4.57, OpenAIGPTLMHeadModel (the other).
    """
    check_labels("labels", labels, tuple(hidden.shape)[:-1], table.shape[0])
    hidden, labels = hidden[..., :-1, :], labels[..., 1:]
    weights = ops.cast(ops.not_equal(labels, IGNORED_LABEL), "float32")
    n_kept = ops.sum(weights, axis=-1 if per_row else None, keepdims=True)
    weights = weights / ops.maximum(n_kept, 1.0)
    if per_row:
        n_rows = ops.size(n_kept)
        weights = weights / ops.maximum(ops.cast(n_rows, "float32"), 1.0)
    return tied_cross_entropy(
        ops.reshape(hidden, (-1, hidden.shape[-1])),
        table,
        ops.reshape(labels, (-1,)),
        ops.reshape(weights, (-1,)),
        **options,
    )


def tied_cross_entropy(
    hidden, table, labels, weights, with_gradients=False, table_is_fixed=False
):
    """Returns the weighted sum of -log p(label), where p = softmax(hidden @ table.T).

    The scores (N, V) never exist whole, neither here nor in the gradient: both
    go through the tokens in chunks of `CHUNK_TOKENS`.

    Args:
        hidden: Float (N, C).
        table: Float (V, C), of the same dtype. A tensor, not a variable.
        labels: Int (N,), in [0, V); anything where the weight is 0.
        weights: Float32 (N,).
        with_gradients: Whether to compute the gradients along with the value,
            which saves computing the scores twice if they will be asked for.
            The value and the gradients are the same either way.
        table_is_fixed: Whether the table gets no gradient, a third of the cost.

    Returns:
        Float32 scalar. Products are in the dtype of `hidden`, the softmax and
        all sums in float32.
    """
    labels = ops.where(ops.equal(weights, 0.0), 0, ops.cast(labels, "int32"))
    learned = (hidden,) if table_is_fixed else (hidden, table)

    def by_chunks(learned, n_gradients):
        both = learned if len(learned) == 2 else (*learned, table)
        return _by_chunks(*both, labels, weights, n_gradients)

    @ops.custom_gradient
    def loss(*learned):
        n = len(learned)
        value, *gradients = by_chunks(learned, n if with_gradients else 0)

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            found = gradients or by_chunks(learned, n)[1:]
            return tuple(
                ops.cast(upstream * part, of.dtype)
                for part, of in zip(found, learned, strict=True)
            )

        return value, gradient

    return loss(*learned)


def _by_chunks(hidden, table, labels, weights, n_gradients):
    """Returns the loss, and so many of (d_hidden, d_table), in float32."""
    n_tokens, n_embd = ops.shape(hidden)
    # Chunks of the same size, so that little is added to fill the last.
    n_chunks = _at_least_1(-(-n_tokens // CHUNK_TOKENS))
    size = _at_least_1(-(-n_tokens // n_chunks))
    hidden, labels, weights = (
        _cut(x, n_tokens, n_chunks, size) for x in (hidden, labels, weights)
    )  # (n_chunks, size, C), (n_chunks, size), (n_chunks, size)

    def step(i, total, *gradients):
        # The large factor as it is stored: transposed, it takes twice as long.
        scores = ops.transpose(ops.matmul(table, ops.transpose(hidden[i])))
        log_probs = ops.log_softmax(ops.cast(scores, "float32"), axis=-1)  # (size, V)
        at_label = ops.take_along_axis(log_probs, labels[i][:, None], axis=-1)
        total = total - ops.sum(weights[i] * at_label[:, 0])
        if gradients:
            gradients = _add(i, log_probs, at_label, *gradients)
        return i + 1, total, *gradients

    def _add(i, log_probs, at_label, d_hidden, *d_table):
        # d loss / d scores, but for the weights: probabilities, less 1 at the
        # label. expm1 is exact where the model is sure.
        places = ops.stack([ops.arange(size), labels[i]], axis=-1)
        d_scores = ops.scatter_update(
            ops.exp(log_probs), places, ops.expm1(at_label[:, 0])
        )
        d_scores = ops.cast(d_scores, table.dtype)
        weight = weights[i][:, None]
        d_rows = weight * ops.cast(ops.matmul(d_scores, table), "float32")
        d_hidden = ops.scatter_update(d_hidden, ops.reshape(i, (1, 1)), d_rows[None])
        if not d_table:
            return (d_hidden,)
        # The weights go to the smaller factor.
        weighted = ops.cast(weight * ops.cast(hidden[i], "float32"), table.dtype)
        products = ops.matmul(ops.transpose(d_scores), weighted)  # (V, C)
        return d_hidden, d_table[0] + ops.cast(products, "float32")

    start = [ops.zeros((), "int32"), ops.zeros((), "float32")]
    for x in (hidden, table)[:n_gradients]:
        start.append(ops.zeros(ops.shape(x), "float32"))
    _, total, *gradients = ops.while_loop(
        lambda i, *_: i < n_chunks, step, tuple(start)
    )
    if gradients:
        gradients[0] = ops.reshape(gradients[0], (-1, n_embd))[:n_tokens]
    return total, *gradients


def _cut(x, n_tokens, n_chunks, size):
    """Returns x (N, ...) as (n_chunks, size, ...), zeros after the last."""
    n_missing = n_chunks * size - n_tokens
    rest = tuple(x.shape[1:])
    filled = ops.concatenate([x, ops.zeros((n_missing, *rest), x.dtype)], axis=0)
    return ops.reshape(filled, (n_chunks, size, *rest))


def _at_least_1(n):
    return max(n, 1) if isinstance(n, int) else ops.maximum(n, 1)


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
