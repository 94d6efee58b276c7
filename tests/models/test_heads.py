import keras
import numpy as np
import pytest
import tensorflow as tf
from openai_definition import hidden_states, log_softmax, weights_of

from tf_gpt import (
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
)

JIT = pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])


def config_with(tiny_config, **fields):
    return OpenAIGPTConfig.from_dict(tiny_config.to_dict(), **fields)


@pytest.fixture
def choices(tiny_config):
    rng = np.random.default_rng(1)
    return {
        "input_ids": rng.integers(0, 101, (2, 3, 7)).astype("int32"),
        "mc_token_ids": np.array([[6, 5, 0], [1, 2, 3]], "int32"),
        "labels": rng.integers(0, 101, (2, 3, 7)).astype("int32"),
        "mc_labels": np.array([2, 0], "int32"),
    }


@JIT
def test_double_heads_are_the_definition(tiny_config, choices, randomise, jit):
    model = randomise(OpenAIGPTDoubleHeadsModel(tiny_config))
    weights = weights_of(model)
    states = np.array(
        [
            [hidden_states(weights, tiny_config, row)[-1] for row in rows]
            for rows in choices["input_ids"]
        ]
    )  # (2, 3, 7, C)
    read = np.take_along_axis(states, choices["mc_token_ids"][..., None, None], 2)
    scores = read[:, :, 0] @ weights["multiple_choice_head/summary/kernel"]
    scores = (scores + weights["multiple_choice_head/summary/bias"])[..., 0]
    logits = states @ weights["tokens_embed/embeddings"].T
    mc_loss = -log_softmax(scores)[[0, 1], choices["mc_labels"]].mean()
    lm_loss = -np.take_along_axis(
        log_softmax(logits[:, :, :-1]), choices["labels"][:, :, 1:, None], -1
    ).mean()

    out = tf.function(model, jit_compile=jit)(choices)
    np.testing.assert_allclose(out.logits, logits, atol=2e-5)
    np.testing.assert_allclose(out.mc_logits, scores, atol=2e-5)
    np.testing.assert_allclose(out.mc_loss, mc_loss, rtol=1e-5)
    np.testing.assert_allclose(out.lm_loss, lm_loss, rtol=1e-5)
    np.testing.assert_allclose(out.loss, 0.5 * lm_loss + mc_loss, rtol=1e-5)


def test_one_kind_of_labels_is_the_loss_unweighted(tiny_config, choices):
    model = OpenAIGPTDoubleHeadsModel(tiny_config)
    both = model(choices)
    for kept, name in (("labels", "lm_loss"), ("mc_labels", "mc_loss")):
        batch = {k: choices[k] for k in ("input_ids", "mc_token_ids", kept)}
        np.testing.assert_allclose(model(batch).loss, both[name], rtol=1e-6)


def test_embeddings_and_masks_may_have_the_choices_rank(
    tiny_config, choices, randomise
):
    model = randomise(OpenAIGPTDoubleHeadsModel(tiny_config))
    ids = choices["input_ids"]
    mask = np.ones_like(ids)
    mask[0, 1, 4:] = 0
    positions = mask.sum(-1) - 1
    from_ids = model(ids, attention_mask=mask, mc_token_ids=positions)
    from_embeds = model(
        inputs_embeds=model.transformer.tokens_embed(ids),
        attention_mask=mask,
        mc_token_ids=positions,
        output_hidden_states=True,
    )
    np.testing.assert_allclose(from_embeds.mc_logits, from_ids.mc_logits, atol=1e-5)
    assert from_embeds.hidden_states[0].shape == (2, 3, 7, 24)
    alone = model(ids[0, 1:2, :4])
    np.testing.assert_allclose(alone.mc_logits, from_ids.mc_logits[0, 1:2], atol=1e-5)


@pytest.mark.parametrize("summary_type", ["cls_index", "last", "first", "mean"])
@pytest.mark.parametrize("use_proj", [True, False])
@pytest.mark.parametrize("to_labels", [True, False])
def test_every_summary_the_config_names_works(
    tiny_config, choices, summary_type, use_proj, to_labels
):
    config = config_with(
        tiny_config,
        summary_type=summary_type,
        summary_use_proj=use_proj,
        summary_proj_to_labels=to_labels,
        summary_activation="tanh",
    )
    model = OpenAIGPTDoubleHeadsModel(config)
    ids = choices["input_ids"]
    got = model(ids).mc_logits
    assert got.shape == ((2, 3) if use_proj and to_labels else (2, 3, 24))
    assert np.abs(got).max() <= 1
    if got.shape != (2, 3):
        with pytest.raises(ValueError, match="mc_labels"):
            model(ids, mc_labels=np.array([0, 1]))


