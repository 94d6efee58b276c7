"""The paper's four tasks, by the programs that a user copies."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import SCRIPTS

TASKS = ("classification", "entailment", "similarity", "multiple_choice")


@pytest.fixture(scope="module")
def runs(small, script, write, examples, tmp_path_factory):
    """Runs the program of a task once: (its names, folder, history, dev rows)."""
    done = {}

    def run(task):
        if task not in done:
            folder = tmp_path_factory.mktemp(task)
            train = write(folder / "train.jsonl", examples(task, 64))
            rows = examples(task, 12, seed=1)
            dev = write(folder / "dev.jsonl", rows)
            names = script(f"finetune_{task}")
            options = ["--model", small, "--out", str(folder / "out")]
            options += ["--epochs", "8", "--learning-rate", "0.02"]
            options += ["--batch-size", "8"]
            if task == "classification":
                options += ["--test", dev]
            if task == "entailment":
                options += ["--lm-coef", "0", "--dropout", "0"]
            if task == "multiple_choice":
                options += ["--accumulate", "2", "--rematerialise"]
            history = names["main"](["--train", train, "--dev", dev, *options])
            done[task] = (names, folder / "out", history, rows)
        return done[task]

    return run


def logits_by_hand(folder, texts):
    """Returns the scores (K,) of one row, whose sequences' parts are `texts`."""
    from tf_gpt.finetuning.tasks import load_task

    task = load_task(folder)
    model = task.load_model(folder)
    start, delimiter, extract = (
        getattr(task.tokenizer, f"{name}_token_id") for name in ("bos", "sep", "cls")
    )
    rows = []
    for parts in texts:
        first, *rest = (task.tokenizer(part)["input_ids"] for part in parts)
        rows.append([start, *first])
        for part in rest:
            rows[-1] += [delimiter, *part]
        rows[-1].append(extract)
    if task.kind == "multiple_choice":  # each alone, so that nothing is padded
        outputs = [
            model(
                {
                    "input_ids": np.array([[row]]),
                    "mc_token_ids": np.array([[len(row) - 1]]),
                }
            )
            for row in rows
        ]
        return np.array([float(np.ravel(out["mc_logits"])[0]) for out in outputs])
    ids = np.array([rows]) if task.kind == "similarity" else np.array(rows)
    return np.asarray(model(ids)["logits"])[0]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_loss_falls_and_the_task_is_learnt(runs, task):
    _, _, history, _ = runs(task)
    values = history.history
    assert values["val_loss"][-1] < values["val_loss"][0]
    assert values["loss"][-1] < values["loss"][0]
    name = "val_pearson" if task == "similarity" else "val_accuracy"
    assert values[name][-1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_what_is_saved_answers_as_the_inputs_of_the_paper_say(runs, task):
    names, folder, _, rows = runs(task)
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "task.json", "vocab.json"} <= files
    for row in rows[:2]:
        if task == "classification":
            scores = logits_by_hand(folder, [[row["text"]]])
            (label,) = names["predict"](folder, [row["text"]])
            assert label == ["green", "red"][scores.argmax()]
        elif task == "similarity":
            pair = [row["text_a"], row["text_b"]]
            (score,) = logits_by_hand(folder, [pair, pair[::-1]])
            (answer,) = names["predict"](folder, [tuple(pair)])
            assert answer == pytest.approx(float(score), abs=0.006)  # two digits
        elif task == "multiple_choice":
            first = f"{row['context']} {row['question']}"
            texts = [[first, choice] for choice in row["choices"]]
            (index,) = names["predict"](folder, [row])
            assert index == logits_by_hand(folder, texts).argmax()


@pytest.mark.slow
def test_recalls_are_those_of_the_scores(runs, write, tmp_path, capsys):
    names, folder, _, rows = runs("entailment")
    names["print_recalls"](str(folder), write(tmp_path / "rows.jsonl", rows))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    for line, label in zip(printed, ("no", "yes"), strict=True):
        own = [row for row in rows if row["label"] == label]
        found = sum(
            logits_by_hand(folder, [[row["premise"], row["hypothesis"]]]).argmax()
            == (label == "yes")
            for row in own
        )
        assert line == f"{label}: {found} of {len(own)} found"


@pytest.mark.parametrize("task", TASKS)
def test_the_defaults_are_those_of_the_paper(script, task):
    parse = script(f"finetune_{task}")["parse"]
    given = vars(parse(["--train", "a", "--dev", "b", "--out", "c"]))
    paper = {"epochs": 3, "batch_size": 32, "learning_rate": 6.25e-5}
    paper |= {"warmup": 0.002, "dropout": 0.1, "lm_coef": 0.5}
    assert paper.items() <= given.items()


