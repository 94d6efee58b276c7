import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from openai_definition import logits as definition
from openai_definition import weights_of

from tf_gpt import (
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
    OpenAIGPTModel,
)
from tf_gpt.errors import CheckpointError
from tf_gpt.finetuning.lora import TARGETS, add_lora, load_lora, merge_lora, save_lora
from tf_gpt.finetuning.optimizers import OpenAIAdam
from tf_gpt.finetuning.transfer import freeze
from tf_gpt.models.pretrained import weights_by_path

CONFIG = OpenAIGPTConfig(
    vocab_size=61, n_positions=16, n_embd=16, n_layer=2, n_head=2, num_labels=3,
    initializer_range=0.2, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
)  # fmt: skip
IDS = np.array([[5, 9, 2, 7, 7, 1], [3, 3, 8, 60, 0, 4]])
JIT = pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])


def new(cls=OpenAIGPTLMHeadModel, **kwargs):
    keras.utils.set_random_seed(0)
    return cls(CONFIG, **kwargs)


def adapted(cls=OpenAIGPTLMHeadModel, seed=1, model=None, **options):
    """Returns a model whose adapters are as if trained."""
    model = model or new(cls)
    add_lora(model, **{"rank": 3, "alpha": 6, **options})
    rng = np.random.default_rng(seed)
    for path, weight in weights_by_path(model).items():
        if path.endswith(("lora_kernel_a", "lora_kernel_b")):
            weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


def sum_by_hand(model, scale):
    """Returns the weights in float64, adapters added to their kernels."""
    weights = weights_of(model)
    for path in [path for path in weights if path.endswith("lora_kernel_a")]:
        start = path.removesuffix("lora_kernel_a")
        b = weights.pop(start + "lora_kernel_b")
        weights[start + "kernel"] += scale * weights.pop(path) @ b
    return weights


def values_of(model):
    return {path: np.array(v) for path, v in weights_by_path(model).items()}


def test_an_adapted_model_starts_as_it_was():
    model = new()
    before = np.asarray(model(IDS).logits)
    add_lora(model)
    np.testing.assert_array_equal(model(IDS).logits, before)
    firsts = [v for p, v in values_of(model).items() if p.endswith("lora_kernel_a")]
    assert len(firsts) == 2 * len(TARGETS)
    for a in firsts:
        bound = 1 / np.sqrt(a.shape[0])
        assert 0.5 * bound < np.abs(a).max() <= bound
    assert (firsts[0] != firsts[1][:16]).any() or firsts[0].shape != firsts[1].shape
    assert (firsts[0] != firsts[4]).any()  # the same projection, the next block


@JIT
@pytest.mark.parametrize("ids", [IDS, IDS[:1, :1]], ids=["rows", "one row"])
def test_kernels_act_as_the_sum_with_their_adapters(ids, jit):
    model = adapted()
    weights = sum_by_hand(model, scale=2)
    got = tf.function(lambda i: model(i).logits, jit_compile=jit)(ids)
    for row, scores in zip(ids, got, strict=True):
        np.testing.assert_allclose(
            scores, definition(weights, CONFIG, row), rtol=1e-4, atol=2e-5
        )


@pytest.mark.parametrize(
    "targets, chosen",
    [
        (TARGETS, TARGETS),
        (["c_attn"], ("attn/c_attn",)),
        ("c_proj", ("attn/c_proj", "mlp/c_proj")),
        (["mlp/c_proj", "c_fc"], ("mlp/c_fc", "mlp/c_proj")),
    ],
)
def test_only_adapters_and_heads_are_trainable(targets, chosen):
    model = new(OpenAIGPTForSequenceClassification)
    freeze(model, 1)  # which add_lora overrules
    paths = {id(v): path for path, v in weights_by_path(model).items()}
    add_lora(model, rank=2, targets=targets)
    after = weights_by_path(model)
    for path, variable in after.items():
        assert paths.get(id(variable), path) == path  # old paths stay right
    trainable = {id(v) for v in model.trainable_weights}
    assert {path for path, v in after.items() if id(v) in trainable} == {
        "score/kernel",
        *(f"h_{i}/{t}/lora_kernel_{x}" for i in (0, 1) for t in chosen for x in "ab"),
    }
    n = sum(sum(after[f"h_0/{t}/kernel"].shape) for t in chosen) * 2 * 2 + 16 * 3
    assert model.num_parameters(only_trainable=True) == n


