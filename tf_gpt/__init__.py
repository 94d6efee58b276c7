"""OpenAI GPT (GPT-1) for TensorFlow and Keras 3.

The public names below are imported when they are first touched, so that
`import tf_gpt` answers at once. With the environment variable
TF_GPT_COMPILE_CACHE, compiled functions are kept in the folder that it names
(`tf_gpt.generation.compile_cache`), if TensorFlow is imported later.
"""

import importlib
import os
import sys
import warnings

__version__ = "0.1.0"

# Public name -> the module that defines it.
_HOME = {
    "BaseModelOutput": "tf_gpt.outputs",
    "BatchEncoding": "tf_gpt.tokenization.encoding",
    "OpenAIGPTConfig": "tf_gpt.config",
    "CausalLMOutput": "tf_gpt.outputs",
    "GenerationConfig": "tf_gpt.generation.config",
    "OpenAIGPTDoubleHeadsModel": "tf_gpt.models.double_heads",
    "OpenAIGPTDoubleHeadsModelOutput": "tf_gpt.outputs",
    "OpenAIGPTForSequenceClassification": "tf_gpt.models.classifier",
    "OpenAIGPTLMHeadModel": "tf_gpt.models.lm_head",
    "OpenAIGPTModel": "tf_gpt.models.gpt",
    "OpenAIGPTTokenizer": "tf_gpt.tokenization.tokenizer",
    "OpenAIGPTTokenizerFast": "tf_gpt.tokenization.fast",
    "SequenceClassifierOutput": "tf_gpt.outputs",
    "TextIteratorStreamer": "tf_gpt.generation.streamers",
    "TextStreamer": "tf_gpt.generation.streamers",
    "add_tokens_for": "tf_gpt.tokenization.task_tokens",
}

_SUBPACKAGES = {
    "checkpoints",
    "finetuning",
    "generation",
    "layers",
    "models",
    "serving",
    "tokenization",
}

# Models and outputs under the names TensorFlow users know.
_ALIASES = {
    f"TF{name}": name
    for name, home in _HOME.items()
    if home.startswith(("tf_gpt.models", "tf_gpt.outputs"))
}

__all__ = sorted([*_HOME, *_ALIASES])


if os.environ.get("TF_GPT_COMPILE_CACHE"):
    if "tensorflow" in sys.modules:  # which reads its flags once, at its import
        warnings.warn(
            "TF_GPT_COMPILE_CACHE has no effect: import tf_gpt before tensorflow.",
            stacklevel=2,
        )
    else:
        importlib.import_module("tf_gpt.generation.compile_cache").use_compile_cache()


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
