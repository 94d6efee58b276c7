"""Causal self-attention: the only layer in which one position reads another.

Dimension key, used for every shape in this package:
  B batch   T query tokens in this call   S key slots   H heads
  D head size   C hidden size (H * D)     V vocabulary
"""

import functools
from typing import Any, NamedTuple

import keras
from keras import ops

from tf_gpt.layers.initializers import normal
from tf_gpt.layers.products import Projection
from tf_gpt.layers.recompute import with_fixed_dropout

# Added to no score; it replaces scores. Large enough to vanish in a float32
# softmax, finite so that a fully masked (padding) row gives numbers, not NaN.
MASKED_SCORE = -1e9


class KVCache(NamedTuple):
    """Keys and values one layer has seen; both (B, H, S, D), compute dtype."""

    keys: Any
    values: Any


def causal_mask(n_queries, n_keys, first_position=0):
    """Returns a bool (1, 1, T, S) mask, True where a query may read a key.

    Query t stands at slot `first_position + t` and reads keys at or before
    that slot. `first_position` may be a tensor, so that one compiled decoding
    step serves every position.
    """
    query_positions = first_position + ops.arange(n_queries)[:, None]  # (T, 1)
    key_positions = ops.arange(n_keys)[None, :]  # (1, S)
    return (key_positions <= query_positions)[None, None]


def write_slots(slots, new, index):
    """Returns `slots` with `new` in place of the entries from `index` on.

    Args:
        slots: (B, H, S, D).
        new: (B, H, T, D), of the same dtype.
        index: Int scalar; `index + T <= S`.

    A one-token write is a scatter, which every runtime has; TensorFlow compiles
    `slice_update` by XLA alone, and TF Serving refuses that.
    """
    n_new = new.shape[2]
    if n_new is not None and n_new == slots.shape[2]:
        return new
    batch, n_head, n_slots, size = ops.shape(slots)
    if n_new == 1:
        rows = ops.reshape(slots, (batch * n_head * n_slots, size))
        targets = ops.arange(batch * n_head) * n_slots + index  # (B * H,)
        new = ops.reshape(new, (batch * n_head, size))
        rows = ops.scatter_update(rows, targets[:, None], new)
        return ops.reshape(rows, (batch, n_head, n_slots, size))
    # Every slot looks up the token that it would take; most take none.
    source = ops.arange(n_slots) - index  # (S,)
    shifted = ops.take(new, ops.clip(source, 0, ops.shape(new)[2] - 1), axis=2)
    is_target = (source >= 0) & (source < ops.shape(new)[2])
    return ops.where(is_target[:, None], shifted, slots)


def _scores(query, key):
    """Returns the scaled products (B, H, T, S) of queries and keys."""
    return ops.einsum("bhtd,bhsd->bhts", query, key) / query.shape[-1] ** 0.5


def _attend_newest(query, key, value, visible, cache, index, to_weights):
    """Attends from one token, which reads the cache as it was, and itself beside.

    Written first and then read, XLA would copy the caches at each token; so it
    writes in place, and a token costs little more with a long past than with a
    short one.

    Args:
        query, key, value: (B, H, 1, D).
        visible: Bool, broadcastable to (B, H, 1, S).
        cache: `KVCache` of S slots.
        index: Int scalar, the token's slot.
        to_weights: (scores, visible) -> attention weights.

    Returns:
        `(y, cache, weights)`: (B, H, 1, D), the cache with the token in it, and
        (B, H, 1, S).
    """
    is_new = ops.arange(ops.shape(cache.keys)[2]) == index  # (S,)
    scores = [_scores(query, cache.keys), _scores(query, key)]
    may_read = [visible & ~is_new, ops.any(visible & is_new, axis=-1, keepdims=True)]
    weights = to_weights(
        ops.concatenate(scores, axis=-1), ops.concatenate(may_read, axis=-1)
    )  # (B, H, 1, S + 1)
    past, own = weights[..., :-1], weights[..., -1:]
    y = ops.einsum("bhts,bhsd->bhtd", past, cache.values) + own * value
    # Adding nothing of `y` puts the writing after the reading.
    cache = KVCache(
        keys=write_slots(cache.keys, key + 0 * y, index),
        values=write_slots(cache.values, value + 0 * y, index),
    )
    return y, cache, ops.where(is_new, own, past)


