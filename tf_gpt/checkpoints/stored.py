"""One entry of a checkpoint: described when the file is opened, read when asked."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from tf_gpt.errors import CheckpointError

# Name of a stored type -> how NumPy holds it. bfloat16 is unknown to NumPy:
# its bits are held as they are and widened on reading.
NUMPY_TYPES = {
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "float64": "<f8",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "?",
}

# What a weight may be stored as. A float64 or an integer weight is no GPT-1
# checkpoint that anything writes, and rounding it would go unseen.
WEIGHT_TYPES = ("float32", "float16", "bfloat16")

# TensorFlow takes a NumPy array over without copying it only when its memory
# starts at a multiple of this many bytes.
_ALIGNMENT = 64

# Items read at a time where a whole tensor is not needed.
_PIECE = 1 << 20

_MOST_AXES = 8
_MOST_ITEMS = 1 << 48


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """An entry of a checkpoint, not yet read.

    Args:
        name: The entry's name in the checkpoint.
        shape: Its shape there.
        dtype: Its stored type, a key of `NUMPY_TYPES` or any other name for
            a type that cannot be read.
        file: The file it is in.
        load: Returns the array as stored; bfloat16 as uint16 bits.
        offset: Where its bytes begin in `file`, if they lie there in one piece
            in row-major order; None otherwise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: pathlib.Path
    load: Callable[[], np.ndarray]
    offset: int | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes the stored values take."""
        return math.prod(self.shape) * np.dtype(NUMPY_TYPES[self.dtype]).itemsize

    def read(self) -> np.ndarray:
        """Reads the values as a new float32 array of `shape`.

        Raises:
            CheckpointError: If the stored type is none of `WEIGHT_TYPES`, or
                the file is shorter than it said.
        """
        if self.dtype not in WEIGHT_TYPES:
            raise CheckpointError(
                f"A weight must be stored as {', '.join(WEIGHT_TYPES)}. Received: "
                f"{self.name!r} as {self.dtype} in {self.file}."
            )
        if self.offset is None or self.dtype == "float32":
            return widen(self.load(), self.dtype)
        # Piece by piece, so that the narrow values take no memory of their own.
        values = aligned_empty(self.shape, "float32")
        flat = values.reshape(-1)
        start = 0
        for piece in self.pieces():
            flat[start : start + piece.size] = piece
            start += piece.size
        return values

    def pieces(self) -> Iterator[np.ndarray]:
        """Yields the values as flat float32 arrays, in row-major order.

        Of a tensor that lies in its file in one piece, a few megabytes at a
        time, which the next piece overwrites; of others, all at once.
        """
        if self.offset is None or self.dtype not in WEIGHT_TYPES:
            yield self.read().reshape(-1)
            return
        n_items = math.prod(self.shape)
        buffer = aligned_empty((min(n_items, _PIECE),), NUMPY_TYPES[self.dtype])
        with open(self.file, "rb", buffering=0) as stream:
            stream.seek(self.offset)
            for start in range(0, n_items, _PIECE):
                piece = buffer[: n_items - start]
                fill(stream, piece)
                yield widen(piece, self.dtype)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.read(), dtype=dtype)


def is_shape(shape) -> bool:
    """Whether a shape from a file is one that an array can have at all."""
    return (
        isinstance(shape, (list, tuple))
        and len(shape) <= _MOST_AXES
        and all(type(size) is int and size >= 0 for size in shape)
        # An empty axis must not hide sizes that no array can have.
        and math.prod(max(size, 1) for size in shape) < _MOST_ITEMS
    )


def aligned_empty(shape, dtype, allocate=np.empty) -> np.ndarray:
    """Returns an uninitialised array whose memory starts at a 64-byte multiple."""
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    buffer = allocate(n_bytes + _ALIGNMENT, "uint8")
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + n_bytes].view(dtype).reshape(shape)


def read_region(file, offset, dtype, shape) -> np.ndarray:
    """Reads one row-major array from a file, by its byte offset.

    Raises:
        CheckpointError: If the file ends before the array does.
    """
    values = aligned_empty(shape, NUMPY_TYPES[dtype])
    with open(file, "rb", buffering=0) as stream:
        stream.seek(offset)
        fill(stream, values)
    return values


def widen(stored, dtype) -> np.ndarray:
    """Returns stored values as float32; float32 itself as it is."""
    if dtype == "bfloat16":
        # bfloat16 is the upper half of a float32.
        bits = aligned_empty(stored.shape, "uint32")
        np.left_shift(stored, 16, out=bits, dtype="uint32")
        return bits.view("float32")
    if dtype == "float16":
        values = aligned_empty(stored.shape, "float32")
        values[...] = stored
        return values
    return stored


def fill(stream, values):
    """Fills an array with the bytes from where an unbuffered stream stands.

    Raises:
        CheckpointError: If the stream ends before.
    """
    view = memoryview(values.reshape(-1).view("uint8"))
    n_read = 0
    while n_read < len(view):  # one read gives at most 2 GiB
        n_now = stream.readinto(view[n_read:])
        if not n_now:
            raise CheckpointError(
                f"{stream.name} is truncated: {len(view)} bytes expected, "
                f"{n_read} there."
            )
        n_read += n_now


def same_values(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two tensors hold equal values, read piece by piece."""
    if first.shape != second.shape:
        return False
    if first.offset is None or second.offset is None:
        return np.array_equal(first.read(), second.read())
    if (first.file, first.offset) == (second.file, second.offset):
        return True
    return all(map(np.array_equal, first.pieces(), second.pieces()))