@pytest.mark.parametrize(
    "dtype, jit", [("float32", True), ("mixed_bfloat16", False)], ids=["xla", "graph"]
)
def test_training_moves_adapters_and_heads_alone(jit, dtype):
    model = new(OpenAIGPTForSequenceClassification, dtype=dtype)
    add_lora(model, rank=2)
    before = values_of(model)
    model.compile(OpenAIAdam(0.01), jit_compile=jit)
    batch = {"input_ids": IDS, "labels": np.array([0, 2])}
    losses = model.fit(tf.data.Dataset.from_tensors(batch), epochs=12, verbose=0)
    losses = losses.history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    moved = {p for p, v in values_of(model).items() if (v != before[p]).any()}
    assert moved == {p for p in before if "lora" in p or p == "score/kernel"}


def test_gradients_are_those_of_the_sum():
    model = adapted()
    adapters = {p: v.value for p, v in weights_by_path(model).items() if "lora" in p}
    with tf.GradientTape() as tape:
        loss = model(IDS, labels=IDS).loss
    grads = tape.gradient(loss, adapters)
    a, b = (f"h_1/mlp/c_fc/lora_kernel_{x}" for x in "ab")
    values = values_of(model)
    merged = new()
    for path, value in sum_by_hand(model, 2).items():
        weights_by_path(merged)[path].assign(value)
    with tf.GradientTape() as tape:
        loss = merged(IDS, labels=IDS).loss
    kernel = merged.transformer.blocks[1].mlp.c_fc.kernel.value
    d_kernel = tape.gradient(loss, kernel).numpy()
    np.testing.assert_allclose(grads[a], 2 * d_kernel @ values[b].T, atol=1e-5)
    np.testing.assert_allclose(grads[b], 2 * values[a].T @ d_kernel, atol=1e-5)


