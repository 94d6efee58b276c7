"""`tf-gpt export --format litert` and `generate --engine litert`."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from tf_gpt.cli.main import main

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "LITERT.md"


@pytest.fixture(scope="module")
def file(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("litert") / "model.tflite"
    command = ["export", str(folder), "--format", "litert", "--out", str(path)]
    assert main(command) == 0
    return path


def test_export_writes_the_model_and_its_tokenizer(file):
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "model.tflite",
        "model.tokenizer",
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["--greedy"],
        ["--seed", "3"],
        ["--seed", "3", "--num-samples", "2"],
        ["--seed", "1", "--temperature", "1.5", "--top-k", "9", "--top-p", "0.7"],
    ],
    ids=" ".join,
)
def test_both_engines_print_the_same_text(folder, file, options, capsys):
    command = ["generate", "The king", "--max-new-tokens", "20", *options]
    # Uncompiled, which gives the same text sooner.
    assert main([*command, "--model", str(folder), "--no-xla"]) == 0
    expected = capsys.readouterr().out
    assert main([*command, "--model", str(file), "--engine", "litert"]) == 0
    assert capsys.readouterr().out == expected


def test_the_engine_starts_no_tensorflow(file):
    program = (
        "import sys; from tf_gpt.cli.main import main; "
        f"code = main(['generate', 'the king', '--engine', 'litert', "
        f"'--model', {str(file)!r}, '--max-new-tokens', '3']); "
        "print(code, 'tensorflow' in sys.modules, 'keras' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "0 False False"


def test_int8_is_smaller(folder, file, tmp_path):
    out = tmp_path / "small.tflite"
    command = ["export", str(folder), "--format", "litert", "--quantize", "int8"]
    assert main([*command, "--out", str(out)]) == 0
    assert out.stat().st_size < file.stat().st_size


@pytest.mark.parametrize(
    "options, message",
    [
        (["--num-beams", "4"], "--num-beams"),
        (["--penalty-alpha", "0.5"], "--penalty-alpha"),
        (["--min-p", "0.1"], "--min-p"),
        (["--repetition-penalty", "1.1"], "--repetition-penalty"),
        (["--stop-string", "x"], "--stop-string"),
        (["--prompts", "file.txt"], "--prompts"),
        (["--no-xla"], "--no-xla"),
        (["--compile-cache", "x"], "--compile-cache"),
        (["--greedy", "--seed", "1"], "--seed"),
        (["--greedy", "--num-samples", "2"], "--num-samples"),
        (["--num-samples", "0"], "--num-samples"),
        (["--top-p", "2"], "top_p=2.0"),
        (["--max-new-tokens", "600"], "n_positions=64"),
        (["--tokenizer", "no-such-folder"], "no-such-folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_litert_cannot_do_is_refused(file, options, message, capsys):
    command = ["generate", "hi", "--engine", "litert", "--model", str(file)]
    assert main([*command, *options]) == 1
    assert message in capsys.readouterr().err


def test_bad_files_are_refused(file, tmp_path, capsys):
    alone = tmp_path / "alone.tflite"
    alone.write_bytes(file.read_bytes())
    for model, message in (
        ("mini", "FILE.tflite"),
        (str(alone), "no tokenizer beside"),
        (str(tmp_path / "none.tflite"), "no tokenizer beside"),
    ):
        assert main(["generate", "hi", "--engine", "litert", "--model", model]) == 1
        assert message in capsys.readouterr().err
    assert main(["generate", "hi", "--tokenizer", "mini"]) == 1
    assert "--engine litert" in capsys.readouterr().err
    out = str(tmp_path / "model.bin")
    assert main(["export", "mini", "--format", "litert", "--out", out]) == 1
    assert ".tflite" in capsys.readouterr().err


def test_the_guides_commands_and_program_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(\w+)\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    commands = [
        line for kind, text in blocks if kind == "sh" for line in text.split("\n")
    ]
    for command in filter(None, commands):
        assert main(shlex.split(command)[1:]) == 0
    assert "the old man" in capsys.readouterr().out.lower()
    (program,) = [text for kind, text in blocks if kind == "python"]
    exec(compile(program, "LITERT.md", "exec"), {})
    assert capsys.readouterr().out.startswith("once upon a time")
