"""Runs what the documents show. The installation itself is the CI script's part."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer
from tf_gpt.cli.main import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
GUIDE = ROOT / "docs" / "FINE_TUNING.md"
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if language == "sh" and "tf-gpt" in text]
QUESTIONS = [
    {"text": f"the fox is {colour}", "label": colour} for colour in ("red", "green")
]


def commands_of(text):
    """Returns the arguments of each `tf-gpt` in a block of shell."""
    parts = [part.strip() for line in text.splitlines() for part in line.split("&&")]
    return [shlex.split(part)[1:] for part in parts if part.startswith("tf-gpt")]


def write_inputs(folder, **rows):
    """Writes the files that commands read: texts, and rows of JSON by name."""
    for name in ("prompts.txt", "stories.txt"):
        (folder / name).write_text("Once upon a time\nThe king had a fox\n")
    for name, content in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small random model in the place of the one on the Hub."""
    folder = tmp_path_factory.mktemp("original")
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")
    tokenizer.save_pretrained(folder)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2}
    config = OpenAIGPTConfig(vocab_size=len(tokenizer), **sizes)
    OpenAIGPTLMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.strip()[-40:])
def test_every_program_runs(program, original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = program.replace("openai-community/openai-gpt", str(original))
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    for folder in re.findall(r'model\.save_pretrained\("(.+?)"\)', program):
        model = names["model"]
        again = type(model).from_pretrained(folder)
        for weight, own in zip(again.weights, model.weights, strict=True):
            np.testing.assert_array_equal(weight, own)


@pytest.mark.slow
@pytest.mark.parametrize("block", SHELL, ids=lambda text: text.split("\n")[0][:40])
def test_every_command_runs(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path, train=QUESTIONS * 4, dev=QUESTIONS, questions=QUESTIONS)
    for arguments in commands_of(block):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        if "--prompts" in arguments:
            assert len((tmp_path / "texts.jsonl").read_text().splitlines()) == 2
        elif arguments[0] == "generate":
            assert printed.lower().startswith(arguments[1].lower())
            assert len(printed.split()) > len(arguments[1].split())
        elif arguments[0] == "predict":
            answers = (tmp_path / "answers.jsonl").read_text().splitlines()
            labels = [json.loads(line)["label"] for line in answers]
            assert len(labels) == 2
            assert set(labels) <= {"red", "green"}


@pytest.fixture(scope="module")
def one_block(tmp_path_factory):
    """A small model in the place of `mini`, with its vocabulary."""
    folder = tmp_path_factory.mktemp("one_block")
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")
    tokenizer.save_pretrained(folder)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2}
    config = OpenAIGPTConfig(vocab_size=len(tokenizer), **sizes)
    OpenAIGPTLMHeadModel(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_the_fine_tuning_guide_runs_from_top_to_bottom(
    one_block, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    names = {}
    for block in re.finditer(r"```python\n(.*?)```", text, re.DOTALL):
        # In its place in the file, so that an error names the line there.
        above = "\n" * text.count("\n", 0, block.start(1))
        program = above + block[1].replace('"mini"', repr(one_block))
        exec(compile(program, GUIDE.name, "exec"), names)
    files = ["out/reviews/task.json", "out/reviews.safetensors"]
    files += ["runs/reviews/best/task.json", "runs/reviews/report.json"]
    for file in files:
        assert (tmp_path / file).is_file()


@pytest.mark.slow
def test_the_commands_of_the_fine_tuning_guide_run(
    one_block, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path, reviews=QUESTIONS * 4)
    text = GUIDE.read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for arguments in commands_of(block):
            arguments = [one_block if a == "mini" else a for a in arguments]
            assert main(arguments) == 0, capsys.readouterr().err
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 8
    assert (tmp_path / "runs" / "new" / "final" / "model.safetensors").is_file()


@pytest.mark.parametrize("path", [ROOT / "README.md", GUIDE], ids=lambda p: p.name)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
