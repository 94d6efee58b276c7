"""Models for servers and devices. Names are imported when first touched."""

import importlib

# Public name -> the module that defines it.
_HOME = {
    "LiteRTGenerator": "tf_gpt.serving.litert",
    "ServingClient": "tf_gpt.serving.client",
    "ServingError": "tf_gpt.serving.client",
    "export_litert": "tf_gpt.serving.litert",
    "export_onnx": "tf_gpt.serving.onnx",
    "export_saved_model": "tf_gpt.serving.export",
}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *__all__])
