"""Weight names: the released checkpoints on the left, tf_gpt on the right.

Data and string functions only; this module imports neither framework.
"""

import re

EMBEDDINGS = {
    "tokens_embed.weight": "tokens_embed/embeddings",
    "positions_embed.weight": "positions_embed/embeddings",
}

# One block. Kernels are released as (inputs, outputs), which is how Keras
# `Dense` keeps them: they are copied as they are.
BLOCK = {
    "attn.c_attn.weight": "attn/c_attn/kernel",
    "attn.c_attn.bias": "attn/c_attn/bias",
    "attn.c_proj.weight": "attn/c_proj/kernel",
    "attn.c_proj.bias": "attn/c_proj/bias",
    "ln_1.weight": "ln_1/gamma",
    "ln_1.bias": "ln_1/beta",
    "mlp.c_fc.weight": "mlp/c_fc/kernel",
    "mlp.c_fc.bias": "mlp/c_fc/bias",
    "mlp.c_proj.weight": "mlp/c_proj/kernel",
    "mlp.c_proj.bias": "mlp/c_proj/bias",
    "ln_2.weight": "ln_2/gamma",
    "ln_2.bias": "ln_2/beta",
}

HEADS = {
    "multiple_choice_head.summary.weight": "multiple_choice_head/summary/kernel",
    "multiple_choice_head.summary.bias": "multiple_choice_head/summary/bias",
    "score.weight": "score/kernel",
}

# Kernels that PyTorch keeps as (outputs, inputs): the only ones to transpose.
TRANSPOSED = {"multiple_choice_head/summary/kernel", "score/kernel"}

# Entries that are no weight of ours. `attn.bias` is the causal mask that old
# checkpoints stored, (1, 1, 512, 512), not the bias of a projection;
# `lm_head.weight` repeats `tokens_embed.weight`, to which it is tied.
SKIPPED = {"attn.bias", "position_ids", "lm_head.weight"}

# What transformers' TensorFlow classes call differently from tf_gpt. Their
# paths are otherwise ours behind a prefix that depends on the class, with
# blocks named `h_._0` and a `:0` at the end.
TENSORFLOW = {
    "tokens_embed/weight": "tokens_embed/embeddings",
    "attn/c_attn/weight": "attn/c_attn/kernel",
    "attn/c_proj/weight": "attn/c_proj/kernel",
    "mlp/c_fc/weight": "mlp/c_fc/kernel",
    "mlp/c_proj/weight": "mlp/c_proj/kernel",
}

_PYTORCH_NAMES = {path: name for name, path in (EMBEDDINGS | HEADS).items()}
_PYTORCH_BLOCK_NAMES = {path: name for name, path in BLOCK.items()}
_PATHS = {*EMBEDDINGS.values(), *HEADS.values()}
_BLOCK_PATHS = set(BLOCK.values())

_BLOCK_ENTRY = re.compile(r"h\.(?P<layer>\d+)\.(?P<local>.+)", re.ASCII)
_BLOCK_PATH = re.compile(r"h_(?P<layer>\d+)/(?P<local>.+)", re.ASCII)
_TENSORFLOW_ENTRY = re.compile(
    r"(?:.*/)?(?:h_\._(?P<layer>\d+)/(?P<block>[^/]+/.+)"
    r"|(?P<other>(?:tokens_embed|positions_embed|multiple_choice_head|score)/.+))",
    re.ASCII,
)


def from_pytorch(name: str) -> str | None:
    """Returns the tf_gpt path for a PyTorch entry, None if it is skipped.

    Raises:
        KeyError: If the entry is in none of the tables above.
    """
    local = name.removeprefix("transformer.")
    match = _BLOCK_ENTRY.fullmatch(local)
    if match:
        local = match["local"]
    if local in SKIPPED:
        return None
    path = (BLOCK if match else EMBEDDINGS | HEADS).get(local)
    if path is None:
        raise KeyError(name)
    return f"h_{int(match['layer'])}/{path}" if match else path


def to_pytorch(path: str, prefix: bool) -> str:
    """Returns the PyTorch entry for a tf_gpt path.

    Args:
        path: Weight path relative to the model.
        prefix: Whether the body's entries begin with `transformer.`, as those
            of every class with a head do. Heads never carry it.

    Raises:
        KeyError: If the path is in none of the tables above.
    """
    match = _BLOCK_PATH.fullmatch(path)
    if match:
        name = f"h.{match['layer']}.{_PYTORCH_BLOCK_NAMES[match['local']]}"
    else:
        name = _PYTORCH_NAMES[path]
    return f"transformer.{name}" if prefix and not is_head(path) else name


def from_tensorflow(name: str) -> str:
    """Returns the tf_gpt path for an entry of transformers' TensorFlow files.

    These are `tf_model.h5` and safetensors files of format "tf"; the prefix
    that names the class is not looked at.

    Raises:
        KeyError: If the entry is none of a GPT-1 model.
    """
    match = _TENSORFLOW_ENTRY.fullmatch(name.removesuffix(":0"))
    if match is None:
        raise KeyError(name)
    local = match["block"] or match["other"]
    local = TENSORFLOW.get(local, local)
    if local not in (_BLOCK_PATHS if match["block"] else _PATHS):
        raise KeyError(name)
    return f"h_{int(match['layer'])}/{local}" if match["block"] else local


def openai_paths(n_layer: int) -> list[str]:
    """Returns the tf_gpt paths in the order of OpenAI's `params_*.npy`.

    Positions come first, then tokens, then each block in the order of `BLOCK`.
    """
    return ["positions_embed/embeddings", "tokens_embed/embeddings"] + [
        f"h_{layer}/{path}" for layer in range(n_layer) for path in BLOCK.values()
    ]


def is_head(path: str) -> bool:
    """Whether a tf_gpt path belongs to a head, which a base model lacks."""
    return path in HEADS.values()


def is_weight(path: str) -> bool:
    """Whether a tf_gpt path is one that a GPT-1 model can have."""
    match = _BLOCK_PATH.fullmatch(path)
    return match["local"] in _BLOCK_PATHS if match else path in _PATHS
