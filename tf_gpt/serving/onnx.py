"""`export_onnx`: what a model says of given rows, as an ONNX file."""

import importlib.util
import pathlib

from tf_gpt.serving.export import check_model
from tf_gpt.serving.signatures import DEFAULT, signatures_of
from tf_gpt.storage import replaced_file

# The oldest operator set that has all that is needed, and that tf2onnx writes.
OPSET = 17


def export_onnx(model, path):
    """Writes a model as one ONNX file, for ONNX Runtime and its like.

    The file has the signature `serving_default` of `export_saved_model`:
    `input_ids` int32 (B, T), padded on the right, and `lengths` int32 (B,) ->
    `logits` float32, (B, T, V) of a language model, (B, L) of a classifier; or
    `last_hidden_state` (B, T, C) of `OpenAIGPTModel`. B and T are free. ONNX has no
    operation that fails with a message: what `lengths` and T may be is not
    checked there. It does not generate: see `export_saved_model` and
    `export_litert`.

    Args:
        model: A built model of one of the four classes. Of double heads, the
            language model's.
        path: File to write, ending in ".onnx". It appears under this name when it
            is complete; a file of this name is replaced.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: If the ending is another, or the model was not built.
        ImportError: If tf2onnx is not installed.
        OSError: If the file cannot be written; then nothing is left of it.
    """
    path = pathlib.Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f'`path` must end in ".onnx". Received: {str(path)!r}.')
    check_model(model)
    if importlib.util.find_spec("tf2onnx") is None:
        raise ImportError(
            "ONNX files are made by tf2onnx, which is not installed "
            "(pip install tf-gpt[onnx])."
        )
    import tf2onnx

    signature = signatures_of(model)[DEFAULT]
    graph, _ = tf2onnx.convert.from_function(
        signature.traced(), list(signature.inputs.values()), opset=OPSET
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as stream:
        stream.write(graph.SerializeToString())
    return path
