"""Long runs of `fit`, kept in a folder: checkpoint, exact resume, best model, log.

    model.compile(optimizer=..., jit_compile=True)
    history = train(model, dataset, "runs/sst", epochs=3, dev=dev_dataset)

The same call again goes on where the last one was cut off, however it was, and
ends with the weights of a run that was never cut: bit for bit on one machine, on a
GPU if `tf.config.experimental.enable_op_determinism` was called.

The folder holds
    run.json                what the run is: a call that differs is refused
    checkpoint.safetensors  everything to go on from (`checkpoint.save_state`)
    best/, final/           models as `save_pretrained` writes them
    log.csv                 a row per checkpoint within an epoch, and per epoch
    report.json, report.png written at the end (`report.py`)
    tensorboard/            event files, if asked for
"""

import contextlib
import csv
import dataclasses
import importlib.util
import json
import math
import pathlib
import signal
import threading
import time
import warnings

import keras
import numpy as np

from tf_gpt.errors import CheckpointError
from tf_gpt.finetuning import checkpoint, distributed
from tf_gpt.finetuning.report import write_report

CHECKPOINT = "checkpoint.safetensors"
_FORMAT = 1

# Metrics that are better when smaller, by a part of their name.
_SMALLER_IS_BETTER = ("loss", "perplexity", "error", "crossentropy")


def train(
    model,
    dataset,
    directory,
    *,
    epochs,
    dev=None,
    save_every=100,
    monitor="val_loss",
    mode="auto",
    patience=None,
    settings=None,
    progress=True,
    tensorboard=False,
    callbacks=(),
):
    """Trains a compiled model, or goes on with a run that was cut off.

    Args:
        model: Compiled model. Its weights must be those the run began with (a
            resumed run replaces them), its optimizer a fresh one.
        dataset: `TaskDataset`, of global batches also under several workers: of
            it `batches`, `steps_per_epoch`, `start_at` and `as_tf_data` are used.
        directory: Folder of the run; made if it does not exist.
        epochs: Number of epochs of the whole run.
        dev: `TaskDataset` or `tf.data.Dataset` to evaluate on after every epoch.
        save_every: Steps between checkpoints within an epoch. There is one at
            every epoch's end besides, before and after evaluating.
        monitor: Name of the value of `dev` by which a model is best, "val_...".
        mode: "min" or "max": which is better. "auto" takes names with "loss",
            "perplexity", "error" or "crossentropy" to be better when smaller,
            all others when larger.
        patience: Stops after so many epochs in a row without a better value;
            None never. The final weights are still those of the last step.
        settings: What else identifies the run (data, seeds, options), as JSON
            takes it.
        progress: Whether to show a bar on stderr: loss, tokens per second, time
            left.
        tensorboard: Whether to write event files with `keras.callbacks.TensorBoard`.
        callbacks: Further Keras callbacks. What they change of the model and the
            optimizer is kept in checkpoints, their own Python state is not.

    Returns:
        Dict from the name of a value to its list over all epochs of the run, as
        Keras's `History.history`. For a finished run, with a warning, at once:
        its final weights are loaded into the model.

    Raises:
        ValueError: If an argument does not fit, or the folder holds another run
            (the message names what differs) or something else.
        FloatingPointError: At the step whose loss is not finite. The checkpoint
            before it stays.
        KeyboardInterrupt: After Ctrl-C, with a checkpoint of the last step
            (on several machines, with the last periodic one). A second Ctrl-C
            leaves at once.
        RuntimeError: If another worker stopped.
        OSError: If the folder cannot be written; the earlier checkpoint stays.
    """
    _check_arguments(
        model, dataset, epochs, dev, save_every, monitor, mode, patience, tensorboard
    )
    strategy = distributed.strategy_of(model)
    counts = _Counts()
    run = KeepRun(
        directory,
        dataset,
        save_every=save_every,
        dev=dev,
        monitor=None if dev is None else monitor,
        mode=mode,
        patience=patience,
        counts=counts,
    )
    run.before_end = lambda: write_report(
        run.directory, run.state, settings, description
    )
    run.set_model(model)
    settings = {} if settings is None else settings
    description = _description(model, dataset, dev, epochs, monitor, mode, patience)
    _claim(run.directory, {"settings": settings, "run": description}, run.writes)
    if run.load().finished:
        run.restore(model)
        warnings.warn(
            f"The run in {run.directory} is finished: nothing was trained, its final "
            "weights were loaded.",
            stacklevel=2,
        )
        return run.state.history
    added = [StopAtNonFinite()]
    if progress and run.writes:
        added.append(Progress(run, epochs))
    if tensorboard and run.writes:
        added.append(keras.callbacks.TensorBoard(str(run.directory / "tensorboard")))
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.on_replicas(model))
        stack.enter_context(_quiet_keras())
        if distributed.n_workers(strategy) == 1:
            stack.enter_context(run.asked_to_stop())
        stack.callback(_close, added)
        stack.callback(setattr, model, "_initial_epoch", None)
        stack.enter_context(_lost_worker_explained(strategy, run))
        model.fit(
            _for_fit(counts.of(dataset.as_tf_data()), dataset, strategy),
            epochs=epochs,
            verbose=0,
            # The run comes last: it keeps what the others have changed.
            callbacks=[*added, *callbacks, run],
            validation_data=None if dev is None else _dev_data(dev, strategy),
        )
    return run.state.history


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

    `train` does more (it checks the folder, counts, reports). By itself:

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
        mode, patience: See `train`.
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
            _build_metrics(self.model, self.dataset)
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


