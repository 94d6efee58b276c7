"""Hostile and unusual PyTorch files: nothing in them is executed."""

import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tf_gpt.checkpoints.torch_file import open_torch
from tf_gpt.errors import CheckpointError

DATA = pathlib.Path(__file__).parent / "data"
N_ITEMS = 6

# Opcodes, to write pickles that no pickler would.
STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00"
    b"\x00cpuK\x06tQ"
)


def tensor(offset=0, shape=(2, 3), strides=(3, 1), storage=STORAGE):
    def sizes(values):
        return b"(" + b"".join(pickle.dumps(v, 2)[2:-1] for v in values) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + pickle.dumps(offset, 2)[2:-1]
        + sizes(shape)
        + sizes(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def state(value, name=b"a"):
    key = b"X" + struct.pack("<I", len(name)) + name
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + key + value + b"u."


def write_zip(file, program, storages=None, extra=()):
    if storages is None:
        storages = {"0": np.arange(N_ITEMS, dtype="float32").tobytes()}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        for name, content in extra:
            archive.writestr(name, content)
    return file


def write_legacy(file, program, n_items=N_ITEMS):
    with open(file, "wb") as stream:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            stream.write(pickle.dumps(value, 2))
        stream.write(program)
        stream.write(pickle.dumps(["0"], 2))
        stream.write(n_items.to_bytes(8, "little"))
        stream.write(np.arange(N_ITEMS, dtype="float32").tobytes())
    return file


WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@WRITERS
@pytest.mark.parametrize(
    "offset, shape, strides, expected",
    [
        (0, (2, 3), (3, 1), [[0, 1, 2], [3, 4, 5]]),
        (0, (3, 2), (1, 3), [[0, 3], [1, 4], [2, 5]]),
        (1, (2, 2), (3, 1), [[1, 2], [4, 5]]),
        (5, (1,), (1,), [5]),
        (4, (), (), 4),
        (0, (0, 3), (3, 1), np.zeros((0, 3))),
    ],
)
def test_views_of_a_storage_are_read(tmp_path, write, offset, shape, strides, expected):
    file = write(tmp_path / "a.bin", state(tensor(offset, shape, strides)))
    np.testing.assert_array_equal(open_torch(file)["a"].read(), expected)


@WRITERS
@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (1, (2, 3), (3, 1)),
        (0, (2, 3), (4, 1)),
        (0, (7,), (1,)),
        (0, (2**40,), (0,)),
        (0, (2, 3), (1,)),
        (0, (0, 2**62), (1, 1)),
        (2**61, (1,), (1,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (1,) * 9, (1,) * 9),
    ],
)
def test_views_outside_a_storage_are_refused(tmp_path, write, offset, shape, strides):
    file = write(tmp_path / "a.bin", state(tensor(offset, shape, strides)))
    with pytest.raises(CheckpointError, match=r"a\.bin"):
        open_torch(file)


class RunsCode:
    def __init__(self, program):
        self.program = program

    def __reduce__(self):
        return os.system, (self.program,)


@WRITERS
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, write, protocol):
    trap = tmp_path / "trap"
    program = pickle.dumps({"a": RunsCode(f"touch {trap}")}, protocol)
    with pytest.raises(CheckpointError, match="nothing of it is executed") as error:
        open_torch(write(tmp_path / "a.bin", program))
    if protocol >= 2:
        assert "posix.system" in str(error.value)
    assert not trap.exists()


@WRITERS
@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "torch.load",
        "torch.nn.Linear",
        "torch._utils._rebuild_sparse_tensor",
        "torch.serialization._get_layout",
        "numpy._core.multiarray._reconstruct",
        "collections.defaultdict",
    ],
)
def test_an_unknown_global_is_refused_by_name(tmp_path, write, name):
    module, _, attribute = name.rpartition(".")
    program = state(f"c{module}\n{attribute}\n".encode())
    with pytest.raises(CheckpointError, match=f"the global '{name}'"):
        open_torch(write(tmp_path / "a.bin", program))


