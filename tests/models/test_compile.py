import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_gpt import (
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
    OpenAIGPTModel,
)
from tf_gpt.finetuning.metrics import F1, Matthews, Pearson, Perplexity

JIT = pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])


@pytest.fixture
def config(tiny_config):
    return OpenAIGPTConfig.from_dict(tiny_config.to_dict(), n_layer=1)


def rows(seed, *shape):
    return np.random.default_rng(seed).integers(0, 101, shape).astype("int32")


def language_batches():
    """Two batches of different lengths, with labels left out."""
    for seed, length in ((0, 7), (1, 5)):
        ids = rows(seed, 3, length)
        labels = ids.copy()
        labels[1, 3:] = -100
        yield {"input_ids": ids, "labels": labels}


def choice_batches():
    for seed in (0, 1):
        ids = rows(seed, 4, 3, 6)
        labels = rows(seed + 9, 4) % 3
        yield {"input_ids": ids, "labels": ids, "mc_labels": labels}


def class_batches(n_labels=2):
    for seed, size in ((0, 5), (1, 3)):
        ids, labels = rows(seed, size, 6), rows(seed + 9, size) % n_labels
        yield {"input_ids": ids, "labels": labels, "lm_labels": ids}


def score_batches():
    for seed, size in ((0, 5), (1, 3)):
        labels = rows(seed, size).astype("float32") / 20
        yield {"input_ids": rows(seed, size, 2, 6), "labels": labels}


def dataset_of(batches):
    batches = list(batches)
    signature = {}
    for name, x in batches[0].items():
        shape = [None] * x.ndim
        if x.ndim == 3:
            shape[1] = x.shape[1]  # choices
        signature[name] = tf.TensorSpec(shape, x.dtype)
    return tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=signature
    )


def predictions(model, batches, labels, scores, shift=False):
    """Returns the labels and scores of all batches that are not left out, flat."""
    found = []
    for batch in batches:
        y, logits = batch[labels], model(batch)[scores].numpy()
        if shift:
            y, logits = y[:, 1:], logits[:, :-1]
        found += [(a, b) for a, b in zip(y[y != -100], logits[y != -100], strict=True)]
    return tuple(map(np.array, zip(*found, strict=True)))


def perplexity(labels, scores):
    return float(
        np.exp(
            keras.losses.sparse_categorical_crossentropy(
                labels, scores, from_logits=True
            )
            .numpy()
            .mean()
        )
    )


@JIT
def test_language_model_metrics_count_the_next_tokens(config, jit):
    model = OpenAIGPTLMHeadModel(config)
    batches = list(language_batches())
    labels, scores = predictions(model, batches, "labels", "logits", shift=True)
    assert len(labels) == 2 * 6 + 2 + 2 * 4 + 2
    metrics = ["accuracy", Perplexity()]
    model.compile("sgd", metrics=metrics, jit_compile=jit)
    got = model.evaluate(dataset_of(batches), verbose=0, return_dict=True)
    assert set(got) == {"loss", "accuracy", "perplexity"}
    np.testing.assert_allclose(got["accuracy"], np.mean(scores.argmax(-1) == labels))
    np.testing.assert_allclose(got["perplexity"], perplexity(labels, scores), rtol=1e-5)


def test_choices_are_measured_by_the_right_choice(config):
    model = OpenAIGPTDoubleHeadsModel(config)
    batches = list(choice_batches())
    labels, scores = predictions(model, batches, "mc_labels", "mc_logits")
    model.compile("sgd", metrics=["accuracy", F1("macro")])
    got = model.evaluate(dataset_of(batches), verbose=0, return_dict=True)
    assert set(got) == {"loss", "accuracy", "f1"}
    np.testing.assert_allclose(got["accuracy"], np.mean(scores.argmax(-1) == labels))
    f1 = F1("macro")
    f1.update_state(labels, scores)
    np.testing.assert_allclose(got["f1"], f1.result(), rtol=1e-5)
    assert got["f1"] > 0


def test_metrics_by_name_measure_both_heads(config):
    model = OpenAIGPTDoubleHeadsModel(config)
    batches = list(choice_batches())
    right, scores = predictions(model, batches, "mc_labels", "mc_logits")
    metrics = {"mc_logits": ["accuracy"], "logits": [Perplexity()]}
    model.compile("sgd", metrics=metrics)
    got = model.evaluate(dataset_of(batches), verbose=0, return_dict=True)
    np.testing.assert_allclose(
        got["mc_logits_accuracy"], np.mean(scores.argmax(-1) == right)
    )
    losses = [float(model(batch).lm_loss) for batch in batches]  # of as many tokens
    np.testing.assert_allclose(
        got["logits_perplexity"], np.exp(np.mean(losses)), rtol=1e-5
    )


