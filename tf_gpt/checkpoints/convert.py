"""Read, rename, transpose the heads, compare, assign; and back.

Works on a dict of weight paths and Keras variables, never on a model.
"""

import dataclasses
import math
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np

from tf_gpt.checkpoints import names
from tf_gpt.checkpoints.readers import Checkpoint, open_checkpoint
from tf_gpt.checkpoints.stored import (
    WEIGHT_TYPES,
    StoredTensor,
    aligned_empty,
    same_values,
)
from tf_gpt.errors import CheckpointError

_TIED = "lm_head.weight"
_TOKENS = "tokens_embed/embeddings"


@dataclasses.dataclass(frozen=True)
class LoadingReport:
    """What of a checkpoint and a model did not meet.

    Args:
        missing: Weight paths of the model that the checkpoint lacks: a head
            that keeps its fresh values.
        unexpected: Checkpoint entries the model has no weight for: a head.
        mismatched: `(entry name, shape in the checkpoint, shape in the model)`
            of the weights that kept their fresh values because of their shape.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple, tuple], ...] = ()


def load_weights(
    variables, checkpoint, *, ignore_mismatched_sizes=False
) -> LoadingReport:
    """Fills variables from a checkpoint of any format, one tensor at a time.

    Everything is checked before the first variable changes.

    Args:
        variables: Dict of weight path, relative to the model, to Keras variable.
        checkpoint: Path of the weight file or of the index of a sharded one,
            or an open `Checkpoint`.
        ignore_mismatched_sizes: Whether a weight of another shape is left as
            it is and reported, rather than refused.

    Returns:
        A `LoadingReport`. Heads may be missing on either side; a warning says
        so too. Everything else must fit.

    Raises:
        CheckpointError: If entries are missing, unknown, of another shape or
            type, not finite, or a stored `lm_head.weight` is not the token
            table it must be tied to.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint)
    entries = _by_path(checkpoint)
    missing, unexpected = _compare_names(variables, entries, checkpoint)
    _check_tied(checkpoint, entries)
    mismatched = _compare_shapes(variables, entries, checkpoint)
    if mismatched and not ignore_mismatched_sizes:
        raise CheckpointError(
            f"The shapes of {_place(checkpoint)} must be those of the model. Received: "
            + _shorten(
                f"{name} {stored} for {wanted}" for name, stored, wanted in mismatched
            )
            + ". (`ignore_mismatched_sizes=True` keeps the fresh weights instead.)"
        )
    skipped = {name for name, _, _ in mismatched}
    fitting = {
        path: tensor
        for path, tensor in entries.items()
        if path in variables and tensor.name not in skipped
    }
    for tensor in fitting.values():
        _check_values(tensor)
    for path, tensor in fitting.items():
        variable = variables[path]
        values = _arrange(tensor, path, checkpoint.layout, tuple(variable.shape))
        variable.assign(_HandedOver(values))
    report = LoadingReport(missing, unexpected, mismatched)
    _warn(checkpoint, report)
    return report


def unset_values(shape, dtype=None) -> "_HandedOver":
    """An initializer for variables that are about to be loaded: zeros.

    Until they are written they take neither time nor memory; `load_weights`
    then puts what it reads in their place.

    Args:
        shape: Shape of the variable.
        dtype: Its type; float32 if None.
    """
    values = aligned_empty(shape, dtype or "float32", allocate=np.zeros)
    return _HandedOver(values)


def export_weights(variables, prefix=True) -> Iterator[tuple[str, "VariableView"]]:
    """Yields the PyTorch layout of a model: `(entry name, array)`.

    The arrays have `shape` and `dtype` at once and are read, by `np.asarray`,
    one by one as they are written.

    Args:
        variables: Dict of weight path, relative to the model, to Keras variable.
        prefix: Whether the body's names begin with `transformer.`: True for
            every class with a head (the LM head included), False for the body.

    Raises:
        CheckpointError: If a path is no weight of a GPT-1 model.
    """
    for path, variable in variables.items():
        try:
            name = names.to_pytorch(path, prefix)
        except KeyError:
            raise CheckpointError(
                f"{path!r} is no weight of the released architecture and has no "
                "name in the PyTorch layout."
            ) from None
        yield name, VariableView(variable, transposed=path in names.TRANSPOSED)


