"""OpenAI's optimizer beside its definition, written out in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from openai_adam import PEAK, SHAPES, Adam

from tf_gpt import OpenAIGPTConfig, OpenAIGPTForSequenceClassification
from tf_gpt.finetuning.optimizers import (
    OpenAIAdam,
    WarmupConstant,
    WarmupCosine,
    WarmupLinear,
    layer_decay,
)

JIT = pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])

SCHEDULES = {
    WarmupLinear: SHAPES["linear"],
    WarmupCosine: SHAPES["cosine"],
    WarmupConstant: SHAPES["constant"],
}


def weights_and_gradients(n_steps, seed=0):
    """Returns weights of each rank as the model's are, and gradients per step."""
    rng = np.random.default_rng(seed)
    shapes = [(5, 7), (7,), (3,)]
    weights = [rng.normal(0, 0.02, shape) for shape in shapes]
    weights[1] += 1  # gains
    grads = [
        # Norms on both sides of 1, so that some steps clip.
        [rng.normal(0, 0.15, shape).astype("float32") for shape in shapes]
        for _ in range(n_steps)
    ]
    return weights, grads


def variables_of(weights, dtype="float32"):
    return [
        keras.Variable(w, dtype=dtype, name=f"weight_{i}")
        for i, w in enumerate(weights)
    ]


def train(optimizer, variables, grads, jit=None):
    """Applies each step's gradients; eagerly, or compiled if `jit` is given."""
    optimizer.build(variables)

    def step(*g):
        optimizer.apply(g, variables)

    run = step if jit is None else tf.function(step, jit_compile=jit)
    for g in grads:
        run(*[tf.convert_to_tensor(x) for x in g])


def furthest(variables, values):
    return max(
        np.abs(np.asarray(v.value, "float64") - value).max()
        for v, value in zip(variables, values, strict=True)
    )


@pytest.mark.parametrize("cls", SCHEDULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@JIT
def test_a_hundred_updates_are_the_definition(cls, dtype, jit):
    n = 100
    weights, grads = weights_and_gradients(n)
    norms = [np.sqrt(sum(np.sum(x**2) for x in g)) for g in grads]
    assert min(norms) < 1 < max(norms)
    variables = variables_of(weights, dtype)
    train(OpenAIAdam(cls(PEAK, n, warmup=0.1)), variables, grads, jit)
    definition = Adam(weights, lambda t: PEAK * SCHEDULES[cls](t / n, 0.1), dtype=dtype)
    for g in grads:
        definition.update(g)
    assert furthest(variables, weights) > 5 * PEAK
    assert furthest(variables, definition.p) < 1e-7


def test_decay_goes_by_the_corrected_rate_and_spares_vectors():
    weights = [np.full((2, 2), 3.0), np.full(2, 3.0)]
    variables = variables_of(weights)
    optimizer = OpenAIAdam(0.1, weight_decay=0.5)
    train(optimizer, variables, [[np.zeros_like(w, "float32") for w in weights]])
    corrected = 0.1 * np.sqrt(1 - 0.999) / (1 - 0.9)  # not 0.1, as in AdamW
    np.testing.assert_allclose(variables[0], 3 - corrected * 0.5 * 3, rtol=1e-6)
    np.testing.assert_array_equal(variables[1], weights[1])


@pytest.mark.parametrize("decay", [None, 0.0])
def test_without_decay_and_clip_the_rest_is_the_definition(decay):
    weights, grads = weights_and_gradients(20)
    variables = variables_of(weights, "float64")
    optimizer = OpenAIAdam(PEAK, weight_decay=decay, global_clipnorm=None)
    train(optimizer, variables, grads)
    definition = Adam(weights, lambda t: PEAK, l2=0, max_norm=None)
    for g in grads:
        definition.update(g)
    assert furthest(variables, definition.p) < 1e-10


def test_keras_ways_to_exempt_weights_from_decay_hold():
    variables = variables_of([np.ones((2, 2)), np.ones((2, 2))])
    optimizer = OpenAIAdam(0.1)
    optimizer.exclude_from_weight_decay(var_names=["weight_1"])
    train(optimizer, variables, [[np.zeros((2, 2), "float32")] * 2])
    assert np.all(np.asarray(variables[0]) < 1)
    assert np.all(np.asarray(variables[1]) == 1)


@JIT
def test_accumulated_batches_are_one_large_batch(jit):
    n, parts = 12, 3
    weights, grads = weights_and_gradients(n * parts)
    rate = WarmupLinear(PEAK, n, warmup=0.25)
    variables = variables_of(weights)
    train(OpenAIAdam(rate, gradient_accumulation_steps=parts), variables, grads, jit)
    definition = Adam(
        weights, lambda t: PEAK * SCHEDULES[WarmupLinear](t / n, 0.25), dtype="float32"
    )
    for i in range(n):
        batch = grads[i * parts : (i + 1) * parts]
        definition.update([np.mean(g, axis=0) for g in zip(*batch, strict=True)])
    assert furthest(variables, definition.p) < 1e-7


@JIT
@pytest.mark.parametrize("wrap", [False, True], ids=["plain", "scaled loss"])
@pytest.mark.parametrize("parts", [None, 2])
def test_rows_of_a_table_count_as_the_dense_gradient(jit, wrap, parts):
    table = keras.layers.Embedding(6, 4)
    table.build()
    start = np.asarray(table.embeddings)
    ids = np.array([1, 1, 1, 3])  # the rows of token 1 add up before the clip
    optimizer = OpenAIAdam(0.01, gradient_accumulation_steps=parts)
    if wrap:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(table.trainable_variables)

    @tf.function(jit_compile=jit)
    def step():
        with tf.GradientTape() as tape:
            loss = optimizer.scale_loss(tf.reduce_sum(2 * table(ids)))
        grads = tape.gradient(loss, table.trainable_variables)
        assert isinstance(grads[0], tf.IndexedSlices)
        optimizer.apply(grads, table.trainable_variables)

    for _ in range(3 * (parts or 1)):
        step()
    dense = np.zeros((6, 4))
    dense[1], dense[3] = 6, 2
    definition = Adam([start], lambda t: 0.01)
    for _ in range(3):
        definition.update([dense])
    assert furthest([table.embeddings], definition.p) < 1e-7


@pytest.mark.parametrize("cls", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.002, 0.5, 1.0])
def test_schedules_are_openais_formulas(cls, warmup):
    n = 3000
    schedule = cls(PEAK, n, warmup)
    for step in (0, 1, 5, 6, 7, 1499, 1500, 1501, 2998, 2999, 3000):
        want = PEAK * SCHEDULES[cls](step / n, warmup)
        for given in (step, tf.constant(step, "int64")):
            np.testing.assert_allclose(schedule(given), want, rtol=1e-6, atol=1e-15)
    again = keras.optimizers.schedules.deserialize(
        keras.optimizers.schedules.serialize(schedule)
    )
    assert type(again) is cls
    assert again.get_config() == schedule.get_config()