class _Counts:
    """Tokens of batches on their way to `fit`, by their place in it."""

    def __init__(self):
        self._by_step = {}

    def of(self, dataset):
        """Returns the same batches, counted when they are made."""
        import tensorflow as tf

        def note(step, n_tokens):
            self._by_step[int(step)] = int(n_tokens)
            return np.int64(step)

        def counted(step, batch):
            x = batch[0] if isinstance(batch, tuple) else batch
            if isinstance(x, dict) and "attention_mask" in x:
                tokens = tf.reduce_sum(tf.cast(x["attention_mask"], tf.int64))
            else:
                first = x["input_ids"] if isinstance(x, dict) else x
                tokens = tf.size(first, out_type=tf.int64)
            noted = tf.numpy_function(note, [step, tokens], tf.int64)
            with tf.control_dependencies([noted]):
                return tf.nest.map_structure(tf.identity, batch)

        return dataset.enumerate().map(counted)

    def take(self, step):
        """Returns the tokens of a step, and forgets them."""
        return self._by_step.pop(step, 0)


def _check_arguments(
    model, dataset, epochs, dev, save_every, monitor, mode, patience, tensorboard
):
    def positive(value):
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Runs need Keras on TensorFlow. Received: the backend "
            f"{keras.backend.backend()!r}."
        )
    if not getattr(model, "compiled", False) or model.optimizer is None:
        raise ValueError("`model` must be compiled with an optimizer before a run.")
    if model.steps_per_execution != 1:
        raise ValueError(
            "`model` must be compiled with steps_per_execution=1: a run is kept and "
            f"watched by step. Received: {model.steps_per_execution}."
        )
    for name in ("batches", "start_at", "as_tf_data"):
        if not callable(getattr(dataset, name, None)):
            raise ValueError(
                f"`dataset` must be a TaskDataset, with a method `{name}`. "
                f"Received: {type(dataset).__name__}."
            )
    for name, value in (("epochs", epochs), ("save_every", save_every)):
        if not positive(value):
            raise ValueError(f"`{name}` must be 1 or more. Received: {name}={value!r}.")
    if patience is not None and not (positive(patience) and dev is not None):
        raise ValueError(
            "`patience` must be 1 or more, and needs `dev`. "
            f"Received: patience={patience!r}, dev={dev!r}."
        )
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"`mode` must be auto, min or max. Received: mode={mode!r}.")
    if dev is not None and not str(monitor).startswith("val_"):
        raise ValueError(
            "`monitor` must name a value of `dev`, which begins with 'val_'. "
            f"Received: monitor={monitor!r}."
        )
    if dev is not None and monitor != "val_loss" and not distributed.strategy_of(model):
        names = sorted(f"val_{name}" for name in _build_metrics(model, dataset))
        if monitor not in names:
            raise ValueError(
                f"`monitor` must be one of {', '.join(names)}: the loss and what the "
                f"model was compiled with. Received: monitor={monitor!r}."
            )
    if tensorboard:
        _check_tensorboard()


