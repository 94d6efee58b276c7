"""The tokens that GPT's vocabulary lacks: padding, and the paper's for tasks."""

from tf_gpt.errors import TokenizerError

PAD = "<pad>"
# As OpenAI's code calls them; `_classify_` is the paper's extract token.
TASK_TOKENS = {
    "bos_token": "_start_",
    "sep_token": "_delimiter_",
    "cls_token": "_classify_",
}

# What a config says of special tokens.
_CONFIG_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id")


def add_tokens_for(tokenizer, model=None, *, pad_token=PAD, task_tokens=False):
    """Adds a pad token, or the task tokens too, to a tokenizer and its model.

    Tokens that the tokenizer has stay. The model's embeddings grow to the
    tokenizer's length; its config, and generation config if there is one, get
    the ids of the pad, start, end and delimiter tokens that the tokenizer has.

    Args:
        tokenizer: `OpenAIGPTTokenizer` or `OpenAIGPTTokenizerFast`.
        model: A model with `resize_token_embeddings` and `config`, or None.
        pad_token: The pad token to add where the tokenizer has none.
        task_tokens: Whether to add the start, delimiter and extract tokens of
            fine-tuning: the tokenizer's bos, sep and cls tokens.

    Returns:
        The number of tokens that are new in the tokenizer.

    Raises:
        TokenizerError: If `model` has no `resize_token_embeddings`.

    Source: Radford et al. 2018, section 3.3; `train.py` as released.
    """
    if model is not None and not hasattr(model, "resize_token_embeddings"):
        raise TokenizerError(
            "`model` must have `resize_token_embeddings`. "
            f"Received: {type(model).__name__}."
        )
    wanted = {"pad_token": pad_token, **(TASK_TOKENS if task_tokens else {})}
    missing = {k: v for k, v in wanted.items() if getattr(tokenizer, k) is None}
    n_new = tokenizer.add_special_tokens(missing)
    if model is not None:
        # A table may be larger than the vocabulary; it never shrinks.
        if model.config.vocab_size < len(tokenizer):
            model.resize_token_embeddings(len(tokenizer))
        for config in (model.config, getattr(model, "generation_config", None)):
            for name in _CONFIG_IDS if config is not None else ():
                index = getattr(tokenizer, name)
                if index is not None and (
                    config is model.config or hasattr(config, name)
                ):
                    setattr(config, name, index)
    return n_new
