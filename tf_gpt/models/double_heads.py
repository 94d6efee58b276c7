"""`OpenAIGPTDoubleHeadsModel`: language model and multiple choice on one body."""

import keras
from keras import ops

from tf_gpt.layers.summary import SequenceSummary
from tf_gpt.models import inputs as call_inputs
from tf_gpt.models.gpt import OpenAIGPTModel
from tf_gpt.models.losses import check_labels, cross_entropy
from tf_gpt.models.pretrained import PreTrained, Target
from tf_gpt.outputs import OpenAIGPTDoubleHeadsModelOutput


@keras.saving.register_keras_serializable(package="tf_gpt")
class OpenAIGPTDoubleHeadsModel(PreTrained, keras.Model):
    """GPT-1 with its language-model head and one that scores choices.

    Args:
        config: `OpenAIGPTConfig`, or a dict of its fields.
        **kwargs: `name`, and `dtype`: a Keras dtype or policy.

    Call arguments: those of `OpenAIGPTModel` (but for the caches), of the rank
        given here or, for one choice alone, without the N; and
        input_ids: Int (B, N, T) for N choices.
        attention_mask, token_type_ids, position_ids: (B, N, T).
        inputs_embeds: Float (B, N, T, C).
        mc_token_ids: Int (B, N), the position that each choice's score reads if
            `summary_type` is "cls_index"; the last one if absent.
        labels: Int (B, N, T), for the language model; -100 is left out.
        mc_labels: Int (B,), the index of the right choice.

    Returns:
        `OpenAIGPTDoubleHeadsModelOutput`. With both kinds of labels its loss is
        `config.lm_coef * lm_loss + mc_loss`; with one kind, that loss. Where
        the config keeps the head from projecting to one score, `mc_logits` are
        the summaries (B, N, C).

    Raises:
        ValueError: As `OpenAIGPTModel`, and if labels do not fit.

    Source: Radford et al. 2018, sections 3.2 and 3.3; transformers 4.57,
        OpenAIGPTDoubleHeadsModel (PyTorch).
    """

    TARGETS = (
        Target("mc_labels", "mc_logits"),
        Target("labels", "logits", is_next_token=True),
    )

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = self.as_config(config)
        self.transformer = OpenAIGPTModel(
            self.config, name="transformer", dtype=self.dtype_policy
        )
        self.multiple_choice_head = SequenceSummary(
            self.config.summary_type,
            # A choice has one score, whatever `num_labels` says.
            _summary_units(self.config),
            self.config.summary_activation,
            self.config.summary_first_dropout,
            self.config.summary_last_dropout,
            self.config.initializer_range,
            dtype=self.dtype_policy,
            name="multiple_choice_head",
        )
        self.multiple_choice_head.build((None, None, self.config.n_embd))
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
        mc_token_ids=None,
        labels=None,
        mc_labels=None,
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
            mc_token_ids=mc_token_ids,
            labels=labels,
            mc_labels=mc_labels,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        call_inputs.check(inputs, self.config, ranks=(2, 3))
        body = self.run_body(call_inputs.without_choices(inputs), training)
        leading = call_inputs.leading_shape(inputs)  # (B, N) or (B,)

        def with_choices(x):  # (B * N, T, C) -> (B, N, T, C)
            return ops.reshape(x, (*leading, *ops.shape(x)[1:]))

        hidden = with_choices(body.last_hidden_state)
        positions = inputs.get("mc_token_ids")
        if positions is not None:
            _check_positions(positions, hidden)
        summaries = self.multiple_choice_head(
            hidden, positions=() if positions is None else positions, training=training
        )
        has_scores = summaries.shape[-1] == 1
        mc_logits = ops.squeeze(summaries, -1) if has_scores else summaries
        losses = self._own_losses(inputs, hidden, mc_logits, has_scores, training)
        states = body.hidden_states
        return self.finish(
            OpenAIGPTDoubleHeadsModelOutput(
                **losses,
                # Compiled training reads only the loss, and never makes these.
                logits=self.transformer.logits(hidden),
                mc_logits=mc_logits,
                hidden_states=states and tuple(map(with_choices, states)),
                attentions=body.attentions,
            ),
            inputs,
        )

    def _own_losses(self, inputs, hidden, mc_logits, has_scores, training):
        losses = {}
        if "labels" in inputs:
            losses["lm_loss"] = self.transformer.next_token_loss(
                hidden, inputs["labels"], training=training
            )
        if "mc_labels" in inputs:
            if not has_scores or len(mc_logits.shape) != 2:
                raise ValueError(
                    "`mc_labels` need one score for each of several choices. "
                    f"Received: `mc_logits` of shape {tuple(mc_logits.shape)}."
                )
            labels = inputs["mc_labels"]
            check_labels("mc_labels", labels, mc_logits.shape[:1], mc_logits.shape[1])
            losses["mc_loss"] = cross_entropy(mc_logits, labels)
        if len(losses) == 2:
            lm_loss, mc_loss = losses["lm_loss"], losses["mc_loss"]
            return {"loss": self.config.lm_coef * lm_loss + mc_loss, **losses}
        return {"loss": next(iter(losses.values()), None), **losses}


def _summary_units(config):
    if not config.summary_use_proj:
        return None
    return 1 if config.summary_proj_to_labels else config.n_embd


def _check_positions(positions, hidden):
    wanted = tuple(hidden.shape)[:-2]
    call_inputs.check_shape("mc_token_ids", positions, wanted)
    if hidden.shape[-2] is not None:
        call_inputs.check_ids("mc_token_ids", positions, hidden.shape[-2])
