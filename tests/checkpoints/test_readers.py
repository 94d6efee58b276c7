"""Files written by torch 2.13 and transformers 4.57 (`data/`), and made-up ones."""

import json
import pathlib
import shutil

import h5py
import numpy as np
import pytest
from checkpoint_variables import C, V, assert_equal, make_variables
from safetensors.numpy import load_file, save_file

from tf_gpt.checkpoints.convert import describe, load_weights
from tf_gpt.checkpoints.openai_file import openai_sizes
from tf_gpt.checkpoints.readers import open_checkpoint
from tf_gpt.errors import CheckpointError

DATA = pathlib.Path(__file__).parent / "data"
MAIN_FILES = {
    "bin_zip": "pytorch_model.bin",
    "bin_legacy": "pytorch_model.bin",
    "tf_h5": "tf_model.h5",
    "tf_safetensors": "model.safetensors",
    "openai": "params_shapes.json",
}


@pytest.fixture(scope="module")
def expected():
    """The weights as `safetensors` itself reads them."""
    return load_file(DATA / "safetensors" / "model.safetensors")


@pytest.fixture(scope="module")
def loaded():
    variables = make_variables("double")
    load_weights(variables, DATA / "safetensors" / "model.safetensors")
    return variables


def test_safetensors_entries_are_those_of_the_library(expected):
    checkpoint = open_checkpoint(DATA / "safetensors" / "model.safetensors")
    assert checkpoint.layout == "pytorch"
    assert checkpoint.tensors.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), values)


def test_variables_get_the_entries_of_their_names(expected, loaded):
    np.testing.assert_array_equal(
        loaded["h_1/mlp/c_proj/kernel"].numpy(),
        expected["transformer.h.1.mlp.c_proj.weight"],
    )
    np.testing.assert_array_equal(
        loaded["multiple_choice_head/summary/kernel"].numpy(),
        expected["multiple_choice_head.summary.weight"].T,
    )


@pytest.mark.filterwarnings("ignore:Loading")  # of OpenAI's, which has no head
@pytest.mark.parametrize("form", MAIN_FILES)
def test_every_format_gives_equal_weights(form, loaded):
    variables = make_variables("double")
    report = load_weights(variables, DATA / form / MAIN_FILES[form])
    if form == "openai":  # was released without a head
        assert set(report.missing) == {
            "multiple_choice_head/summary/kernel",
            "multiple_choice_head/summary/bias",
        }
        for path in report.missing:
            variables[path] = loaded[path]
    else:
        assert report.missing == ()
    assert report.unexpected == ()
    assert_equal(variables, loaded)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_are_widened_exactly(dtype, loaded):
    variables = make_variables("double")
    load_weights(variables, DATA / f"safetensors_{dtype}" / "model.safetensors")
    for path, variable in variables.items():
        # Half of the last place that the stored type keeps.
        bound = 2.0**-11 if dtype == "float16" else 2.0**-8
        np.testing.assert_allclose(
            variable.numpy(), loaded[path].numpy(), rtol=bound, atol=1e-7
        )
    stored = variables["tokens_embed/embeddings"].numpy().view("uint32")
    assert not (stored & (0x1FFF if dtype == "float16" else 0xFFFF)).any()


