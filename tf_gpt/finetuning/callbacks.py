"""Keras callbacks of long runs: what keeps one in a folder, and what watches it."""

import contextlib
import csv
import dataclasses
import math
import pathlib
import signal
import threading
import time

import keras

from tf_gpt.errors import CheckpointError
from tf_gpt.finetuning import checkpoint, distributed
from tf_gpt.storage import replaced_file

CHECKPOINT = "checkpoint.safetensors"

# Metrics that are better when smaller, by a part of their name.
_SMALLER_IS_BETTER = ("loss", "perplexity", "error", "crossentropy")


@dataclasses.dataclass
class RunState:
    """Where a run stands: all of it that is in no variable.

    Args:
        epoch: Index of the epoch to go on with, from 0.
        step: Steps done in it.
        total_steps: Steps done in all.
        seconds: Time spent training, over all processes.
        tokens: Tokens (attention mask 1) trained on.
        history: Name -> value of every epoch done.
        rows: The rows of log.csv.
        best_value, best_epoch: The best monitored value, and its epoch from 1.
        waited: Epochs in a row that were not better.
        stopped: Why the run ended before its epochs, "" if it did not.
        finished: Whether there is nothing more to do.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    history: dict = dataclasses.field(default_factory=dict)
    rows: list = dataclasses.field(default_factory=list)
    best_value: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    stopped: str = ""
    finished: bool = False


class KeepRun(keras.callbacks.Callback):
    """Keeps a run in a folder, and makes `fit` go on from what is there.

    `runs.train` does more (it checks the folder, counts, reports). By itself:

        run = KeepRun(folder, dataset)
        model.fit(dataset.as_tf_data(), epochs=3, callbacks=[..., run])

    It comes last in the list, so that it keeps what the others have changed. What
    it goes on with is exact if `fit` is called within `distributed.on_replicas`.

    Args:
        directory: Folder for checkpoint, log and models; made if need be.
        dataset: The `TaskDataset` whose data `fit` gets: it is told where to
            begin. None for data that cannot be: then there are checkpoints at
            the ends of epochs only.
        save_every: Steps between checkpoints within an epoch.
        dev: `TaskDataset` evaluated on, begun anew for each evaluation.
        monitor: Name of the value by which a model is best; None keeps none.
        mode, patience: See `runs.train`.
        counts: Tokens of each step, if counted.
    """

    def __init__(
        self,
        directory,
        dataset=None,
        *,
        save_every=100,
        dev=None,
        monitor=None,
        mode="auto",
        patience=None,
        counts=None,
    ):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.dataset = dataset
        self.dev = dev
        self.save_every = save_every
        self.monitor = monitor
        self.larger_is_better = mode == "max" or (
            mode == "auto"
            and not any(part in (monitor or "") for part in _SMALLER_IS_BETTER)
        )
        self.patience = patience
        self.counts = counts
        self.before_end = lambda: None
        self.state = RunState()
        self._stored = {}
        self._carried = {}
        self._saved_at = None
        self._interrupted = False
        self._in_epoch = False
        self._started = time.monotonic()

    @property
    def file(self):
        return self.directory / CHECKPOINT

    @property
    def writes(self):
        """Whether this process writes files: the first worker, or the only one."""
        import tensorflow as tf

        strategy = distributed.strategy_of(self.model) if self.model else None
        return distributed.is_chief(strategy or tf.distribute.get_strategy())

    def load(self):
        """Reads the checkpoint, if there is one. Returns the `RunState`.

        Raises:
            CheckpointError: If it is damaged.
        """
        self.state, self._stored = RunState(), {}
        if self.file.exists():
            self._stored, fields = checkpoint.open_state(self.file)
            self.state = _checked_state(fields, self.file)
        return self.state

    def restore(self, model):
        """Gives a model and its optimizer the values of the checkpoint.

        Raises:
            CheckpointError: If the checkpoint is of another model.
        """
        if self._stored:
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            self._assign(model, ("model/", "optimizer/"))

    def _restore_metrics(self):
        """Gives the metrics the values they had in the middle of the epoch."""
        n_stored = sum(name.startswith("metrics/") for name in self._stored)
        if n_stored != len(self.model.metrics_variables):
            build_metrics(self.model, self.dataset)
        self._assign(self.model, ("metrics/",))
        self._carried = {
            name: float(value)
            for name, value in self.model.get_metrics_result().items()
        }

    def _assign(self, model, parts):
        variables, stored = (
            {name: value for name, value in named.items() if name.startswith(parts)}
            for named in (checkpoint.variables_of(model), self._stored)
        )
        checkpoint.assign_stored(variables, stored, self.file)

    def save(self, finished=False):
        """Writes checkpoint and log as the run stands now; every worker calls it."""
        now = time.monotonic()
        self.state.seconds += now - self._started
        self._started = now
        self.state.finished = finished
        self._saved_at = self.state.total_steps
        values = checkpoint.variables_of(self.model)
        for name, variable in values.items():
            if name.startswith("metrics/"):
                # Each worker has its part: reading adds them up, so all must.
                values[name] = variable.numpy()
        if not self.writes:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        checkpoint.save_state(self.file, values, dataclasses.asdict(self.state))
        _write_log(self.directory / "log.csv", self.state.rows)

    @contextlib.contextmanager
    def asked_to_stop(self):
        """Makes Ctrl-C stop at the next step, with a checkpoint. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT) or signal.SIG_DFL

        def stop(signum, frame):
            self._interrupted = True
            signal.signal(signal.SIGINT, before)  # the second leaves at once

        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def on_train_begin(self, logs=None):
        self.load()
        self.restore(self.model)
        self._interrupted = False
        self._started = time.monotonic()
        _end_before_a_step(self.model)
        # What Keras's own BackupAndRestore sets: `fit` reads it after this.
        epochs = self.params["epochs"]
        self.model._initial_epoch = epochs if self.state.stopped else self.state.epoch
        if self.writes:
            _write_log(self.directory / "log.csv", self.state.rows)

    def on_epoch_begin(self, epoch, logs=None):
        self._in_epoch = True
        if epoch != self.state.epoch:
            raise RuntimeError(
                f"`fit` is at epoch {epoch + 1}, the run in {self.directory} at "
                f"{self.state.epoch + 1}. Leave out `initial_epoch`."
            )
        if self.dataset is not None:
            self.dataset.start_at(epoch, self.state.step)
        self._carried = {}
        if self.state.step and self._stored:
            # `fit` has just set them to zero; the epoch's means go on instead.
            self._restore_metrics()
        self._stored = {}

    def on_train_batch_end(self, batch, logs=None):
        self.state.step += 1
        self.state.total_steps += 1
        self._carried = {}
        if self.counts is not None:
            self.state.tokens += self.counts.take(batch)
        if self.dataset is None:
            return
        if self._interrupted:
            self._save_within_epoch(logs)
            raise KeyboardInterrupt
        if self.state.total_steps % self.save_every == 0:
            self._save_within_epoch(logs)

    def on_test_begin(self, logs=None):
        if not self._in_epoch:
            return  # an evaluation of its own, not one within `fit`
        if self.dataset is not None and self._saved_at != self.state.total_steps:
            self.save()
        if hasattr(self.dev, "start_at"):
            self.dev.start_at(0, 0)

    def on_test_batch_end(self, batch, logs=None):
        if self._interrupted:
            raise KeyboardInterrupt  # on_test_begin has saved

    def on_epoch_end(self, epoch, logs=None):
        self._in_epoch = False
        self._check_length(epoch)
        # Of an epoch whose last step was done before a resume, `fit` logs nothing.
        logs = {**self._carried, **(logs or {})}
        logs = {name: float(value) for name, value in logs.items()}
        for name, value in logs.items():
            self.state.history.setdefault(name, []).append(value)
        if self.state.rows and self.state.rows[-1]["step"] == self.state.total_steps:
            self.state.rows.pop()  # the same step, without the values of `dev`
        self.state.rows.append(self._row(epoch, logs))
        if self.monitor is not None:
            self._judge(epoch, logs)
        self.state.epoch, self.state.step = epoch + 1, 0
        self.save()
        if self.state.stopped:
            self.model.stop_training = True
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, logs=None):
        if self.writes:
            with checkpoint.replaced_folder(self.directory / "final") as folder:
                _save_model(self.model, folder)
            self.before_end()
        self.save(finished=True)

    def _save_within_epoch(self, logs):
        self.state.rows.append(self._row(self.state.epoch, logs or {}))
        self.save()

    def _row(self, epoch, logs):
        now = time.monotonic()
        return {
            "epoch": epoch + 1,
            "step": self.state.total_steps,
            "seconds": round(self.state.seconds + now - self._started, 3),
            "tokens": self.state.tokens,
            **{name: float(value) for name, value in logs.items()},
        }

    def _check_length(self, epoch):
        expected = getattr(self.dataset, "steps_per_epoch", None)
        if expected not in (None, self.state.step) and not self.model.stop_training:
            raise RuntimeError(
                f"Epoch {epoch + 1} should have {expected} steps, as the dataset's "
                f"`steps_per_epoch` says. It had {self.state.step}."
            )

    def _judge(self, epoch, logs):
        if self.monitor not in logs:
            raise ValueError(
                f"`monitor` must be one of {sorted(logs)}. "
                f"Received: monitor={self.monitor!r}."
            )
        value, best = logs[self.monitor], self.state.best_value
        is_better = math.isfinite(value) and (
            best is None or (value > best if self.larger_is_better else value < best)
        )
        if is_better:
            self.state.best_value, self.state.best_epoch = value, epoch + 1
            self.state.waited = 0
            if self.writes:
                with checkpoint.replaced_folder(self.directory / "best") as folder:
                    _save_model(self.model, folder)
            return
        self.state.waited += 1
        if self.patience is not None and self.state.waited >= self.patience:
            self.state.stopped = (
                f"{self.monitor} did not get better in {self.state.waited} epochs"
            )


