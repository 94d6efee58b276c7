import os

import numpy as np
import pytest
from exported import small_model

from tf_gpt.cli.main import main
from tf_gpt.serving import export_onnx

pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

ROWS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15]]


def run(path, rows, n_columns):
    """Runs a file on rows that are padded with a token that it should not see."""
    ids = np.full((len(rows), n_columns), 3, "int32")
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(
        None, {"input_ids": ids, "lengths": np.int32([len(row) for row in rows])}
    )
    return output


@pytest.mark.parametrize(
    "cls, output_name",
    [("OpenAIGPTLMHeadModel", "logits"), ("OpenAIGPTModel", "last_hidden_state")],
)
def test_onnx_runtime_equals_the_model_on_each_token(cls, output_name, tmp_path):
    model = small_model(cls)
    path = export_onnx(model, tmp_path / "gpt.onnx")
    assert os.listdir(tmp_path) == ["gpt.onnx"]
    for rows, n_columns in ((ROWS, 7), (ROWS[:1], 9)):  # B and T are free
        output = run(path, rows, n_columns)
        for row, got in zip(rows, output, strict=True):
            wanted = model({"input_ids": np.array([row])})[output_name][0]
            np.testing.assert_allclose(got[: len(row)], wanted, atol=1e-5)


def test_onnx_runtime_reads_a_class_at_the_last_token(tmp_path):
    model = small_model("OpenAIGPTForSequenceClassification")
    output = run(export_onnx(model, tmp_path / "classes.onnx"), ROWS, 8)
    for row, got in zip(ROWS, output, strict=True):
        batch = {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)))}
        np.testing.assert_allclose(got, model(batch)["logits"][0], atol=1e-5)


def test_bad_arguments_raise_and_leave_nothing(tmp_path, monkeypatch):
    model = small_model()
    with pytest.raises(ValueError, match=r"`path` must end in \"\.onnx\""):
        export_onnx(model, tmp_path / "gpt.pb")
    with pytest.raises(ValueError, match="`model` must be a built model"):
        export_onnx("mini", tmp_path / "gpt.onnx")

    def no_room(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        export_onnx(model, tmp_path / "gpt.onnx")
    assert os.listdir(tmp_path) == []


def test_the_command_line_exports_onnx(tmp_path, capsys):
    folder, out = tmp_path / "model", tmp_path / "gpt.onnx"
    model = small_model()
    model.save_pretrained(folder)
    command = ["export", str(folder), "--format", "onnx", "--out"]
    assert main([*command, str(tmp_path / "gpt.txt")]) == 1
    assert '--out must end in ".onnx"' in capsys.readouterr().err
    assert main([*command, str(out)]) == 0
    assert "gpt.onnx: OpenAIGPTLMHeadModel" in capsys.readouterr().out
    got = run(out, ROWS[:1], 7)
    np.testing.assert_allclose(
        got, model({"input_ids": np.array(ROWS[:1])})["logits"], atol=1e-5
    )
