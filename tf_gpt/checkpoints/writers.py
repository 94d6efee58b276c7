"""Writes PyTorch-layout safetensors: sharded when large, and never half.

Written here rather than by the `safetensors` library, which wants every tensor
in memory at once: this needs one at a time.
"""

import contextlib
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

import numpy as np

from tf_gpt.checkpoints.stored import NUMPY_TYPES
from tf_gpt.errors import CheckpointError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

# Stored type -> its name in a safetensors header.
_TYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}

_SHARD_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors", re.ASCII)
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?I?)B", re.IGNORECASE)
_UNITS = {
    "": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40,
}  # fmt: skip

# Where the data begins in a file: a multiple of this, so that whoever maps the
# file finds aligned tensors.
_ALIGNMENT = 64


def save_safetensors(
    tensors, directory, max_shard_size="5GB", dtype=None, metadata=None
) -> list[pathlib.Path]:
    """Writes tensors as `model.safetensors`, or as shards with an index.

    Files get their names when all are complete; what an earlier save left and
    this one does not use is removed after that.

    Args:
        tensors: Mapping, or iterable of pairs, of entry name to array: anything
            with `shape` and `dtype` that `np.asarray` reads. Each is read once,
            when its turn comes.
        directory: Folder to write into; made if it does not exist.
        max_shard_size: Largest size of a file's tensors, in bytes or as "5GB",
            "200MB", "1GiB". A tensor that is larger gets a file of its own.
        dtype: "float32", "float16" or "bfloat16" to store all tensors as; None
            keeps the type of each.
        metadata: Strings for the header, by default `{"format": "pt"}`.

    Returns:
        The files written: one, or the index and then the shards.

    Raises:
        CheckpointError: If there is nothing to write, a type cannot be stored,
            or a value is not finite in a type it is converted to.
        ValueError: If `max_shard_size` or `dtype` is none of the above.
    """
    limit = parse_size(max_shard_size)
    if dtype is not None and dtype not in _TYPE_NAMES:
        raise ValueError(
            f"`dtype` must be one of {', '.join(_TYPE_NAMES)} or None. "
            f"Received: dtype={dtype!r}."
        )
    metadata = {"format": "pt"} if metadata is None else metadata
    entries = _describe(tensors, dtype)
    shards = _split(entries, limit)
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        contents = {SINGLE_NAME: shards[0]}
    else:
        contents = {
            f"model-{number:05}-of-{len(shards):05}.safetensors": shard
            for number, shard in enumerate(shards, start=1)
        }

    with contextlib.ExitStack() as temporary_files:
        finished = []
        for name, shard in contents.items():
            file = temporary_files.enter_context(_temporary(directory))
            _write_file(file, shard, metadata)
            finished.append((file, directory / name))
        if len(shards) > 1:
            file = temporary_files.enter_context(_temporary(directory))
            _write_index(file, contents)
            finished.append((file, directory / INDEX_NAME))
        for file, place in finished:
            os.replace(file, place)
    written = [place for _, place in finished]
    _remove_stale(directory, written)
    return written[::-1] if len(written) == 1 else [written[-1], *written[:-1]]


def parse_size(size) -> int:
    """Returns a size in bytes from a number or from text as "5GB" or "1GiB".

    Raises:
        ValueError: If it is neither, or not positive.
    """
    n_bytes = 0
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match:
            n_bytes = int(float(match["number"]) * _UNITS[match["unit"].upper()])
    elif isinstance(size, int) and not isinstance(size, bool):
        n_bytes = size
    if n_bytes < 1:
        raise ValueError(
            "`max_shard_size` must be a positive number of bytes, or text as "
            f'"5GB" or "200MiB". Received: max_shard_size={size!r}.'
        )
    return n_bytes


def _describe(tensors, dtype):
    """Returns `{name: (array, type stored, bytes stored)}`."""
    pairs = tensors.items() if hasattr(tensors, "items") else tensors
    entries = {}
    for name, array in pairs:
        stored = dtype or str(array.dtype)
        if name in entries:
            raise CheckpointError(f"The entry {name!r} comes twice.")
        if stored not in _TYPE_NAMES:
            raise CheckpointError(
                f"A weight must be one of {', '.join(_TYPE_NAMES)}. "
                f"Received: {name!r} of type {stored}."
            )
        size = np.dtype(NUMPY_TYPES[stored]).itemsize
        entries[name] = (array, stored, math.prod(array.shape) * size)
    if not entries:
        raise CheckpointError("There is no tensor to write.")
    return entries


def _split(entries, limit):
    """Fills shards in order, each up to `limit` bytes."""
    shards = [{}]
    filled = 0
    for name, entry in entries.items():
        if shards[-1] and filled + entry[2] > limit:
            shards.append({})
            filled = 0
        shards[-1][name] = entry
        filled += entry[2]
    return shards


@contextlib.contextmanager
def _temporary(directory) -> Iterator[pathlib.Path]:
    """Yields a file to be renamed; removes it if it was not."""
    descriptor, name = tempfile.mkstemp(prefix=".tf_gpt-", suffix=".tmp", dir=directory)
    os.close(descriptor)
    # mkstemp makes files for their owner alone; give what `open` would give.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(name, 0o666 & ~mask)
    try:
        yield pathlib.Path(name)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(name)


def _write_file(file, shard, metadata):
    header = {"__metadata__": metadata}
    position = 0
    for name, (array, stored, n_bytes) in shard.items():
        header[name] = {
            "dtype": _TYPE_NAMES[stored],
            "shape": list(array.shape),
            "data_offsets": [position, position + n_bytes],
        }
        position += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for name, (array, stored, _) in shard.items():
            stream.write(_to_bytes(name, array, stored))
        stream.flush()
        os.fsync(stream.fileno())


def _to_bytes(name, array, stored):
    """Returns the values in the stored type, as a buffer to write."""
    values = np.asarray(array)
    if str(values.dtype) != stored:
        import ml_dtypes

        target = ml_dtypes.bfloat16 if stored == "bfloat16" else stored
        with np.errstate(over="ignore"):
            values = values.astype(target)
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{name!r} holds values that are not finite as {stored}, whose "
                f"largest is {float(ml_dtypes.finfo(target).max):g}."
            )
    return np.ascontiguousarray(values).reshape(-1).view("uint8").data


def _write_index(file, contents):
    entries = [entry for shard in contents.values() for entry in shard.values()]
    index = {
        "metadata": {"total_size": sum(n_bytes for _, _, n_bytes in entries)},
        "weight_map": {
            entry: name for name, shard in contents.items() for entry in shard
        },
    }
    with open(file, "w", encoding="utf-8") as stream:
        json.dump(index, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def _remove_stale(directory, written):
    kept = {file.name for file in written}
    for file in directory.iterdir():
        if file.name not in kept and (
            file.name in (SINGLE_NAME, INDEX_NAME) or _SHARD_NAME.fullmatch(file.name)
        ):
            file.unlink()