@pytest.mark.parametrize(
    "n_labels, problem, labels",
    [
        (1, None, np.array([0.5, -1.0, 2.0])),
        (1, None, np.array([[1], [0], [2]])),
        (3, None, np.array([0, 2, 1])),
        (3, None, np.array([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])),
        (3, "regression", np.array([[0.5, 1, 2], [0, 3, 1], [2, 2, 2]])),
        (3, "multi_label_classification", np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]])),
        (2, "single_label_classification", np.array([0, 1, 1])),
    ],
)
@JIT
def test_each_problem_has_its_loss(
    tiny_config, ids, randomise, n_labels, problem, labels, jit
):
    config = config_with(tiny_config, num_labels=n_labels, problem_type=problem)
    model = randomise(OpenAIGPTForSequenceClassification(config))
    weights = weights_of(model)
    logits = (
        np.array([hidden_states(weights, config, row)[-1][-1] for row in ids])
        @ (weights["score/kernel"])
    )
    if n_labels == 1 or problem == "regression":
        want = np.mean((logits.reshape(labels.shape) - labels) ** 2)
    elif labels.ndim == 1:
        want = -log_softmax(logits)[np.arange(3), labels].mean()
    else:
        p = 1 / (1 + np.exp(-logits))
        want = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    if labels.dtype == "float64":
        labels = labels.astype("float32")
    call = tf.function(lambda i, labels: model(i, labels=labels), jit_compile=jit)
    out = call(ids, tf.constant(labels))
    np.testing.assert_allclose(out.logits, logits, atol=2e-5)
    np.testing.assert_allclose(out.loss, want, rtol=1e-4)


@pytest.mark.parametrize("how", ["mask", "left mask", "pad token"])
def test_the_classifier_reads_each_rows_last_token(tiny_config, ids, how):
    config = config_with(tiny_config, pad_token_id=0 if how == "pad token" else None)
    model = OpenAIGPTForSequenceClassification(config)
    ids = np.where(ids == 0, 1, ids)
    padded, mask = np.zeros_like(ids), np.zeros_like(ids)
    for i, n in enumerate((9, 5, 1)):
        place = slice(9 - n, 9) if how == "left mask" else slice(0, n)
        padded[i, place], mask[i, place] = ids[i, :n], 1
    options = {} if how == "pad token" else {"attention_mask": mask}
    got = model(padded, **options).logits
    for i, n in enumerate((9, 5, 1)):
        alone = model(ids[i : i + 1, :n]).logits[0]
        np.testing.assert_allclose(got[i], alone, atol=1e-5)


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array([0, 1, 3]), r"\[0, 3\)"),
        (np.array([[0], [1], [2]]), r"labels.*\(3, 1\)"),
        (np.array([0.0, 1.0, 2.0], "float32"), r"\(3, 3\).*\(3,\)"),
    ],
)
def test_labels_that_do_not_fit_the_problem_raise(tiny_config, ids, labels, message):
    config = config_with(tiny_config, num_labels=3)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        OpenAIGPTForSequenceClassification(config)(ids, labels=labels)


@pytest.mark.parametrize(
    "cls", [OpenAIGPTDoubleHeadsModel, OpenAIGPTForSequenceClassification]
)
def test_fit_and_keras_files_work_for_every_head(tiny_config, choices, tmp_path, cls):
    model = cls(tiny_config)
    batch = choices
    if cls is OpenAIGPTForSequenceClassification:
        batch = {"input_ids": choices["input_ids"][:, 0], "labels": np.array([1, 0])}
    dataset = tf.data.Dataset.from_tensors(batch)
    model.compile("adam", jit_compile=False)
    assert np.isfinite(model.fit(dataset, verbose=0).history["loss"][0])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        keras.tree.flatten(again(batch))[-1], keras.tree.flatten(model(batch))[-1]
    )


def last_states(weights, config, rows):
    return np.array([hidden_states(weights, config, row)[-1] for row in rows])


@pytest.mark.parametrize("training", [False, True])
@JIT
def test_the_auxiliary_loss_is_openais(tiny_config, ids, randomise, jit, training):
    """train.py: each row's sum(losses * mask) / sum(mask), then the rows' mean."""
    rates = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")
    fields = {"lm_coef": 0.3, **dict.fromkeys(rates, 0.0)}
    keras.utils.set_random_seed(3)  # whose two means are far apart
    model = randomise(
        OpenAIGPTForSequenceClassification(config_with(tiny_config, **fields))
    )
    weights = weights_of(model)
    lengths = np.array([9, 4, 6])
    mask = np.arange(9) < lengths[:, None]
    states = last_states(weights, tiny_config, ids)
    log_probs = log_softmax(states[:, :-1] @ weights["tokens_embed/embeddings"].T)
    losses = -np.take_along_axis(log_probs, ids[:, 1:, None], -1)[..., 0]
    kept = mask[:, 1:]
    lm_loss = np.mean(np.sum(losses * kept, 1) / np.sum(kept, 1))
    assert abs(lm_loss - np.sum(losses * kept) / np.sum(kept)) > 1e-2
    logits = states[[0, 1, 2], lengths - 1] @ weights["score/kernel"]
    labels = np.array([1, 0, 1], "int32")
    task_loss = -log_softmax(logits)[[0, 1, 2], labels].mean()

    batch = {
        "input_ids": ids,
        "attention_mask": mask.astype("int32"),
        "labels": labels,
        "lm_labels": np.where(mask, ids, -100),
    }
    call = tf.function(lambda x: model(x, training=training), jit_compile=jit)
    out = call(batch)
    np.testing.assert_allclose(out.task_loss, task_loss, rtol=1e-5)
    np.testing.assert_allclose(out.lm_loss, lm_loss, rtol=1e-5)
    np.testing.assert_allclose(out.loss, task_loss + 0.3 * lm_loss, rtol=1e-5)