@pytest.mark.parametrize("task", TASKS)
def test_the_options_reach_model_and_optimizer(runs, task):
    from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear

    _, folder, history, _ = runs(task)
    config = json.loads((folder / "config.json").read_text())
    rates = ("embd_pdrop", "attn_pdrop", "resid_pdrop", "summary_first_dropout")
    is_given = task == "entailment"  # the others have the defaults
    assert {config[name] for name in rates} == {0 if is_given else 0.1}
    assert config["lm_coef"] == (0 if is_given else 0.5)
    optimizer = history.model.optimizer
    assert type(optimizer) is OpenAIAdam
    schedule = optimizer._learning_rate
    assert type(schedule) is WarmupLinear
    assert (schedule.peak, schedule.warmup) == (0.02, 0.002)
    # 64 rows of 8 a step, eight times; of these two may make an update.
    n_updates = 32 if task == "multiple_choice" else 64
    assert schedule.total_steps == int(optimizer.iterations) == n_updates


@pytest.mark.slow
def test_pairs_with_labels_are_learnt_as_classes(
    small, script, write, examples, tmp_path
):
    rows = examples("similarity", 32)
    for row in rows:
        row["label"] = ("different", "same")[row.pop("score") // 2]
    file = write(tmp_path / "rows.jsonl", rows)
    names = script("finetune_similarity")
    options = ["--train", file, "--dev", file, "--out", str(tmp_path / "out")]
    options += ["--model", small, "--classes", "--learning-rate", "0.02"]
    options += ["--lm-coef", "0"]
    history = names["main"]([*options, "--batch-size", "8", "--epochs", "6"])
    values = history.history
    assert values["val_loss"][-1] < values["val_loss"][0]
    assert values["val_f1"][-1] > 0.8
    pairs = [(row["text_a"], row["text_b"]) for row in rows]
    answers = names["predict"](str(tmp_path / "out"), pairs)
    right = np.mean([a == row["label"] for a, row in zip(answers, rows, strict=True)])
    assert right == pytest.approx(values["val_accuracy"][-1])


@pytest.mark.slow
def test_n_transfer_draws_the_blocks_above_anew(
    small, script, write, examples, tmp_path
):
    from tf_gpt import OpenAIGPTLMHeadModel
    from tf_gpt.models.pretrained import weights_by_path

    file = write(tmp_path / "rows.jsonl", examples("entailment", 8))
    options = ["--train", file, "--dev", file, "--out", str(tmp_path / "out")]
    options += ["--model", small, "--n-transfer", "0", "--learning-rate", "1e-9"]
    options += ["--lm-coef", "0"]
    model = script("finetune_entailment")["main"]([*options, "--epochs", "1"]).model
    before = weights_by_path(OpenAIGPTLMHeadModel.from_pretrained(small))
    after = weights_by_path(model)
    kept, drawn = "positions_embed/embeddings", "h_0/attn/c_attn/kernel"
    np.testing.assert_allclose(after[kept], before[kept], atol=1e-6)
    assert np.abs(after[drawn] - before[drawn]).max() > 0.1


@pytest.mark.slow
def test_it_runs_as_a_user_types_it(small, write, examples, tmp_path):
    file = write(tmp_path / "rows.jsonl", examples("classification", 8))
    command = [sys.executable, str(SCRIPTS / "finetune_classification.py")]
    options = ["--train", file, "--dev", file, "--out", "out", "--model", small]
    done = subprocess.run(
        [*command, *options, "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "8 texts of 2 classes" in done.stdout
    assert done.stdout.count("is predicted for") == 3
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_errors_come_from_argparse_and_the_library(small, script, tmp_path, capsys):
    names = script("finetune_classification")
    with pytest.raises(SystemExit, match="2"):
        names["main"](["--dev", "x", "--out", "y"])
    assert "--train" in capsys.readouterr().err
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a fox", "label": "red"}\n{"text": "a sea"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:2.*`label`"):
        names["main"](
            ["--train", str(file), "--dev", str(file), "--out", "y", "--model", small]
        )


@pytest.mark.parametrize("task", TASKS)
def test_a_program_needs_nothing_but_the_library(task):
    text = pathlib.Path(SCRIPTS / f"finetune_{task}.py").read_text()
    imported = {
        line.split()[1].split(".")[0]
        for line in text.splitlines()
        if line.startswith(("import ", "from "))
    }
    assert imported <= {"argparse", "keras", "numpy", "tf_gpt"}