@pytest.mark.parametrize("cls", SCHEDULES)
def test_rates_stay_in_range_whatever_the_step(cls):
    last = PEAK if cls is WarmupConstant else 0
    for warmup in (0.0, 0.002):
        schedule = cls(PEAK, 1000, warmup)
        for step in (1000, 1001, 5000, 10**9):
            np.testing.assert_allclose(schedule(step), last, atol=1e-12)
    assert np.asarray(cls(PEAK, 1000, 0.0)(0)) == np.float32(PEAK)
    assert np.asarray(cls(PEAK, 1000)(0)) == 0


def test_late_steps_of_a_long_run_keep_their_digits():
    n = 10_000_000
    for cls in (WarmupLinear, WarmupCosine):
        want = 1 / n if cls is WarmupLinear else np.sin(0.5 * np.pi / n) ** 2
        np.testing.assert_allclose(cls(1.0, n)(n - 1), want, rtol=1e-6)


def test_multipliers_scale_the_updates_of_the_paths_they_name():
    def named(*names):
        with keras.name_scope(names[0]), keras.name_scope(names[1]):
            return keras.Variable(np.ones((2, 2)), dtype="float64", name="kernel")

    names = [("h_1", "c_fc"), ("h_1", "c_proj"), ("h_11", "c_fc"), ("score", "x")]
    variables = [named(*pair) for pair in names]
    optimizer = OpenAIAdam(0.01, multipliers={"h_1": 0.5, "h_1/c_proj": 0.25})
    grads = [np.random.default_rng(0).normal(size=(2, 2)) for _ in names]
    train(optimizer, variables, [grads] * 3)
    definition = Adam([np.ones((2, 2))] * 4, lambda t: 0.01)
    for _ in range(3):
        definition.update(grads, multipliers=[0.5, 0.25, 1, 1])
    assert furthest(variables, definition.p) < 1e-9


