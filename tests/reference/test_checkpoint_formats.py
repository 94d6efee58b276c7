"""Every format x every class, written by torch and transformers themselves."""

import os
import shutil
import subprocess

import keras
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from checkpoint_files import (  # noqa: E402
    CLASSES,
    MAIN_FILES,
    SIZES,
    write_openai,
    write_tensorflow,
    write_torch,
)

from tf_gpt.checkpoints import names  # noqa: E402
from tf_gpt.checkpoints.convert import export_weights, load_weights  # noqa: E402
from tf_gpt.checkpoints.readers import open_checkpoint  # noqa: E402
from tf_gpt.checkpoints.writers import save_safetensors  # noqa: E402

pytestmark = pytest.mark.reference

TRANSPOSED = ("score.weight", "multiple_choice_head.summary.weight")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """`{class: (folder, PyTorch model)}`, with a subfolder for every format."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in CLASSES}
    models = {kind: write_torch(folder, kind) for kind, folder in folders.items()}
    for kind, folder in folders.items():
        write_openai(folder / "openai", models[kind])
    write_tensorflow(folders)
    return {kind: (folders[kind], models[kind].eval()) for kind in CLASSES}


def expected_weights(model):
    """Returns our path -> values, from a PyTorch model."""
    weights = {}
    for name, value in model.state_dict().items():
        path = names.from_pytorch(name)
        if path is not None:
            values = value.detach().numpy()
            weights[path] = values.T if name in TRANSPOSED else values
    return weights


def zeros_like(weights):
    return {
        path: keras.Variable(np.zeros(values.shape, "float32"))
        for path, values in weights.items()
    }


@pytest.mark.parametrize("form", MAIN_FILES)
@pytest.mark.parametrize("kind", CLASSES)
def test_every_format_of_every_class_gives_equal_weights(written, kind, form):
    folder, model = written[kind]
    expected = expected_weights(model)
    variables = zeros_like(expected)
    report = load_weights(variables, folder / form / MAIN_FILES[form])
    heads = {path for path in expected if names.is_head(path)}
    if form == "openai":  # was released without a head
        assert set(report.missing) == heads
        expected = {path: v for path, v in expected.items() if path not in heads}
    else:
        assert report.missing == ()
    assert report.unexpected == report.mismatched == ()
    narrow = form.rpartition("_")[2]
    for path, values in expected.items():
        if narrow in ("float16", "bfloat16"):
            dtype = getattr(torch, narrow)
            values = torch.tensor(values).to(dtype).float().numpy()
        np.testing.assert_array_equal(variables[path].numpy(), values, err_msg=path)


@pytest.mark.parametrize("form", MAIN_FILES)
@pytest.mark.parametrize("kind", CLASSES)
def test_sharded_means_several_files(written, kind, form):
    folder, _ = written[kind]
    checkpoint = open_checkpoint(folder / form / MAIN_FILES[form])
    n_files = len(checkpoint.files)
    if form == "openai":
        assert n_files == 11
    else:
        assert n_files > 2 if "sharded" in form else n_files == 1


def save_ours(model, folder, limit):
    """Sends a PyTorch model through variables of ours and saves them."""
    weights = expected_weights(model)
    variables = zeros_like(weights)
    for path, values in weights.items():
        variables[path].assign(values)
    prefix = hasattr(model, "transformer")
    save_safetensors(export_weights(variables, prefix), folder, max_shard_size=limit)
    model.config.save_pretrained(folder)


def outputs(model):
    rng = np.random.default_rng(0)
    shape = (2, 2, 5) if "Double" in type(model).__name__ else (1, 5)
    ids = torch.tensor(rng.integers(0, SIZES["vocab_size"], shape))
    with torch.no_grad():
        out = model(input_ids=ids)
    return [value.numpy() for value in out.values() if torch.is_tensor(value)]


@pytest.mark.parametrize("limit", ["5GB", "1KB"])
@pytest.mark.parametrize("kind", CLASSES)
def test_transformers_4_loads_what_we_write_with_equal_outputs(
    written, tmp_path, kind, limit
):
    _, model = written[kind]
    save_ours(model, tmp_path, limit)
    assert transformers.__version__.startswith("4.")
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    for ours, theirs in zip(outputs(loaded.eval()), outputs(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


PROGRAM = """
import sys, numpy, torch, transformers
assert transformers.__version__.startswith("5."), transformers.__version__
kind, folder, ids, out = sys.argv[1:]
cls = getattr(transformers, "OpenAIGPT" + kind)
model, report = cls.from_pretrained(folder, output_loading_info=True)
assert not any(report.values()), report
with torch.no_grad():
    given = model.eval()(input_ids=torch.tensor(numpy.load(ids)))