@pytest.mark.parametrize(
    "cls",
    [
        OpenAIGPTModel,
        OpenAIGPTLMHeadModel,
        OpenAIGPTDoubleHeadsModel,
        OpenAIGPTForSequenceClassification,
    ],
)
def test_a_merged_model_is_an_ordinary_one(cls, tmp_path):
    model = adapted(cls)
    weights = sum_by_hand(model, scale=2)
    before = keras.tree.flatten(model(IDS))
    model.save_pretrained(tmp_path / "adapted")
    for path, value in values_of(cls.from_pretrained(tmp_path / "adapted")).items():
        np.testing.assert_allclose(value, weights[path], rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="merge_lora"):
        model.prune_heads({0: [1]})

    merge_lora(model)
    plain = new(cls)
    assert list(weights_by_path(model)) == list(weights_by_path(plain))
    assert len(model.trainable_weights) == len(plain.trainable_weights)
    for path, value in values_of(model).items():
        np.testing.assert_allclose(value, weights[path], rtol=1e-6, atol=1e-8)
    for a, b in zip(before, keras.tree.flatten(model(IDS)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    model.save_pretrained(tmp_path / "out")
    again = cls.from_pretrained(tmp_path / "out")
    for path, value in values_of(again).items():
        np.testing.assert_array_equal(value, values_of(model)[path])
    add_lora(model, rank=5)  # and may be adapted again
    assert len(weights_by_path(model)) > len(weights_by_path(plain))


@pytest.mark.parametrize("how", ["merged", "saved"])
def test_no_kernel_is_rounded_to_the_compute_dtype(tmp_path, how):
    model = adapted(model=new(dtype="mixed_bfloat16"))
    weights = sum_by_hand(model, scale=2)
    if how == "merged":
        merge_lora(model)
    else:
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path)
    for path, value in values_of(model).items():
        assert value.dtype == "float32"
        np.testing.assert_allclose(value, weights[path], rtol=1e-6, atol=1e-8)


def test_generation_is_the_same_merged_and_not():
    model = new()

    def generate():  # one row: the tokens after the first go one by one
        return np.asarray(model.generate(IDS[:1], max_new_tokens=5))[0]

    plain = generate()  # compiled before there are adapters
    adapted(model=model, seed=2)
    apart = generate()
    weights = sum_by_hand(model, scale=2)
    merge_lora(model)
    greedy = list(IDS[0])
    for _ in range(5):
        greedy.append(int(definition(weights, CONFIG, np.array(greedy))[-1].argmax()))
    assert list(apart) == list(generate()) == greedy
    assert list(plain) != greedy


@pytest.mark.parametrize(
    "cls", [OpenAIGPTLMHeadModel, OpenAIGPTDoubleHeadsModel,
            OpenAIGPTForSequenceClassification]
)  # fmt: skip
def test_a_file_brings_adapters_and_heads_to_another_copy(cls, tmp_path):
    model = adapted(cls, targets=("c_attn", "c_fc"))
    for path, weight in weights_by_path(model).items():
        if path.startswith(("score", "multiple_choice_head")):
            weight.assign(weight + 1)
    file = tmp_path / "new" / "adapters.safetensors"
    save_lora(model, file)
    assert [p.name for p in file.parent.iterdir()] == [file.name]

    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(file, "numpy") as stored:
        assert stored.metadata() == {
            "format": "tf_gpt.lora",
            "rank": "3",
            "alpha": "6.0",
            "targets": "attn/c_attn,mlp/c_fc",
        }
        trained = {id(v) for v in model.trainable_weights}
        wanted = {p: v for p, v in weights_by_path(model).items() if id(v) in trained}
        assert set(stored.keys()) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_array_equal(stored.get_tensor(name), value)

    again = new(cls)
    load_lora(again, file)
    load_lora(again, file)  # into a model that has them
    for a, b in zip(
        keras.tree.flatten(model(IDS)), keras.tree.flatten(again(IDS)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_frozen_head_is_not_stored_and_a_missing_one_warned_of(tmp_path):
    model = adapted(OpenAIGPTForSequenceClassification)
    save_lora(model, tmp_path / "with.safetensors")
    model.score.trainable = False
    save_lora(model, tmp_path / "without.safetensors")
    again = new(OpenAIGPTForSequenceClassification)
    kept = np.asarray(again.score.kernel)
    with pytest.warns(UserWarning, match="score/kernel"):
        load_lora(again, tmp_path / "without.safetensors")
    np.testing.assert_array_equal(again.score.kernel, kept)
    with pytest.warns(UserWarning, match="score/kernel"):
        load_lora(new(), tmp_path / "with.safetensors")


def test_keras_files_hold_the_sum(tmp_path):
    model = adapted()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert not any("lora" in path for path in weights_by_path(again))
    np.testing.assert_allclose(again(IDS).logits, model(IDS).logits, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rank": 0}, r"rank.*1 to.*16.*rank=0"),
        ({"rank": 17}, r"rank.*16.*rank=17"),
        ({"rank": 2.5}, r"rank.*2\.5"),
        ({"rank": True}, r"rank.*True"),
        ({"alpha": 0}, r"alpha.*above 0.*0"),
        ({"alpha": float("inf")}, r"alpha.*inf"),
        ({"alpha": "8"}, r"alpha.*'8'"),
        ({"targets": ["q_proj"]}, r"targets.*attn/c_attn.*'q_proj'"),
        ({"targets": ["attn"]}, r"targets.*'attn'"),
        ({"targets": [""]}, r"targets.*''"),
        ({"targets": []}, r"targets.*\[\]"),
    ],
)
def test_mistakes_are_named_before_the_model_changes(options, message):
    model = new()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        add_lora(model, **options)
    assert len(model.trainable_weights) == len(model.weights)


def test_models_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)model.*Dense"):
        add_lora(keras.layers.Dense(3))
    for call in (merge_lora, lambda m: save_lora(m, tmp_path / "x.safetensors")):
        with pytest.raises(ValueError, match=r"(?s)adapters.*add_lora"):
            call(new())
    model = adapted()
    with pytest.raises(ValueError, match=r"(?s)merge_lora.*rank=3"):
        add_lora(model)
    with pytest.raises(ValueError, match=r"(?s)\.safetensors.*x\.npz"):
        save_lora(model, tmp_path / "x.npz")
    weights_by_path(model)["h_0/attn/c_attn/lora_kernel_b"].assign(
        np.full((3, 48), np.nan)
    )
    with pytest.raises(ValueError, match=r"finite.*144.*h_0/attn/c_attn"):
        save_lora(model, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
    model = new()
    model.compile("sgd")
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="optimizer"):
        add_lora(model)


@pytest.fixture
def file(tmp_path):
    save_lora(adapted(), tmp_path / "adapters.safetensors")
    return tmp_path / "adapters.safetensors"


def rewrite(file, change):
    """Writes the file again with its header changed by `change(header)`."""
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


def set_metadata(**fields):
    return lambda header: header["__metadata__"].update(fields)


def rename(old, new):
    def change(header):
        header[new] = header.pop(old)

    return change


def reshape(name, shape):
    return lambda header: header[name].update(shape=shape)


A = "h_0/attn/c_attn/lora_kernel_a"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda header: header.pop("__metadata__"), "metadata lacks 'format'"),
        (lambda header: header["__metadata__"].pop("rank"), "metadata lacks 'rank'"),
        (set_metadata(format="pt"), "format is 'pt'"),
        (set_metadata(rank="4"), r"lora_kernel_a.*\(16, 4\).*\(16, 3\)"),
        (set_metadata(rank="9" * 5000), "adapters for this model"),
        (set_metadata(rank="-3"), "rank"),
        (set_metadata(alpha="nan"), "alpha.*nan"),
        (set_metadata(targets="attn/c_attn"), "the model lacks 12"),
        (set_metadata(targets="../x"), r"targets.*\.\./x"),
        (rename(A, "h_7/attn/c_attn/lora_kernel_a"), f"lacks 1 .*{A}.*h_7"),
        (rename(A, "h_0/attn/c_attn/kernel"), "h_0/attn/c_attn/kernel"),
        (reshape(A, [3, 16]), r"\(16, 3\).*\(3, 16\)"),
        (reshape(A, [1, 16, 3]), r"\(16, 3\).*\(1, 16, 3\)"),
    ],
)
def test_files_that_do_not_fit_change_nothing(file, change, message):
    rewrite(file, change)
    model = new()
    before = values_of(model)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        load_lora(model, file)
    after = values_of(model)
    assert after.keys() == before.keys()
    assert all((after[path] == before[path]).all() for path in before)
    assert len(model.trainable_weights) == len(model.weights)


def test_damaged_values_and_other_models_are_refused(file, tmp_path):
    other = adapted(rank=2)
    with pytest.raises(ValueError, match=r"(?s)rank=3.*rank=2"):
        load_lora(other, file)
    config = OpenAIGPTConfig.from_dict(CONFIG.to_dict(), n_embd=24)
    with pytest.raises(CheckpointError, match=r"\(24, 3\).*\(16, 3\)"):
        load_lora(OpenAIGPTLMHeadModel(config), file)
    data = bytearray(file.read_bytes())
    data[-4:] = np.float32(np.inf).tobytes()
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="finite"):
        load_lora(new(), file)
    file.write_bytes(data[:-5])
    with pytest.raises(CheckpointError, match="truncated"):
        load_lora(new(), file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_lora(new(), tmp_path / "none.safetensors")