class VariableView:
    """A Keras variable as an array that is copied out when asked for."""

    def __init__(self, variable, transposed):
        self._variable = variable
        self._transposed = transposed
        shape = tuple(variable.shape)
        self.shape = shape[::-1] if transposed else shape
        self.dtype = str(variable.dtype)

    def __array__(self, dtype=None, copy=None):
        from keras import ops

        values = ops.convert_to_numpy(self._variable)
        values = np.ascontiguousarray(values.T) if self._transposed else values
        return values if dtype is None else values.astype(dtype)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a checkpoint holds, told without reading its values.

    Args:
        layout: See `Checkpoint`.
        files: The files and their sizes in bytes.
        shapes: Weight path -> shape as stored, of the weights of a GPT-1 model.
        dtypes: The types they are stored as, in alphabetical order.
        n_parameters: How many values they have.
        skipped: Entries that are no weights: old mask buffers, a tied head.
        unknown: Entries that no GPT-1 model has.
    """

    layout: str
    files: dict[pathlib.Path, int]
    shapes: dict[str, tuple[int, ...]]
    dtypes: tuple[str, ...]
    n_parameters: int
    skipped: tuple[str, ...]
    unknown: tuple[str, ...]


def describe(checkpoint) -> Description:
    """Describes a checkpoint of any format.

    Args:
        checkpoint: As for `load_weights`.

    Raises:
        CheckpointError: If the files are damaged.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint)
    entries = _by_path(checkpoint)
    weights = {
        path: tensor for path, tensor in entries.items() if names.is_weight(path)
    }
    used = {tensor.name for tensor in entries.values()}
    return Description(
        layout=checkpoint.layout,
        files={file: file.stat().st_size for file in checkpoint.files},
        shapes={path: tensor.shape for path, tensor in weights.items()},
        dtypes=tuple(sorted({tensor.dtype for tensor in weights.values()})),
        n_parameters=sum(math.prod(tensor.shape) for tensor in weights.values()),
        skipped=tuple(name for name in checkpoint.tensors if name not in used),
        unknown=tuple(path for path in entries if path not in weights),
    )


def _by_path(checkpoint) -> dict[str, StoredTensor]:
    """Returns the entries by tf_gpt path; those of no known name by their own."""
    rename = _RENAME[checkpoint.layout]
    entries = {}
    for name, tensor in checkpoint.tensors.items():
        try:
            path = rename(name)
        except KeyError:
            path = name
        if path is None:
            continue
        if path in entries:
            raise CheckpointError(
                f"{_place(checkpoint)} holds one weight twice: as "
                f"{entries[path].name!r} and as {name!r}."
            )
        entries[path] = tensor
    return entries


_RENAME = {
    "pytorch": names.from_pytorch,
    "tensorflow": names.from_tensorflow,
    "openai": lambda path: path,
}


def _compare_names(variables, entries, checkpoint):
    """Returns `(missing, unexpected)` if both are heads only; raises if not."""
    missing = [path for path in variables if path not in entries]
    unexpected = [path for path in entries if path not in variables]
    strangers = [entries[path].name for path in unexpected if not names.is_head(path)]
    lacking = [path for path in missing if not names.is_head(path)]
    if strangers or lacking:
        hint = ""
        if any("wte" in name for name in strangers):
            hint = " Is this GPT-2? It calls its embeddings `wte` and `wpe`."
        raise CheckpointError(
            f"{_place(checkpoint)} does not fit the model. "
            f"The checkpoint lacks: {_shorten(lacking)}. "
            f"The model lacks: {_shorten(strangers)}.{hint}"
        )
    return tuple(missing), tuple(entries[path].name for path in unexpected)


