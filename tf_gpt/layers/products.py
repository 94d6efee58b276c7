"""Matrix products whose cost is reading the weights.

With one row the product is bound by memory, and XLA on a CPU computes it on
one thread, at half of what the memory gives. Written as a batched product it
runs on every thread. From two rows on the ordinary product is threaded; all rows
are one matrix then, since outside XLA TensorFlow multiplies each entry of a batch
by itself, and reads the weights anew for each.
"""

import math

import keras
from keras import ops

# The most rows that count as few: batches of one token each.
FEW_ROWS = 64

# How many pieces a one-row product is cut into; more than enough for the cores
# of a small machine, and few enough that a piece is long.
N_PIECES = 8


def has_one_row(x):
    """Returns whether x (..., K), of static shape, is one row."""
    rows = x.shape[:-1]
    return all(size == 1 for size in rows)


def _has_few_rows(x):
    """Returns whether x (..., K) is a batch's newest tokens, one a row.

    The size of the batch may be unknown, as in a graph that takes any.
    """
    batch_size, *more = x.shape[:-1]
    if batch_size is None:
        return all(size == 1 for size in more)
    return None not in more and 1 < batch_size * math.prod(more) <= FEW_ROWS


def _flat(x):
    """Returns x (..., K) as (N, K)."""
    return ops.reshape(x, (-1, x.shape[-1])) if len(x.shape) > 2 else x


def _unflat(y, x):
    """Returns y (N, M) with the leading sizes of x (..., K)."""
    return ops.reshape(y, (*ops.shape(x)[:-1], y.shape[-1])) if len(x.shape) > 2 else y


def one_row_product(x, kernel):
    """Returns x @ kernel for one row, summed over pieces of the inputs.

    Args:
        x: Float (..., K), leading sizes 1.
        kernel: Float (K, N).

    Returns:
        Float (..., N).
    """
    n_in, n_out = kernel.shape
    pieces = _largest_divisor(n_in, N_PIECES)
    partial = ops.matmul(
        ops.reshape(x, (pieces, 1, n_in // pieces)),
        ops.reshape(kernel, (pieces, n_in // pieces, n_out)),
    )  # (pieces, 1, N)
    return ops.reshape(ops.sum(partial, axis=0), (*x.shape[:-1], n_out))


def tied_logits(hidden, table):
    """Returns the scores of each token: hidden @ table transposed.

    Args:
        hidden: Float (..., C).
        table: Float (V, C), the token embeddings, to which the head is tied.

    Returns:
        Float (..., V).

    Source: Radford et al. 2018, section 3.1, equation 2.
    """
    vocab_size, n_embd = table.shape
    pieces = _largest_divisor(vocab_size, N_PIECES)
    if _has_few_rows(hidden):
        # The table on the left is read as it lies; on the right it is packed
        # anew for each product, at twice the time.
        scores = ops.matmul(table, ops.transpose(_flat(hidden)))
        return _unflat(ops.transpose(scores), hidden)
    if pieces == 1 or not has_one_row(hidden):
        return _unflat(ops.matmul(_flat(hidden), ops.transpose(table)), hidden)
    # Here the pieces are rows of the table: each gives its own tokens' scores.
    scores = ops.einsum(
        "pvc,c->pv",
        ops.reshape(table, (pieces, vocab_size // pieces, n_embd)),
        ops.reshape(hidden, (n_embd,)),
    )
    return ops.reshape(scores, (*hidden.shape[:-1], vocab_size))


def _largest_divisor(size, limit):
    return next(d for d in range(limit, 0, -1) if size % d == 0)


@keras.saving.register_keras_serializable(package="tf_gpt")
class Projection(keras.layers.Dense):
    """`keras.layers.Dense` that reads its kernel at memory speed for one row.

    With LoRA enabled it multiplies by the kernel and by the two small matrices;
    Keras adds the three first, and so needs the whole kernel's gradient.
    """

    def call(self, inputs, training=None):
        if self.quantization_mode is not None:
            return super().call(inputs, training=training)
        kernel = ops.convert_to_tensor(self._kernel)
        if has_one_row(inputs):
            y = one_row_product(inputs, kernel)
        else:
            y = _unflat(ops.matmul(_flat(inputs), kernel), inputs)
        if self.lora_enabled:
            small = ops.matmul(_flat(inputs), self.lora_kernel_a)
            small = _unflat(ops.matmul(small, self.lora_kernel_b), inputs)
            y = y + self.lora_alpha / self.lora_rank * small
        return y + self.bias if self.use_bias else y

    def merged_kernel(self):
        """Returns the kernel with LoRA's product added, NumPy (K, N), unrounded.

        `Dense.kernel` is in the compute dtype.
        """
        kernel, a, b = (
            ops.convert_to_numpy(variable).astype("float64")
            for variable in (self._kernel, self.lora_kernel_a, self.lora_kernel_b)
        )
        merged = kernel + self.lora_alpha / self.lora_rank * (a @ b)
        return merged.astype(str(self._kernel.dtype))
