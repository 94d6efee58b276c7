import io
import json
import subprocess
import sys

import pytest

from tf_gpt.cli.main import COMMANDS, main


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(command in printed for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "usage: tf-gpt" in capsys.readouterr().out


def test_the_module_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "tf_gpt", "--version"], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert result.stdout.strip().count(".") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["generate", "hi", "--model", "no-such-model"], "no-such-model"),
        (["generate", "hi", "--temperature", "0"], "temperature"),
        (["generate", "hi", "--temperature", "-1"], "temperature"),
        (["generate", "hi", "--top-p", "1.5"], "top_p"),
        (["generate", "hi", "--top-k", "-3"], "top_k"),
        (["generate", "hi", "--seed", "-3"], "seed"),
        (["generate", "hi", "--max-new-tokens", "0"], "max_new_tokens"),
        (["generate", "hi", "--max-new-tokens", "600"], "n_positions=512"),
        (["generate", "word " * 600], "n_positions=512"),
        (["generate", "hi", "--num-samples", "0"], "num-samples"),
        (["generate", "hi", "--greedy", "--num-samples", "2"], "num-samples"),
        (["info", "no-such-model"], "no-such-model"),
    ],
    ids=lambda a: " ".join(a)[:50] if isinstance(a, list) else a,
)
def test_bad_input_is_one_line_and_exit_code_1(arguments, message, capsys):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("tf-gpt: error: ")
    assert captured.err.count("\n") == 1


def broken_models(folder):
    """Makes folders that hold no usable model; returns what each error names."""
    for name in ("empty", "impossible", "truncated", "gpt2", "list"):
        (folder / name).mkdir()
    (folder / "impossible" / "config.json").write_text('{"n_head": 7}')
    (folder / "list" / "config.json").write_text("[1]")
    for name in ("truncated", "gpt2"):
        (folder / name / "config.json").write_text("{}")
    header = {"wte.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    whole = len(text).to_bytes(8, "little") + text + bytes(4)
    (folder / "gpt2" / "model.safetensors").write_bytes(whole)
    (folder / "truncated" / "model.safetensors").write_bytes(whole[:-2])
    return {
        "empty": "config.json",
        "impossible": "n_head=7",
        "list": "config.json",
        "truncated": "model.safetensors",
        "gpt2": "wte",
    }


def test_a_folder_without_a_usable_model_is_named(tmp_path, capsys):
    for name, message in broken_models(tmp_path).items():
        assert main(["info", str(tmp_path / name)]) in (0, 1)
        capsys.readouterr()
        assert main(["generate", "hi", "--model", str(tmp_path / name)]) == 1
        captured = capsys.readouterr()
        assert message in captured.err, name
        assert captured.err.count("\n") == 1
        assert not captured.out


def test_info_prints_sizes_parameters_and_files(capsys):
    assert main(["info", "mini"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "n_layer",
        "6,966,784",
        "8,192 entries",
        "model.safetensors",
        "float16",
    ):
        assert text in printed


def test_generate_reads_a_prompt_from_stdin(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the king\n"))
    assert main(["generate", "-", "--greedy", "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out.startswith("the king")


def test_an_empty_prompt_starts_a_story(capsys):
    assert main(["generate", "", "--greedy", "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out.split()


@pytest.mark.slow
def test_a_seed_fixes_the_text_and_samples_differ(capsys):
    command = ["generate", "The king", "--max-new-tokens", "8", "--seed", "5"]
    texts = []
    for _ in range(2):
        assert main([*command, "--num-samples", "2"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    _, first, second = texts[0].split("--- sample ")
    assert first.splitlines()[1:] != second.splitlines()[1:]