@keras.saving.register_keras_serializable(package="tf_gpt")
class CausalSelfAttention(keras.layers.Layer):
    """Multi-head self-attention with an optional fixed-size cache.

    Args:
        n_head: Number of heads H.
        head_size: Size D of a head; C / H if None, and then H must divide C.
        attn_pdrop: Dropout rate on the attention weights.
        resid_pdrop: Dropout rate on the output projection.
        initializer_range: Standard deviation of the initial kernels.

    Call arguments:
        x: Float (B, T, C).
        visible: Bool, broadcastable to (B, H, T, S); True = may read.
            S is T without a cache and the cache's slot count with one.
        cache: `KVCache`, or `()` for none. (Never None: a Keras graph and a
            `tf.while_loop` refuse None among outputs, and take `()`.)
        cache_index: Int scalar, the slot of the first token of `x`. The caller
            keeps `cache_index + T <= S`.
        head_mask: Float, broadcastable to (B, H, T, S), multiplied into the
            attention weights; `()` for none.
        training: Whether to apply dropout.

    Returns:
        `(y, cache, weights)`: y is (B, T, C); cache has slots `cache_index` to
        `cache_index + T` overwritten, and is `()` if `()` came in; weights
        (B, H, T, S) are what each query read of each key. In training the
        gradient computes them again, unless there is a head mask.

    Raises:
        ValueError: On build, if `n_head` does not divide the hidden size.
        NotImplementedError: For a gradient of a gradient, by TensorFlow, in
            training.

    Source: Radford et al. 2018, section 3.1; weight names as released.
    """

    def __init__(
        self,
        n_head,
        attn_pdrop=0.1,
        resid_pdrop=0.1,
        initializer_range=0.02,
        head_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.n_head = n_head
        self.head_size = head_size
        self.attn_pdrop = attn_pdrop
        self.resid_pdrop = resid_pdrop
        self.initializer_range = initializer_range

    def build(self, x_shape):
        n_embd = x_shape[-1]
        if self.head_size is None:
            if n_embd % self.n_head:
                raise ValueError(
                    "`n_head` must divide the hidden size. "
                    f"Received: n_head={self.n_head}, hidden size={n_embd}."
                )
            self.head_size = n_embd // self.n_head
        width = self.n_head * self.head_size  # C, but where heads were removed
        self.c_attn = self._projection(3 * width, "c_attn")
        self.c_proj = self._projection(n_embd, "c_proj")
        self.attn_dropout = keras.layers.Dropout(
            self.attn_pdrop, dtype=self.dtype_policy
        )
        self.resid_dropout = keras.layers.Dropout(
            self.resid_pdrop, dtype=self.dtype_policy
        )
        self.c_attn.build(x_shape)
        self.c_proj.build((*x_shape[:-1], width))

    def call(self, x, visible, cache=(), cache_index=0, head_mask=(), training=None):
        query, key, value = [
            self._split_heads(part)  # (B, T, C) -> (B, H, T, D)
            for part in ops.split(self.c_attn(x), 3, axis=-1)
        ]
        to_weights = functools.partial(
            self._weights, head_mask=head_mask, training=training
        )
        if cache and x.shape[1] == 1:
            y, cache, weights = _attend_newest(
                query, key, value, visible, cache, cache_index, to_weights
            )
        else:
            if cache:
                cache = KVCache(
                    keys=write_slots(cache.keys, key, cache_index),
                    values=write_slots(cache.values, value, cache_index),
                )
                key, value = cache  # (B, H, S, D)

            def attend(query, key, value):
                weights = to_weights(_scores(query, key), visible)
                return ops.einsum("bhts,bhsd->bhtd", weights, value), weights

            if training and isinstance(head_mask, tuple):
                y, weights = self._attend_in_training(attend, query, key, value)
            else:
                y, weights = attend(query, key, value)
        y = self.c_proj(self._merge_heads(y))
        return self.resid_dropout(y, training=training), cache, weights

    def get_config(self):
        return {
            **super().get_config(),
            "n_head": self.n_head,
            "attn_pdrop": self.attn_pdrop,
            "resid_pdrop": self.resid_pdrop,
            "initializer_range": self.initializer_range,
            "head_size": self.head_size,
        }

    def _attend_in_training(self, attend, *heads):
        """Attends without keeping the (B, H, T, S) weights for the gradient.

        They are the largest part of a step's memory at 512 tokens, and cheap to
        compute again. A head mask has gradients of its own, which TensorFlow does
        not give to what is computed again.
        """
        if keras.backend.backend() != "tensorflow":  # measured there alone
            return attend(*heads)
        attend = with_fixed_dropout(attend, [self.attn_dropout])
        y = keras.remat(lambda *heads: attend(*heads)[0])(*heads)
        # Where nobody reads them, compiled training never makes these.
        return y, attend(*heads)[1]

    def _weights(self, scores, visible, head_mask, training):
        """Returns what each query reads of each key, for scores (B, H, T, S)."""
        # Softmax in float32 whatever the policy: bfloat16 sums lose tokens.
        scores = ops.where(visible, ops.cast(scores, "float32"), MASKED_SCORE)
        weights = ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)
        weights = self.attn_dropout(weights, training=training)
        if not isinstance(head_mask, tuple):
            weights = weights * ops.cast(head_mask, weights.dtype)
        return weights

    def _projection(self, units, name):
        return Projection(
            units,
            kernel_initializer=normal(self.initializer_range),
            dtype=self.dtype_policy,
            name=name,
        )

    def _split_heads(self, x):
        batch, length, _ = ops.shape(x)
        x = ops.reshape(x, (batch, length, self.n_head, self.head_size))
        return ops.transpose(x, (0, 2, 1, 3))

    def _merge_heads(self, x):
        batch, n_head, length, head_size = ops.shape(x)
        x = ops.transpose(x, (0, 2, 1, 3))
        return ops.reshape(x, (batch, length, n_head * head_size))
