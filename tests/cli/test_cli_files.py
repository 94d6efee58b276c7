"""`tf-gpt generate --prompts` and `tf-gpt score`: files in, JSON lines out."""

import json

import numpy as np
import pytest

from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer
from tf_gpt.cli.main import main
from tf_gpt.cli.rows import RowsFile, read_texts

PROMPTS = ["Once upon a time", "The king", "", "There was a fox", "Tom and Lily"]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def loaded_once(folder, monkeypatch):
    """Gives every command the same model, with what it has compiled."""
    model = _loaded.setdefault(folder, OpenAIGPTLMHeadModel.from_pretrained(folder))
    monkeypatch.setattr(
        OpenAIGPTLMHeadModel, "from_pretrained", lambda name, **options: model
    )


_loaded = {}


def generate(folder, prompts, out, *more):
    command = ["generate", "--model", str(folder), "--prompts", str(prompts)]
    command += ["--out", str(out), "--batch-size", "2", "--max-new-tokens", "6"]
    return main([*command, "--no-xla", *more])


def rows_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_prompt_of_a_file_gets_the_text_that_it_gets_alone(
    folder, prompts, tmp_path
):
    out = tmp_path / "deep" / "texts.jsonl"
    assert generate(folder, prompts, out, "--seed", "7", "--num-samples", "2") == 0
    rows = rows_of(out)
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    model = OpenAIGPTLMHeadModel.from_pretrained(folder)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(folder)
    for index, row in enumerate(rows):
        ids = np.array([tokenizer(PROMPTS[index])["input_ids"] or [2]])
        alone = model.generate(
            ids,
            max_new_tokens=6,
            do_sample=True,
            temperature=0.8,
            top_p=0.9,
            top_k=0,
            seed=7 + index,
            num_return_sequences=2,
            jit_compile=False,
        ).numpy()[:, ids.shape[1] :]
        assert row["texts"] == tokenizer.batch_decode(alone, skip_special_tokens=True)


