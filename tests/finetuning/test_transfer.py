import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_gpt import (
    OpenAIGPTConfig,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
)
from tf_gpt.finetuning.lora import add_lora
from tf_gpt.finetuning.transfer import freeze, transfer_layers
from tf_gpt.models.pretrained import weights_by_path

CONFIG = OpenAIGPTConfig(
    vocab_size=61, n_positions=10, n_embd=16, n_layer=3, n_head=2,
    initializer_range=0.3,
)  # fmt: skip
TABLES = {"tokens_embed", "positions_embed"}


def trained(cls=OpenAIGPTForSequenceClassification):
    """Returns a model each weight of which differs from a fresh one's."""
    keras.utils.set_random_seed(0)
    model = cls(CONFIG)
    for i, weight in enumerate(model.weights):
        weight.assign(weight + keras.random.normal(weight.shape, seed=i))
    return model


def values_of(model):
    return {path: np.array(v) for path, v in weights_by_path(model).items()}


def changed_layers(before, model):
    after = values_of(model)
    return {
        path.split("/")[0] for path in before if (before[path] != after[path]).any()
    }


@pytest.mark.parametrize(
    "n, redrawn",
    [
        (3, set()),
        (2, {"h_2"}),
        (0, {"h_0", "h_1", "h_2"}),
        (-1, {"h_0", "h_1", "h_2"} | TABLES),
    ],
)
def test_transfer_keeps_the_lower_layers_and_draws_the_others(n, redrawn):
    model = trained()
    before = values_of(model)
    transfer_layers(model, n, seed=1)
    assert changed_layers(before, model) == redrawn
    for path, value in values_of(model).items():
        layer, name = path.split("/")[0], path.split("/")[-1]
        if layer not in redrawn:
            continue
        if name in ("kernel", "embeddings"):
            n_values = value.size
            assert abs(value.mean()) < 5 * 0.3 / np.sqrt(n_values), path
            assert abs(value.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * n_values), path
        else:
            assert (value == (1 if name == "gamma" else 0)).all(), path


def test_the_seed_decides_what_is_drawn():
    first, second, other = trained(), trained(), trained()
    transfer_layers(first, 1, seed=7)
    transfer_layers(second, 1, seed=7)
    transfer_layers(other, 1, seed=8)
    same = values_of(first)
    assert changed_layers(same, second) == set()
    assert changed_layers(same, other) == {"h_1", "h_2"}
    kernels = [v for path, v in same.items() if path.endswith("mlp/c_fc/kernel")]
    assert (kernels[1] != kernels[2]).any()  # the blocks are not alike


@pytest.mark.parametrize(
    "n, embeddings, frozen, jit",
    [(2, True, {"h_0", "h_1"} | TABLES, False), (1, False, {"h_0"}, True)],
    ids=["graph", "xla"],
)
def test_frozen_layers_do_not_move_and_the_others_do(n, embeddings, frozen, jit):
    model = trained()
    freeze(model, n, embeddings=embeddings)
    before = values_of(model)
    # Without decay, a weight moves only if it has a gradient.
    model.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
    batch = {"input_ids": np.arange(20).reshape(2, 10), "labels": np.array([0, 1])}
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    every = {path.split("/")[0] for path in before}
    assert changed_layers(before, model) == every - frozen


def test_freezing_the_tables_freezes_a_language_models_head():
    model = trained(OpenAIGPTLMHeadModel)
    freeze(model, 0)
    before = values_of(model)
    batch = {"input_ids": np.arange(10)[None], "labels": np.arange(10)[None]}
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    assert changed_layers(before, model) == {"h_0", "h_1", "h_2"}
    hidden = np.random.default_rng(0).normal(size=(1, 2, 16)).astype("float32")
    np.testing.assert_allclose(
        model.transformer.logits(hidden),
        hidden @ before["tokens_embed/embeddings"].T,
        atol=1e-4,
    )


def test_a_second_freeze_takes_the_place_of_the_first():
    model = trained()
    everything = len(model.trainable_weights)
    freeze(model, 3)
    assert [v.path.split("/")[-2:] for v in model.trainable_weights] == [
        ["score", "kernel"]
    ]
    freeze(model, 0, embeddings=False)
    assert len(model.trainable_weights) == everything


@pytest.mark.parametrize("n", [4, -2, 1.5, True, "1", None])
def test_a_number_of_blocks_that_is_none_is_named(n):
    with pytest.raises(ValueError, match=rf"(?s)`n`.*-1 to.*3.*{n}"):
        transfer_layers(trained(), n)
    with pytest.raises(ValueError, match=rf"(?s)`n_layers`.*0 to.*3.*{n}"):
        freeze(trained(), n)


def test_models_that_cannot_be_changed_any_more_are_refused():
    model = trained()
    add_lora(model, rank=2)
    for change in (transfer_layers, freeze):
        with pytest.raises(ValueError, match="merge_lora"):
            change(model, 1)
    model = trained()
    model.compile("sgd", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="optimizer"):
        freeze(model, 1)