def tiny_classifier(n_layer=1, **kwargs):
    config = OpenAIGPTConfig(
        vocab_size=19, n_positions=8, n_embd=8, n_layer=n_layer, n_head=2, num_labels=3,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, summary_first_dropout=0.0,
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    return OpenAIGPTForSequenceClassification(config, **kwargs)


BATCH = {
    "input_ids": np.array([[1, 2, 3, 3], [4, 5, 6, 7], [3, 8, 9, 1], [2, 2, 2, 5]]),
    "labels": np.array([0, 1, 2, 1]),
}


def test_layer_decay_gives_lower_layers_less():
    model = tiny_classifier(n_layer=3)
    multipliers = layer_decay(model, 0.5)
    assert multipliers == {
        "tokens_embed": 0.125,
        "positions_embed": 0.125,
        "h_0": 0.25,
        "h_1": 0.5,
        "h_2": 1.0,
    }
    optimizer = OpenAIAdam(0.01, weight_decay=None, multipliers=multipliers)
    before = {v.path: np.asarray(v) for v in model.weights}
    optimizer.build(model.trainable_variables)
    ones = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(ones, model.trainable_variables)
    moved = {v.path: float(np.max(before[v.path] - v)) for v in model.weights}
    head = next(moved[path] for path in moved if "score" in path)
    for path, distance in moved.items():
        factor = next((f for part, f in multipliers.items() if part in path), 1)
        np.testing.assert_allclose(distance / head, factor, rtol=1e-3)

    model.transformer.tokens_embed.trainable = False
    model.transformer.blocks[0].trainable = False
    assert set(layer_decay(model, 0.5)) == {"positions_embed", "h_1", "h_2"}


def test_fit_in_mixed_precision_trains_and_skips_what_overflows():
    model = tiny_classifier(dtype="mixed_float16")
    optimizer = OpenAIAdam(WarmupConstant(0.01, 10, 0.0))
    model.compile(optimizer, jit_compile=False)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    dataset = tf.data.Dataset.from_tensors(BATCH).repeat(6)
    losses = [model.fit(dataset, verbose=0).history["loss"][0] for _ in range(2)]
    assert losses[1] < losses[0]
    assert 0 < int(optimizer.iterations) <= 12


def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(tmp_path):
    model = tiny_classifier()
    optimizer = OpenAIAdam(
        WarmupLinear(0.01, 20, 0.1),
        multipliers=layer_decay(model, 0.9),
        gradient_accumulation_steps=2,
    )
    model.compile(optimizer, jit_compile=False)
    dataset = tf.data.Dataset.from_tensors(BATCH).repeat(5)
    model.fit(dataset, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == optimizer.get_config()
    for m in (model, again):
        m.fit(dataset, verbose=0)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(again.optimizer.iterations, 5)


def test_the_config_is_the_optimizer():
    optimizer = OpenAIAdam(
        WarmupCosine(0.1, 7), 0.8, 0.99, 1e-6, 0.1, 0.5, {"h_0": 0.5}, name="mine"
    )
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert type(again) is OpenAIAdam
    assert again.multipliers == {"h_0": 0.5}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: WarmupLinear(-1.0, 5), r"peak.*more than 0.*-1"),
        (lambda: WarmupLinear(1.0, 2.5), r"total_steps.*whole.*2\.5"),
        (lambda: WarmupLinear(1.0, 0), r"total_steps.*0"),
        (lambda: WarmupLinear(1.0, 5, 1.5), r"warmup.*\[0, 1\].*1\.5"),
        (lambda: WarmupLinear(float("nan"), 5), r"peak.*finite.*nan"),
        (lambda: OpenAIAdam(beta_1=1.0), r"beta_1.*\[0, 1\).*1\.0"),
        (lambda: OpenAIAdam(beta_2=-0.1), r"beta_2.*-0\.1"),
        (lambda: OpenAIAdam(epsilon=0.0), r"epsilon.*0\.0"),
        (lambda: OpenAIAdam(weight_decay=-0.1), r"weight_decay.*-0\.1"),
        (lambda: OpenAIAdam(global_clipnorm=0), r"global_clipnorm.*0"),
        (lambda: OpenAIAdam(multipliers={"h_0": "x"}), r"multipliers\['h_0'\].*'x'"),
        (lambda: layer_decay(tiny_classifier(), 1.5), r"factor.*\(0, 1\].*1\.5"),
    ],
)
def test_numbers_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()


def test_multipliers_and_weights_that_do_not_fit_are_named():
    variables = variables_of([np.ones((2, 2))])
    with pytest.raises(ValueError, match=r"(?s)multipliers.*h_9.*weight_0"):
        OpenAIAdam(multipliers={"h_9": 0.5}).build(variables)
    with pytest.raises(ValueError, match=r"(?s)32 bits.*weight_0.*bfloat16"):
        OpenAIAdam().build(variables_of([np.ones((2, 2))], "bfloat16"))