def test_without_its_labels_the_auxiliary_loss_is_not_there(tiny_config, ids):
    model = OpenAIGPTForSequenceClassification(tiny_config)
    assert list(model(ids)) == ["logits"]
    assert list(model(ids, labels=np.array([0, 1, 0]))) == ["loss", "logits"]
    alone = model(ids, lm_labels=ids)
    assert list(alone) == ["loss", "lm_loss", "logits"]
    assert float(alone.loss) == float(alone.lm_loss)


@JIT
def test_the_states_of_a_rows_sequences_are_summed(tiny_config, ids, randomise, jit):
    config = config_with(tiny_config, num_labels=1, problem_type="regression")
    model = randomise(OpenAIGPTForSequenceClassification(config))
    weights = weights_of(model)
    pairs = np.stack([ids, ids[:, ::-1]], axis=1)  # (3, 2, 9)
    lengths = np.array([[9, 9], [5, 3], [1, 7]])
    mask = (np.arange(9) < lengths[..., None]).astype("int32")
    states = np.array([last_states(weights, config, rows) for rows in pairs])
    read = np.take_along_axis(states, lengths[..., None, None] - 1, 2)[:, :, 0]
    want = read.sum(1) @ weights["score/kernel"]  # (3, 1)
    labels = np.array([0.5, -1.0, 2.0], "float32")
    batch = {
        "input_ids": np.where(mask == 1, pairs, 0),
        "attention_mask": mask,
        "labels": labels,
        "lm_labels": np.where(mask == 1, pairs, -100),
    }
    out = tf.function(model, jit_compile=jit)(batch)
    np.testing.assert_allclose(out.logits, want, atol=5e-5)
    mse = np.mean((want[:, 0] - labels) ** 2)
    np.testing.assert_allclose(out.task_loss, mse, rtol=1e-4)
    flat = {name: x.reshape(6, 9) for name, x in batch.items() if name != "labels"}
    np.testing.assert_allclose(out.lm_loss, model(flat).lm_loss, rtol=1e-5)
    more = model(batch, output_hidden_states=True, output_attentions=True)
    assert more.hidden_states[0].shape == (3, 2, 9, 24)
    assert more.attentions[0].shape == (6, 4, 9, 9)


def test_the_scored_states_are_dropped_in_training_alone(tiny_config, ids):
    rates = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = config_with(tiny_config, summary_first_dropout=0.5, **rates)
    model = OpenAIGPTForSequenceClassification(config)
    ids = np.repeat(ids[:1], 400, axis=0)
    plain = model(ids).logits.numpy()
    assert np.ptp(plain, axis=0).max() < 1e-5
    draws = model(ids, training=True).logits.numpy()
    assert draws.std(0).min() > 0.01
    error = np.abs(draws.mean(0) - plain[0])
    assert (error < 5 * draws.std(0) / 20).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"lm_labels": np.zeros((3, 8), int)}, r"lm_labels.*\(3, 8\)"),
        ({"lm_labels": np.full((3, 9), 101)}, r"lm_labels.*\[0, 101\)"),
        ({"lm_labels": np.zeros((3, 9), "float32")}, "lm_labels.*float32"),
        ({"attention_mask": np.ones((3, 2, 9), int)}, r"attention_mask.*\(3, 2, 9\)"),
        ({"input_ids": np.zeros((1, 3, 2, 9), int)}, r"rank 2 or 3.*\(1, 3, 2, 9\)"),
    ],
)
def test_wrong_inputs_of_the_classifier_raise(tiny_config, ids, wrong, message):
    model = OpenAIGPTForSequenceClassification(tiny_config)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        model({"input_ids": ids, **wrong})


def test_a_base_checkpoint_loads_into_a_fresh_head_and_back(tiny_config, tmp_path):
    from tf_gpt import OpenAIGPTModel

    base = OpenAIGPTModel(tiny_config)
    base.save_pretrained(tmp_path / "base")
    model, info = OpenAIGPTForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=5, output_loading_info=True
    )
    assert info["missing_keys"] == ["score/kernel"]
    assert np.asarray(model.score.kernel.value).std() > 0
    model.save_pretrained(tmp_path / "classifier")
    again, info = OpenAIGPTModel.from_pretrained(
        tmp_path / "classifier", output_loading_info=True
    )
    assert info["unexpected_keys"] == ["score.weight"]
    ids = np.arange(5)[None]
    np.testing.assert_array_equal(again(ids)[0], base(ids)[0])
