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
import importlib.util
import json
import warnings

import keras
import numpy as np

from tf_gpt.finetuning import checkpoint, distributed
from tf_gpt.finetuning.callbacks import (
    KeepRun,
    Progress,
    StopAtNonFinite,
    build_metrics,
)
from tf_gpt.finetuning.report import write_report

_FORMAT = 1


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
        names = sorted(f"val_{name}" for name in build_metrics(model, dataset))
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
