import numpy as np
import pytest
import tensorflow as tf
from openai_definition import log_softmax

from tf_gpt import (
    OpenAIGPTConfig,
    OpenAIGPTDoubleHeadsModel,
    OpenAIGPTForSequenceClassification,
    OpenAIGPTLMHeadModel,
)
from tf_gpt.models import losses

MODES = pytest.mark.parametrize("mode", ["eager", "graph", "dynamic", "xla"])
WHEN = pytest.mark.parametrize("at_once", [True, False], ids=["at once", "later"])
C, V = 6, 31


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So few tokens a chunk that small batches take several."""
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 4)


def definition(hidden, table, labels, weights):
    """Returns the loss and its gradients in float64, with all scores at once."""
    hidden, table = hidden.astype("float64"), table.astype("float64")
    log_probs = log_softmax(hidden @ table.T)
    one_hot = np.eye(len(table))[np.where(weights == 0, 0, labels)]
    d_scores = weights[:, None] * (np.exp(log_probs) - one_hot)
    loss = -np.sum(weights * np.sum(log_probs * one_hot, axis=-1))
    return loss, d_scores @ table, d_scores.T @ hidden


def example(n, dtype="float32", scale=1.0):
    rng = np.random.default_rng(n)
    hidden = rng.normal(size=(n, C)).astype("float32")
    table = (scale * rng.normal(size=(V, C))).astype("float32")
    labels = rng.integers(0, V, n).astype("int32")
    weights = rng.random(n).astype("float32")
    labels[1::3], weights[1::3] = -100, 0
    low = [tf.cast(x, dtype) for x in (hidden, table)]
    return [*low, tf.constant(labels), tf.constant(weights)]


def with_gradients(mode, arguments, at_once, upstream=1.0):
    def call(hidden, table, labels, weights):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table])
            loss = losses.tied_cross_entropy(
                hidden, table, labels, weights, with_gradients=at_once
            )
            scaled = upstream * loss
        return loss, *tape.gradient(scaled, [hidden, table])

    if mode == "eager":
        return call(*arguments)
    shapes = None
    if mode == "dynamic":
        n = [None]
        shapes = [
            tf.TensorSpec(shape, x.dtype)
            for shape, x in zip(([None, C], [V, C], n, n), arguments, strict=True)
        ]
    call = tf.function(call, input_signature=shapes, jit_compile=mode == "xla")
    return call(*arguments)


@MODES
@WHEN
@pytest.mark.parametrize("n", [1, 4, 11])
def test_chunks_give_the_loss_and_gradients_of_all_at_once(mode, at_once, n):
    arguments = example(n)
    want = definition(*(x.numpy() for x in arguments))
    got = with_gradients(mode, arguments, at_once, upstream=2.5)
    for a, b, scale in zip(got, want, (1, 2.5, 2.5), strict=True):
        np.testing.assert_allclose(a, scale * b, rtol=1e-5, atol=2e-6)
        assert a.dtype == "float32"


@pytest.mark.parametrize("training", [False, True])
def test_a_fixed_table_leaves_the_other_gradients(tiny_config, training):
    model = OpenAIGPTLMHeadModel(plain_config(tiny_config))
    batch = batch_for(OpenAIGPTLMHeadModel)
    loss, (_, *wanted) = gradients_of(model, batch, False)
    model.transformer.tokens_embed.trainable = False
    again, gradients = gradients_of(model, batch, False, training=training)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for got, want in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


@MODES
@WHEN
def test_no_tokens_and_no_labels_cost_nothing(mode, at_once):
    hidden, table, _, weights = example(11)
    none = (hidden, table, tf.fill([11], -100), tf.zeros_like(weights))
    for arguments in (none, example(0)):
        for value in with_gradients(mode, arguments, at_once):
            assert not np.asarray(value).any()
        # The gradient of no token has no row.
        assert with_gradients(mode, arguments, at_once)[1].shape[1] == C


@MODES
@WHEN
def test_bfloat16_stays_within_its_rounding(mode, at_once):
    arguments = example(11, "bfloat16")
    want = definition(
        *(tf.cast(x, "float32").numpy() for x in arguments[:2]),
        *(x.numpy() for x in arguments[2:]),
    )
    loss, *gradients = with_gradients(mode, arguments, at_once)
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss, want[0], rtol=0.02)
    for a, b in zip(gradients, want[1:], strict=True):
        assert a.dtype == "bfloat16"
        assert np.abs(tf.cast(a, "float32") - b).max() < 0.02 * np.abs(b).max()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scores_of_any_size_give_numbers(scale):
    arguments = example(11, scale=scale)
    want = definition(*(x.numpy() for x in arguments))
    got = with_gradients("graph", arguments, True)
    for a, b in zip(got, want, strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def shapes_in(graph):
    """Yields the static shape of every tensor in a graph and its functions."""
    functions = [graph, *(f.graph for f in graph._functions.values())]
    for inner in functions:
        for operation in inner.get_operations():
            yield from (tuple(t.shape) for t in operation.outputs if t.shape.rank)


@WHEN
def test_the_scores_never_exist_whole(at_once):
    n = 64
    step = tf.function(lambda *a: with_gradients("eager", a, at_once))
    sizes = [
        np.prod(shape)
        for shape in shapes_in(step.get_concrete_function(*example(n)).graph)
        if None not in shape
    ]
    assert losses.CHUNK_TOKENS * V in sizes
    assert max(sizes) < n * V


@pytest.mark.parametrize("per_row", [False, True])
def test_means_are_over_tokens_or_over_each_rows_own(per_row):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 3, 5, C)).astype("float32")
    table = rng.normal(size=(V, C)).astype("float32")
    labels = rng.integers(0, V, (2, 3, 5))
    labels[0, 1, 2:] = -100
    labels[1, 2] = -100
    each = [
        [
            -log_softmax(hidden[i, j, t] @ table.T)[labels[i, j, t + 1]]
            for t in range(4)
            if labels[i, j, t + 1] != -100
        ]
        for i in range(2)
        for j in range(3)
    ]
    want = np.mean(np.concatenate(each))
    if per_row:
        want = np.mean([np.mean(row) if row else 0 for row in each])
    got = losses.next_token_loss(hidden, tf.constant(table), labels, per_row=per_row)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def batch_for(cls):
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 101, (2, 3, 7)).astype("int32")
    lm_labels = np.where(rng.random(ids.shape) < 0.2, -100, ids)
    if cls is OpenAIGPTLMHeadModel:
        return {"input_ids": ids[0], "labels": lm_labels[0]}
    if cls is OpenAIGPTDoubleHeadsModel:
        mc_labels = np.array([2, 0])
        return {"input_ids": ids, "labels": lm_labels, "mc_labels": mc_labels}
    labels = np.array([1, 0])
    return {"input_ids": ids, "lm_labels": lm_labels, "labels": labels}


HEADS = pytest.mark.parametrize(
    "cls",
    [
        OpenAIGPTLMHeadModel,
        OpenAIGPTDoubleHeadsModel,
        OpenAIGPTForSequenceClassification,
    ],
)


def gradients_of(model, batch, jit, training=True):
    def call():
        with tf.GradientTape() as tape:
            loss = model(batch, training=training).loss
        found = tape.gradient(loss, model.trainable_variables)
        return loss, [tf.convert_to_tensor(g) for g in found]

    return tf.function(call, jit_compile=jit)()


def plain_config(config):
    rates = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")
    fields = {"n_layer": 1, **dict.fromkeys(rates, 0.0)}
    return OpenAIGPTConfig.from_dict(config.to_dict(), **fields)


@HEADS
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_every_heads_rematerialised_step_is_the_plain_one(tiny_config, cls, jit):
    model = cls(plain_config(tiny_config))
    batch = batch_for(cls)
    loss, plain = gradients_of(model, batch, jit)
    model.gradient_checkpointing_enable()
    again, gradients = gradients_of(model, batch, jit)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for got, want in zip(gradients, plain, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


@HEADS
def test_training_and_inference_agree_plain_config(tiny_config, cls):
    model = cls(plain_config(tiny_config))
    batch = batch_for(cls)
    loss, plain = gradients_of(model, batch, False, training=False)
    again, gradients = gradients_of(model, batch, False, training=True)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for got, want in zip(gradients, plain, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


@HEADS
def test_mixed_precision_steps_are_near_the_full_ones(tiny_config, cls):
    model = cls(plain_config(tiny_config))
    low = cls(model.config, dtype="mixed_bfloat16")
    for new, old in zip(low.weights, model.weights, strict=True):
        new.assign(old)
    batch = batch_for(cls)
    loss, gradients = gradients_of(low, batch, False)
    want, wanted = gradients_of(model, batch, False)
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss, want, rtol=0.03)
    flat = [np.concatenate([np.ravel(g) for g in gs]) for gs in (gradients, wanted)]
    assert np.linalg.norm(flat[0] - flat[1]) < 0.1 * np.linalg.norm(flat[1])