def _check_tensorboard():
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError(
            "`tensorboard=True` needs the package tensorboard "
            "(pip install tensorboard)."
        )


def _build_metrics(model, dataset):
    """Runs the metrics on one row, so that they exist. Returns their names."""
    batch = next(iter(dataset.batches(0)))
    row = keras.tree.map_structure(lambda value: value[:1], batch)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(row)
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    outputs = model(x, training=False)
    logs = model.compute_metrics(x, y, outputs, sample_weight)
    model.reset_metrics()
    return list(logs)


def _description(model, dataset, dev, epochs, monitor, mode, patience):
    """Returns what makes a run the same run, beside the user's settings."""
    config = getattr(model, "config", None)
    optimizer = keras.optimizers.serialize(model.optimizer)
    return {
        "format": _FORMAT,
        "model": type(model).__name__,
        "config": config.to_dict() if hasattr(config, "to_dict") else {},
        "trainable_weights": len(model.trainable_variables),
        "dtype": model.dtype_policy.name,
        "optimizer": _without_names(optimizer),
        "steps_per_epoch": getattr(dataset, "steps_per_epoch", None),
        "epochs": epochs,
        "dev": dev is not None,
        "monitor": monitor if dev is not None else None,
        "mode": mode,
        "patience": patience,
    }


def _without_names(value):
    """Drops what Keras numbers by the order in which a process made it."""
    if isinstance(value, dict):
        return {k: _without_names(v) for k, v in value.items() if k != "name"}
    if isinstance(value, (list, tuple)):
        return [_without_names(item) for item in value]
    return value


def _claim(directory, description, writes):
    """Makes the folder this run's, or checks that it is."""
    try:
        description = json.loads(json.dumps(description))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`settings` must hold what JSON can: {error}. "
            f"Received: {description['settings']!r:.300}."
        ) from error
    file = directory / "run.json"
    if not file.exists():
        if not writes:
            return  # the first worker is about to
        others = [p.name for p in directory.iterdir()] if directory.exists() else []
        if [name for name in others if not name.startswith(".run.json")]:
            raise ValueError(
                f"`directory` must be new, empty or of this run. {directory} holds no "
                f"run.json, but {sorted(others)[:5]}."
            )
        directory.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(file, description)
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    differences = list(_differences(found, description))
    if differences:
        raise ValueError(
            f"`directory` {directory} holds another run. What differs: "
            + "; ".join(differences[:8])
            + "."
        )


def _differences(found, wanted, path=""):
    """Yields a line for each place in which two JSON values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            name = f"{path}.{key}" if path else key
            if key not in wanted:
                yield f"{name} is {found[key]!r} there, absent here"
            elif key not in found:
                yield f"{name} is absent there, {wanted[key]!r} here"
            else:
                yield from _differences(found[key], wanted[key], name)
    elif found != wanted:
        yield f"{path} is {found!r} there, {wanted!r} here"


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
    with checkpoint.replaced_file(file, "w") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _save_model(model, folder):
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        model.save_weights(folder / "model.weights.h5")


def _for_fit(data, dataset, strategy):
    n_batches = getattr(dataset, "steps_per_epoch", None)
    if strategy is None:
        return distributed.counted(data, n_batches)
    shard = getattr(dataset, "shard", (0, 1))
    return distributed.share_batches(data, strategy, n_batches, shard)


def _dev_data(dev, strategy):
    if hasattr(dev, "as_tf_data"):
        return _for_fit(dev.as_tf_data(), dev, strategy)
    return dev if strategy is None else distributed.share_batches(dev, strategy)


@contextlib.contextmanager
def _quiet_keras():
    """Hides two of Keras's warnings: of what is meant, and of what it ignores."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")
        warnings.filterwarnings("ignore", "`shuffle=True` was passed")
        yield


def _close(callbacks):
    for callback in callbacks:
        if isinstance(callback, Progress):
            callback.close()


@contextlib.contextmanager
def _lost_worker_explained(strategy, run):
    import tensorflow as tf

    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    ) as error:
        if distributed.n_workers(strategy) == 1:
            raise
        raise RuntimeError(
            "Another worker stopped or cannot be reached, at epoch "
            f"{run.state.epoch + 1}, step {run.state.total_steps}. Start all workers "
            f"again: they go on from the checkpoint in {run.directory}."
        ) from error
