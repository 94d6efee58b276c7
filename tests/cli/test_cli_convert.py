import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

import tf_gpt
from tf_gpt.checkpoints.convert import describe
from tf_gpt.cli.main import main
from tf_gpt.models.pretrained import weights_by_path

DATA = pathlib.Path(__file__).parents[1] / "checkpoints" / "data"
SIZES = {"vocab_size": 11, "n_positions": 8, "n_embd": 4, "n_layer": 2, "n_head": 2}

pytestmark = pytest.mark.filterwarnings("ignore:Loading")


@pytest.fixture
def source(tmp_path):
    """A folder as a user has it; the weights were written by PyTorch."""
    folder = tmp_path / "source"
    shutil.copytree(DATA / "bin_zip", folder)
    config = {**SIZES, "model_type": "openai-gpt", "num_labels": 1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.json").write_text('{"a</w>": 0}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def weights(model):
    return {path: v.numpy() for path, v in weights_by_path(model).items()}


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for path, values in first.items():
        np.testing.assert_array_equal(values, second[path])


def test_a_folder_gets_safetensors_config_and_vocabulary(source, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(source), str(out), "--check"]) == 0
    assert {file.name for file in out.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "vocab.json",
        "merges.txt",
    }
    assert (out / "vocab.json").read_bytes() == (source / "vocab.json").read_bytes()
    cls = tf_gpt.OpenAIGPTDoubleHeadsModel
    assert_same_weights(cls.from_pretrained(out), cls.from_pretrained(source))
    told = capsys.readouterr().out
    assert f"wrote {out / 'model.safetensors'}" in told
    assert "largest logit difference: 0" in told


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_keras_files_hold_the_same_model(source, tmp_path, capsys, name):
    out = tmp_path / "new" / name
    assert main(["convert", str(source), str(out), "--check"]) == 0
    assert [file.name for file in out.parent.iterdir()] == [name]
    assert "largest logit difference: 0" in capsys.readouterr().out
    if name == "model.keras":
        model = tf_gpt.OpenAIGPTDoubleHeadsModel.from_pretrained(source)
        assert_same_weights(keras.saving.load_model(out), model)


@pytest.mark.parametrize("head", ["none", "lm", "classifier"])
def test_another_class_may_be_asked_for(source, tmp_path, head):
    out = tmp_path / "out"
    assert main(["convert", str(source), str(out), "--head", head]) == 0
    paths = describe(out / "model.safetensors").shapes
    assert not any("multiple_choice_head" in path for path in paths)
    assert ("score/kernel" in paths) == (head == "classifier")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_types_and_shards_can_be_chosen(source, tmp_path, dtype):
    out = tmp_path / "out"
    options = ["--dtype", dtype, "--max-shard-size", "500B", "--check"]
    assert main(["convert", str(source), str(out), *options]) == 0
    assert describe(out / "model.safetensors.index.json").dtypes == (dtype,)


def test_openais_release_needs_no_config(tmp_path, capsys):
    """Laid out as released, with heads of 64 values and shapes to match."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    rng = np.random.default_rng(0)
    width = 128
    block = [[1, width, 3 * width], [3 * width], [1, width, width], [width]]
    block += [[width], [width], [1, width, 4 * width], [4 * width]]
    block += [[1, 4 * width, width], [width], [width], [width]]
    shapes = [[20, width], [30, width], *block, *block]
    flat = rng.normal(size=sum(int(np.prod(s)) for s in shapes)).astype("float32")
    for number, piece in enumerate(np.array_split(flat, 10)):
        np.save(source / f"params_{number}.npy", piece)
    (source / "params_shapes.json").write_text(json.dumps(shapes))
    (source / "encoder_bpe_40000.json").write_text("{}")
    (source / "vocab_40000.bpe").write_text("#version: 0.2\n")
    assert main(["convert", str(source), str(out), "--check"]) == 0
    assert "largest logit difference: 0" in capsys.readouterr().out
    model = tf_gpt.OpenAIGPTLMHeadModel.from_pretrained(out)
    assert (model.config.n_head, model.config.n_layer) == (2, 2)
    table = weights(model)["tokens_embed/embeddings"]
    np.testing.assert_array_equal(table.ravel(), flat[20 * width : 50 * width])
    assert (out / "vocab.json").is_file()
    assert (out / "merges.txt").is_file()


@pytest.mark.parametrize(
    "out, options, match",
    [
        ("x.h5", [], "must be called NAME.weights.h5"),
        ("x.keras", ["--dtype", "float16"], "--dtype is for safetensors only"),
        ("x", ["--max-shard-size", "much"], "max_shard_size='much'"),
        ("source/config.json", [], "is a file"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    source, tmp_path, capsys, out, options, match
):
    before = sorted(tmp_path.rglob("*"))
    assert main(["convert", str(source), str(tmp_path / out), *options]) == 1
    told = capsys.readouterr().err
    assert match in told
    assert told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_source_leaves_nothing_written(source, tmp_path, capsys):
    file = source / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-500])
    assert main(["convert", str(source), str(tmp_path / "out")]) == 1
    assert "pytorch_model.bin" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_no_model_is_told_in_one_line(tmp_path, capsys):
    assert main(["convert", "nothing", str(tmp_path / "out")]) == 1
    assert "No model 'nothing'" in capsys.readouterr().err