@pytest.mark.parametrize(
    "program, match",
    [
        (b"\x80\x02K\x01.", "a state dict"),
        (state(b"K\x01"), "'a' of type int"),
        (state(b"ccollections\nOrderedDict\n"), "'a' of type"),
        (state(b"K\x01)R"), "no known function"),
        (state(b"(lb"), "the instruction LIST"),
        (state(b"i__builtin__\neval\n"), "the instruction INST"),
        (state(b"\x82\x01"), "the instruction EXT1"),
        (state(b"Pabc\n"), "the instruction PERSID"),
        (state(b"\x94" + b"2" * 20), "the instruction DUP"),
        # A state set on the function itself.
        (state(b"ctorch._utils\n_rebuild_tensor_v2\n}b"), "damaged"),
        (state(STORAGE[:-1]), "'a' of type tuple"),
        (b"\x80\x02}(K\x01K\x02u.", "str expected, int found"),
        (b"\x80\x02}(X\x01\x00\x00\x00au.", "key without a value"),
        (b"\x80\x02\x8a\xff", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7f", "damaged"),
        (b"\x80\x04\x8e" + b"\xff" * 8, "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"", "damaged"),
        (state(tensor(storage=b"]")), "damaged"),
        (state(tensor(storage=STORAGE.replace(b"storage", b"program", 1))), "a whole"),
        (state(tensor(storage=STORAGE.replace(b"FloatStorage", b"load"))),
         r"torch\.load"),
        (state(tensor(storage=STORAGE.replace(b"\x00\x00\x000", b"\x00\x00\x001"))),
         "lacks the storage"),
    ],
)  # fmt: skip
def test_programs_that_are_no_state_dict_are_refused(tmp_path, program, match):
    with pytest.raises(CheckpointError, match=match):
        open_torch(write_zip(tmp_path / "a.bin", program))


def test_tuples_that_share_parts_do_not_take_for_ever(tmp_path):
    # 2 ** 200 leaves, if anything walks them.
    program = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 200
    for end in (b".", b"}h\x00K\x01s.", b"h\x00R."):
        with pytest.raises(CheckpointError):
            open_torch(write_zip(tmp_path / "a.bin", program + end))


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/etc/evil", "archive/../../evil", "archive\\..\\evil", "C:/evil"],
)
def test_archives_that_climb_out_are_refused(tmp_path, name):
    file = write_zip(tmp_path / "a.bin", state(tensor()), extra=[(name, b"evil")])
    with pytest.raises(CheckpointError, match="stay inside it"):
        open_torch(file)
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "extra, match",
    [
        ([("archive/constants.pkl", b"")], "TorchScript"),
        ([("archive/byteorder", b"big")], "little-endian"),
        ([("other/data.pkl", b"")], "one top folder"),
    ],
)
def test_archives_of_another_kind_are_refused(tmp_path, extra, match):
    file = write_zip(tmp_path / "a.bin", state(tensor()), extra=extra)
    with pytest.raises(CheckpointError, match=match):
        open_torch(file)


def test_a_compressed_archive_is_refused(tmp_path):
    file = tmp_path / "a.bin"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", state(tensor()))
    with pytest.raises(CheckpointError, match="without compression"):
        open_torch(file)


def test_a_storage_of_another_length_is_refused(tmp_path):
    file = write_zip(tmp_path / "a.bin", state(tensor()), {"0": bytes(20)})
    with pytest.raises(CheckpointError, match="a storage of 6 items in 20 bytes"):
        open_torch(file)
    file = write_legacy(tmp_path / "b.bin", state(tensor()), n_items=2**60)
    with pytest.raises(CheckpointError, match="not as the state dict says"):
        open_torch(file)


def test_entries_of_an_archive_may_not_overlap(tmp_path):
    file = write_zip(tmp_path / "a.bin", state(tensor()), {"0": bytes(24), "1": b""})
    content = bytearray(file.read_bytes())
    # The directory's last record points at the entry before it.
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first, second = (archive.getinfo(f"archive/data/{k}") for k in "01")
    record = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, record + 42, first.header_offset)
    struct.pack_into("<II", content, record + 20, 24, 24)
    assert second.header_offset != first.header_offset
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.bin"):
        open_torch(file)


def test_pickles_of_python_2_are_read(tmp_path):
    # Its OrderedDict was given its items at once, as lists, and its strings
    # were bytes.
    program = (
        b"\x80\x02ccollections\nOrderedDict\n]]q\x00(U\x01a" + tensor() + b"ea\x85R."
    )
    file = write_zip(tmp_path / "a.bin", program)
    assert open_torch(file)["a"].shape == (2, 3)


def test_attributes_of_a_state_dict_are_passed_over(tmp_path):
    metadata = collections.OrderedDict({"": {"version": 1}})
    program = state(tensor())[:-1] + pickle.dumps({"_metadata": metadata}, 2)[2:-1]
    file = write_zip(tmp_path / "a.bin", program + b"b.")
    assert list(open_torch(file)) == ["a"]
