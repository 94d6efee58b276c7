import json
import sys

import pytest

from tf_gpt.finetuning.callbacks import RunState
from tf_gpt.finetuning.report import draw_curves, write_report

DESCRIPTION = {"monitor": "val_loss"}


@pytest.fixture
def state():
    rows = [
        {"epoch": 1, "step": 5, "seconds": 1.0, "tokens": 50, "loss": 3.0},
        {"epoch": 1, "step": 8, "seconds": 2.0, "tokens": 80, "loss": 2.5},
        {"epoch": 2, "step": 10, "seconds": 3.0, "tokens": 99, "loss": 2.0},
        {"epoch": 2, "step": 16, "seconds": 4.0, "tokens": 160, "loss": 1.5},
    ]
    for row, loss, f1 in ((rows[1], 2.2, 0.5), (rows[3], 2.4, 0.75)):
        row.update(val_loss=loss, val_f1=f1)
    return RunState(
        epoch=2,
        total_steps=16,
        seconds=4.0,
        tokens=160,
        history={"loss": [2.5, 1.5], "val_loss": [2.2, 2.4], "val_f1": [0.5, 0.75]},
        rows=rows,
        best_value=2.2,
        best_epoch=1,
    )


def test_the_report_says_what_was_done(tmp_path, state):
    report = write_report(tmp_path, state, {"lr": 0.1}, DESCRIPTION)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["settings"] == {"lr": 0.1}
    assert report["history"]["val_f1"] == [0.5, 0.75]
    assert report["best"] == {
        "folder": "best",
        "epoch": 1,
        "monitor": "val_loss",
        "value": 2.2,
    }
    assert report["final"]["weights"] == "those after the last step"
    assert (report["steps"], report["seconds"], report["tokens"]) == (16, 4.0, 160)
    assert report["stopped"] == "after all epochs"


def test_the_curves_are_drawn(tmp_path, state):
    pytest.importorskip("matplotlib")
    report = write_report(tmp_path, state, {}, DESCRIPTION)
    assert report["plot"] == "report.png"
    content = (tmp_path / "report.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000


def test_without_matplotlib_the_report_says_so(tmp_path, state, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = write_report(tmp_path, state, {}, DESCRIPTION)
    assert "matplotlib is not installed" in report["plot"]
    assert not (tmp_path / "report.png").exists()


def test_a_run_without_rows_has_no_curves(tmp_path):
    pytest.importorskip("matplotlib")
    assert draw_curves(tmp_path / "report.png", RunState()).startswith("left out")


def test_values_that_json_does_not_know_become_null(tmp_path, state):
    state.history["val_f1"] = [float("nan"), 0.75]
    write_report(tmp_path, state, {}, DESCRIPTION)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["history"]["val_f1"] == [None, 0.75]
