"""OpenAI GPT (GPT-1) for TensorFlow and Keras 3.

The public names below are imported when they are first touched, so that
`import tf_gpt` answers at once.
"""

import importlib

__version__ = "0.1.0"

# Public name -> the module that defines it.
_HOME = {
    "BatchEncoding": "tf_gpt.tokenization.encoding",
    "OpenAIGPTConfig": "tf_gpt.config",
    "GenerationConfig": "tf_gpt.generation.config",
    "OpenAIGPTLMHeadModel": "tf_gpt.models.lm_head",
    "OpenAIGPTModel": "tf_gpt.models.gpt",
    "OpenAIGPTTokenizer": "tf_gpt.tokenization.tokenizer",
    "OpenAIGPTTokenizerFast": "tf_gpt.tokenization.fast",
}

_SUBPACKAGES = {"checkpoints", "generation", "layers", "models", "tokenization"}

# The models under the names TensorFlow users know.
_ALIASES = {f"TF{name}": name for name in _HOME if name.endswith("Model")}

__all__ = sorted([*_HOME, *_ALIASES])


def __getattr__(name):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    name = _ALIASES.get(name, name)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__, *_SUBPACKAGES])
