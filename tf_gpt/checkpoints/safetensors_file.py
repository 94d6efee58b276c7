"""The safetensors format: its header, checked in full before any tensor is read.

Read here rather than by the `safetensors` library, which maps the file whole
(every page then counts twice: once in the map, once in the model), and raises
errors that name neither the file nor the entry.

Layout: 8 bytes, little-endian length of the header; the header, JSON; the data.
"""

import functools
import json
import math
import pathlib

import numpy as np

from tf_gpt.checkpoints.stored import (
    NUMPY_TYPES,
    StoredTensor,
    is_shape,
    read_region,
)
from tf_gpt.errors import CheckpointError

TYPES = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

# The library's own limit.
_LONGEST_HEADER = 100_000_000


def open_safetensors(file) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Reads the header of one safetensors file.

    Args:
        file: Path of the file.

    Returns:
        `(tensors, metadata)`: the entries by name, in the order of the header,
        and the header's `__metadata__`.

    Raises:
        CheckpointError: If the header is damaged, or its entries overlap, leave
            gaps, or lie outside the file.
    """
    file = pathlib.Path(file)
    header, data_start, data_length = _read_header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise CheckpointError(f"{file}: `__metadata__` must map strings to strings.")

    tensors = {}
    spans = []
    for name, entry in header.items():
        dtype, shape, begin, end = _check_entry(file, name, entry)
        spans.append((begin, end, name))
        tensors[name] = StoredTensor(
            name=name,
            shape=shape,
            dtype=dtype,
            file=file,
            load=functools.partial(read_region, file, data_start + begin, dtype, shape),
            offset=data_start + begin,
        )
    _check_spans(file, spans, data_length)
    return tensors, metadata


def _read_header(file):
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise CheckpointError(
                    f"{file} is truncated or no safetensors file: its first 8 bytes "
                    f"claim a header of {length} bytes in a file of {size}."
                )
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: the safetensors header is no valid JSON: {error}."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: the safetensors header must be an object.")
    return header, 8 + length, size - 8 - length


def _unique(pairs):
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _check_entry(file, name, entry):
    def refuse(rule):
        return CheckpointError(
            f"{file}: entry {name!r}: {rule} Received: {entry!r:.200}."
        )

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("a tensor has `dtype`, `shape` and `data_offsets`.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not (is_shape(shape) and _are_offsets(offsets)):
        raise refuse("`shape` and `data_offsets` must hold sizes of 0 or more.")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in TYPES:
        raise refuse(f"`dtype` must be one of {', '.join(TYPES)}.")
    dtype = TYPES[entry["dtype"]]
    begin, end = offsets
    if end - begin != math.prod(shape) * np.dtype(NUMPY_TYPES[dtype]).itemsize:
        raise refuse("`data_offsets` must span the bytes of `shape` and `dtype`.")
    return dtype, tuple(shape), begin, end


def _are_offsets(offsets):
    return (
        isinstance(offsets, list)
        and len(offsets) == 2
        and all(type(offset) is int and offset >= 0 for offset in offsets)
    )


def _check_spans(file, spans, data_length):
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise CheckpointError(
                f"{file}: entries must follow each other without overlap or gap. "
                f"Received: {name!r} at byte {begin}, where {position} is next."
            )
        position = end
    if position != data_length:
        raise CheckpointError(
            f"{file} is truncated or too long: its entries take {position} bytes, "
            f"{data_length} are there."
        )
