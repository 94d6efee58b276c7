import csv
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from run_program import (
    At,
    Rows,
    signal_self,
    small_model,
    small_run,
    toy_model,
    weights_of,
)

from tf_gpt import OpenAIGPTLMHeadModel
from tf_gpt.errors import CheckpointError
from tf_gpt.finetuning import checkpoint
from tf_gpt.finetuning.callbacks import KeepRun, StopAtNonFinite
from tf_gpt.finetuning.distributed import on_replicas
from tf_gpt.finetuning.runs import train

PROGRAM = pathlib.Path(__file__).with_name("run_program.py")


class Cut(Exception):
    pass


def cut():
    raise Cut


def saved_step(folder):
    _, state = checkpoint.open_state(folder / "checkpoint.safetensors")
    return state["total_steps"]


class CutAtBatchOfDev(keras.callbacks.Callback):
    def on_test_batch_end(self, batch, logs=None):
        cut()


def rows_of(folder):
    with open(folder / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """A run of 2 epochs of 8 steps, never cut: `(folder, model, history)`."""
    folder = tmp_path_factory.mktemp("uncut") / "run"
    model = toy_model()
    return folder, model, small_run(model, folder)


@pytest.fixture(scope="module")
def uncut_gpt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uncut_gpt") / "run"
    model = small_model()
    return folder, model, small_run(model, folder)


def assert_ends_like(uncut, folder, model, history):
    uncut_folder, uncut_model, uncut_history = uncut
    np.testing.assert_array_equal(weights_of(model), weights_of(uncut_model))
    for mine, other in zip(
        model.optimizer.variables, uncut_model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), other.numpy())
    assert history == uncut_history
    mine = rows_of(folder)
    others = rows_of(uncut_folder)
    # A run stopped by Ctrl-C has a row more: for the checkpoint made then.
    steps = {row["step"] for row in others}
    assert without_time(r for r in mine if r["step"] in steps) == without_time(others)
    assert len({row["step"] for row in mine}) == len(mine)


def test_a_run_does_what_a_plain_fit_does(uncut_gpt):
    _, model, history = uncut_gpt
    plain = small_model()
    data, dev = Rows(), Rows(8, seed=1)
    length = tf.data.experimental.assert_cardinality
    for epoch in range(2):
        data.start_at(epoch, 0)
        dev.start_at(0, 0)
        with on_replicas(plain):
            logs = plain.fit(
                data.as_tf_data().apply(length(data.steps_per_epoch)),
                validation_data=dev.as_tf_data().apply(length(dev.steps_per_epoch)),
                verbose=0,
            )
        for name, values in logs.history.items():
            assert values[0] == history[name][epoch]
    np.testing.assert_array_equal(weights_of(model), weights_of(plain))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    # Before any checkpoint; after one; at the last step of an epoch and of all.
    "step",
    [pytest.param(2, marks=SLOW), 7, pytest.param(8, marks=SLOW), 16],
)
def test_a_run_cut_at_any_step_ends_like_one_never_cut(tmp_path, uncut, step):
    with pytest.raises(Cut):
        small_run(toy_model(), tmp_path, callbacks=[At(step, cut)])
    model = toy_model()
    assert_ends_like(uncut, tmp_path, model, small_run(model, tmp_path))


def test_a_run_cut_while_evaluating_ends_like_one_never_cut(tmp_path, uncut):
    with pytest.raises(Cut):
        small_run(toy_model(), tmp_path, callbacks=[CutAtBatchOfDev()])
    _, state = checkpoint.open_state(tmp_path / "checkpoint.safetensors")
    assert (state["epoch"], state["step"]) == (0, 8)
    model = toy_model()
    assert_ends_like(uncut, tmp_path, model, small_run(model, tmp_path))


