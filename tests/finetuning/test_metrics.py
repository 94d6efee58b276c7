import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_gpt.finetuning.metrics import F1, Matthews, Pearson, Perplexity

N = 60


def f1_of(labels, predictions, k, weights):
    is_k, said_k = labels == k, predictions == k
    true, false = np.sum(weights[is_k & said_k]), np.sum(weights[~is_k & said_k])
    missed = np.sum(weights[is_k & ~said_k])
    if true == 0:
        return 0.0
    precision, recall = true / (true + false), true / (true + missed)
    return 2 * precision * recall / (precision + recall)


def matthews_of(labels, predictions, weights):
    """The correlation of two 0/1 variables, in the form that CoLA's papers give."""
    tp, tn, fp, fn = (
        np.sum(weights[(labels == a) & (predictions == b)])
        for a, b in ((1, 1), (0, 0), (0, 1), (1, 0))
    )
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / np.sqrt(below)


def correlation_of(x, y, weights):
    """Pearson's correlation of vectors (N, D), summed over D: R_K for one-hots."""

    def covariance(a, b):
        a = a - np.average(a, axis=0, weights=weights)
        b = b - np.average(b, axis=0, weights=weights)
        return np.sum(np.average(a * b, axis=0, weights=weights))

    return covariance(x, y) / np.sqrt(covariance(x, x) * covariance(y, y))


def classes(n_classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, N)
    scores = rng.normal(size=(N, n_classes)).astype("float32")
    scores[np.arange(N), labels] += 0.8
    return labels, scores, rng.random(N).astype("float32")


def in_batches(metric, *arguments, sizes=(7, 1, 30, 22)):
    start = 0
    for size in sizes:
        part = [x[start : start + size] for x in arguments]
        metric.update_state(*part)
        start += size
    return float(metric.result())


WEIGHTED = pytest.mark.parametrize("weighted", [False, True])


@WEIGHTED
def test_f1_of_two_classes_is_that_of_class_1(weighted):
    labels, scores, weights = classes(2)
    extra = [weights] if weighted else []
    weights = weights if weighted else np.ones(N)
    want = f1_of(labels, scores.argmax(-1), 1, weights)
    metric = F1()
    metric.update_state(labels, scores, *extra)
    np.testing.assert_allclose(metric.result(), want, rtol=1e-5)
    np.testing.assert_allclose(
        in_batches(F1(), labels, scores, *extra), want, rtol=1e-5
    )


@WEIGHTED
@pytest.mark.parametrize("n_classes", [2, 5])
def test_macro_f1_is_the_mean_of_each_classs_own(n_classes, weighted):
    labels, scores, weights = classes(n_classes)
    labels[labels == 1] = 0  # a class that is predicted but never right
    extra = [weights] if weighted else []
    weights = weights if weighted else np.ones(N)
    want = np.mean(
        [f1_of(labels, scores.argmax(-1), k, weights) for k in range(n_classes)]
    )
    got = in_batches(F1("macro"), labels[:, None], scores, *extra)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@WEIGHTED
def test_matthews_is_the_correlation_of_two_classes(weighted):
    labels, scores, weights = classes(2)
    extra = [weights] if weighted else []
    weights = weights if weighted else np.ones(N)
    want = matthews_of(labels, scores.argmax(-1), weights)
    metric = Matthews()
    metric.update_state(labels, scores, *extra)
    np.testing.assert_allclose(metric.result(), want, rtol=1e-5)
    np.testing.assert_allclose(
        in_batches(Matthews(), labels, scores, *extra), want, rtol=1e-5
    )


def test_matthews_of_several_classes_is_that_of_their_indicators():
    labels, scores, weights = classes(4)
    want = correlation_of(np.eye(4)[labels], np.eye(4)[scores.argmax(-1)], weights)
    got = in_batches(Matthews(), labels, scores, weights)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@WEIGHTED
def test_pearson_is_the_correlation(weighted):
    rng = np.random.default_rng(0)
    x = rng.random(N).astype("float32") * 5
    y = (x + rng.normal(size=N)).astype("float32")
    weights = rng.random(N).astype("float32")
    extra = [weights] if weighted else []
    weights = weights if weighted else np.ones(N)
    want = correlation_of(x[:, None], y[:, None], weights)
    if not weighted:
        np.testing.assert_allclose(want, np.corrcoef(x, y)[0, 1], rtol=1e-6)
    metric = Pearson()
    metric.update_state(x, y[:, None], *extra)
    np.testing.assert_allclose(metric.result(), want, rtol=1e-6)
    np.testing.assert_allclose(in_batches(Pearson(), x, y, *extra), want, rtol=1e-6)


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_pearson_survives_numbers_far_from_zero(offset):
    rng = np.random.default_rng(0)
    x = (offset + rng.random(N)).astype("float32")
    y = (-offset + x.astype("float64") + rng.random(N) - offset).astype("float32")
    want = np.corrcoef(x.astype("float64"), y.astype("float64"))[0, 1]
    np.testing.assert_allclose(in_batches(Pearson(), x, y), want, atol=1e-5)


