"""One transformer block. Post-norm; GPT-2 moved the norms in front."""

import functools
import math

import keras
from keras import ops

from tf_gpt.layers.attention import CausalSelfAttention
from tf_gpt.layers.initializers import normal
from tf_gpt.layers.products import Projection

# The released weights were trained with the tanh form of GELU; "gelu" means it.
_TANH_GELU = functools.partial(ops.gelu, approximate=True)
ACTIVATIONS = {
    "gelu": _TANH_GELU,
    "gelu_new": _TANH_GELU,
    "relu": ops.relu,
    "silu": ops.silu,
    "swish": ops.silu,
}


@ops.custom_gradient
def gelu_in_training(x):
    """Returns the tanh form of GELU of x (...), which keeps x alone for the gradient.

    TensorFlow keeps several tensors of this size, the largest of a block. With
    `u = sqrt(2 / pi) (x + 0.044715 x^3)` and `t = tanh(u)` the derivative is
    `(1 + t + x (1 - t^2) u') / 2`.
    """
    slope = (2 / math.pi) ** 0.5

    def gradient(*args, upstream=None):
        (upstream,) = args if upstream is None else (upstream,)
        square = x * x
        t = ops.tanh(slope * x * (1 + 0.044715 * square))
        d_inner = slope * (1 + 3 * 0.044715 * square)
        return upstream * 0.5 * (1 + t + x * (1 - t * t) * d_inner)

    return _TANH_GELU(x), gradient


@keras.saving.register_keras_serializable(package="tf_gpt")
class FeedForward(keras.layers.Layer):
    """Two projections with an activation between: C -> 4C -> C.

    Args:
        afn: Activation: a key of `ACTIVATIONS`.
        resid_pdrop: Dropout rate on the output.
        initializer_range: Standard deviation of the initial kernels.

    Call arguments:
        x: Float (B, T, C).
        training: Whether to apply dropout.

    Returns:
        Float (B, T, C).

    Raises:
        ValueError: If `afn` is unknown.

    Source: Radford et al. 2018, sections 3.1 and 4.1; OpenAI train.py, mlp.
    """

    def __init__(self, afn="gelu", resid_pdrop=0.1, initializer_range=0.02, **kwargs):
        super().__init__(**kwargs)
        if afn not in ACTIVATIONS:
            raise ValueError(
                f"`afn` must be one of {sorted(ACTIVATIONS)}. Received: {afn!r}."
            )
        self.afn = afn
        self.resid_pdrop = resid_pdrop
        self.initializer_range = initializer_range

    def build(self, x_shape):
        n_embd = x_shape[-1]
        self.c_fc = Projection(
            4 * n_embd,
            kernel_initializer=normal(self.initializer_range),
            dtype=self.dtype_policy,
            name="c_fc",
        )
        self.c_proj = Projection(
            n_embd,
            kernel_initializer=normal(self.initializer_range),
            dtype=self.dtype_policy,
            name="c_proj",
        )
        self.dropout = keras.layers.Dropout(self.resid_pdrop, dtype=self.dtype_policy)
        self.c_fc.build(x_shape)
        self.c_proj.build((*x_shape[:-1], 4 * n_embd))

    def call(self, x, training=None):
        activation = ACTIVATIONS[self.afn]
        if training and activation is _TANH_GELU:
            activation = gelu_in_training
        hidden = activation(self.c_fc(x))  # (B, T, 4C)
        return self.dropout(self.c_proj(hidden), training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "afn": self.afn,
            "resid_pdrop": self.resid_pdrop,
            "initializer_range": self.initializer_range,
        }


@keras.saving.register_keras_serializable(package="tf_gpt")
class TransformerBlock(keras.layers.Layer):
    """Attention and feed-forward, each added to its input and then normalised.

    Args:
        n_head: Number of attention heads H.
        afn: Activation of the feed-forward layer.
        attn_pdrop, resid_pdrop: Dropout rates.
        layer_norm_epsilon: Added to the variance in each layer norm.
        initializer_range: Standard deviation of the initial kernels.
        head_size: Size D of a head; C / H if None.

    Call arguments and returns: those of `CausalSelfAttention`.

    Source: Radford et al. 2018, section 3.1, equation 2; OpenAI train.py, block.
    """

    def __init__(
        self,
        n_head,
        afn="gelu",
        attn_pdrop=0.1,
        resid_pdrop=0.1,
        layer_norm_epsilon=1e-5,
        initializer_range=0.02,
        head_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.n_head = n_head
        self.afn = afn
        self.attn_pdrop = attn_pdrop
        self.resid_pdrop = resid_pdrop
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_range = initializer_range
        self.head_size = head_size

    def build(self, x_shape):
        self.attn = CausalSelfAttention(
            self.n_head,
            self.attn_pdrop,
            self.resid_pdrop,
            self.initializer_range,
            self.head_size,
            dtype=self.dtype_policy,
            name="attn",
        )
        self.ln_1 = self._norm("ln_1")
        self.mlp = FeedForward(
            self.afn,
            self.resid_pdrop,
            self.initializer_range,
            dtype=self.dtype_policy,
            name="mlp",
        )
        self.ln_2 = self._norm("ln_2")
        for layer in (self.attn, self.ln_1, self.mlp, self.ln_2):
            layer.build(x_shape)

    def call(self, x, visible, cache=(), cache_index=0, head_mask=(), training=None):
        y, cache, weights = self.attn(
            x,
            visible,
            cache=cache,
            cache_index=cache_index,
            head_mask=head_mask,
            training=training,
        )
        x = self.ln_1(x + y)
        x = self.ln_2(x + self.mlp(x, training=training))
        return x, cache, weights

    def get_config(self):
        return {
            **super().get_config(),
            "n_head": self.n_head,
            "afn": self.afn,
            "attn_pdrop": self.attn_pdrop,
            "resid_pdrop": self.resid_pdrop,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "head_size": self.head_size,
        }

    def _norm(self, name):
        return keras.layers.LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
