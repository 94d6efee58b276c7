"""What a finished run leaves to read: report.json, and report.png with its curves."""

import dataclasses
import math

from tf_gpt.finetuning import checkpoint
from tf_gpt.storage import replaced_file


def write_report(directory, state, settings, description):
    """Writes `report.json`, and `report.png` if matplotlib is installed.

    Args:
        directory: Folder of the run.
        state: Its `callbacks.RunState`.
        settings: The user's settings.
        description: What else identifies the run.

    Returns:
        The dict in report.json: `settings`, `run`, `epochs`, `steps`, `seconds`,
        `tokens`, `history`, `best`, `final`, `stopped`, `plot`.
    """
    report = {
        "settings": settings,
        "run": description,
        "epochs": state.epoch,
        "steps": state.total_steps,
        "seconds": round(state.seconds, 3),
        "tokens": state.tokens,
        "history": state.history,
        "best": _best(state, description),
        "final": {"folder": "final", "weights": "those after the last step"},
        "stopped": state.stopped or "after all epochs",
        "plot": draw_curves(directory / "report.png", state),
    }
    report = _finite(report)
    checkpoint.write_json(directory / "report.json", report)
    return report


def draw_curves(file, state):
    """Draws the loss, and every other value, over the steps of a run.

    Args:
        file: Where the PNG goes.
        state: `callbacks.RunState`.

    Returns:
        The name of the file, or why there is none.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "left out: matplotlib is not installed (pip install tf-gpt[plot])"
    names = {name for row in state.rows for name in row}
    names -= {"epoch", "step", "seconds", "tokens"}
    panels = sorted({name.removeprefix("val_") for name in names}, key=_loss_first)
    if not panels:
        return "left out: the run has no rows"
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, name in zip(row, panels, strict=True):
        _draw(axes, name, state)
    with replaced_file(file) as stream:
        figure.savefig(stream, format="png", dpi=110)
    return file.name


def _draw(axes, name, state):
    for column, label, style in (
        (name, "training, mean of the epoch so far", {"lw": 1.2}),
        (f"val_{name}", "dev", {"marker": "o", "ms": 4}),
    ):
        points = [(row["step"], row[column]) for row in state.rows if column in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    ends = [row["step"] for row in state.rows if _ends_epoch(row, state.rows)]
    for step in ends:
        axes.axvline(step, color="0.85", lw=0.8, zorder=0)
    if state.best_epoch is not None and state.best_epoch <= len(ends):
        step = ends[state.best_epoch - 1]
        axes.axvline(step, color="tab:green", lw=1, ls="--", label="best", zorder=1)
    axes.set(title=name.replace("_", " "), xlabel="step")
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _ends_epoch(row, rows):
    """Whether a row is the last of its epoch."""
    return row is [other for other in rows if other["epoch"] == row["epoch"]][-1]


def _loss_first(name):
    return (name != "loss", name)


def _best(state, description):
    if state.best_epoch is None:
        return None
    return {
        "folder": "best",
        "epoch": state.best_epoch,
        "monitor": description.get("monitor"),
        "value": state.best_value,
    }


def _finite(value):
    """Returns a value with None where JSON has no word for a number."""
    if dataclasses.is_dataclass(value):
        return _finite(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
