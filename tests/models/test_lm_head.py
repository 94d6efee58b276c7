import keras
import numpy as np
import pytest
import tensorflow as tf
from openai_definition import log_softmax, logits, weights_of

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel
from tf_gpt.models.pretrained import weights_by_path


@pytest.fixture
def model(tiny_config, randomise):
    return randomise(OpenAIGPTLMHeadModel(tiny_config))


@pytest.mark.parametrize("mode", ["eager", "graph", "xla", "functional", "predict"])
def test_logits_are_openais_definition(model, ids, mode):
    weights = weights_of(model)
    want = np.stack([logits(weights, model.config, row) for row in ids])
    if mode == "functional":
        inputs = keras.Input((None,), dtype="int32")
        got = keras.Model(inputs, model(inputs).logits)(ids)
    elif mode == "predict":
        got = model.predict(ids, verbose=0)["logits"]
    else:
        call = lambda x: model(x).logits  # noqa: E731
        if mode != "eager":
            call = tf.function(call, jit_compile=mode == "xla")
        got = call(ids)
    np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_caches_change_nothing(model, ids, mode):
    full = model(ids).logits

    def step(token, caches, index):
        return model.decode(
            token,
            caches,
            index=index,
            position_ids=tf.fill((3, 1), index),
            attention_mask=tf.ones((3, 16), tf.int32),
            last_only=True,
        )

    if mode != "eager":
        step = tf.function(step, jit_compile=mode == "xla")
    caches = model.transformer.make_caches(3, 16)
    for t in range(ids.shape[1]):
        scores, caches = step(ids[:, t : t + 1], caches, tf.constant(t))
        np.testing.assert_allclose(scores[:, 0], full[:, t], atol=2e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_token(model, ids, side):
    lengths = [9, 4, 1]
    padded, mask = np.full((3, 9), 7), np.zeros((3, 9), int)
    for i, n in enumerate(lengths):
        place = slice(9 - n, 9) if side == "left" else slice(0, n)
        padded[i, place], mask[i, place] = ids[i, :n], 1
    got = model(padded, attention_mask=mask).logits.numpy()
    for i, n in enumerate(lengths):
        alone = model(ids[i : i + 1, :n]).logits[0]
        np.testing.assert_allclose(got[i][mask[i] == 1], alone, atol=2e-5)


def test_a_gap_in_the_mask_is_closed_up(model, ids):
    mask = np.array([[1, 1, 0, 0, 1, 1, 1, 0, 0]])
    got = model(ids[:1], attention_mask=mask).logits[0].numpy()[mask[0] == 1]
    alone = model(ids[:1, mask[0] == 1]).logits[0]
    np.testing.assert_allclose(got, alone, atol=2e-5)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_loss_is_the_mean_over_the_kept_next_tokens(model, ids, jit):
    labels = ids.copy()
    labels[0, 4:] = -100
    labels[2] = -100
    weights = weights_of(model)
    losses = [
        -log_softmax(logits(weights, model.config, row))[t, row[t + 1]]
        for row, kept in zip(ids, labels, strict=True)
        for t in range(8)
        if kept[t + 1] != -100
    ]
    call = tf.function(lambda i, labels: model(i, labels=labels).loss, jit_compile=jit)
    np.testing.assert_allclose(call(ids, labels), np.mean(losses), rtol=1e-5)
    assert float(model(ids, labels=np.full_like(ids, -100)).loss) == 0


def test_token_types_add_embeddings_of_the_vocabulary(model, ids):
    plain = model.transformer.tokens_embed(ids)
    types = np.flip(ids).copy()
    summed = plain + model.transformer.tokens_embed(types)
    np.testing.assert_allclose(
        model(ids, token_type_ids=types).logits,
        model(inputs_embeds=summed).logits,
        atol=1e-5,
    )


def test_hidden_states_and_attentions_come_when_asked_for(model, ids, tiny_config):
    out = model(ids, output_hidden_states=True, output_attentions=True)
    assert len(out.hidden_states) == tiny_config.n_layer + 1
    assert len(out.attentions) == tiny_config.n_layer
    again = model.transformer.logits(out.hidden_states[-1])
    np.testing.assert_allclose(again, out.logits, atol=1e-6)
    assert model(ids).hidden_states is None
    assert isinstance(model(ids, return_dict=False), tuple)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_mixed_precision_stays_within_its_rounding(model, ids, policy, jit):
    low = OpenAIGPTLMHeadModel(model.config, dtype=policy)
    for new, old in zip(low.weights, model.weights, strict=True):
        new.assign(old)
    got = tf.function(lambda x: low(x).logits, jit_compile=jit)(ids)
    assert got.dtype == low.compute_dtype
    want = model(ids).logits.numpy()
    limit = 0.05 if policy == "mixed_bfloat16" else 0.01
    assert np.abs(tf.cast(got, "float32") - want).mean() < limit * want.std()
    assert np.isfinite(got).all()


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
def test_keras_files_bring_the_same_model_back(model, ids, tmp_path, ending):
    path = tmp_path / f"model{ending}"
    if ending == ".keras":
        model.save(path)
        again = keras.models.load_model(path)
        assert again.config == model.config
    else:
        model.save_weights(path)
        again = OpenAIGPTLMHeadModel(model.config)
        again.load_weights(path)
    np.testing.assert_array_equal(again(ids).logits, model(ids).logits)


def test_a_functional_model_survives_saving(model, ids, tmp_path):
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name)
        for name in ("input_ids", "attention_mask")
    }
    functional = keras.Model(inputs, model(inputs).logits[:, -1])
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    functional.save(tmp_path / "functional.keras")
    again = keras.models.load_model(tmp_path / "functional.keras")
    np.testing.assert_array_equal(again(batch), model(ids).logits[:, -1])


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_from_pretrained_brings_a_saved_model_back(model, ids, tmp_path, dtype):
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path, dtype=dtype)
    again, info = OpenAIGPTLMHeadModel.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert info == {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    assert again.generation_config.max_new_tokens == 7
    want = model(ids).logits
    if dtype is not None:
        for weight in model.weights:
            weight.assign(tf.cast(tf.cast(weight, dtype), "float32"))
        want = model(ids).logits
    np.testing.assert_array_equal(again(ids).logits, want)


def test_fit_trains_on_the_models_own_loss(model, ids):
    batch = {"input_ids": ids, "labels": ids}
    dataset = tf.data.Dataset.from_tensors(batch)
    before = float(model(batch).loss)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    history = model.fit(dataset.repeat(8), verbose=0).history
    assert history["loss"][0] < before
    dropless = float(model(batch).loss)
    np.testing.assert_allclose(model.evaluate(dataset, verbose=0), dropless, rtol=1e-5)


def test_training_drops_and_inference_does_not(model, ids):
    assert np.abs(model(ids, training=True).logits - model(ids).logits).max() > 1e-3
    np.testing.assert_array_equal(model(ids).logits, model(ids).logits)


def test_initial_weights_follow_the_paper():
    config = OpenAIGPTConfig(n_layer=1, vocab_size=500, n_embd=192)
    for path, weight in weights_by_path(OpenAIGPTLMHeadModel(config)).items():
        values = np.asarray(weight.value)
        if path.endswith(("kernel", "embeddings")):
            assert abs(values.std() - 0.02) < 5e-4
            assert abs(values.mean()) < 1e-3
        else:
            assert (values == (1 if path.endswith("gamma") else 0)).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, i: m(), "neither"),
        (lambda m, i: m(i, inputs_embeds=np.zeros((3, 9, 24))), "both"),
        (lambda m, i: m(i + 101), r"\[0, 101\).*101"),
        (lambda m, i: m(i - 200), r"\[0, 101\)"),
        (lambda m, i: m(i.astype("float32")), "float32"),
        (lambda m, i: m(i[0]), r"rank 2.*\(9,\)"),
        (lambda m, i: m(np.zeros((1, 41), int)), "n_positions`=40.*41"),
        (lambda m, i: m(i, attention_mask=np.ones((3, 8))), r"attention_mask.*\(3, 8"),
        (lambda m, i: m(i, token_type_ids=i + 101), "token_type_ids"),
        (lambda m, i: m(i, position_ids=i + 40), r"position_ids.*\[0, 40\)"),
        (lambda m, i: m(i, head_mask=np.ones((3, 4))), r"head_mask.*\(3, 4\)"),
        (lambda m, i: m(inputs_embeds=np.zeros((3, 9, 23))), "hidden size 24"),
        (lambda m, i: m(i, labels=i[:, :8]), r"labels.*\(3, 8\)"),
        (lambda m, i: m(i, labels=i * 1.0), "labels.*float"),
        (lambda m, i: m(i, labels=i + 101), r"labels.*\[0, 101\)"),
        (lambda m, i: m({"input_ids": i, "lables": i}), "lables"),
        (lambda m, i: m({"input_ids": i, "labels": i}, labels=i), "twice.*labels"),
    ],
)
def test_wrong_inputs_raise_with_their_name(model, ids, call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call(model, ids)


def test_wrong_shapes_raise_at_trace_time(model):
    call = tf.function(lambda i, m: model(i, attention_mask=m).logits)
    with pytest.raises(ValueError, match="attention_mask"):
        call(tf.zeros((2, 5), tf.int32), tf.zeros((2, 4), tf.int32))


def test_generate_knows_a_resized_table(tiny_config):
    model = OpenAIGPTLMHeadModel(tiny_config)
    prompt = np.array([[5, 17, 3]])
    options = {"max_new_tokens": 4, "jit_compile": False}
    model.generate(prompt, **options)
    model.resize_token_embeddings(103)
    table = model.get_input_embeddings().embeddings
    rows = np.zeros(table.shape, "float32")
    rows[102] = 1.0
    table.assign(rows)
    model.transformer.blocks[-1].ln_2.beta.assign(np.ones(24))
    model.transformer.blocks[-1].ln_2.gamma.assign(np.zeros(24))
    # Every hidden state is now of ones: the new token scores highest.
    ids = model.generate(np.array([[5, 102]]), **options)
    assert ids.numpy()[0].tolist() == [5, 102, 102, 102, 102, 102]