numpy.savez(out, *[v.numpy() for v in given.values() if torch.is_tensor(v)])
"""


@pytest.mark.parametrize("limit", ["5GB", "1KB"])
@pytest.mark.parametrize("kind", CLASSES)
def test_transformers_5_loads_what_we_write_with_equal_outputs(
    written, tmp_path, kind, limit
):
    """Set TRANSFORMERS_5_PYTHON to an interpreter that has it, and torch."""
    python = os.environ.get("TRANSFORMERS_5_PYTHON")
    if not python:
        pytest.skip("TRANSFORMERS_5_PYTHON names no interpreter with transformers 5")
    _, model = written[kind]
    save_ours(model, tmp_path, limit)
    rng = np.random.default_rng(0)
    shape = (2, 2, 5) if kind == "DoubleHeadsModel" else (1, 5)
    ids = rng.integers(0, SIZES["vocab_size"], shape)
    np.save(tmp_path / "ids.npy", ids)
    done = subprocess.run(
        [python, "-c", PROGRAM, kind, tmp_path, tmp_path / "ids.npy", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    given = np.load(tmp_path / "out.npz")
    wanted = outputs(model)
    assert len(given.files) == len(wanted)
    for name, theirs in zip(given.files, wanted, strict=True):
        # Another version may add in another order.
        np.testing.assert_allclose(given[name], theirs, atol=1e-5)


def test_pytorch_reads_our_float16_and_bfloat16(written, tmp_path):
    _, model = written["LMHeadModel"]
    weights = expected_weights(model)
    variables = zeros_like(weights)
    for path, values in weights.items():
        variables[path].assign(values)
    for dtype in ("float16", "bfloat16"):
        folder = tmp_path / dtype
        save_safetensors(export_weights(variables, True), folder, dtype=dtype)
        model.config.save_pretrained(folder)
        loaded = type(model).from_pretrained(folder, dtype=getattr(torch, dtype))
        for name, value in model.state_dict().items():
            assert torch.equal(
                loaded.state_dict()[name], value.to(getattr(torch, dtype))
            )


def our_class(kind):
    import tf_gpt

    return getattr(tf_gpt, f"OpenAIGPT{kind}")


@pytest.mark.parametrize("form", MAIN_FILES)
@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_loads_every_format(written, tmp_path, kind, form):
    from tf_gpt.models.pretrained import weights_by_path

    folder, model = written[kind]
    shutil.copytree(folder / form, tmp_path, dirs_exist_ok=True)
    model.config.save_pretrained(tmp_path)
    ours, info = our_class(kind).from_pretrained(tmp_path, output_loading_info=True)
    expected = expected_weights(model)
    variables = weights_by_path(ours)
    assert variables.keys() == expected.keys()
    heads = [path for path in expected if names.is_head(path)]
    missing = heads if form == "openai" else []
    assert sorted(info.pop("missing_keys")) == sorted(missing)
    assert not any(info.values())
    narrow = form.rpartition("_")[2]
    for path in expected.keys() - set(missing):
        values = expected[path]
        if narrow in ("float16", "bfloat16"):
            values = torch.tensor(values).to(getattr(torch, narrow)).float().numpy()
        np.testing.assert_array_equal(variables[path].numpy(), values, err_msg=path)
    for path in missing:
        if path.endswith("kernel"):  # a fresh head is drawn, not left at zero
            assert variables[path].numpy().std() > 0


@pytest.mark.parametrize("source", CLASSES)
@pytest.mark.parametrize("target", CLASSES)
def test_every_class_loads_every_other_class(written, source, target):
    from tf_gpt.models.pretrained import weights_by_path

    folder, model = written[source]
    ours, info = our_class(target).from_pretrained(
        folder / "safetensors", output_loading_info=True
    )
    expected = expected_weights(model)
    variables = weights_by_path(ours)
    assert set(info["missing_keys"]) == variables.keys() - expected.keys()
    assert {names.from_pytorch(name) for name in info["unexpected_keys"]} == (
        expected.keys() - variables.keys()
    )
    for path in variables.keys() & expected.keys():
        np.testing.assert_array_equal(variables[path].numpy(), expected[path])
    for path in variables.keys() - expected.keys():
        if path.endswith("kernel"):
            assert variables[path].numpy().std() > 0


@pytest.mark.parametrize("limit", ["5GB", "1KB"])
@pytest.mark.parametrize("kind", CLASSES)
def test_what_our_classes_save_transformers_loads_with_equal_outputs(
    written, tmp_path, kind, limit
):
    folder, model = written[kind]
    ours = our_class(kind).from_pretrained(folder / "safetensors")
    ours.save_pretrained(tmp_path, max_shard_size=limit)
    loaded, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    for mine, theirs in zip(outputs(loaded.eval()), outputs(model), strict=True):
        np.testing.assert_array_equal(mine, theirs)
