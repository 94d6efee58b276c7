import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_gpt
from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTModel
from tf_gpt.models.pretrained import weights_by_path


@pytest.fixture
def model(tiny_config, randomise):
    return randomise(OpenAIGPTLMHeadModel(tiny_config))


@pytest.mark.parametrize("n", [120, 50])
def test_resizing_keeps_the_first_rows_and_ties_the_head(model, ids, tmp_path, n):
    ids = ids % 50
    before = model(ids).logits
    old = np.asarray(model.get_input_embeddings().embeddings)
    layer = model.resize_token_embeddings(n)
    assert layer is model.get_input_embeddings() is model.get_output_embeddings()
    assert model.config.vocab_size == n
    assert len(model.weights) == 26
    kept = min(n, 101)
    np.testing.assert_array_equal(layer.embeddings[:kept], old[:kept])
    after = model(ids).logits
    assert after.shape[-1] == n
    np.testing.assert_allclose(after[..., :kept], before[..., :kept], atol=1e-5)
    assert model.generate(ids[:1], max_new_tokens=2).shape == (1, 11)
    model.save_pretrained(tmp_path)
    again = OpenAIGPTLMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(ids).logits, after)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(ids).logits, after)


def test_resizing_rounds_up_to_a_multiple(model):
    model.resize_token_embeddings(pad_to_multiple_of=64)
    assert model.config.vocab_size == 128
    with pytest.raises(ValueError, match=r"pad_to_multiple_of.*0"):
        model.resize_token_embeddings(120, pad_to_multiple_of=0)


def test_resizing_a_trained_model_raises(model, ids):
    batch = {"input_ids": ids, "labels": ids}
    model.compile("sgd")
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    with pytest.raises(ValueError, match="optimizer"):
        model.resize_token_embeddings(120)
    assert model.config.vocab_size == 101


def test_input_embeddings_can_be_set(model, ids):
    table = np.asarray(model.get_input_embeddings().embeddings)
    model.set_input_embeddings(table[::-1])
    np.testing.assert_array_equal(model.get_input_embeddings().embeddings, table[::-1])
    with pytest.raises(ValueError, match=r"\(V, 24\).*\(5, 3\)"):
        model.set_input_embeddings(np.zeros((5, 3)))


def test_a_pruned_head_is_as_if_masked(model, ids, tmp_path):
    head_mask = np.ones((2, 4), "float32")
    head_mask[0, 1] = head_mask[0, 3] = head_mask[1, 0] = 0
    want = model(ids, head_mask=head_mask).logits
    n_before = model.num_parameters()
    model.prune_heads({0: [1]})
    model.prune_heads({0: [3], 1: [0]})
    np.testing.assert_allclose(model(ids).logits, want, atol=1e-5)
    assert model.num_parameters() == model.config.num_parameters() < n_before
    np.testing.assert_allclose(model(ids, head_mask=head_mask).logits, want, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = OpenAIGPTLMHeadModel.from_pretrained(tmp_path)
    np.testing.assert_allclose(again(ids).logits, want, atol=1e-5)
    got = again.generate(ids[:1], max_new_tokens=3, jit_compile=False)
    np.testing.assert_array_equal(
        got[0, -1], np.argmax(model(got[:, :-1]).logits[0, -1])
    )
    with pytest.raises(ValueError, match="pruned_heads"):
        model.prune_heads({1: [1, 2, 3]})


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_rematerialised_gradients_are_the_plain_ones(ids, tiny_config, jit):
    fields = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = OpenAIGPTConfig.from_dict(tiny_config.to_dict(), **fields)
    model = OpenAIGPTLMHeadModel(config)

    def gradients():
        with tf.GradientTape() as tape:
            loss = model({"input_ids": ids, "labels": ids}, training=True).loss
        return [
            tf.convert_to_tensor(g)
            for g in tape.gradient(loss, model.trainable_variables)
        ]

    plain = tf.function(gradients, jit_compile=jit)()
    model.gradient_checkpointing_enable()
    for got, want in zip(tf.function(gradients, jit_compile=jit)(), plain, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_rematerialised_training_drops_what_plain_training_drops(
    ids, tiny_config, mode
):
    rates = dict.fromkeys(("resid_pdrop", "attn_pdrop"), 0.5)
    config = OpenAIGPTConfig.from_dict(tiny_config.to_dict(), **rates)

    def trained(rematerialised):
        keras.utils.set_random_seed(7)
        model = OpenAIGPTLMHeadModel(config)
        if rematerialised:
            model.gradient_checkpointing_enable()
        model.compile(
            keras.optimizers.SGD(0.5),
            run_eagerly=mode == "eager",
            jit_compile=mode == "xla",
        )
        losses = [
            model.train_on_batch({"input_ids": ids, "labels": ids}) for _ in range(2)
        ]
        return losses, model.weights

    losses, weights = trained(False)
    again, got = trained(True)
    np.testing.assert_allclose(again, losses, rtol=1e-6)
    for new, plain in zip(got, weights, strict=True):
        np.testing.assert_allclose(new, plain, atol=1e-6)


def test_weight_paths_do_not_depend_on_names(tiny_config):
    paths = list(weights_by_path(OpenAIGPTModel(tiny_config, name="a")))
    assert paths == list(weights_by_path(OpenAIGPTLMHeadModel(tiny_config, name="b")))
    assert "h_1/attn/c_attn/kernel" in paths
    assert len(paths) == 2 + 12 * 2


def test_mismatched_sizes_raise_or_are_reported(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tokens_embed"):
        OpenAIGPTLMHeadModel.from_pretrained(tmp_path, vocab_size=90)
    again, info = OpenAIGPTLMHeadModel.from_pretrained(
        tmp_path, vocab_size=90, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert len(info["mismatched_keys"]) == 1
    table = np.asarray(again.get_input_embeddings().embeddings)
    assert abs(table.std() - 0.2) < 0.02


def test_a_dtype_policy_is_taken(model, tmp_path):
    model.save_pretrained(tmp_path)
    low = OpenAIGPTLMHeadModel.from_pretrained(tmp_path, dtype="mixed_bfloat16")
    assert low.transformer.blocks[0].attn.compute_dtype == "bfloat16"
    assert low.weights[0].dtype == "float32"


def test_unknown_models_and_options_raise(model, tmp_path):
    with pytest.raises(OSError, match="no-such-model"):
        OpenAIGPTLMHeadModel.from_pretrained("no-such-model")
    with pytest.raises(ValueError, match="push_to_hub"):
        model.save_pretrained(tmp_path, private=True)
    with pytest.raises(ValueError, match="config"):
        OpenAIGPTLMHeadModel("mini")


def test_every_alias_is_its_class():
    for name in ("Model", "LMHeadModel", "DoubleHeadsModel"):
        full = f"OpenAIGPT{name}"
        assert getattr(tf_gpt, f"TF{full}") is getattr(tf_gpt, full)
