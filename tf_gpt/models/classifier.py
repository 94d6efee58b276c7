"""`OpenAIGPTForSequenceClassification`: scores from a sequence's last token."""

import keras
from keras import ops

from tf_gpt.layers.summary import read_positions
from tf_gpt.models import inputs as call_inputs
from tf_gpt.models.gpt import OpenAIGPTModel
from tf_gpt.models.losses import check_labels, cross_entropy
from tf_gpt.models.pretrained import PreTrained, Target
from tf_gpt.outputs import SequenceClassifierOutput


@keras.saving.register_keras_serializable(package="tf_gpt")
class OpenAIGPTForSequenceClassification(PreTrained, keras.Model):
    """GPT-1 with a linear layer on the last token of each sequence.

    Args:
        config: `OpenAIGPTConfig`, or a dict of its fields; `num_labels` L.
        **kwargs: `name`, and `dtype`: a Keras dtype or policy.

    Call arguments: those of `OpenAIGPTModel` (but for the caches), of the rank
        given there or with N sequences a row; and
        input_ids: Int (B, T), or (B, N, T): the hidden states at the last
            tokens of a row's N sequences are summed before they are scored, as
            for both orders of two texts that are compared.
        attention_mask, token_type_ids, position_ids: As `input_ids`.
        labels: What the loss compares with; `config.problem_type` says how, or
            the labels do if it is None:
            "regression" (L = 1): float or int (B,) or (B, L), squared error;
            "single_label_classification" (integers): (B,), cross-entropy;
            "multi_label_classification" (floats): (B, L) of 0 and 1, binary
            cross-entropy.
        lm_labels: Int, as `input_ids`, for a language model as auxiliary
            objective: the token ids themselves; -100 is left out. Each sequence
            counts the same, however long.

    In training, dropout of `config.summary_first_dropout` is applied to the
    hidden states that are scored.

    The last token is the last that `attention_mask` keeps; without a mask the
    last that is not `config.pad_token_id`; without that the last position.

    Returns:
        `SequenceClassifierOutput`. With both kinds of labels its loss is
        `task_loss + config.lm_coef * lm_loss`; with one kind, that loss.

    Raises:
        ValueError: As `OpenAIGPTModel`, and if labels do not fit the problem.

    Source: Radford et al. 2018, sections 3.2 and 3.3; OpenAI,
        finetune-transformer-lm, train.py, model and clf; transformers 4.57,
        OpenAIGPTForSequenceClassification (PyTorch).
    """

    TARGETS = (Target("labels", "logits"),)

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
        self.dropout = keras.layers.Dropout(
            self.config.summary_first_dropout, dtype=self.dtype_policy
        )
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
        lm_labels=None,
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
            lm_labels=lm_labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        call_inputs.check(inputs, self.config, ranks=(2, 3))
        body = self.run_body(call_inputs.without_choices(inputs), training)
        leading = call_inputs.leading_shape(inputs)  # (B, N) or (B,)

        def by_row(x):  # (B * N, T, C) -> (B, N, T, C)
            return ops.reshape(x, (*leading, *ops.shape(x)[1:]))

        hidden = by_row(body.last_hidden_state)
        last = read_positions(hidden, self._last_tokens(inputs, hidden))
        last = self.dropout(last, training=training)
        if len(leading) == 2:
            last = ops.sum(last, axis=1)  # (B, N, C) -> (B, C)
        logits = self.score(last)  # (B, L)
        states = body.hidden_states
        return self.finish(
            SequenceClassifierOutput(
                **self._own_losses(inputs, hidden, logits, training),
                logits=logits,
                hidden_states=states and tuple(map(by_row, states)),
                attentions=body.attentions,
            ),
            inputs,
        )

    def _last_tokens(self, inputs, hidden):
        """Returns the position (B,) or (B, N) of each sequence's last token."""
        *leading, length = ops.shape(hidden)[:-1]
        positions = ops.arange(length)  # (T,)
        if "attention_mask" in inputs:
            is_token = ops.cast(inputs["attention_mask"], "bool")
        elif self.config.pad_token_id is not None and "input_ids" in inputs:
            is_token = ops.not_equal(inputs["input_ids"], self.config.pad_token_id)
        else:
            is_token = ops.ones((*leading, length), "bool")
        return ops.max(ops.where(is_token, positions, 0), axis=-1)

    def _own_losses(self, inputs, hidden, logits, training):
        task_loss = lm_loss = None
        if "labels" in inputs:
            task_loss = self._task_loss(logits, inputs["labels"])
        if "lm_labels" in inputs:
            labels = inputs["lm_labels"]
            check_labels("lm_labels", labels, hidden.shape[:-1], self.config.vocab_size)
            lm_loss = self.transformer.next_token_loss(
                hidden, labels, per_row=True, training=training
            )
        if lm_loss is None:
            return {"loss": task_loss}
        if task_loss is None:
            return {"loss": lm_loss, "lm_loss": lm_loss}
        loss = task_loss + self.config.lm_coef * lm_loss
        return {"loss": loss, "task_loss": task_loss, "lm_loss": lm_loss}

    def _task_loss(self, logits, labels):
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
