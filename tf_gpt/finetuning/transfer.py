"""How much of a pre-trained model is used, and how much of it is trained."""

import numpy as np

from tf_gpt.models.pretrained import body_of, weights_by_path


def transfer_layers(model, n, seed=None):
    """Keeps the lower layers of a pre-trained model and draws the rest afresh.

    The weights above are drawn as those of a new model: kernels and tables from
    N(0, `config.initializer_range`), biases 0, gains 1. Heads keep their values.

    Args:
        model: One of the four model classes, with its weights loaded.
        n: How many blocks to keep, from below. 0 keeps the two embedding tables
            alone; -1 not even those: nothing is transferred.
        seed: Int that decides what is drawn; None draws anew each time.

    Raises:
        ValueError: If the model has no such number of blocks, or has LoRA
            adapters.

    Source: Radford et al. 2018, section 5 and figure 2 (left); OpenAI,
        finetune-transformer-lm, train.py, n_transfer.
    """
    body = body_of(model)
    n = _count("n", n, body, least=-1)
    _refuse_adapters(model)
    layers = body.blocks[max(n, 0) :]
    if n == -1:
        layers = [body.tokens_embed, body.positions_embed, *layers]
    rng = np.random.default_rng(seed)
    fresh = {layer.name for layer in layers}
    for path, variable in weights_by_path(model).items():
        if path.split("/")[0] in fresh:
            variable.assign(_draw(path, variable, model.config, rng))


def freeze(model, n_layers, embeddings=True):
    """Lets the lower layers keep their weights in training, and no others.

    Sets the Keras flag `trainable` of every layer of the body, so that a second
    call takes the place of the first: `freeze(model, 0, embeddings=False)`
    trains everything. Compile (again) after it. Neither `save_pretrained` nor a
    `.keras` file keeps the flags.

    A language model's head is the token table: with `embeddings` the head keeps
    its weights too, and only what comes before it adapts. The rows of new
    tokens, such as the paper's start and extract tokens, stay as they are too.

    Args:
        model: One of the four model classes.
        n_layers: How many blocks to freeze, from below.
        embeddings: Whether to freeze the token and position tables.

    Raises:
        ValueError: If the model has no such number of blocks, has LoRA adapters
            (which freeze what they adapt), or has been trained already: its
            optimizer knows other weights.
    """
    body = body_of(model)
    n_layers = _count("n_layers", n_layers, body, least=0)
    _refuse_adapters(model)
    model._check_untrained()
    for layer in (body.tokens_embed, body.positions_embed):
        layer.trainable = not embeddings
    for i, block in enumerate(body.blocks):
        block.trainable = i >= n_layers
    model.forget_compiled()


def _draw(path, variable, config, rng):
    if path.endswith(("/kernel", "/embeddings")):
        return rng.normal(0, config.initializer_range, variable.shape)
    return np.full(variable.shape, 1.0 if path.endswith("/gamma") else 0.0)


def _count(name, value, body, least):
    n_blocks = len(body.blocks)
    if isinstance(value, bool) or value not in range(least, n_blocks + 1):
        raise ValueError(
            f"`{name}` must be an integer from {least} to the number of blocks, "
            f"{n_blocks}. Received: {value!r}."
        )
    return int(value)


def _refuse_adapters(model):
    adapters = [path for path in weights_by_path(model) if "/lora_kernel_" in path]
    if adapters:
        raise ValueError(
            "The model must have no LoRA adapters: call merge_lora first. "
            f"Received: {len(adapters)} of their weights, such as {adapters[0]!r}."
        )
