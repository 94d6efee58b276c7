"""`OpenAIGPTForSequenceClassification`: scores from a sequence's last token."""

import keras
from keras import ops

from tf_gpt.layers.summary import read_positions
from tf_gpt.models import inputs as call_inputs
from tf_gpt.models.gpt import OpenAIGPTModel
from tf_gpt.models.losses import check_labels, cross_entropy
from tf_gpt.models.pretrained import PreTrained
from tf_gpt.outputs import SequenceClassifierOutput


@keras.saving.register_keras_serializable(package="tf_gpt")
class OpenAIGPTForSequenceClassification(PreTrained, keras.Model):
    """GPT-1 with a linear layer on the last token of each sequence.

    Args:
        config: `OpenAIGPTConfig`, or a dict of its fields; `num_labels` L.
        **kwargs: `name`, and `dtype`: a Keras dtype or policy.

    Call arguments: those of `OpenAIGPTModel` (but for the caches), and
        labels: What the loss compares with; `config.problem_type` says how, or
            the labels do if it is None:
            "regression" (L = 1): float or int (B,) or (B, L), squared error;
            "single_label_classification" (integers): (B,), cross-entropy;
            "multi_label_classification" (floats): (B, L) of 0 and 1, binary
            cross-entropy.

    The last token is the last that `attention_mask` keeps; without a mask the
    last that is not `config.pad_token_id`; without that the last position.

    Returns:
        `SequenceClassifierOutput`.

    Raises:
        ValueError: As `OpenAIGPTModel`, and if labels do not fit the problem.

    Source: transformers 4.57, OpenAIGPTForSequenceClassification (PyTorch).
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = self.as_config(config)
        self.transformer = OpenAIGPTModel(
            self.config, name="transformer", dtype=self.dtype_policy
        )
        self.score = keras.layers.Dense(
            self.config.num_labels,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=self.config.initializer_range
            ),
            dtype=self.dtype_policy,
            name="score",
        )
        self.score.build((None, self.config.n_embd))
        self.built = True

    def build(self, input_shape=None):
        """Does nothing: everything was built with the config's sizes."""

    def call(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        head_mask=None,
        inputs_embeds=None,
        labels=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        training=None,
    ):
        inputs = call_inputs.unpack(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            labels=labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        body = self.run_body(inputs, training)
        hidden = body.last_hidden_state  # (B, T, C)
        last = read_positions(hidden, self._last_tokens(inputs, hidden))
        logits = self.score(last)  # (B, L)
        labels = inputs.get("labels")
        return self.finish(
            SequenceClassifierOutput(
                loss=None if labels is None else self._own_loss(logits, labels),
                logits=logits,
                hidden_states=body.hidden_states,
                attentions=body.attentions,
            ),
            inputs,
        )

    def _last_tokens(self, inputs, hidden):
        """Returns the position (B,) of each row's last token."""
        batch_size, length = ops.shape(hidden)[:2]
        positions = ops.arange(length)[None]  # (1, T)
        if "attention_mask" in inputs:
            is_token = ops.cast(inputs["attention_mask"], "bool")
        elif self.config.pad_token_id is not None and "input_ids" in inputs:
            is_token = ops.not_equal(inputs["input_ids"], self.config.pad_token_id)
        else:
            is_token = ops.ones((batch_size, length), "bool")
        return ops.max(ops.where(is_token, positions, 0), axis=1)

    def _own_loss(self, logits, labels):
        n_labels = logits.shape[-1]
        problem = self.config.problem_type
        is_integer = "int" in call_inputs.dtype_name(labels)
        if problem is None:
            if n_labels == 1:
                problem = "regression"
            elif is_integer:
                problem = "single_label_classification"
            else:
                problem = "multi_label_classification"
        if problem == "single_label_classification":
            check_labels("labels", labels, logits.shape[:1], n_labels)
            return cross_entropy(logits, labels)
        shape = tuple(logits.shape)
        if problem == "regression" and n_labels == 1 and len(labels.shape) == 1:
            shape, logits = shape[:1], ops.squeeze(logits, -1)
        call_inputs.check_shape("labels", labels, shape)
        logits, labels = ops.cast(logits, "float32"), ops.cast(labels, "float32")
        if problem == "regression":
            return ops.mean(ops.square(logits - labels))
        # log(1 + e^x) - x * label: binary cross-entropy on the logits.
        return ops.mean(ops.softplus(logits) - logits * labels)