def test_openai_kernels_may_lack_the_convolution_axis(tmp_path, loaded):
    shutil.copytree(DATA / "openai", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "params_shapes.json"
    shapes = json.loads(file.read_text())
    file.write_text(json.dumps([s[1:] if len(s) == 3 else s for s in shapes]))
    variables = make_variables("body")
    load_weights(variables, file)
    assert_equal(variables, {path: loaded[path] for path in variables})


def test_openai_shapes_are_those_of_the_release():
    release = pathlib.Path(__file__).parents[3] / "shared/data/gpt1_vocab"
    if not release.is_dir():
        pytest.skip("the released shapes are not here")
    released = json.loads((release / "params_shapes.json").read_text())
    ours = json.loads((DATA / "openai" / "params_shapes.json").read_text())
    assert [len(shape) for shape in ours] == [
        len(shape) for shape in released[: len(ours)]
    ]
    assert len(released) == 2 + 12 * 12


@pytest.mark.parametrize("form", MAIN_FILES)
def test_a_checkpoint_is_described_without_reading_it(form, loaded):
    file = DATA / form / MAIN_FILES[form]
    told = describe(file)
    bodies = {path for path in loaded if "head" not in path}
    assert told.shapes.keys() == (bodies if form == "openai" else loaded.keys())
    assert told.n_parameters == sum(
        int(np.prod(loaded[path].shape)) for path in told.shapes
    )
    assert told.dtypes == ("float32",)
    assert told.files[file] == file.stat().st_size
    assert told.unknown == ()
    assert told.skipped == (("lm_head.weight",) if "bin" in form else ())


def test_what_no_gpt_has_is_described_as_unknown(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"wte.weight": np.ones(3), "score.weight": np.ones((2, 4))}, file)
    told = describe(file)
    assert told.unknown == ("wte.weight",)
    assert told.shapes == {"score/kernel": (2, 4)}
    assert (told.n_parameters, told.dtypes) == (8, ("float64",))


def test_openai_sizes_are_those_of_the_released_model():
    release = pathlib.Path(__file__).parents[3] / "shared/data/gpt1_vocab"
    if not release.is_dir():
        pytest.skip("the released shapes are not here")
    assert openai_sizes(release / "params_shapes.json") == {
        "vocab_size": 40478,
        "n_positions": 512,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
    }


def test_openai_sizes_need_heads_of_64():
    with pytest.raises(CheckpointError, match=r"multiple of 64.*Received: 4\."):
        openai_sizes(DATA / "openai" / "params_shapes.json")


def read_all(file):
    return [tensor.read() for tensor in open_checkpoint(file).tensors.values()]


def refused(file, match):
    with pytest.raises(CheckpointError, match=match) as error:
        read_all(file)
    assert file.name in str(error.value)


def write_safetensors(file, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header, match",
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "without overlap or gap"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, "without overlap or gap"),
        ({"a": entry(0, 8), "b": entry(8, 16)}, "truncated or too long"),
        ({"a": entry(0, 8)}, "truncated or too long"),
        ({"a": entry(0, 12)}, "must span the bytes"),
        ({"a": entry(8, 0)}, "must span the bytes"),
        ({"a": entry(-8, 0)}, "sizes of 0 or more"),
        ({"a": entry(0, 8, shape=(-2,))}, "sizes of 0 or more"),
        ({"a": entry(0, 0, shape=(0, 2**62))}, "sizes of 0 or more"),
        ({"a": entry(0, 8, shape=(True, 2))}, "sizes of 0 or more"),
        ({"a": entry(0, 12, dtype="F48")}, "`dtype` must be one of"),
        ({"a": {"dtype": "F32"}}, "has `dtype`, `shape` and `data_offsets`"),
        ({"__metadata__": {"format": 1}}, "must map strings"),
        (b'{"a":1,"a":2}', "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b"[]", "must be an object"),
    ],
)
def test_false_safetensors_headers_are_refused(tmp_path, header, match):
    file = write_safetensors(tmp_path / "model.safetensors", header, bytes(12))
    refused(file, match)


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 1000])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    file = tmp_path / "model.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + b"{}")
    refused(file, f"claim a header of {length} bytes in a file of 10")


@pytest.mark.parametrize("form", MAIN_FILES)
def test_a_truncated_file_is_refused(tmp_path, form):
    shutil.copytree(DATA / form, tmp_path, dirs_exist_ok=True)
    name = "params_3.npy" if form == "openai" else MAIN_FILES[form]
    content = (tmp_path / name).read_bytes()
    for length in (0, 7, 200, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=name):
            load_weights(make_variables("double"), tmp_path / MAIN_FILES[form])


@pytest.mark.parametrize("dtype", ["int64", "float64", "uint8"])
def test_a_weight_of_another_type_is_refused(tmp_path, dtype, expected):
    tensors = dict(expected)
    name = "transformer.tokens_embed.weight"
    tensors[name] = tensors[name].astype(dtype)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name!r} as {dtype}"):
        load_weights(make_variables("double"), tmp_path / "model.safetensors")