def test_classes_have_accuracy_f1_and_matthews(config):
    model = OpenAIGPTForSequenceClassification(config)
    batches = list(class_batches())
    labels, scores = predictions(model, batches, "labels", "logits")
    model.compile("sgd", metrics=["accuracy", F1(), Matthews()])
    got = model.evaluate(dataset_of(batches), verbose=0, return_dict=True)
    np.testing.assert_allclose(got["accuracy"], np.mean(scores.argmax(-1) == labels))
    for metric in (F1(), Matthews()):
        metric.update_state(labels, scores)
        np.testing.assert_allclose(got[metric.name], metric.result(), rtol=1e-5)
    assert set(got) == {"loss", "accuracy", "f1", "matthews"}


@JIT
def test_scores_have_pearson_and_errors(config, jit):
    fields = {"num_labels": 1, "problem_type": "regression"}
    config = OpenAIGPTConfig.from_dict(config.to_dict(), **fields)
    model = OpenAIGPTForSequenceClassification(config)
    batches = list(score_batches())
    labels, scores = predictions(model, batches, "labels", "logits")
    scores = scores[:, 0]
    metrics = [Pearson(), keras.metrics.MeanAbsoluteError(name="mae")]
    model.compile("sgd", metrics=metrics, jit_compile=jit)
    got = model.evaluate(dataset_of(batches), verbose=0, return_dict=True)
    want = np.corrcoef(labels, scores)[0, 1]
    np.testing.assert_allclose(got["pearson"], want, atol=1e-5)
    np.testing.assert_allclose(got["mae"], np.abs(labels - scores).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "cls, batches",
    [
        (OpenAIGPTLMHeadModel, language_batches),
        (OpenAIGPTDoubleHeadsModel, choice_batches),
        (OpenAIGPTForSequenceClassification, class_batches),
    ],
)
def test_fit_reports_the_metrics_and_learns(config, cls, batches):
    model = cls(config)
    data = dataset_of(batches())
    model.compile(keras.optimizers.Adam(1e-2), metrics=["accuracy"])
    before = model.evaluate(data, verbose=0, return_dict=True)
    history = model.fit(data, validation_data=data, epochs=4, verbose=0).history
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history["val_loss"][-1] < before["loss"]
    assert history["val_accuracy"][-1] > before["accuracy"]


