import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tf_gpt.checkpoints import writers
from tf_gpt.checkpoints.writers import parse_size, save_safetensors
from tf_gpt.errors import CheckpointError


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 5), "b": (7,), "c": (2, 3, 4), "d": (), "e": (0, 2)}
    return {
        name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()
    }


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype
        np.testing.assert_array_equal(values, second[name])


def test_the_library_reads_what_is_written(tmp_path, tensors):
    files = save_safetensors(tensors, tmp_path / "new" / "folder")
    assert files == [tmp_path / "new" / "folder" / "model.safetensors"]
    assert_same(load_file(files[0]), tensors)
    with safe_open(files[0], "np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_the_data_is_aligned_for_whoever_maps_the_file(tmp_path, tensors):
    (file,) = save_safetensors(tensors, tmp_path)
    with open(file, "rb") as stream:
        assert (8 + int.from_bytes(stream.read(8), "little")) % 64 == 0


def test_pairs_and_strided_arrays_are_taken(tmp_path, tensors):
    tensors = {name: values.T for name, values in tensors.items()}
    (file,) = save_safetensors(iter(tensors.items()), tmp_path, metadata={"x": "y"})
    assert_same(load_file(file), tensors)


def test_files_are_as_readable_as_any_other(tmp_path, tensors):
    (file,) = save_safetensors(tensors, tmp_path)
    (tmp_path / "other").write_bytes(b"")
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(
        (tmp_path / "other").stat().st_mode
    )


def test_shards_hold_at_most_the_limit_and_the_index_tells_where(tmp_path, tensors):
    index, *shards = save_safetensors(tensors, tmp_path, max_shard_size=90)
    assert index.name == "model.safetensors.index.json"
    content = json.loads(index.read_text())
    assert content["metadata"]["total_size"] == sum(v.nbytes for v in tensors.values())
    together = {}
    for shard in shards:
        entries = load_file(shard)
        total = sum(values.nbytes for values in entries.values())
        assert total <= 90 or len(entries) == 1  # "c" alone is larger
        for name in entries:
            assert content["weight_map"][name] == shard.name
        together |= entries
    assert_same(dict(sorted(together.items())), tensors)
    assert [shard.name for shard in shards] == [
        f"model-0000{i}-of-0000{len(shards)}.safetensors"
        for i in range(1, len(shards) + 1)
    ]


@pytest.mark.parametrize(
    "first, second", [(90, "5GB"), ("5GB", 90), (90, 60), (60, 90), (90, 90)]
)
def test_an_earlier_save_leaves_nothing_behind(tmp_path, tensors, first, second):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    save_safetensors(tensors, tmp_path, max_shard_size=first)
    files = save_safetensors(tensors, tmp_path, max_shard_size=second)
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "pytorch_model.bin",
        *(file.name for file in files),
    }


class Broken:
    shape = (2,)
    dtype = "float32"

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no values")


@pytest.mark.parametrize("limit", ["5GB", 90])
def test_a_save_that_fails_leaves_the_earlier_one(tmp_path, tensors, limit):
    save_safetensors(tensors, tmp_path, max_shard_size=limit)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(RuntimeError):
        save_safetensors(tensors | {"z": Broken()}, tmp_path, max_shard_size=limit)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_stale_shards_go_only_after_the_new_ones_are_there(
    tmp_path, tensors, monkeypatch
):
    save_safetensors(tensors, tmp_path, max_shard_size=90)
    before = sorted(os.listdir(tmp_path))

    def fail(*_):
        assert set(os.listdir(tmp_path)) == {*before, "model.safetensors"}
        raise OSError("disk on fire")

    monkeypatch.setattr(writers, "_remove_stale", fail)
    with pytest.raises(OSError, match="disk on fire"):
        save_safetensors(tensors, tmp_path)
    assert_same(load_file(tmp_path / "model.safetensors"), tensors)


@pytest.mark.parametrize(
    "dtype, kind", [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)]
)
def test_narrow_types_are_rounded_to_nearest(tmp_path, tensors, dtype, kind):
    (file,) = save_safetensors(tensors, tmp_path, dtype=dtype)
    assert_same(
        load_file(file), {name: values.astype(kind) for name, values in tensors.items()}
    )


def test_a_tensor_keeps_its_type_unless_told(tmp_path):
    tensors = {
        "half": np.ones(3, np.float16),
        "brain": np.ones(3, ml_dtypes.bfloat16),
        "single": np.ones(3, np.float32),
    }
    (file,) = save_safetensors(tensors, tmp_path)
    assert_same(load_file(file), tensors)
    (file,) = save_safetensors(tensors, tmp_path, dtype="float32")
    assert {str(v.dtype) for v in load_file(file).values()} == {"float32"}


def test_values_too_large_for_the_type_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"'a' holds .* float16.*65504"):
        save_safetensors({"a": np.full(3, 7e4, "float32")}, tmp_path, dtype="float16")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("dtype", ["float64", "int64", "complex64"])
def test_other_types_are_refused(tmp_path, dtype):
    with pytest.raises(CheckpointError, match=f"'a' of type {dtype}"):
        save_safetensors({"a": np.ones(3, dtype)}, tmp_path)
    with pytest.raises(ValueError, match=f"dtype='{dtype}'"):
        save_safetensors({"a": np.ones(3, "float32")}, tmp_path, dtype=dtype)


def test_nothing_and_doubles_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no tensor"):
        save_safetensors({}, tmp_path)
    pairs = [("a", np.ones(3, "float32"))] * 2
    with pytest.raises(CheckpointError, match="'a' comes twice"):
        save_safetensors(pairs, tmp_path)


@pytest.mark.parametrize(
    "size, n_bytes",
    [(1, 1), ("5GB", 5 * 10**9), ("200 MB", 2 * 10**8), ("1GiB", 2**30),
     ("1.5kb", 1500), ("10B", 10), ("2TiB", 2**41)],
)  # fmt: skip
def test_sizes_are_understood(size, n_bytes):
    assert parse_size(size) == n_bytes


@pytest.mark.parametrize(
    "size", [0, -1, "0B", "5", "GB", "5 G", "-1GB", "", None, True, 1.5, "1e9B"]
)
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match="max_shard_size="):
        parse_size(size)
