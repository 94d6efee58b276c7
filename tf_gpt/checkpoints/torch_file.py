"""PyTorch's `.bin` files, in both forms, without PyTorch and without running them.

Zip form (PyTorch 1.6 and later): an uncompressed zip of `NAME/data.pkl` and one
`NAME/data/KEY` per storage. Older form: five pickles (a magic number, the
protocol, facts of the machine, the state dict, the storage keys) and then each
storage: its item count in 8 bytes and its items.
"""

import functools
import io
import math
import pathlib
import struct
import zipfile

import numpy as np

from tf_gpt.checkpoints import torch_pickle
from tf_gpt.checkpoints.stored import (
    NUMPY_TYPES,
    StoredTensor,
    aligned_empty,
    is_shape,
    read_region,
)
from tf_gpt.errors import CheckpointError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001

_LOCAL_HEADER = struct.Struct("<4s22sHH")  # signature, ..., name and extra lengths
_LARGEST_PICKLE = 64 << 20


def open_torch(file) -> dict[str, StoredTensor]:
    """Reads the state dict of a PyTorch file, by name and in its order.

    Raises:
        CheckpointError: If the file is damaged, holds anything but a state
            dict of tensors, or lies about its sizes.
    """
    file = pathlib.Path(file)
    try:
        with open(file, "rb") as stream:
            size = file.stat().st_size
            is_zip = stream.read(4) == b"PK\x03\x04"
            stream.seek(0)
            read = _read_zip if is_zip else _read_legacy
            state, places = read(file, _Bounded(stream, size))
    # `zipfile` raises NotImplementedError for a version or compression unknown to it.
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    if type(state) is not dict:
        raise CheckpointError(f"{file} must hold a state dict, a dict of tensors.")
    return {name: _describe(file, name, value, places) for name, value in state.items()}


class _Bounded(io.RawIOBase):
    """A file that is never asked for more bytes than it has."""

    def __init__(self, stream, size):
        self._stream = stream
        self._size = size

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self._stream.tell()

    def seek(self, offset, whence=io.SEEK_SET):
        return self._stream.seek(offset, whence)

    def read(self, n=-1):
        left = max(self._size - self._stream.tell(), 0)
        return self._stream.read(left if n is None or n < 0 else min(n, left))

    def readline(self, limit=-1):
        return self._stream.readline(1024)


def _read_zip(file, stream):
    """Returns the state dict and, by storage key, `(offset, bytes)` in the file."""
    with zipfile.ZipFile(stream) as archive:
        entries = {}
        for entry in archive.infolist():
            parts = entry.filename.replace("\\", "/").split("/")
            if entry.filename in entries or not all(
                part not in ("", "..") and ":" not in part for part in parts
            ):
                raise CheckpointError(
                    f"{file}: names in the archive must be unique and stay inside it. "
                    f"Received: {entry.filename!r:.200}."
                )
            if (
                entry.compress_type != zipfile.ZIP_STORED
                or entry.compress_size != entry.file_size
                or entry.flag_bits & 1
            ):
                raise CheckpointError(
                    f"{file}: PyTorch stores without compression or encryption. "
                    f"Received: {entry.filename!r:.200}."
                )
            entries[entry.filename] = entry
    roots = {name.partition("/")[0] for name in entries}
    if len(roots) != 1:
        raise CheckpointError(f"{file}: the archive must have one top folder.")
    root = roots.pop()
    if f"{root}/data.pkl" not in entries or f"{root}/constants.pkl" in entries:
        raise CheckpointError(
            f"{file} must be a saved state dict: a zip with `data.pkl` and without "
            "`constants.pkl`, which marks a TorchScript program."
        )
    spans = {
        name: (_data_offset(file, stream, entry), entry.file_size)
        for name, entry in entries.items()
    }
    _check_spans(file, spans)

    def content(name):
        offset, length = spans[name]
        if length > _LARGEST_PICKLE:
            raise CheckpointError(f"{file}: {name} is too large: {length} bytes.")
        stream.seek(offset)
        return stream.read(length)

    if f"{root}/byteorder" in spans and content(f"{root}/byteorder") != b"little":
        raise CheckpointError(f"{file}: storages must be little-endian.")
    state = torch_pickle.load_pickle(io.BytesIO(content(f"{root}/data.pkl")), file)
    folder = f"{root}/data/"
    places = {
        name.removeprefix(folder): span
        for name, span in spans.items()
        if name.startswith(folder)
    }
    return state, places


