"""Whole training steps: what `fit` does with the gradients is OpenAI's step.

(The gradients themselves are compared with PyTorch in tests/reference.)
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from openai_adam import SHAPES, Adam

from tf_gpt import OpenAIGPTConfig, OpenAIGPTForSequenceClassification
from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear

N_STEPS = 20
PEAK = 1e-3
CONFIG = OpenAIGPTConfig(
    vocab_size=23, n_positions=8, n_embd=8, n_layer=2, n_head=2, num_labels=3,
    initializer_range=0.2, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    summary_first_dropout=0.0,
)  # fmt: skip


def batches(n_rows):
    rng = np.random.default_rng(0)
    for _ in range(N_STEPS):
        ids = rng.integers(0, CONFIG.vocab_size, (n_rows, 8)).astype("int32")
        labels = rng.integers(0, CONFIG.num_labels, n_rows).astype("int32")
        yield {"input_ids": ids, "labels": labels}


def new():
    keras.utils.set_random_seed(0)
    return OpenAIGPTForSequenceClassification(CONFIG)


def gradients(model, batch):
    with tf.GradientTape() as tape:
        loss = model(batch, training=True).loss
    variables = [v.value for v in model.trainable_weights]
    return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, variables)]


@pytest.mark.parametrize(
    "jit, parts",
    [(False, None), (True, 2)],
    ids=["graph", "xla, accumulated"],
)
def test_twenty_steps_of_fit_are_openais(jit, parts):
    model, twin = new(), new()
    adam = Adam(
        [np.asarray(v) for v in twin.trainable_weights],
        lambda t: PEAK * SHAPES["linear"](t / N_STEPS, 0.1),
        dtype="float32",
    )
    norms = []
    for batch in batches(4):
        grads = gradients(twin, batch)
        norms.append(np.sqrt(sum(np.sum(g**2) for g in grads)))
        adam.update(grads)
        for variable, value in zip(twin.trainable_weights, adam.p, strict=True):
            variable.assign(value)
    assert max(norms) > 1  # steps were clipped

    schedule = WarmupLinear(PEAK, N_STEPS, warmup=0.1)
    optimizer = OpenAIAdam(schedule, gradient_accumulation_steps=parts)
    model.compile(optimizer, jit_compile=jit)
    pieces = [
        {name: value[i :: parts or 1] for name, value in batch.items()}
        for batch in batches(4)
        for i in range(parts or 1)
    ]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(pieces),
        output_signature={
            "input_ids": tf.TensorSpec((4 // (parts or 1), 8), "int32"),
            "labels": tf.TensorSpec((4 // (parts or 1),), "int32"),
        },
    )
    # Keras counts one update too many where it must find the end itself.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(pieces)))
    model.fit(dataset, verbose=0, shuffle=False)
    assert int(optimizer.iterations) == N_STEPS

    for variable, value in zip(model.trainable_weights, adam.p, strict=True):
        got = np.array(variable)
        if variable.path.endswith("c_attn/bias"):
            # The scores of a query all move by the same with the keys' bias:
            # its gradient is 0 but for rounding, which Adam makes large.
            got, value = np.split(got, 3)[::2], np.split(value, 3)[::2]
        np.testing.assert_allclose(got, value, atol=5e-6, err_msg=variable.path)
