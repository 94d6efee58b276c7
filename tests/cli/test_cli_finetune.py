"""`tf-gpt finetune`, `evaluate`, `predict` and `pretrain`, on small files."""

import csv
import json

import numpy as np
import pytest

from tf_gpt import OpenAIGPTForSequenceClassification, OpenAIGPTTokenizer
from tf_gpt.cli.main import main

COLOURS = ("red", "green")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def examples(task, n, seed=0):
    """Examples of a task that a small model can learn."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        colour = COLOURS[i % 2]
        words = " ".join(random.choice(["fox", "king", "sea"], 2))
        rows.append(
            {
                "classification": {"text": f"{words} {colour}", "label": colour},
                "entailment": {"premise": words, "hypothesis": colour, "label": i % 2},
                "similarity": {"text_a": words, "text_b": colour, "score": i % 2 * 5},
                "multiple-choice": {
                    "context": words,
                    "question": "colour",
                    "choices": list(COLOURS[:: 1 - 2 * (i % 2)]),
                    "label": i % 2,
                },
                "lm": {"text": f"the {words} is {colour}"},
            }[task]
        )
    return rows


def finetune(folder, task, train, out, *more):
    command = ["finetune", "--task", task, "--train", train, "--model", str(folder)]
    return main([*command, "--out", str(out), "--batch-size", "8", *more])


def test_a_classifier_is_trained_evaluated_and_asked(folder, tmp_path, capsys):
    train = write_rows(tmp_path / "train.jsonl", examples("classification", 64))
    dev = write_rows(tmp_path / "dev.jsonl", examples("classification", 12, seed=1))
    out = tmp_path / "run"
    options = ["--dev", dev, "--epochs", "10", "--learning-rate", "0.02"]
    assert finetune(folder, "classification", train, out, *options) == 0
    printed = capsys.readouterr().out
    assert "val_accuracy" in printed
    assert {"best", "final", "report.json", "log.csv"} <= {
        p.name for p in out.iterdir()
    }

    assert main(["evaluate", dev, "--model", str(out / "best"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["rows"] == 12
    assert {"loss", "accuracy", "f1", "matthews"} <= values.keys()
    report = json.loads((out / "report.json").read_text())
    assert values["accuracy"] == pytest.approx(max(report["history"]["val_accuracy"]))
    assert values["accuracy"] > 0.8  # the colour is the last word

    unlabelled = [{"text": row["text"]} for row in examples("classification", 11, 2)]
    ask = write_rows(tmp_path / "ask.jsonl", unlabelled)
    answers = tmp_path / "answers.jsonl"
    command = ["predict", ask, "--model", str(out / "best"), "--batch-size", "4"]
    command += ["--out", str(answers)]
    assert main(command) == 0
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(11))
    model = OpenAIGPTForSequenceClassification.from_pretrained(out / "best")
    tokenizer = OpenAIGPTTokenizer.from_pretrained(out / "best")
    for row, example in zip(rows, unlabelled, strict=True):
        ids = tokenizer(example["text"])["input_ids"]
        ids = [tokenizer.bos_token_id, *ids, tokenizer.cls_token_id]
        logits = np.asarray(model(np.array([ids])).logits[0], "float64")
        probabilities = np.exp(logits) / np.exp(logits).sum()
        assert row["label"] == model.config.id2label[int(logits.argmax())]
        np.testing.assert_allclose(
            list(row["probabilities"].values()), probabilities, atol=1e-4
        )

    # Cut within a batch, it goes on.
    whole = answers.read_text()
    answers.write_text("".join(whole.splitlines(keepends=True)[:6]))
    assert main(command) == 0
    again = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["label"] for row in again] == [row["label"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    "task, options, names",
    [
        ("entailment", ["--n-transfer", "1", "--lm-coef", "0"], {"accuracy"}),
        ("similarity", ["--freeze", "1", "--layer-decay", "0.9"], {"pearson"}),
        ("multiple-choice", ["--lora-rank", "2"], {"accuracy"}),
        ("lm", ["--accumulate", "2"], {"perplexity"}),
    ],
)
def test_every_task_runs_and_goes_on(folder, tmp_path, capsys, task, options, names):
    train = write_rows(tmp_path / "train.jsonl", examples(task, 16))
    out = tmp_path / "run"
    assert finetune(folder, task, train, out, "--epochs", "1", *options) == 0
    with open(out / "log.csv", newline="") as file:
        log = list(csv.DictReader(file))
    assert names <= log[-1].keys()
    capsys.readouterr()
    assert finetune(folder, task, train, out, "--epochs", "2", *options) == 1
    assert "epochs" in capsys.readouterr().err
    assert main(["evaluate", train, "--model", str(out / "final")]) == 0
    assert names <= set(capsys.readouterr().out.split())
    answers = tmp_path / "answers.jsonl"
    command = ["predict", train, "--model", str(out / "final"), "--out", str(answers)]
    if task == "lm":
        assert main(command) == 1
        assert "language model" in capsys.readouterr().err
    else:
        assert main(command) == 0
        assert len(answers.read_text().splitlines()) == 16


@pytest.mark.slow
def test_a_model_is_pretrained_from_text_alone(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the king had a fox .\n\nthe fox had a sea .\n" * 40)
    out = tmp_path / "run"
    command = ["pretrain", "--train", str(text), "--dev", str(text), "--out", str(out)]
    command += ["--vocab-size", "80", "--n-positions", "16", "--n-embd", "8"]
    command += ["--n-layer", "1", "--n-head", "2", "--epochs", "2"]
    assert main([*command, "--learning-rate", "0.01"]) == 0
    report = json.loads((out / "report.json").read_text())
    losses = report["history"]["val_loss"]
    assert losses[1] < losses[0] < np.log(80)
    capsys.readouterr()
    # A run's vocabulary is not taken over by another one.
    assert main([*command, "--learning-rate", "0.01", "--vocab-size", "70"]) == 1
    assert "vocab_size is 80 there, 70 here" in capsys.readouterr().err
    elsewhere = ["pretrain", "--train", str(text), "--out", str(tmp_path)]
    assert main(elsewhere) == 1
    assert "--out must be new" in capsys.readouterr().err
    model = str(out / "final")
    assert OpenAIGPTTokenizer.from_pretrained(model).model_max_length == 16
    assert (
        main(["generate", "the king", "--model", model, "--max-new-tokens", "5"]) == 0
    )
    assert capsys.readouterr().out.startswith("the king")


@pytest.mark.parametrize(
    "change, more, message",
    [
        ({"label": None}, [], "train.jsonl:3: .*label"),
        ({"text": 7}, [], "train.jsonl:3: .*text"),
        ({"label": 7}, [], "train.jsonl:3: .*one type"),
        ({"label": "blue"}, [], "blue"),
        ({}, ["--lora-rank", "2", "--freeze", "1"], "--freeze"),
        ({}, ["--patience", "2"], "--patience needs --dev"),
        ({}, ["--documents", "paragraphs"], "--documents belongs to lm"),
        ({}, ["--n-transfer", "3"], "3"),
        ({}, ["--max-length", "2"], "max_length"),
        ({}, ["--epochs", "0"], "epochs"),
        ({}, ["--batch-size", "0"], "batch_size"),
        ({}, ["--learning-rate", "-1"], "-1"),
    ],
)
def test_bad_input_is_named_before_anything_is_trained(
    folder, tmp_path, capsys, change, more, message
):
    import re

    rows = examples("classification", 12)
    rows[2] = {**rows[2], **change}
    train = write_rows(tmp_path / "train.jsonl", rows)
    out = tmp_path / "run"
    assert finetune(folder, "classification", train, out, *more) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, error), error
    assert not (out / "final").exists()
