"""The `tf_model.h5` files of transformers' TensorFlow classes.

Every dataset in the file is an entry; its path is its name. The attributes
that list layers and weights repeat these paths and are not read.
"""

import functools
import math
import pathlib

from tf_gpt.checkpoints.stored import NUMPY_TYPES, StoredTensor, aligned_empty, is_shape
from tf_gpt.errors import CheckpointError

# More than any file of these classes has. Links may run in circles, so both
# the depth and the number of objects visited are bounded.
_DEEPEST = 16
_MOST_OBJECTS = 20_000

# No filter of HDF5 packs more tightly.
_HIGHEST_COMPRESSION = 1100

# What h5py raises on damaged files, depending on where the damage is.
_DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    MemoryError,
)


def open_h5(file) -> dict[str, StoredTensor]:
    """Describes the datasets of an HDF5 file, by path.

    Raises:
        CheckpointError: If the file is damaged, or a dataset keeps its values
            in another file.
    """
    import h5py

    file = pathlib.Path(file)
    try:
        with h5py.File(file, "r") as archive:
            return {
                name: _describe(file, name, dataset)
                for name, dataset in _walk(file, archive)
            }
    except CheckpointError:
        raise
    except _DAMAGE as error:
        raise _damaged(file, error) from error


def _walk(file, archive):
    import h5py

    waiting = [("", archive, 0)]
    n_seen = 0
    while waiting:
        prefix, group, depth = waiting.pop()
        for key in sorted(group, reverse=True):
            n_seen += 1
            if depth > _DEEPEST or n_seen > _MOST_OBJECTS:
                raise CheckpointError(f"{file}: too many groups inside each other.")
            name = f"{prefix}{key}"
            if type(group.get(key, getlink=True)) is not h5py.HardLink:
                raise CheckpointError(
                    f"{file}: an entry must lie in the file itself. "
                    f"Received: the link {name!r:.200}."
                )
            value = group[key]
            if isinstance(value, h5py.Group):
                waiting.append((f"{name}/", value, depth + 1))
            elif isinstance(value, h5py.Dataset):
                yield name, value


def _describe(file, name, dataset):
    if dataset.external or dataset.is_virtual:
        raise CheckpointError(
            f"{file}: an entry must lie in the file itself. "
            f"Received: {name!r:.200}, which names other files."
        )
    shape, dtype = dataset.shape, str(dataset.dtype)
    if not is_shape(shape) or dtype not in NUMPY_TYPES:
        raise CheckpointError(
            f"{file}: an entry must be an array of numbers. "
            f"Received: {name!r:.200} of shape {shape} and type {dtype:.50}."
        )
    claimed = math.prod(shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if claimed > stored * _HIGHEST_COMPRESSION or stored > file.stat().st_size:
        raise CheckpointError(
            f"{file} is truncated or damaged: {name!r:.200} claims {claimed} bytes, "
            f"of which {stored} are stored, in a file of {file.stat().st_size}."
        )
    load = functools.partial(_load, file, name, shape, dtype)
    return StoredTensor(name, shape, dtype, file, load)


def _load(file, name, shape, dtype):
    import h5py

    try:
        values = aligned_empty(shape, dtype)
        with h5py.File(file, "r") as archive:
            if values.size:
                archive[name].read_direct(values)
    except _DAMAGE as error:
        raise _damaged(file, error) from error
    return values


def _damaged(file, error):
    return CheckpointError(f"{file} is damaged or no HDF5 file: {str(error)[:200]}.")