def _check_tied(checkpoint, entries):
    tied = checkpoint.tensors.get(_TIED)
    if checkpoint.layout != "pytorch" or tied is None or _TOKENS not in entries:
        return
    if not same_values(tied, entries[_TOKENS]):
        raise CheckpointError(
            f"{_place(checkpoint)}: `{_TIED}` must equal "
            f"`{entries[_TOKENS].name}`, to which GPT ties it, and does not."
        )


def _compare_shapes(variables, entries, checkpoint):
    """Returns `(entry name, stored shape, the model's)` of those that differ."""
    return tuple(
        (tensor.name, tensor.shape, _stored_shape(path, shape, checkpoint.layout))
        for path, tensor in entries.items()
        if path in variables
        and not _fits(
            tensor.shape, shape := tuple(variables[path].shape), path, checkpoint
        )
    )


def _fits(stored, shape, path, checkpoint):
    if stored == _stored_shape(path, shape, checkpoint.layout):
        return True
    # Both kept their projections as convolutions of width 1.
    return checkpoint.layout in ("openai", "tensorflow") and stored == (1, *shape)


def _warn(checkpoint, report):
    """Says what the caller may not expect: untrained weights, and unused ones."""
    fresh = [*report.missing, *(name for name, _, _ in report.mismatched)]
    parts = []
    if fresh:
        parts.append(f"left these weights as they were, untrained: {_shorten(fresh)}")
    if report.unexpected:
        parts.append(f"has no use for the head {_shorten(report.unexpected)}")
    if parts:
        warnings.warn(
            f"Loading {_place(checkpoint)} {' and '.join(parts)}.", stacklevel=3
        )


def _stored_shape(path, shape, layout):
    """The shape in which a layout stores a weight of ours."""
    transposed = layout == "pytorch" and path in names.TRANSPOSED
    return shape[::-1] if transposed else shape


def _check_values(tensor):
    if tensor.dtype not in WEIGHT_TYPES:
        raise CheckpointError(
            f"A weight must be stored as {', '.join(WEIGHT_TYPES)}. Received: "
            f"{tensor.name!r} as {tensor.dtype} in {tensor.file}."
        )
    # A finite sum has only finite terms and needs no memory; finite terms with
    # an infinite sum are rare enough to look twice.
    with np.errstate(over="ignore", invalid="ignore"):
        n_bad = sum(
            int(np.count_nonzero(~np.isfinite(piece)))
            for piece in tensor.pieces()
            if not math.isfinite(piece.sum(dtype="float32"))
        )
    if n_bad:
        raise CheckpointError(
            f"Weights must be finite. Received: {n_bad} NaN or infinite values of "
            f"{math.prod(tensor.shape)} in {tensor.name!r} of {tensor.file}."
        )


def _arrange(tensor, path, layout, shape):
    """Returns a tensor's values as our variable has them."""
    values = tensor.read()
    if layout == "pytorch" and path in names.TRANSPOSED:
        transposed = aligned_empty(shape, "float32")
        transposed[...] = values.T
        return transposed
    return values.reshape(shape)


class _HandedOver:
    """An array that nobody else holds, so that it need not be copied.

    TensorFlow copies a NumPy array twice before it lets a variable have it.
    What is no NumPy array and only gives one it uses as it is, if it is
    aligned: loading then needs no memory beside the variables' own.
    """

    def __init__(self, values):
        self._values = values
        self.shape = values.shape
        self.dtype = values.dtype

    def __array__(self, dtype=None, copy=None):
        return self._values.astype(dtype or self.dtype, copy=bool(copy))


def _place(checkpoint):
    return str(checkpoint.files[0])


def _shorten(items, most=6):
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more if items else "nothing"