def test_a_loaded_model_is_compiled_as_it_was(config, tmp_path):
    model = OpenAIGPTForSequenceClassification(config)
    data = dataset_of(class_batches())
    model.compile(keras.optimizers.Adam(1e-3), metrics=["accuracy", F1("macro")])
    model.fit(data, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    want = model.evaluate(data, verbose=0, return_dict=True)
    assert again.evaluate(data, verbose=0, return_dict=True) == want
    assert set(want) == {"loss", "accuracy", "f1"}
    for new, old in zip(
        again.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(new, old)


CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.parametrize(
    "y, loss, metrics, jit",
    [
        ("dict", {"logits": CROSS_ENTROPY}, {"logits": ["accuracy"]}, True),
        ("array", CROSS_ENTROPY, ["accuracy"], False),
    ],
)
def test_keras_losses_train_a_classifier(config, y, loss, metrics, jit):
    model = OpenAIGPTForSequenceClassification(config)
    batch = next(class_batches())
    x, labels = {"input_ids": batch["input_ids"]}, batch["labels"]
    own = model({**x, "labels": labels})
    accuracy = np.mean(own.logits.numpy().argmax(-1) == labels)
    target = {"logits": labels} if y == "dict" else labels
    model.compile(
        keras.optimizers.Adam(1e-2), loss=loss, metrics=metrics, jit_compile=jit
    )
    got = model.evaluate(x, target, verbose=0, return_dict=True)
    np.testing.assert_allclose(got["loss"], own.loss, rtol=1e-5)
    np.testing.assert_allclose(got["accuracy"], accuracy)
    model.fit(x, target, epochs=3, verbose=0)
    after = model.evaluate(x, target, verbose=0, return_dict=True)
    assert after["loss"] < got["loss"]


def test_keras_losses_train_both_heads_by_name(config):
    model = OpenAIGPTDoubleHeadsModel(config)
    batch = next(choice_batches())
    x, right = {"input_ids": batch["input_ids"]}, batch["mc_labels"]
    own = model(batch)
    # Keras does not shift: the last place has no next token, and weight 0.
    shifted = np.roll(batch["labels"], -1, axis=-1)
    weights = np.ones(shifted.shape, "float32")
    weights[..., -1] = 0
    model.compile(
        "sgd",
        loss={"mc_logits": CROSS_ENTROPY, "logits": CROSS_ENTROPY},
        loss_weights={"mc_logits": 1.0, "logits": 0.5},
        metrics={"mc_logits": ["accuracy"]},
    )
    got = model.evaluate(
        x,
        {"mc_logits": right, "logits": shifted},
        sample_weight={"mc_logits": np.ones(4), "logits": weights},
        verbose=0,
        return_dict=True,
    )
    want = own.mc_loss + 0.5 * own.lm_loss * 5 / 6  # Keras's mean counts the zeros
    np.testing.assert_allclose(got["loss"], want, rtol=1e-5)
    alone = {"mc_logits": right}
    model.compile("sgd", loss={"mc_logits": CROSS_ENTROPY})
    got = model.evaluate(x, alone, verbose=0)
    np.testing.assert_allclose(got, own.mc_loss, rtol=1e-5)


def test_the_base_model_trains_on_a_loss_of_its_states(config):
    model = OpenAIGPTModel(config)
    ids = rows(0, 3, 6)
    model.compile("sgd", loss={"last_hidden_state": "mse"})
    target = {"last_hidden_state": np.zeros((3, 6, 24), "float32")}
    got = model.evaluate(ids, target, verbose=0)
    want = np.mean(np.square(model(ids).last_hidden_state))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_compiling_again_without_a_loss_goes_back_to_the_own(config):
    model = OpenAIGPTForSequenceClassification(config)
    data = dataset_of(class_batches())
    model.compile("sgd", loss=CROSS_ENTROPY)
    model.compile("sgd")
    batches = list(class_batches())
    losses = [float(model(batch).loss) for batch in batches]
    want = np.average(losses, weights=[5, 3])
    np.testing.assert_allclose(model.evaluate(data, verbose=0), want, rtol=1e-5)


@pytest.mark.parametrize(
    "compiled, data, message",
    [
        ({}, ["x"], "labels.*neither"),
        ({"metrics": ["accuracy"]}, ["x"], "labels.*neither"),
        ({"loss": "mse"}, ["x labels"], "own loss.*'mse'"),
        ({}, ["x labels", None, "weights"], "own loss.*some"),
        ({"metrics": {"mc_logits": ["acc"]}}, ["x labels"], r"metrics.*'mc_logits'"),
        ({"loss": "mse"}, ["x", "other"], "`y`.*'logits'.*'scores'"),
        ({"loss": "mse"}, ["x", "list"], "`y`.*'logits'.*tuple"),
    ],
)
def test_a_loss_that_is_not_clear_raises(config, compiled, data, message):
    model = OpenAIGPTForSequenceClassification(config)
    batch = next(class_batches())
    parts = {
        "x": {"input_ids": batch["input_ids"]},
        "x labels": batch,
        "weights": np.ones(5),
        "other": {"scores": batch["labels"]},
        "list": (batch["labels"],),
        None: None,
    }
    model.compile("sgd", **compiled)
    x, y, weights = ([parts[name] for name in data] + [None, None])[:3]
    step = lambda: model.test_step((x, y, weights))  # noqa: E731
    with pytest.raises(ValueError, match=f"(?s){message}"):
        step()


def test_class_weights_need_a_keras_loss(config):
    for name in ("embd", "attn", "resid"):
        setattr(config, f"{name}_pdrop", 0.0)
    config.summary_first_dropout = 0.0
    model = OpenAIGPTForSequenceClassification(config)
    batch = next(class_batches())
    x, y = {"input_ids": batch["input_ids"]}, batch["labels"]
    weights = {label: 1.0 + label for label in range(config.num_labels)}
    model.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match=r"`class_weight`.*`loss`.*own loss"):
        model.fit(batch, class_weight=weights, verbose=0)

    model.compile(keras.optimizers.SGD(0.0), loss=CROSS_ENTROPY, jit_compile=False)
    got = model.fit(x, y, class_weight=weights, verbose=0, batch_size=len(y))
    logits = keras.ops.log_softmax(model(x).logits)
    want = -np.asarray(logits)[np.arange(len(y)), y] * (1.0 + np.asarray(y))
    np.testing.assert_allclose(got.history["loss"], [want.mean()], rtol=1e-5)


def test_double_heads_need_y_by_name(config):
    model = OpenAIGPTDoubleHeadsModel(config)
    batch = next(choice_batches())
    model.compile("sgd", loss=CROSS_ENTROPY)
    with pytest.raises(ValueError, match=r"(?s)`y`.*'logits', 'mc_logits'.*ndarray"):
        model.test_step(({"input_ids": batch["input_ids"]}, batch["mc_labels"], None))


def test_metrics_as_a_list_and_as_a_dict_raise(config):
    model = OpenAIGPTLMHeadModel(config)
    with pytest.raises(ValueError, match="list and dict"):
        model.compile("sgd", metrics=["acc"], weighted_metrics={"logits": ["acc"]})
    model.compile(
        "sgd",
        metrics={"logits": ["acc"]},
        weighted_metrics={"logits": Perplexity()},
    )
    got = model.evaluate(dataset_of(language_batches()), verbose=0, return_dict=True)
    assert set(got) == {"loss", "acc", "perplexity"}