class StopAtNonFinite(keras.callbacks.Callback):
    """Stops `fit` with an error at the first step whose loss is not finite.

    The logged loss is a mean over the epoch so far, which one NaN or infinite
    loss makes NaN or infinite for good: no more is looked at than Keras has
    fetched already. It stands in front of what writes checkpoints.
    """

    def __init__(self):
        super().__init__()
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            step = int(self.model.optimizer.iterations.numpy())
            raise FloatingPointError(
                f"The loss is {loss} at epoch {self._epoch + 1}, step {step} of the "
                "run. Nothing was saved after it."
            )


class Progress(keras.callbacks.Callback):
    """A bar on stderr over all steps of a run.

    Args:
        run: The `KeepRun` of the same `fit`.
        epochs: Number of epochs.
    """

    def __init__(self, run, epochs):
        super().__init__()
        self.run = run
        self.epochs = epochs
        self.bar = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.bar is None:
            self.bar = self._open()
        self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}")

    def on_train_batch_end(self, batch, logs=None):
        values = {"loss": f"{logs['loss']:.4f}"} if logs and "loss" in logs else {}
        # This step's tokens are counted by the run, which comes after.
        state, seconds = self.run.state, time.monotonic() - self._began
        if state.tokens > self._tokens_before:
            rate = (state.tokens - self._tokens_before) / seconds
            values["tokens/s"] = f"{rate:,.0f}"
        self.bar.set_postfix(values, refresh=False)
        self.bar.update()

    def on_train_end(self, logs=None):
        self.close()

    def close(self):
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _open(self):
        from tqdm import tqdm

        steps = getattr(self.run.dataset, "steps_per_epoch", None)
        self._began = time.monotonic()
        self._tokens_before = self.run.state.tokens
        return tqdm(
            total=None if steps is None else steps * self.epochs,
            initial=self.run.state.total_steps,
            unit="step",
            dynamic_ncols=True,
        )


