"""Damaged files raise `CheckpointError` and nothing else."""

import pathlib
import shutil

import numpy as np
import pytest

from tf_gpt.checkpoints.readers import open_checkpoint
from tf_gpt.errors import CheckpointError

DATA = pathlib.Path(__file__).parent / "data"
N_FULL = 10_000

# What is damaged -> the main file it is read by.
TARGETS = {
    "safetensors/model.safetensors": "model.safetensors",
    "safetensors_bfloat16/model.safetensors": "model.safetensors",
    "tf_safetensors/model.safetensors": "model.safetensors",
    "bin_zip/pytorch_model.bin": "pytorch_model.bin",
    "bin_legacy/pytorch_model.bin": "pytorch_model.bin",
    "tf_h5/tf_model.h5": "tf_model.h5",
    "openai/params_4.npy": "params_shapes.json",
    "openai/params_shapes.json": "params_shapes.json",
    "index/model.safetensors.index.json": "model.safetensors.index.json",
}

# Where a format keeps its structure: damage there says more than damage among
# the weights.
EDGES = 2048


def mutate(content, rng):
    """Returns a copy with one to four kinds of damage."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(0, max(len(content), 1)))
        edge = min(EDGES, len(content))
        if edge and rng.random() < 0.7:
            place = int(rng.integers(0, edge))
            if rng.random() < 0.4:
                place = len(content) - 1 - place
        kind = rng.integers(0, 7)
        if kind == 0 and content:  # one bit
            content[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and content:  # one byte
            content[place] = int(rng.integers(0, 256))
        elif kind == 2:  # a number as large as can be, or nearly
            width = int(rng.choice([1, 2, 4, 8]))
            largest = rng.choice([b"\xff", b"\x7f", b"\x00", b"\x80"])
            content[place : place + width] = bytes(largest) * width
        elif kind == 3:
            del content[place:]
        elif kind == 4:
            del content[place : place + int(rng.integers(1, 64))]
        elif kind == 5:
            content[place:place] = rng.bytes(int(rng.integers(1, 64)))
        elif kind == 6:  # a piece of the file itself
            start = int(rng.integers(0, max(len(content), 1)))
            content[place : place + 16] = content[start : start + 16]
    return bytes(content)


def fuzz(tmp_path, target, seeds):
    """Reads mutated files; returns how many were refused."""
    form, name = target.split("/")
    if form == "index":
        shutil.copy(DATA / "safetensors" / "model.safetensors", tmp_path)
        entries = open_checkpoint(tmp_path / "model.safetensors").tensors
        listed = ",".join(f'"{entry}": "model.safetensors"' for entry in entries)
        original = f'{{"metadata": {{}}, "weight_map": {{{listed}}}}}'.encode()
    else:
        shutil.copytree(DATA / form, tmp_path, dirs_exist_ok=True)
        original = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(original)
    main = tmp_path / TARGETS[target]
    untouched = read(main)
    before = sorted(file.name for file in tmp_path.iterdir())
    n_refused = 0
    for seed in seeds:
        damaged = mutate(original, np.random.default_rng(seed))
        (tmp_path / name).write_bytes(damaged)
        try:
            read(main)
        except CheckpointError:
            n_refused += 1
        except BaseException as error:
            raise AssertionError(f"{target} with seed {seed}") from error
    assert sorted(file.name for file in tmp_path.iterdir()) == before
    assert untouched
    return n_refused


def read(main):
    """Reads every tensor of a weight's type, as loading does."""
    return [
        tensor.read()
        for tensor in open_checkpoint(main).tensors.values()
        if tensor.dtype in ("float32", "float16", "bfloat16")
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_raise_only_checkpoint_errors(tmp_path, target):
    assert fuzz(tmp_path, target, range(60)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_ten_thousand_damaged_files_raise_only_checkpoint_errors(tmp_path, target):
    n_seeds = -(-N_FULL // len(TARGETS))
    assert fuzz(tmp_path, target, range(1000, 1000 + n_seeds)) > n_seeds / 6
