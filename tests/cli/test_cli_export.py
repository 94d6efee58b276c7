import json

import pytest

from tf_gpt.cli.main import main


def run(capsys, *arguments):
    code = main(["export", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_a_model_is_exported_for_tf_serving(folder, tmp_path, capsys):
    out = tmp_path / "gpt"
    code, said, noted = run(capsys, folder, "--format", "saved_model", "--out", out)
    assert code == 0, noted
    assert f"{out}/1: OpenAIGPTLMHeadModel" in said
    assert "splits words as 'openai'" in noted
    about = json.loads((out / "1" / "assets.extra" / "tf_gpt.json").read_text())
    assert "generate_text" in about["signatures"]
    code, *_ = run(capsys, folder, "--format", "saved_model", "--out", out, "--no-text")
    assert code == 0
    about = json.loads((out / "2" / "assets.extra" / "tf_gpt.json").read_text())
    assert "generate_text" not in about["signatures"]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--version", "-1"], "`version`"),
        (["--overwrite"], "`overwrite` needs `version`"),
        (["--no-text", "--xla"], "`batch_sizes`"),
        (["--no-text", "--lengths", "8"], "`lengths` has no effect"),
        (["--quantize", "int8"], "--quantize belongs to --format litert"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(folder, tmp_path, capsys, options, message):
    out = tmp_path / "gpt"
    code, _, said = run(
        capsys, folder, "--format", "saved_model", "--out", out, *options
    )
    assert code == 1
    assert message in said
    assert not out.exists()