def shard(folder, shard_of):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shard_of}))
    return index


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "a\\b",
        "C:x",
    ],
)
def test_an_index_that_names_a_file_outside_is_refused(tmp_path, name):
    refused(shard(tmp_path, {"a": name}), "files in its own folder")


def test_a_missing_shard_is_named(tmp_path):
    index = shard(tmp_path, {"a": "model-00001-of-00002.safetensors"})
    refused(index, "model-00001-of-00002.safetensors, which is missing")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"weight_map": 1}', "[" * 10**5])
def test_an_index_that_is_none_is_refused(tmp_path, content):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    refused(index, "index")


@pytest.mark.parametrize("listed", [{"a": "1"}, {"a": "1", "b": "1", "c": "1"}])
def test_an_index_must_list_what_its_shards_hold(tmp_path, listed):
    save_file({"a": np.ones(1), "b": np.ones(1)}, tmp_path / "1.safetensors")
    index = shard(tmp_path, dict.fromkeys(listed, "1.safetensors"))
    refused(index, "must list the same entries")


def test_h5_links_to_other_files_are_refused(tmp_path):
    file = tmp_path / "tf_model.h5"
    with h5py.File(file, "w") as archive:
        archive["a"] = h5py.ExternalLink("/etc/passwd", "/")
    refused(file, "must lie in the file itself")


def test_h5_values_in_other_files_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    file = tmp_path / "tf_model.h5"
    with h5py.File(file, "w") as archive:
        archive.create_dataset(
            "a", (4,), "float32", external=[(str(tmp_path / "secret"), 0, 16)]
        )
    refused(file, "names other files")


def test_h5_groups_in_circles_end(tmp_path):
    file = tmp_path / "tf_model.h5"
    with h5py.File(file, "w") as archive:
        archive.create_group("a")["b"] = archive["/"]
        archive["a/c"] = archive["/"]
    refused(file, "too many groups")


def test_h5_sizes_beyond_what_is_stored_are_refused(tmp_path):
    file = tmp_path / "tf_model.h5"
    with h5py.File(file, "w") as archive:
        archive.create_dataset("a", (2**40,), "float32", chunks=(1024,))
    refused(file, "claims 4398046511104 bytes, of which 0 are stored")


@pytest.mark.parametrize(
    "values, match",
    [
        (np.array([{}], object), r"no \.npy file"),
        (np.ones((2, 2), "float32"), "one array of one axis"),
        (np.ones(30, "int32"), "float32 or all float16"),
    ],
)
def test_npy_pieces_of_another_kind_are_refused(tmp_path, values, match):
    shutil.copytree(DATA / "openai", tmp_path, dirs_exist_ok=True)
    np.save(tmp_path / "params_4.npy", values, allow_pickle=True)
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(tmp_path / "params_shapes.json")


def test_a_missing_npy_piece_is_named(tmp_path):
    shutil.copytree(DATA / "openai", tmp_path, dirs_exist_ok=True)
    (tmp_path / "params_9.npy").unlink()
    with pytest.raises(CheckpointError, match=r"params_9\.npy"):
        open_checkpoint(tmp_path / "params_shapes.json")


def test_npy_pieces_must_hold_as_much_as_the_shapes_say(tmp_path):
    shutil.copytree(DATA / "openai", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "params_shapes.json"
    shapes = json.loads(file.read_text())
    n_values = sum(int(np.prod(shape)) for shape in shapes)
    shapes[1] = [V + 1, C]
    file.write_text(json.dumps(shapes))
    with pytest.raises(CheckpointError, match=f"{n_values + C} values.*{n_values}"):
        open_checkpoint(file)


@pytest.mark.parametrize("name", ["model.onnx", "flax_model.msgpack", "weights"])
def test_unknown_formats_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path / name, "must end in")


def test_a_file_that_is_not_there_is_named(tmp_path):
    refused(tmp_path / "model.safetensors", "no checkpoint file")