def _end_before_a_step(model):
    """Makes `fit` see the end of the data before it begins a step.

    Keras finds it within the step: of that failed step whatever needs no data is
    done all the same, counting it in the optimizer and drawing new dropout seeds.
    """
    import tensorflow as tf

    step = model.train_function
    if getattr(step, "ends_before", False):
        return
    traced = {}

    def train_function(iterator):
        batch = next(iterator)
        if model.run_eagerly:
            return step([batch])
        # Traced for what the data say of their shapes, as Keras does, and not for
        # those of the first batch: else rounding would depend on which that was.
        spec = iterator.element_spec
        if traced.get("spec") != spec:
            traced["spec"] = spec
            traced["step"] = tf.function(
                lambda batch: step([batch]), input_signature=[spec], autograph=False
            )
        return traced["step"](batch)

    train_function.ends_before = True
    model.train_function = train_function


def build_metrics(model, dataset):
    """Runs the metrics on one row, so that they exist. Returns their names."""
    batch = next(iter(dataset.batches(0)))
    row = keras.tree.map_structure(lambda value: value[:1], batch)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(row)
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    outputs = model(x, training=False)
    logs = model.compute_metrics(x, y, outputs, sample_weight)
    model.reset_metrics()
    return list(logs)


def _checked_state(fields, file):
    """Returns a `RunState` from the JSON of a checkpoint."""
    defaults = dataclasses.asdict(RunState())
    if set(fields) != set(defaults):
        raise CheckpointError(
            f"{file}: the state must have the fields {sorted(defaults)}. "
            f"Received: {sorted(fields)}."
        )
    for name in ("epoch", "step", "total_steps", "waited", "tokens"):
        if type(fields[name]) is not int or fields[name] < 0:
            raise CheckpointError(
                f"{file}: `{name}` must be an integer of 0 or more. "
                f"Received: {fields[name]!r}."
            )
    for name in ("history", "rows", "stopped", "finished"):
        if type(fields[name]) is not type(defaults[name]):
            raise CheckpointError(
                f"{file}: `{name}` must be a {type(defaults[name]).__name__}. "
                f"Received: {fields[name]!r:.100}."
            )
    return RunState(**fields)


def _write_log(file, rows):
    """Writes the log anew, from the rows that the checkpoint holds.

    So no row is there twice after a resume, and columns that come later (the
    dev values) stand in the header.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if not columns:
        return
    with replaced_file(file, "w") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _save_model(model, folder):
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        model.save_weights(folder / "model.weights.h5")