def run_in_a_process(folder, **options):
    return subprocess.run(
        [sys.executable, PROGRAM, folder, json.dumps(options)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_killed_process_goes_on_bit_for_bit(tmp_path, uncut):
    result = run_in_a_process(tmp_path, kill_at=13, toy=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert saved_step(tmp_path) == 12
    model = toy_model()
    assert_ends_like(uncut, tmp_path, model, small_run(model, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options, status, saved",
    [
        ({"kill_at": 13}, -signal.SIGKILL, 12),
        ({"kill_in_the_write_after": 4}, -signal.SIGKILL, 3),
        # Python ends itself by the signal after a KeyboardInterrupt nobody took.
        ({"interrupt_at": 5}, -signal.SIGINT, 5),
    ],
    ids=["killed", "killed-while-writing", "interrupted"],
)
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_killed_gpt_goes_on_bit_for_bit(
    tmp_path, options, status, saved, jit_compile
):
    uncut = small_model(jit_compile=jit_compile)
    history = small_run(uncut, tmp_path / "uncut")
    folder = tmp_path / "cut"
    result = run_in_a_process(folder, **options, jit_compile=jit_compile)
    assert result.returncode == status, result.stderr
    assert saved_step(folder) == saved
    model = small_model(jit_compile=jit_compile)
    again = small_run(model, folder)
    assert_ends_like((tmp_path / "uncut", uncut, history), folder, model, again)
    assert not list(folder.glob(".*"))


def test_ctrl_c_saves_the_step_it_came_in(tmp_path, uncut):
    before = signal.getsignal(signal.SIGINT)
    interrupt = At(5, signal_self(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        small_run(toy_model(), tmp_path, callbacks=[interrupt])
    assert signal.getsignal(signal.SIGINT) == before
    assert saved_step(tmp_path) == 5
    model = toy_model()
    assert_ends_like(uncut, tmp_path, model, small_run(model, tmp_path))


def test_a_streamed_run_resumes_and_keeps_whole_epochs(tmp_path, uncut):
    with pytest.raises(Cut):
        small_run(
            toy_model(),
            tmp_path,
            dataset=Rows(streaming=True, scores=True),
            callbacks=[At(7, cut)],
        )
    model = toy_model()
    history = small_run(model, tmp_path, dataset=Rows(streaming=True, scores=True))
    assert_ends_like(uncut, tmp_path, model, history)


def test_metrics_of_a_resumed_epoch_cover_the_whole_epoch(tmp_path):
    def run(folder, **options):
        return small_run(
            toy_model(), folder, epochs=1, monitor="val_mae", mode="min", **options
        )

    whole = run(tmp_path / "whole")
    assert set(whole) == {"loss", "mae", "val_loss", "val_mae"}
    with pytest.raises(Cut):
        run(tmp_path / "cut", callbacks=[At(4, cut)])
    assert run(tmp_path / "cut") == whole


def test_a_finished_run_says_so_and_loads_its_weights(uncut):
    folder, model, history = uncut
    again = toy_model()
    with pytest.warns(UserWarning, match=r"is finished: nothing was trained"):
        assert small_run(again, folder) == history
    np.testing.assert_array_equal(weights_of(again), weights_of(model))


def test_the_folder_holds_best_and_final_models(uncut_gpt):
    folder, model, history = uncut_gpt
    final = OpenAIGPTLMHeadModel.from_pretrained(folder / "final")
    np.testing.assert_array_equal(weights_of(final), weights_of(model))
    best = OpenAIGPTLMHeadModel.from_pretrained(folder / "best")
    best.compile(jit_compile=False)
    dev = Rows(8, seed=1)
    value = best.evaluate(dev.as_tf_data(), verbose=0)
    assert value == pytest.approx(min(history["val_loss"]), rel=1e-6)


def test_the_log_has_a_row_per_checkpoint_and_epoch(uncut):
    folder, _, history = uncut
    rows = rows_of(folder)
    assert [int(row["step"]) for row in rows] == [3, 6, 8, 9, 12, 15, 16]
    assert [int(row["epoch"]) for row in rows] == [1, 1, 1, 2, 2, 2, 2]
    assert [bool(row["val_loss"]) for row in rows] == [False, False, True] + [
        False,
        False,
        False,
        True,
    ]
    assert [float(rows[i]["loss"]) for i in (2, 6)] == history["loss"]
    assert int(rows[-1]["tokens"]) == 2 * Rows().mask.size


def test_patience_stops_and_best_stays(tmp_path):
    trained = toy_model(optimizer=keras.optimizers.SGD(0.0))
    history = small_run(trained, tmp_path, epochs=9, patience=2)
    best = 1  # nothing moves: no epoch is better than the first
    assert len(history["loss"]) == best + 2
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["best"]["epoch"] == best
    assert report["stopped"] == "val_loss did not get better in 2 epochs"
    trained.load_weights(tmp_path / "final" / "model.weights.h5")


def test_other_settings_are_named_before_work(tmp_path):
    with pytest.raises(Cut):
        small_run(toy_model(), tmp_path, settings={"lr": 1}, callbacks=[At(1, cut)])
    before = sorted(tmp_path.rglob("*"))
    for changed, message in (
        ({"settings": {"lr": 2}}, r"settings.lr is 1 there, 2 here"),
        ({"settings": {}}, r"settings.lr is 1 there, absent here"),
        ({"settings": {"lr": 1}, "epochs": 3}, r"run.epochs is 2 there, 3 here"),
    ):
        with pytest.raises(ValueError, match=message):
            small_run(toy_model(), tmp_path, **changed)
    other = toy_model(optimizer=keras.optimizers.Adam(0.5))
    with pytest.raises(ValueError, match=r"optimizer.*learning_rate is 0.0\d+ there"):
        small_run(other, tmp_path, settings={"lr": 1})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"must be new, empty or of this run.*thesis"):
        small_run(toy_model(), tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, r"`epochs` must be 1 or more. Received: epochs=0"),
        ({"save_every": 2.5}, r"`save_every` .*2.5"),
        ({"patience": 0}, r"`patience` .*patience=0"),
        ({"dev": False, "patience": 1}, r"`patience` .*needs `dev`"),
        ({"monitor": "loss"}, r"`monitor` .*begins with 'val_'.*'loss'"),
        (
            {"monitor": "val_f1"},
            r"`monitor` must be one of val_loss, val_mae:.*'val_f1'",
        ),
        ({"mode": "best"}, r"`mode` must be auto, min or max.*'best'"),
        ({"settings": {"x": {1, 2}}}, r"`settings` must hold what JSON can"),
        ({"dataset": 3}, r"`dataset` must be a TaskDataset.*int"),
    ],
)
def test_wrong_arguments_are_named_before_work(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        small_run(toy_model(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_model_must_be_compiled_for_single_steps(tmp_path):
    model = toy_model(steps_per_execution=2)
    with pytest.raises(ValueError, match=r"steps_per_execution=1.*Received: 2"):
        small_run(model, tmp_path)


def spoil(model):
    table = model.weights[0]
    return lambda: table.assign(table * np.nan)


def test_a_loss_that_is_not_finite_stops_at_its_step(tmp_path):
    model = toy_model()
    with pytest.raises(FloatingPointError, match=r"loss is nan at epoch 2, step 12"):
        small_run(model, tmp_path, save_every=5, callbacks=[At(11, spoil(model))])
    assert saved_step(tmp_path) == 10


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    model = toy_model()
    with pytest.raises(FloatingPointError, match=r"not finite.*is left as it was"):
        small_run(model, tmp_path, save_every=1, callbacks=[At(5, spoil(model))])
    assert saved_step(tmp_path) == 4


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    fill = At(4, lambda: monkeypatch.setattr(checkpoint.os, "fsync", full))
    with pytest.raises(OSError, match=r"No space left.*the earlier one is as it was"):
        small_run(toy_model(), tmp_path, callbacks=[fill])
    assert saved_step(tmp_path) == 3
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_keeps_every_type_bit_for_bit(tmp_path):
    values = {
        dtype: keras.Variable(np.array([1, 2, 3]), dtype=dtype)
        for dtype in ("float32", "bfloat16", "float16", "int64", "uint32", "bool")
    }
    values["uint32"].assign(np.array([1, 2**32 - 1, 7], "uint32"))
    file = tmp_path / "state"
    checkpoint.save_state(file, values, {"epoch": 3})
    tensors, state = checkpoint.open_state(file)
    assert state == {"epoch": 3}
    again = {n: keras.Variable(np.zeros(3), dtype=v.dtype) for n, v in values.items()}
    checkpoint.assign_stored(again, tensors, file)
    for name, value in values.items():
        np.testing.assert_array_equal(again[name].numpy(), value.numpy())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"a": np.zeros(3, "float32")}, "another model.*'b'"),
        ({"a": np.zeros(3, "float32"), "b": np.zeros(2, "float32")}, r"'b' must have"),
        ({"a": np.zeros(3, "int32"), "b": np.zeros(3, "float32")}, r"'a' must have"),
    ],
)
def test_a_checkpoint_of_another_model_changes_nothing(tmp_path, values, message):
    file = tmp_path / "state"
    checkpoint.save_state(file, values, {})
    tensors, _ = checkpoint.open_state(file)
    mine = {name: keras.Variable(np.ones(3, "float32")) for name in "ab"}
    with pytest.raises(CheckpointError, match=message):
        checkpoint.assign_stored(mine, tensors, file)
    assert all((variable.numpy() == 1).all() for variable in mine.values())


def test_a_damaged_checkpoint_is_named(tmp_path):
    with pytest.raises(Cut):
        small_run(toy_model(), tmp_path, callbacks=[At(4, cut)])
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors is truncated"):
        small_run(toy_model(), tmp_path)


def test_the_callbacks_work_in_a_plain_fit(tmp_path):
    def fit(folder, *callbacks):
        model, data = toy_model(), Rows(scores=True)
        run = KeepRun(folder, data, save_every=3)
        callbacks = [StopAtNonFinite(), *callbacks, run]
        model.fit(data.as_tf_data(), epochs=2, verbose=0, callbacks=callbacks)
        return weights_of(model)

    with pytest.raises(Cut):
        fit(tmp_path / "cut", At(11, cut))
    np.testing.assert_array_equal(fit(tmp_path / "cut"), fit(tmp_path / "uncut"))


def test_the_bar_shows_loss_rate_and_time_left(tmp_path, capfd):
    small_run(toy_model(), tmp_path, dev=False, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    for part in ("epoch 2/2", "16/16", "loss=", "tokens/s=", "step/s"):
        assert part in shown.err


def test_nothing_is_shown_without_progress(tmp_path, capfd):
    small_run(toy_model(), tmp_path, dev=False, epochs=1)
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""


def test_tensorboard_files_are_written_when_asked_for(tmp_path):
    pytest.importorskip("tensorboard")
    small_run(toy_model(), tmp_path, epochs=1, tensorboard=True)
    assert list((tmp_path / "tensorboard" / "train").glob("events.out.tfevents.*"))
    assert list((tmp_path / "tensorboard" / "validation").glob("events.out*"))


def test_tensorboard_files_need_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"needs the package tensorboard"):
        small_run(toy_model(), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_a_short_epoch_is_not_taken_for_a_whole_one(tmp_path):
    data = Rows(scores=True)
    data.steps_per_epoch = 9
    with pytest.raises(RuntimeError, match=r"should have 9 steps.*It had 8"):
        train(toy_model(), data, tmp_path, epochs=1, progress=False)