def _data_offset(file, stream, entry):
    stream.seek(entry.header_offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
        raise CheckpointError(
            f"{file}: the archive's entry {entry.filename!r:.200} is damaged."
        )
    *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    return entry.header_offset + len(header) + name_length + extra_length


def _check_spans(file, spans):
    end = 0
    for name, (offset, length) in sorted(spans.items(), key=lambda item: item[1]):
        if offset < end or offset + length > file.stat().st_size:
            raise CheckpointError(
                f"{file}: the archive's entries must lie in the file and not overlap. "
                f"Received: {name!r:.200} at byte {offset}, {length} long."
            )
        end = offset + length


def _read_legacy(file, stream):
    """Returns the state dict and, by storage key, `(offset, bytes)` in the file."""
    load = functools.partial(torch_pickle.load_pickle, stream, file)
    if load() != _MAGIC:
        raise CheckpointError(f"{file} is no PyTorch file: its magic number is wrong.")
    if load() != _PROTOCOL:
        raise CheckpointError(f"{file}: the protocol must be {_PROTOCOL}.")
    machine = load()
    if type(machine) is not dict or machine.get("little_endian") is not True:
        raise CheckpointError(f"{file}: storages must be little-endian.")
    state = load()
    keys = load()
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CheckpointError(f"{file}: the storage keys must be a list of strings.")
    n_items = _storage_sizes(file, state)
    places = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        if key in places or key not in n_items or count != n_items[key][0]:
            raise CheckpointError(
                f"{file}: storage {key!r:.200} is not as the state dict says, or the "
                "file is truncated."
            )
        length = count * n_items[key][1]
        offset = stream.tell()
        places[key] = (offset, length)
        stream.seek(offset + length)
    return state, places


def _storage_sizes(file, state):
    """Returns, by storage key, `(items, bytes of an item)`."""
    if type(state) is not dict:
        raise CheckpointError(f"{file} must hold a state dict, a dict of tensors.")
    sizes = {}
    for value in state.values():
        if type(value) is torch_pickle.Tensor:
            storage = value.storage
            size = (storage.n_items, np.dtype(NUMPY_TYPES[storage.dtype]).itemsize)
            if sizes.setdefault(storage.key, size) != size:
                raise CheckpointError(
                    f"{file}: storage {storage.key!r:.200} is described twice, "
                    "differently."
                )
    return sizes


def _describe(file, name, value, places):
    if type(value) is not torch_pickle.Tensor:
        raise CheckpointError(
            f"{file} must hold a state dict, a dict of tensors. "
            f"Received: {name!r:.200} of type {type(value).__name__}."
        )
    storage = value.storage
    if storage.key not in places:
        raise CheckpointError(f"{file} lacks the storage of {name!r:.200}.")
    start, length = places[storage.key]
    item_size = np.dtype(NUMPY_TYPES[storage.dtype]).itemsize
    n_items = math.prod(value.shape) if is_shape(value.shape) else -1
    last = value.offset + sum(
        (size - 1) * stride
        for size, stride in zip(value.shape, value.strides, strict=False)
        if size
    )
    if (
        length != storage.n_items * item_size
        or start + length > file.stat().st_size
        or len(value.strides) != len(value.shape)
        or not 0 <= n_items <= storage.n_items
        or (n_items and last >= storage.n_items)
    ):
        raise CheckpointError(
            f"{file}: {name!r:.200} must lie inside its storage, and the storage in "
            f"the file. Received: offset {value.offset}, shape {value.shape[:8]}, "
            f"strides {value.strides[:8]}, a storage of {storage.n_items} items in "
            f"{length} bytes at {start}, a file of {file.stat().st_size}."
        )
    offset = start + value.offset * item_size
    in_order = value.strides == _row_major(value.shape)
    if in_order:
        load = functools.partial(read_region, file, offset, storage.dtype, value.shape)
    else:
        load = functools.partial(_read_strided, file, offset, value, last)
    return StoredTensor(
        name, value.shape, storage.dtype, file, load, offset if in_order else None
    )


def _row_major(shape):
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _read_strided(file, offset, value, last):
    dtype = value.storage.dtype
    n_items = last - value.offset + 1 if math.prod(value.shape) else 0
    items = read_region(file, offset, dtype, (n_items,))
    view = np.lib.stride_tricks.as_strided(
        items, value.shape, [stride * items.itemsize for stride in value.strides]
    )
    values = aligned_empty(value.shape, items.dtype)
    values[...] = view
    return values
