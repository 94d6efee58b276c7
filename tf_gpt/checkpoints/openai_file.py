"""The weights as OpenAI released them: `params_0.npy` to `params_9.npy`.

The files hold one flat float32 array, cut into ten pieces in no relation to
the tensors. `params_shapes.json` lists the shapes: positions first, then the
tokens, then twelve tensors a block. No file of names is needed.
"""

import dataclasses
import functools
import json
import math
import pathlib
import tokenize

import numpy as np

from tf_gpt.checkpoints import names
from tf_gpt.checkpoints.stored import (
    NUMPY_TYPES,
    WEIGHT_TYPES,
    StoredTensor,
    aligned_empty,
    fill,
    is_shape,
)
from tf_gpt.errors import CheckpointError

N_FILES = 10
HEAD_SIZE = 64


def open_openai(shapes_file) -> dict[str, StoredTensor]:
    """Describes the tensors of a release, by tf_gpt path.

    Args:
        shapes_file: `params_shapes.json`; the pieces lie beside it.

    Raises:
        CheckpointError: If a piece is missing or damaged, or the pieces do not
            hold as many values as the shapes say.
    """
    shapes_file = pathlib.Path(shapes_file)
    shapes = _read_shapes(shapes_file)
    pieces = [_open_piece(file) for file in piece_files(shapes_file)]
    dtypes = {piece.dtype for piece in pieces}
    if len(dtypes) != 1 or not dtypes <= set(WEIGHT_TYPES):
        raise CheckpointError(
            f"{shapes_file.parent}: the pieces must all be float32 or all float16. "
            f"Received: {', '.join(sorted(dtypes))}."
        )
    dtype = dtypes.pop()
    n_wanted, n_held = sum(map(math.prod, shapes)), sum(p.n_items for p in pieces)
    if n_wanted != n_held:
        raise CheckpointError(
            f"{shapes_file} describes {n_wanted} values, but {pieces[0].file.name} to "
            f"{pieces[-1].file.name} hold {n_held}."
        )
    tensors = {}
    position = 0
    paths = names.openai_paths((len(shapes) - 2) // len(names.BLOCK))
    for name, shape in zip(paths, shapes, strict=True):
        load = functools.partial(_load, pieces, position, shape)
        tensors[name] = StoredTensor(name, shape, dtype, shapes_file, load)
        position += math.prod(shape)
    return tensors


def openai_sizes(shapes_file) -> dict[str, int]:
    """Returns the sizes of a config from `params_shapes.json`.

    OpenAI released no config; the one size that the shapes do not tell, the
    number of heads, follows from its heads of 64 values.

    Raises:
        CheckpointError: If the file is damaged, or the hidden size is no
            multiple of 64.
    """
    shapes_file = pathlib.Path(shapes_file)
    positions, tokens, *blocks = _read_shapes(shapes_file)
    if len(positions) != 2 or len(tokens) != 2 or positions[1] != tokens[1]:
        raise CheckpointError(
            f"{shapes_file} must begin with the tables of positions and tokens. "
            f"Received: {positions}, {tokens}."
        )
    if not positions[1] or positions[1] % HEAD_SIZE:
        raise CheckpointError(
            f"{shapes_file}: without a config.json the hidden size must be a multiple "
            f"of {HEAD_SIZE}, the size of a head as released. "
            f"Received: {positions[1]}."
        )
    return {
        "vocab_size": tokens[0],
        "n_positions": positions[0],
        "n_embd": positions[1],
        "n_layer": len(blocks) // len(names.BLOCK),
        "n_head": positions[1] // HEAD_SIZE,
    }


def piece_files(shapes_file) -> list[pathlib.Path]:
    """Returns the paths of the ten pieces beside `params_shapes.json`."""
    folder = pathlib.Path(shapes_file).parent
    return [folder / f"params_{number}.npy" for number in range(N_FILES)]


def _read_shapes(file):
    try:
        shapes = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    if not isinstance(shapes, list) or not all(map(is_shape, shapes)):
        raise CheckpointError(f"{file} must be a list of shapes.")
    n_blocks, rest = divmod(len(shapes) - 2, len(names.BLOCK))
    if n_blocks < 1 or rest:
        raise CheckpointError(
            f"{file} must list two tables and {len(names.BLOCK)} shapes a block. "
            f"Received: {len(shapes)} shapes."
        )
    return [tuple(shape) for shape in shapes]


@dataclasses.dataclass(frozen=True)
class _Piece:
    """One file: its values begin at byte `offset`."""

    file: pathlib.Path
    offset: int
    n_items: int
    dtype: str


def _open_piece(file):
    if not file.is_file():
        raise CheckpointError(f"OpenAI's weights lack the piece {file}.")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    # `np.load` takes any file that is neither an archive nor an array for a
    # pickle, and refuses it. An array's header is a Python literal: the last four.
    except (
        OSError,
        ValueError,
        EOFError,
        TypeError,
        SyntaxError,
        RecursionError,
        MemoryError,
        tokenize.TokenError,
    ) as error:
        raise CheckpointError(
            f"{file} is truncated or no .npy file: {str(error)[:200]}."
        ) from error
    if not isinstance(array, np.memmap) or array.ndim != 1:
        raise CheckpointError(f"{file} must hold one array of one axis.")
    return _Piece(file, array.offset, array.size, str(array.dtype))


def _load(pieces, position, shape):
    """Reads the tensor that begins at value `position`, through the pieces."""
    values = aligned_empty(shape, NUMPY_TYPES[pieces[0].dtype])
    flat = values.reshape(-1)
    skipped = position
    filled = 0
    for piece in pieces:
        n_items = min(max(piece.n_items - skipped, 0), flat.size - filled)
        if n_items:
            with open(piece.file, "rb", buffering=0) as stream:
                stream.seek(piece.offset + skipped * flat.itemsize)
                fill(stream, flat[filled : filled + n_items])
        filled += n_items
        skipped = max(skipped - piece.n_items, 0)
    return values