def test_prompts_may_be_json_lines(folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"The king\\nsaid"\n{"id": 4, "prompt": "The fox"}\n')
    out = tmp_path / "texts.jsonl"
    assert generate(folder, prompts, out, "--num-beams", "2") == 0
    assert [row["prompt"] for row in rows_of(out)] == ["The king\nsaid", "The fox"]


def test_a_stopped_run_keeps_its_rows_and_goes_on(
    folder, prompts, tmp_path, monkeypatch, capsys
):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "texts.jsonl"
    assert generate(folder, prompts, whole, "--seed", "3") == 0

    calls = []
    generate_batch = OpenAIGPTLMHeadModel.generate

    def stopped(model, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return generate_batch(model, *arguments, **options)

    monkeypatch.setattr(OpenAIGPTLMHeadModel, "generate", stopped)
    assert generate(folder, prompts, out, "--seed", "3") == 130
    assert rows_of(out) == rows_of(whole)[:2]
    with open(out, "a") as file:
        file.write('{"index": 2, "pro')  # as a kill leaves it
    assert generate(folder, prompts, out, "--seed", "3") == 0
    assert rows_of(out) == rows_of(whole)
    assert len(calls) == 2 + 2  # rows 2 to 4, in two batches

    # Nothing is left to do, and other settings are not mixed in.
    assert generate(folder, prompts, out, "--seed", "3") == 0
    assert len(calls) == 4
    capsys.readouterr()
    assert generate(folder, prompts, out, "--seed", "4") == 1
    assert "seed: 3 there, 4 now" in capsys.readouterr().err
    assert generate(folder, prompts, out, "--seed", "4", "--overwrite") == 0
    assert rows_of(out) != rows_of(whole)


def test_a_drawn_seed_is_kept_for_the_run_that_goes_on(folder, prompts, tmp_path):
    out = tmp_path / "texts.jsonl"
    assert generate(folder, prompts, out) == 0
    rows = rows_of(out)
    lines = out.read_text("utf-8").splitlines(keepends=True)
    out.write_text("".join(lines[:3]), encoding="utf-8")
    assert generate(folder, prompts, out) == 0
    assert rows_of(out) == rows


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "a prompt, or a file"),
        (["hi", "--prompts", "p.txt", "--out", "o"], "a prompt, or a file"),
        (["--prompts", "p.txt"], "needs --out"),
        (["hi", "--out", "o"], "belong to --prompts"),
        (["--prompts", "p.txt", "--out", "o", "--batch-size", "0"], "--batch-size"),
        (["--prompts", "p.txt", "--out", "o", "--max-time", "3"], "--max-time"),
        (["--prompts", "none.txt", "--out", "o"], "none.txt"),
        (["--prompts", "empty.txt", "--out", "o"], "empty.txt is empty"),
        (["--prompts", "latin.txt", "--out", "o"], "UTF-8.*line 2 of .*latin.txt"),
        (["--prompts", "bad.jsonl", "--out", "o"], "bad.jsonl:2: not a line of JSON"),
        (["--prompts", "odd.jsonl", "--out", "o"], 'odd.jsonl:1: must be.*"prompt"'),
        (["--prompts", "long.txt", "--out", "o"], "long.txt:1: .*n_positions=64.*80"),
        (
            ["--prompts", "p.txt", "--out", "p.txt", "--max-new-tokens", "6"],
            "not the output of an earlier",
        ),
        (["hi", "--greedy", "--temperature", "0.5"], "`temperature` has no effect"),
        (["hi", "--greedy", "--sample"], "exclude"),
        (["hi", "--num-assistant-tokens", "3"], "--assistant-model"),
        (["hi", "--num-beams", "2", "--num-samples", "3"], "num_return_sequences=3"),
        (["hi", "--num-beams", "2", "--temperature", "0.5"], "`temperature` has no"),
        (["hi", "--length-penalty", "2"], "`length_penalty` has no effect"),
        (["hi", "--penalty-alpha", "0.6", "--num-samples", "2"], "one answer"),
    ],
    ids=lambda a: " ".join(a)[:60] if isinstance(a, list) else "",
)
def test_bad_input_is_named_and_writes_nothing(
    folder, tmp_path, monkeypatch, capsys, arguments, message
):
    import re

    monkeypatch.chdir(tmp_path)
    for name, content in {
        "p.txt": b"The king\n",
        "empty.txt": b"",
        "latin.txt": b"fine\ncaf\xe9\n",
        "bad.jsonl": b'"fine"\n{"prompt": \n',
        "odd.jsonl": b'{"text": "fine"}\n',
        "long.txt": b"king " * 80,
    }.items():
        (tmp_path / name).write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert main(["generate", "--model", str(folder), *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error
    assert sorted(tmp_path.iterdir()) == before


def test_score_is_that_of_the_model(folder, tmp_path, capsys):
    texts = ["The king had a daughter.", "Fox", "", "fox " * 90]
    path, out = tmp_path / "texts.txt", tmp_path / "scores.jsonl"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    model = OpenAIGPTLMHeadModel.from_pretrained(folder)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(folder)
    expected = model.score([texts[0], texts[1], texts[3]], tokenizer=tokenizer)

    command = ["score", str(path), "--model", str(folder)]
    assert main([*command, "--out", str(out)]) == 0
    printed = dict(
        line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines()
    )
    assert printed["texts"] == "4"
    assert float(printed["perplexity"]) == pytest.approx(expected.perplexity, abs=1e-3)
    rows = rows_of(out)
    assert [len(row["tokens"]) for row in rows][2] == 0
    for row, log_probs in zip(
        [rows[0], rows[1], rows[3]], expected.log_probs, strict=True
    ):
        np.testing.assert_allclose(row["log_probs"], log_probs, atol=1e-5)
        assert len(row["tokens"]) == len(log_probs) + 1

    # A run that goes on gives the same sums.
    out.write_text("".join(out.read_text("utf-8").splitlines(True)[:2]), "utf-8")
    assert main([*command, "--out", str(out)]) == 0
    again = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines())
    assert again == printed
    np.testing.assert_allclose(rows_of(out)[3]["log_probs"], rows[3]["log_probs"])


def test_score_takes_a_file_as_one_text(folder, tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("The king\nhad a fox\n", encoding="utf-8")
    model = OpenAIGPTLMHeadModel.from_pretrained(folder)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(folder)
    expected = model.score(["The king\nhad a fox"], tokenizer=tokenizer)
    assert main(["score", str(path), "--model", str(folder), "--whole"]) == 0
    printed = capsys.readouterr().out.split()
    assert float(printed[-1]) == pytest.approx(expected.perplexity, abs=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["one.txt"], "no text has a second"),
        (["one.txt", "--overwrite"], "belongs to --out"),
        (["texts.jsonl", "--whole"], "--whole is for plain text"),
        (["two.txt", "--stride", "64"], r"`stride`.*\[1, 64\).*64"),
    ],
)
def test_score_names_bad_input(
    folder, tmp_path, monkeypatch, capsys, arguments, message
):
    import re

    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("king\n")
    (tmp_path / "two.txt").write_text("the king said\n")
    (tmp_path / "texts.jsonl").write_text('"the king"\n')
    assert main(["score", *arguments, "--model", str(folder)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error


def test_rows_are_only_added_to_what_was_made_alike(tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("a\nb\n")
    file = RowsFile(tmp_path / "out.jsonl", source, {"k": 1})
    file.write([{"x": "ü"}])
    assert RowsFile(tmp_path / "out.jsonl", source, {"k": 1}).n_done == 1
    for settings in ({"k": 2}, {}, {"k": 1, "more": 0}):
        with pytest.raises(ValueError, match="made otherwise"):
            RowsFile(tmp_path / "out.jsonl", source, settings)
    source.write_text("a\nc\n")
    with pytest.raises(ValueError, match="source: "):
        RowsFile(tmp_path / "out.jsonl", source, {"k": 1})
    assert rows_of(tmp_path / "out.jsonl") == [{"x": "ü"}]


def test_texts_keep_their_spaces_and_line_ends_do_not_count(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("  a \r\n\n\u2028b".encode())
    texts = [("  a ", f"{path}:1"), ("", f"{path}:2"), ("\u2028b", f"{path}:3")]
    assert read_texts(path, "text") == texts
