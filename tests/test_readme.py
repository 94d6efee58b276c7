"""Runs what the README shows. The installation itself is the CI script's part."""

import pathlib
import re
import shlex

import pytest

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer
from tf_gpt.cli.main import main

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = sorted(
    {
        part.strip()
        for language, text in BLOCKS
        if language == "sh"
        for line in text.splitlines()
        for part in line.split("&&")
        if part.strip().startswith("tf-gpt")
    }
)


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


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.strip()[-40:])
def test_every_program_runs(program, original, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = program.replace("openai-community/openai-gpt", str(original))
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    if "save_pretrained" in program:
        again = OpenAIGPTLMHeadModel.from_pretrained("out/king")
        assert again.config == names["model"].config


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.txt", "stories.txt"):
        (tmp_path / name).write_text("Once upon a time\nThe king had a fox\n")
    arguments = shlex.split(command)[1:]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    if "--prompts" in arguments:
        assert len((tmp_path / "texts.jsonl").read_text().splitlines()) == 2
    elif arguments[0] == "generate":
        assert printed.lower().startswith(arguments[1].lower())
        assert len(printed.split()) > len(arguments[1].split())


def test_links_lead_to_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
