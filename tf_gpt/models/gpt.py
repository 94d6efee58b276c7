"""`OpenAIGPTModel`: embeddings and the one loop over blocks."""

import functools

import keras
from keras import ops

from tf_gpt.layers.attention import KVCache, causal_mask
from tf_gpt.layers.block import TransformerBlock
from tf_gpt.layers.initializers import normal
from tf_gpt.layers.products import tied_logits
from tf_gpt.layers.recompute import with_fixed_dropout
from tf_gpt.models import inputs as call_inputs
from tf_gpt.models import losses
from tf_gpt.models.pretrained import PreTrained, kept_heads
from tf_gpt.outputs import BaseModelOutput


@keras.saving.register_keras_serializable(package="tf_gpt")
class OpenAIGPTModel(PreTrained, keras.Model):
    """GPT-1 without a head: token ids to hidden states.

    There is no norm after the last block: each block ends with its own.

    Args:
        config: `OpenAIGPTConfig`, or a dict of its fields.
        **kwargs: `name`, and `dtype`: a Keras dtype or policy such as
            "mixed_bfloat16".

    Call arguments (the first may also be a dict of them):
        input_ids: Int (B, T).
        attention_mask: Int or bool (B, T), 1 for tokens and 0 for padding, on
            either side; with caches (B, S), over the slots. Positions count
            the tokens that it keeps.
        token_type_ids: Int (B, T), ids of the *vocabulary* whose embeddings are
            added; zeros would add that of token 0 everywhere.
        position_ids: Int (B, T) or (1, T), in place of counted positions.
        head_mask: Float (H,) or (L, H) for L layers, multiplied into the
            attention weights; 0 silences a head.
        inputs_embeds: Float (B, T, C), in place of `input_ids`.
        output_attentions, output_hidden_states: Adds these to the output.
        return_dict: False returns the tuple of the output's values.
        training: Whether to apply dropout.
        caches: Tuple of a `KVCache` per layer (see `make_caches`), or `()`.
        cache_index: Int scalar, the slot of the first token.

    Returns:
        `BaseModelOutput`.

    Raises:
        ValueError: If the arguments contradict each other, have a wrong shape
            or dtype, or ids are out of range.

    Source: Radford et al. 2018, section 3.1; OpenAI, finetune-transformer-lm,
        train.py, model.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = self.as_config(config)
        self.rematerialise = False
        self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        config = self.config
        self.tokens_embed = self._embedding(config.vocab_size, "tokens_embed")
        self.positions_embed = self._embedding(config.n_positions, "positions_embed")
        self.dropout = keras.layers.Dropout(config.embd_pdrop, dtype=self.dtype_policy)
        self.blocks = [self._block(i) for i in range(config.n_layer)]
        self.built = True

    def call(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        training=None,
        caches=(),
        cache_index=0,
    ):
        inputs = call_inputs.unpack(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        call_inputs.check({**inputs, "caches": caches}, self.config)
        hidden = self._embed(inputs, training)  # (B, T, C)
        visible = self._visible(inputs, hidden, caches, cache_index)
        head_mask = inputs.get("head_mask")

        hidden_states, attentions, new_caches = [hidden], [], []
        for i, block in enumerate(self.blocks):
            apply = functools.partial(
                block,
                visible=visible,
                cache=caches[i] if caches else (),
                cache_index=cache_index,
                head_mask=() if head_mask is None else self._of_block(head_mask, i),
                training=training,
            )
            if self.rematerialise and training:
                apply = _recomputed(apply, block)
            hidden, cache, weights = apply(hidden)
            hidden_states.append(hidden)
            attentions.append(weights)
            new_caches.append(cache)

        return self.finish(
            BaseModelOutput(
                last_hidden_state=hidden,
                caches=tuple(new_caches) if caches else None,
                **self.asked_for(inputs, hidden_states, attentions),
            ),
            inputs,
        )

    def make_caches(self, batch_size, n_slots):
        """Returns empty caches: a `KVCache` of zeros (B, H, S, D) per layer."""

        def empty(block):
            shape = (batch_size, block.n_head, n_slots, block.head_size)
            return ops.zeros(shape, dtype=self.compute_dtype)

        return tuple(KVCache(empty(block), empty(block)) for block in self.blocks)

    def logits(self, hidden):
        """Returns the scores (..., V) of hidden states (..., C).

        The language-model heads are this table again: they have no weights.
        """
        return tied_logits(hidden, self._table(hidden.dtype))

    def next_token_loss(self, hidden, labels, per_row=False, training=None):
        """Returns the language model's loss, without making the scores.

        Args:
            hidden: Float (..., T, C), this model's `last_hidden_state`.
            labels: Int (..., T), the token ids themselves; -100 is left out.
            per_row: Whether each row counts the same, in place of each token.
            training: Whether gradients will be asked for: then they are
                computed along with the loss.

        Returns:
            Float32 scalar.

        Raises:
            ValueError: If `labels` do not fit.
        """
        table = self._table(hidden.dtype)
        return losses.next_token_loss(
            hidden,
            table,
            labels,
            per_row=per_row,
            with_gradients=bool(training),
            table_is_fixed=not self.tokens_embed.trainable_weights,
        )

    def _table(self, dtype):
        return ops.cast(ops.convert_to_tensor(self.tokens_embed.embeddings), dtype)

    def _embed(self, inputs, training):
        hidden = inputs.get("inputs_embeds")
        if hidden is None:
            hidden = self.tokens_embed(inputs["input_ids"])
        hidden = hidden + self.positions_embed(_positions(inputs, hidden))
        if "token_type_ids" in inputs:
            hidden = hidden + self.tokens_embed(inputs["token_type_ids"])
        return self.dropout(ops.cast(hidden, self.compute_dtype), training=training)

    def _visible(self, inputs, hidden, caches, cache_index):
        n_queries = ops.shape(hidden)[1]
        n_keys = ops.shape(caches[0].keys)[2] if caches else n_queries
        visible = causal_mask(n_queries, n_keys, cache_index)  # (1, 1, T, S)
        if "attention_mask" in inputs:
            mask = ops.cast(inputs["attention_mask"], "bool")
            visible = visible & mask[:, None, None, :]  # (B, 1, T, S)
        return visible

    def _of_block(self, head_mask, i):
        row = head_mask if len(head_mask.shape) == 1 else head_mask[i]  # (H,)
        if self.config.pruned_heads:
            row = ops.take(row, kept_heads(self.config, i))
        return row[None, :, None, None]

    def _block(self, i):
        config = self.config
        block = TransformerBlock(
            len(kept_heads(config, i)),
            config.afn,
            config.attn_pdrop,
            config.resid_pdrop,
            config.layer_norm_epsilon,
            config.initializer_range,
            head_size=config.n_embd // config.n_head,
            dtype=self.dtype_policy,
            name=f"h_{i}",
        )
        block.build((None, None, config.n_embd))
        return block

    def _embedding(self, n_rows, name):
        layer = keras.layers.Embedding(
            n_rows,
            self.config.n_embd,
            embeddings_initializer=normal(self.config.initializer_range),
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build()
        return layer


def _positions(inputs, hidden):
    """Returns each token's position, (B, T) or (1, T), counted by the mask.

    Padding before or between tokens is not counted. Padding after the last
    token goes on counting: nothing reads it, and there the numbers are those
    that the other implementations give.
    """
    if "position_ids" in inputs:
        return inputs["position_ids"]
    positions = ops.arange(ops.shape(hidden)[1])[None]  # (1, T)
    if "attention_mask" not in inputs:
        return positions
    mask = ops.cast(ops.cast(inputs["attention_mask"], "bool"), "int32")
    seen = ops.cumsum(mask, axis=1)
    before_last = seen < seen[:, -1:]  # a token is yet to come
    gaps = ops.cumsum((1 - mask) * ops.cast(before_last, "int32"), axis=1)
    return ops.maximum(positions - gaps, 0)


def _recomputed(apply, block):
    """Returns a call of a block that keeps its input alone for the gradient."""
    if keras.backend.backend() == "tensorflow":
        dropouts = (
            block.attn.attn_dropout,
            block.attn.resid_dropout,
            block.mlp.dropout,
        )
        apply = with_fixed_dropout(apply, dropouts)
    return keras.remat(apply)
