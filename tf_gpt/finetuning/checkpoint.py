"""The state of a training run in one file: whole or not there, read with checks.

The file is in the safetensors format: the values of the variables, and a JSON
text in the header for all that is no tensor. Nothing in it is ever executed.
"""

import contextlib
import json
import os
import pathlib
import shutil

import numpy as np

from tf_gpt.checkpoints.safetensors_file import TYPES, open_safetensors
from tf_gpt.checkpoints.stored import NUMPY_TYPES
from tf_gpt.errors import CheckpointError
from tf_gpt.storage import replaced_file

# What the format has no name for is kept as the bits of what it has one for:
# states of seed generators, and counters.
_KEPT_AS = {"uint32": "int32", "uint64": "int64", "uint16": "int16"}

_TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}

_STATE_ENTRY = "tf_gpt.run"


def variables_of(model):
    """Returns everything that training changes, by a name for the checkpoint.

    Args:
        model: Compiled Keras model; its optimizer and metrics built.

    Returns:
        Dict from name to `keras.Variable`: weights and the states of seed
        generators ("model/..."), of the optimizer ("optimizer/...") and of the
        metrics ("metrics/..."). Names hold the order, not Keras's paths, which
        depend on what else the process has made.
    """
    parts = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    named = {}
    seen = set()
    for part, variables in parts.items():
        for variable in variables:
            if id(variable) not in seen:
                seen.add(id(variable))
                named[f"{part}/{len(named):05}"] = variable
    return named


def save_state(file, values, state):
    """Writes arrays and a JSON state in the place of an earlier file.

    The earlier file stays until the new one is complete on the disk.

    Args:
        file: Path of the file.
        values: Dict from name to `keras.Variable` or array. Each is read once,
            when its turn comes.
        state: What else there is, as `json.dumps` takes it.

    Raises:
        FloatingPointError: If a value is not finite: such a state is no place
            to go on from.
        OSError: If it cannot be written. The earlier file is as it was.
    """
    header = {"__metadata__": {_STATE_ENTRY: json.dumps(state)}}
    position = 0
    for name, value in values.items():
        dtype = _kept_as(value.dtype)
        n_bytes = int(np.prod(value.shape)) * np.dtype(NUMPY_TYPES[dtype]).itemsize
        header[name] = {
            "dtype": _TYPE_NAMES[dtype],
            "shape": list(value.shape),
            "data_offsets": [position, position + n_bytes],
        }
        position += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with replaced_file(file) as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name, value in values.items():
            array = np.ascontiguousarray(_as_numpy(value))
            # NumPy does not count bfloat16 among the floating types.
            is_float = "float" in str(array.dtype)
            if is_float and not np.isfinite(array).all():
                raise FloatingPointError(
                    f"{name} holds values that are not finite; {file} is left as "
                    "it was."
                )
            stream.write(array.reshape(-1).view("uint8").data)


def open_state(file):
    """Returns `(tensors by name, state)` of a file that `save_state` wrote.

    Raises:
        CheckpointError: If the file is damaged or something else.
    """
    tensors, metadata = open_safetensors(file)
    try:
        state = json.loads(metadata[_STATE_ENTRY])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is no checkpoint of a run.") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} is no checkpoint of a run.")
    return tensors, state


def assign_stored(variables, tensors, file):
    """Gives variables the values stored under their names.

    Args:
        variables: Dict as `variables_of` returns it.
        tensors: Dict as `open_state` returns it, no more and no fewer entries.
        file: Named in errors.

    Raises:
        CheckpointError: If names, shapes or types differ; nothing is assigned.
    """
    odd = sorted(set(variables) ^ set(tensors))
    if odd:
        raise CheckpointError(
            f"{file} is the checkpoint of another model, optimizer or set of "
            f"metrics: {len(odd)} entries have no counterpart, first {odd[0]!r}."
        )
    for name, variable in variables.items():
        stored = tensors[name]
        wanted = (tuple(variable.shape), _kept_as(variable.dtype))
        if (stored.shape, stored.dtype) != wanted:
            raise CheckpointError(
                f"{file}: entry {name!r} must have shape and type {wanted}. "
                f"Received: {(stored.shape, stored.dtype)}."
            )
    for name, variable in variables.items():
        variable.assign(_from_bits(tensors[name].load(), _dtype_name(variable.dtype)))


@contextlib.contextmanager
def replaced_folder(folder):
    """Yields a temporary folder that takes the place of `folder` when complete."""
    folder = pathlib.Path(folder)
    new = folder.with_name(f".{folder.name}.new")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    # No system call exchanges two folders; whoever is cut off between these two
    # goes on from a checkpoint that is older, and comes here again.
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def write_json(file, value):
    """Writes a value as JSON in the place of an earlier file."""
    with replaced_file(file, "w") as stream:
        json.dump(value, stream, indent=2)
        stream.write("\n")


def _dtype_name(dtype):
    return str(getattr(dtype, "name", dtype))


def _kept_as(dtype):
    name = _dtype_name(dtype)
    return _KEPT_AS.get(name, name)


def _as_numpy(value):
    return value.numpy() if hasattr(value, "numpy") else np.asarray(value)


def _from_bits(array, dtype):
    if dtype == "bfloat16":
        import ml_dtypes

        return array.view(ml_dtypes.bfloat16)
    return array.view(dtype)
