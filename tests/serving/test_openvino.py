"""SavedModels run by OpenVINO, which shares no code with TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
from exported import alone, options_of, random_rows, rows_of, small_model

from tf_gpt.serving import export_saved_model

pytestmark = pytest.mark.serving

openvino = pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export_saved_model(model, tmp_path_factory.mktemp("served"))


def as_default(folder, name, place):
    """Saves one signature again, as `serving_default`, which alone OpenVINO reads."""
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures[name]
    specs = signature.structured_input_signature[1]

    @tf.function(input_signature=[specs[key] for key in sorted(specs)])
    def default(*values):
        return signature(**dict(zip(sorted(specs), values, strict=True)))

    holder = tf.Module()
    holder.loaded = loaded
    tf.saved_model.save(holder, str(place), signatures=default)
    return place


def compiled(folder):
    from openvino import opset8
    from openvino.frontend.tensorflow import ConversionExtension

    # OpenVINO has no operation for float32's bits, which only `top_k` and `top_p`
    # read: what stands there is never run here.
    no_bits = ConversionExtension(
        "Bitcast", lambda node: opset8.convert(node.get_input(0), "i32").outputs()
    )
    converted = openvino.convert_model(str(folder), extension=no_bits)
    # Its default may be bfloat16.
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.compile_model(converted, "CPU", options)


def answer(program, inputs):
    by_name = {}
    for port in program.inputs:
        (name,) = [n for n in inputs if any(n in alias for alias in port.get_names())]
        by_name[port] = inputs[name]
    out = program(by_name)
    return {"/".join(sorted(port.get_names())): out[port] for port in program.outputs}


def test_logits_equal_the_models(model, folder):
    program = compiled(folder)
    for seed, lengths in enumerate([[1], [7, 200, 30], [500]]):
        ids, lengths = random_rows(lengths, seed=seed)
        (logits,) = answer(program, {"input_ids": ids, "lengths": lengths}).values()
        for i, n in enumerate(lengths):
            expected = model(ids[i : i + 1, :n]).logits[0].numpy()
            np.testing.assert_allclose(logits[i, :n], expected, atol=1e-5)


def test_greedy_ids_equal_those_of_generate(model, folder, tmp_path):
    # Greedy alone: OpenVINO's CPU plugin has no kernel for a slice in the noise's
    # inner loop ("doesn't have compiled executor").
    program = compiled(as_default(folder, "generate", tmp_path))
    for n_rows, lengths in ((1, [4]), (3, [9, 1, 30])):
        ids, lengths = random_rows(lengths)
        tensors = options_of(n_rows, max_new_tokens=10)
        options = {name: tensor.numpy() for name, tensor in tensors.items()}
        out = answer(program, {"input_ids": ids, "lengths": lengths, **options})
        made = {value.ndim: value for value in out.values()}
        for row, prompt in zip(
            rows_of(made[2], made[1]), rows_of(ids, lengths), strict=True
        ):
            assert row == alone(model, prompt, max_new_tokens=10)
