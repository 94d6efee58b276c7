"""`OpenAIGPTLMHeadModel`: the language model; its head is the token table."""

import keras
from keras import ops

from tf_gpt import hub
from tf_gpt.generation.config import FILE_NAME as generation_config_file
from tf_gpt.generation.config import GenerationConfig
from tf_gpt.generation.generate import Decoder, generate
from tf_gpt.generation.scoring import compute_transition_scores, score
from tf_gpt.models import inputs as call_inputs
from tf_gpt.models.gpt import OpenAIGPTModel
from tf_gpt.models.pretrained import PreTrained, Target
from tf_gpt.outputs import CausalLMOutput


@keras.saving.register_keras_serializable(package="tf_gpt")
class OpenAIGPTLMHeadModel(PreTrained, keras.Model):
    """GPT-1 with its language-model head, which is tied to the token table.

    Args:
        config: `OpenAIGPTConfig`, or a dict of its fields.
        **kwargs: `name`, and `dtype`: a Keras dtype or policy.

    Call arguments: those of `OpenAIGPTModel` (but for the caches), and
        labels: Int (B, T), the token ids themselves: the loss compares the
            scores at t with the label at t + 1. -100 is left out.

    Returns:
        `CausalLMOutput`.

    Raises:
        ValueError: As `OpenAIGPTModel`, and if `labels` do not fit.

    Source: Radford et al. 2018, section 3.1, equations 1 and 2.
    """

    TARGETS = (Target("labels", "logits", is_next_token=True),)

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = self.as_config(config)
        self.transformer = OpenAIGPTModel(
            self.config, name="transformer", dtype=self.dtype_policy
        )
        self.generation_config = GenerationConfig.from_model_config(self.config)
        self._decoder = Decoder(
            decode=self.decode,
            make_caches=self.transformer.make_caches,
            inspect=self._inspect,
            n_positions=self.config.n_positions,
            vocab_size=self.config.vocab_size,
            n_embd=self.config.n_embd,
            compiled={},
        )
        self.built = True

    def build(self, input_shape=None):
        """Does nothing: the body was built with the config's sizes."""

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
        labels = inputs.pop("labels", None)
        body = self.run_body(inputs, training)
        hidden = body.last_hidden_state  # (B, T, C)
        loss = None
        if labels is not None:
            loss = self.transformer.next_token_loss(hidden, labels, training=training)
        return self.finish(
            CausalLMOutput(
                loss=loss,
                # Compiled training reads only the loss, and never makes these.
                logits=self.transformer.logits(hidden),
                hidden_states=body.hidden_states,
                attentions=body.attentions,
            ),
            inputs,
        )

    def generate(
        self,
        input_ids=None,
        attention_mask=None,
        *,
        inputs_embeds=None,
        generation_config=None,
        logits_processor=(),
        stopping_criteria=(),
        prefix_allowed_tokens_fn=None,
        assistant_model=None,
        negative_prompt_ids=None,
        negative_prompt_attention_mask=None,
        tokenizer=None,
        streamer=None,
        jit_compile=True,
        **options,
    ):
        """Continues prompts.

        Args:
            input_ids: Int (B, T); None or (B, 0) starts from `bos_token_id`. Or
                a dict with `input_ids` and `attention_mask`.
            attention_mask: (B, T) of 1 and 0; padding may stand on either side,
                and a row gets the tokens that it gets alone.
            inputs_embeds: Float (B, T, C), in place of `input_ids`.
            generation_config: `GenerationConfig` in place of the model's own.
            logits_processor: Further callables (logits, ids, step) -> logits;
                see `tf_gpt.generation.token_rules`.
            stopping_criteria: Callables (ids, n_prompt) -> bool, called for each
                row after each token with its ids (n,), NumPy without padding,
                the first `n_prompt` of which are the prompt.
            prefix_allowed_tokens_fn: Function of (index of the prompt, ids (n,))
                that returns the list of tokens allowed next. It is Python, so
                XLA is not used.
            assistant_model: A smaller `OpenAIGPTLMHeadModel` of the same
                vocabulary, which guesses tokens; the ids stay the same.
            negative_prompt_ids, negative_prompt_attention_mask: Int (B, T),
                prompts that `guidance_scale` moves away from; each prompt's
                last token if None.
            tokenizer: What `stop_strings` needs to turn ids into text.
            streamer: See `tf_gpt.generation.streamers`. One sequence only.
            jit_compile: Whether XLA compiles the loop; the ids are the same.
            **options: Fields of `GenerationConfig` to replace for this call.

        Returns:
            Int32 tensor (B, T + N), the prompt as it came and N new tokens; or
            a `GenerateOutput` if `return_dict_in_generate`. B counts the
            returned sequences; T is 0 for `inputs_embeds`.

        Raises:
            ValueError: Before anything is compiled, if the prompt or the
                options cannot be served.
        """
        if isinstance(input_ids, dict):
            batch = call_inputs.unpack(
                input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds
            )
            input_ids = batch.get("input_ids")
            attention_mask = batch.get("attention_mask")
            inputs_embeds = batch.get("inputs_embeds")
        config = generation_config or self.generation_config
        return generate(
            self._decoder,
            config.updated(**options),
            input_ids,
            attention_mask,
            inputs_embeds=inputs_embeds,
            negative_prompt_ids=negative_prompt_ids,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            processors=logits_processor,
            prefix_allowed_tokens_fn=prefix_allowed_tokens_fn,
            stopping_criteria=stopping_criteria,
            tokenizer=tokenizer,
            assistant=assistant_model and assistant_model._decoder,
            streamer=streamer,
            jit_compile=jit_compile,
        )

    def score(self, rows, stride=None, tokenizer=None):
        """Returns the log-probability of each token of texts, and perplexities.

        Args:
            rows: List of lists of token ids, of any length; or of strings.
            stride: How far the window of `n_positions` tokens moves along a
                longer row; half of it if None.
            tokenizer: What strings are encoded by.

        Returns:
            `tf_gpt.generation.scoring.ScoreOutput`.

        Raises:
            ValueError: If a row is empty or has ids outside the vocabulary.
        """
        return score(self._decoder, rows, stride, tokenizer)

    compute_transition_scores = staticmethod(compute_transition_scores)

    def after_loading(self, name, hub_options):
        files = hub.resolve_files(name, [generation_config_file], **hub_options)
        if files:
            path = files[generation_config_file]
            self.generation_config = GenerationConfig.from_file(path)

    def forget_compiled(self):
        """Drops what was traced, of `generate` too, with what has since changed."""
        super().forget_compiled()
        self._decoder.vocab_size = self.config.vocab_size
        self._decoder.compiled.clear()

    def save_beside(self, directory):
        self.generation_config.save_pretrained(directory)

    def decode(
        self,
        token_ids,
        caches,
        *,
        index,
        position_ids,
        attention_mask,
        last_only,
        inputs_embeds=None,
        with_hidden=False,
    ):
        """Runs tokens through the model on top of the caches.

        Args:
            token_ids: Int (B, T), or None with `inputs_embeds`.
            caches: As from `OpenAIGPTModel.make_caches`.
            index: Int scalar, the slot of the first token.
            position_ids: Int (B, T).
            attention_mask: Int (B, S), 0 at slots that hold padding.
            last_only: Whether to score the last token alone: the prompt's other
                scores are the larger part of its cost.
            inputs_embeds: Float (B, T, C), in place of the tokens.
            with_hidden: Whether to return also the hidden states.

        Returns:
            `(logits, caches)`: float32 (B, T, V), or (B, 1, V) if `last_only`,
            and the caches with the tokens in them; and the hidden states
            (B, T, C) if `with_hidden`.
        """
        body = self.transformer(
            token_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            caches=caches,
            cache_index=index,
            return_dict=True,
        )
        hidden = body.last_hidden_state
        scored = hidden[:, -1:] if last_only else hidden
        logits = ops.cast(self.transformer.logits(scored), "float32")
        if with_hidden:
            return logits, body.caches, hidden
        return logits, body.caches

    def _inspect(self, token_ids, attention_mask):
        return self.transformer(
            token_ids,
            attention_mask=attention_mask,
            output_attentions=True,
            output_hidden_states=True,
            return_dict=True,
            training=False,
        )