@WEIGHTED
def test_perplexity_is_the_exponential_of_the_mean_loss(weighted):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (N, 5))
    labels[rng.random(labels.shape) < 0.3] = -100
    scores = rng.normal(size=(N, 5, 9)).astype("float32")
    weights = rng.random((N, 5)).astype("float32")
    extra = [weights] if weighted else []
    probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    rows, columns = np.nonzero(labels != -100)
    kept = (rows, columns)
    losses = -np.log(probs[rows, columns, labels[kept]])
    want = np.exp(np.average(losses, weights=weights[kept] if weighted else None))
    got = in_batches(Perplexity(), labels, scores, *extra)
    np.testing.assert_allclose(got, want, rtol=1e-5)


METRICS = [F1(), F1("macro"), Matthews(), Pearson(), Perplexity()]
NAMES = ["f1", "macro f1", "matthews", "pearson", "perplexity"]


def arguments_of(metric):
    labels, scores, _ = classes(2)
    if isinstance(metric, Pearson):
        return labels.astype("float32"), scores[:, 0]
    return labels, scores


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
def test_masked_labels_and_weights_of_zero_do_not_count(metric):
    metric = type(metric).from_config(metric.get_config())
    labels, scores = arguments_of(metric)
    metric.update_state(labels[:40], scores[:40])
    want = float(metric.result())
    metric.reset_state()
    weights = (np.arange(N) < 40).astype("float32")
    metric.update_state(labels, scores, weights)
    np.testing.assert_allclose(metric.result(), want, rtol=1e-5)
    if not isinstance(metric, Pearson):
        metric.reset_state()
        metric.update_state(np.where(weights == 1, labels, -100), scores)
        np.testing.assert_allclose(metric.result(), want, rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS, ids=NAMES)
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_graphs_give_the_eager_result(metric, jit):
    config = keras.saving.serialize_keras_object(metric)
    eager, compiled = (keras.saving.deserialize_keras_object(config) for _ in "ab")
    labels, scores = arguments_of(metric)
    compiled.update_state(labels, scores)  # makes the variables
    compiled.reset_state()
    update = tf.function(compiled.update_state, jit_compile=jit)
    for part in (slice(0, 40), slice(20, 60)):
        eager.update_state(labels[part], scores[part])
        update(tf.constant(labels[part]), tf.constant(scores[part]))
    assert float(eager.result()) != 0
    np.testing.assert_allclose(compiled.result(), eager.result(), rtol=1e-5)


def test_nothing_to_measure_gives_numbers():
    constant = np.zeros((4, 2), "float32")
    labels = np.array([0, 1, 0, 1])
    for metric, want in zip(METRICS, (0, 0, 0, 0, 1), strict=True):
        metric = type(metric).from_config(metric.get_config())
        assert float(metric.result()) == want
    for cls in (F1, Matthews):
        metric = cls()
        metric.update_state(labels, constant)  # always class 0
        assert float(metric.result()) == 0
    metric = Pearson()
    metric.update_state(labels, np.full(4, 0.1, "float32"))
    assert float(metric.result()) == 0


@pytest.mark.parametrize(
    "metric, labels, scores, message",
    [
        (F1(), [0, 1], [0.2, 0.7], r"f1.*\(2,\)"),
        (F1(), [0, 1], [[0.2], [0.7]], r"f1.*\(2, 1\)"),
        (F1(), [0, 1], [[0.2, 1, 2], [0.7, 0, 1]], "binary.*3 classes"),
        (Matthews(), [0, 1], [[0.2], [0.7]], r"matthews.*\(2, 1\)"),
        (Pearson(), [0.0, 1], [[0.2, 1], [0.7, 2]], r"pearson.*\(2, 2\)"),
        (Pearson(), [0.0, 1], [0.2, 1, 2], r"pearson.*\(3,\)"),
        (Perplexity(), [0, 1], [0.2, 0.7], r"perplexity.*\(2,\)"),
    ],
)
def test_predictions_that_do_not_fit_raise(metric, labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metric.update_state(np.array(labels), np.array(scores, "float32"))


def test_an_unknown_average_raises():
    with pytest.raises(ValueError, match=r"average.*'micro'"):
        F1("micro")
