"""LoRA: a frozen model, adapted by a pair of small matrices beside each kernel.

Source: Hu et al. 2021 (arXiv:2106.09685).
"""

import dataclasses
import math
import os
import pathlib
import tempfile
import warnings

import keras
import numpy as np
from keras import ops

from tf_gpt.checkpoints import names
from tf_gpt.checkpoints.safetensors_file import open_safetensors
from tf_gpt.checkpoints.writers import SINGLE_NAME, save_safetensors
from tf_gpt.errors import CheckpointError
from tf_gpt.models.pretrained import PreTrained, body_of, weights_by_path

# The projections of a block, all of which are adapted by default.
TARGETS = ("attn/c_attn", "attn/c_proj", "mlp/c_fc", "mlp/c_proj")

_FORMAT = "tf_gpt.lora"
_MATRICES = ("lora_kernel_a", "lora_kernel_b")


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What `add_lora` was called with; also the metadata of a file."""

    rank: int
    alpha: float
    targets: tuple[str, ...]

    def to_metadata(self):
        return {
            "format": _FORMAT,
            "rank": str(self.rank),
            "alpha": repr(self.alpha),
            "targets": ",".join(self.targets),
        }


def add_lora(model, rank=8, alpha=None, targets=TARGETS):
    """Freezes a model's body and gives its projections adapters to train.

    A kernel W then acts as W + alpha / rank * A @ B. A starts uniform in
    +-1 / sqrt(inputs) and B at 0, so that the model answers as before. All of
    the body's own weights are frozen, whatever `freeze` said before: tables
    (and with them a language model's head), kernels, biases, norms. The heads
    `score` and `multiple_choice_head` stay as trainable as they are. Compile
    (again) after it.

    Keep them apart with `save_lora`; `save_pretrained` writes an ordinary model, with
    the adapters added to their kernels. Keras's own `.keras` files and `save_weights`
    hold those too, rounded to the compute dtype; and `load_weights` into a
    model with adapters sets both matrices to 0, from where they never move.

    Args:
        model: One of the four model classes, changed in place.
        rank: Number r of columns of A (inputs, r) and rows of B (r, outputs),
            both float32; from 1 to the hidden size.
        alpha: What scales the adapters, together with the rank; the rank if
            None, a scale of 1.
        targets: Names of the projections to adapt, of `TARGETS`; the last part
            is enough, and "c_proj" is both of that name.

    Raises:
        ValueError: If an argument is out of range, the model has adapters
            already, or has been trained: its optimizer knows other weights.

    Source: Hu et al. 2021, section 4.1; A as in their code, loralib.
    """
    present = _settings_of(model)
    if present is not None:
        raise ValueError(
            "The model must have no adapters yet: call merge_lora first. "
            f"Received: a model with {present}."
        )
    settings = _check(model, rank, alpha, targets)
    model._check_untrained()
    body = body_of(model)
    _train_all(body)  # what `freeze` said; from here the weights say it
    for weight in body.weights:
        weight.trainable = False
    for layer in _projections(model, settings.targets).values():
        layer.enable_lora(
            settings.rank,
            lora_alpha=settings.alpha,
            # One each: the same initializer draws the same numbers again.
            a_initializer=keras.initializers.VarianceScaling(
                1 / 3, mode="fan_in", distribution="uniform"
            ),
        )
    model.forget_compiled()


def merge_lora(model):
    """Adds a model's adapters to its kernels, in place, and removes them.

    The model answers as before, up to rounding, and is an ordinary one again:
    all weights of its body are trainable. To train on, compile again.

    Args:
        model: A model with adapters.

    Raises:
        ValueError: If the model has none.
    """
    settings = _require_adapters(model)
    weights = weights_by_path(model)
    for path, layer in _projections(model, settings.targets).items():
        weights[f"{path}/kernel"].assign(layer.merged_kernel())
        for name in _MATRICES:
            _remove(layer, name)
        layer.lora_enabled = False
        layer.lora_rank = layer.lora_alpha = None
    _train_all(body_of(model))
    model.forget_compiled()


def save_lora(model, path):
    """Writes a model's adapters, and the heads trained with them, to one file.

    Args:
        model: A model with adapters.
        path: Name of the file, "….safetensors"; its folder is made if needed.
            Entries go by the weights' paths, such as
            "h_0/attn/c_attn/lora_kernel_a"; the metadata has rank, alpha and
            targets.

    Raises:
        ValueError: If the model has no adapters, a value is not finite, or the
            name is another.
    """
    settings = _require_adapters(model)
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"`path` must end in .safetensors. Received: path={str(path)!r}."
        )
    trained = {id(weight) for weight in model.trainable_weights}
    tensors = {
        name: ops.convert_to_numpy(weight)
        for name, weight in weights_by_path(model).items()
        if _is_adapter(name) or (names.is_head(name) and id(weight) in trained)
    }
    for name, values in tensors.items():
        _check_finite(name, values, "the model")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The writer names its file itself; a folder beside `path` can be renamed from.
    with tempfile.TemporaryDirectory(prefix=".tf_gpt-", dir=path.parent) as folder:
        save_safetensors(
            tensors,
            folder,
            max_shard_size=max(1, sum(values.nbytes for values in tensors.values())),
            metadata=settings.to_metadata(),
        )
        os.replace(pathlib.Path(folder) / SINGLE_NAME, path)


def load_lora(model, path):
    """Gives a model the adapters of a file, and the heads stored with them.

    Everything is checked before the model changes. A model without adapters
    gets them, as by `add_lora`; one that has them must have the same rank,
    alpha and targets. A head may be missing on either side; a warning says so.

    Args:
        model: A model with the weights that the adapters were trained on:
            nothing in the file tells one base model from another of its size.
        path: File that `save_lora` wrote.

    Raises:
        CheckpointError: If the file is damaged, no such file, not finite, or
            does not fit the model (a `ValueError`).
        ValueError: If the model has other adapters, or has been trained
            without any: its optimizer knows other weights.
    """
    path = pathlib.Path(path)
    tensors, metadata = open_safetensors(path)
    present = _settings_of(model)
    settings = _from_metadata(model, path, metadata)
    if present not in (None, settings):
        raise ValueError(
            f"The model's adapters must be those of {path}, {settings}. "
            f"Received: a model with {present}."
        )
    wanted = _shapes(model, settings)
    _check_entries(path, tensors, wanted)
    values = {name: tensor.read() for name, tensor in tensors.items() if name in wanted}
    for name, array in values.items():
        _check_finite(name, array, path)
    if present is None:
        add_lora(model, settings.rank, settings.alpha, settings.targets)
    weights = weights_by_path(model)
    for name, array in values.items():
        weights[name].assign(array)


def _check(model, rank, alpha, targets):
    """Returns the `_Settings`; raises ValueError for what cannot be."""
    n_embd = model.config.n_embd
    if isinstance(rank, bool) or rank not in range(1, n_embd + 1):
        raise ValueError(
            "`rank` must be an integer from 1 to the hidden size, "
            f"{n_embd}. Received: rank={rank!r}."
        )
    alpha = rank if alpha is None else alpha
    if not isinstance(alpha, (int, float)) or alpha is True or not 0 < alpha < math.inf:
        raise ValueError(
            f"`alpha` must be a finite number above 0. Received: alpha={alpha!r}."
        )
    asked = [targets] if isinstance(targets, str) else list(targets)
    for name in asked:
        if not any(_names_target(name, target) for target in TARGETS):
            raise ValueError(
                f"`targets` must be of {', '.join(TARGETS)}. Received: {name!r}."
            )
    chosen = [t for t in TARGETS if any(_names_target(name, t) for name in asked)]
    if not chosen:
        raise ValueError(f"`targets` must name a projection. Received: {targets!r}.")
    return _Settings(int(rank), float(alpha), tuple(chosen))


def _names_target(name, target):
    return f"/{target}".endswith(f"/{name}")


def _from_metadata(model, path, metadata):
    try:
        if metadata["format"] != _FORMAT:
            raise ValueError(f"its format is {metadata['format']!r:.40}")
        rank, alpha = int(metadata["rank"]), float(metadata["alpha"])
        return _check(model, rank, alpha, metadata["targets"].split(","))
    except KeyError as error:
        raise CheckpointError(
            f"{path} is no file of save_lora: its metadata lacks {error}."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} does not hold adapters for this model: {error}"
        ) from error


def _projections(model, targets):
    """Returns the layers that `targets` name, by path."""
    if not isinstance(model, PreTrained):
        raise ValueError(
            f"`model` must be one of tf_gpt's models. Received: {type(model).__name__}."
        )
    layers = {}
    for block in body_of(model).blocks:
        for target in targets:
            part, name = target.split("/")
            layer = getattr(getattr(block, part), name)
            layers[f"{block.name}/{target}"] = layer
    return layers


def _settings_of(model):
    """Returns the `_Settings` of a model's adapters, None if it has none."""
    layers = _projections(model, TARGETS)
    adapted = {path: layer for path, layer in layers.items() if layer.lora_enabled}
    if not adapted:
        return None
    layer = next(iter(adapted.values()))
    targets = [t for t in TARGETS if any(path.endswith(t) for path in adapted)]
    return _Settings(layer.lora_rank, float(layer.lora_alpha), tuple(targets))


def _require_adapters(model):
    settings = _settings_of(model)
    if settings is None:
        raise ValueError(
            "The model must have adapters: call add_lora or load_lora first. "
            f"Received: {type(model).__name__} {model.name!r} without."
        )
    return settings


def _shapes(model, settings):
    """Returns the shape of each entry that a file for the model may have."""
    weights = weights_by_path(model)
    shapes = {
        name: tuple(w.shape) for name, w in weights.items() if names.is_head(name)
    }
    for path in _projections(model, settings.targets):
        n_in, n_out = weights[f"{path}/kernel"].shape
        shapes[f"{path}/lora_kernel_a"] = (n_in, settings.rank)
        shapes[f"{path}/lora_kernel_b"] = (settings.rank, n_out)
    return shapes


def _check_entries(path, tensors, wanted):
    """Raises CheckpointError unless the adapters are there, and warns of heads."""
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in tensors if name not in wanted]
    lacking = [name for name in missing if _is_adapter(name)]
    strangers = [name for name in unknown if not names.is_head(name)]
    if lacking or strangers:
        raise CheckpointError(
            f"{path} does not fit the model. The file lacks {len(lacking)} of the "
            f"model's adapters, such as {lacking[:2]}; the model lacks "
            f"{len(strangers)} of the file's, such as {strangers[:2]}."
        )
    for name, shape in wanted.items():
        if name in tensors and tensors[name].shape != shape:
            raise CheckpointError(
                f"{path}: {name!r} must have the shape {shape}, by its rank and the "
                f"model. Received: {tensors[name].shape}."
            )
    if missing:
        warnings.warn(f"{path} has no {missing}: left as they were.", stacklevel=3)
    if unknown:
        warnings.warn(f"{path} has the head {unknown}: not used.", stacklevel=3)


def _check_finite(name, values, place):
    n_bad = int(np.count_nonzero(~np.isfinite(np.asarray(values, "float32"))))
    if n_bad:
        raise CheckpointError(
            f"Adapters must be finite. Received: {n_bad} NaN or infinite values of "
            f"{values.size} in {name!r} of {place}."
        )


def _is_adapter(path):
    return path.rsplit("/", 1)[-1] in _MATRICES


def _remove(layer, name):
    # As `delattr` does, but for collecting all of Python's garbage each time.
    layer._untrack_variable(getattr(layer, name))
    super(keras.layers.Layer, layer).__delattr__(name)


def _train_all(body):
    # Twice: Keras passes a flag on to the layers within only where it changes.
    body.trainable = False
    body.trainable = True
    for weight in body.weights:
        weight.trainable = True
