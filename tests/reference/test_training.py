"""Training steps beside the PyTorch classes: losses and every weight after them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

import tf_gpt  # noqa: E402
from tf_gpt.checkpoints.names import TRANSPOSED, to_pytorch  # noqa: E402
from tf_gpt.models import losses  # noqa: E402
from tf_gpt.models.pretrained import weights_by_path  # noqa: E402

pytestmark = pytest.mark.reference

RATES = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout")
SIZES = {"vocab_size": 101, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 4}
N_STEPS = 3
RATE = 0.1


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that the small batches here take several chunks."""
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 10)


def pair(name, tmp_path, **fields):
    """Returns a random PyTorch model without dropout and ours, from its files."""
    torch.manual_seed(0)
    fields = {**SIZES, **dict.fromkeys(RATES, 0.0), "initializer_range": 0.15, **fields}
    reference = getattr(transformers, name)(transformers.OpenAIGPTConfig(**fields))
    reference.train().save_pretrained(tmp_path)
    return reference, getattr(tf_gpt, name).from_pretrained(tmp_path)


def check_weights(reference, ours):
    parameters = dict(reference.named_parameters())
    moved = 0
    for path, variable in weights_by_path(ours).items():
        got = np.asarray(variable.value)
        got = got.T if path in TRANSPOSED else got
        want = parameters[to_pytorch(path, True)].detach().numpy()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=5e-6, err_msg=path)
        moved += 1
    assert moved == len(parameters) - ("lm_head.weight" in parameters)


def batches(make):
    rng = np.random.default_rng(0)
    return [make(rng) for _ in range(N_STEPS)]


def language(rng):
    ids = rng.integers(1, 101, (3, 9))
    mask = (np.arange(9) < np.array([9, 4, 7])[:, None]).astype(int)
    labels = np.where(mask == 1, ids, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def choices(rng):
    ids = rng.integers(1, 101, (3, 4, 9))
    return {
        "input_ids": ids,
        "mc_token_ids": rng.integers(0, 9, (3, 4)),
        "labels": np.where(rng.random(ids.shape) < 0.3, -100, ids),
        "mc_labels": rng.integers(0, 4, 3),
    }


def classes(labels):
    def make(rng):
        ids = rng.integers(1, 101, (3, 9))
        ids[1, 5:] = 0
        return {"input_ids": ids, "labels": labels(rng)}

    return make


CLASSIFIER = "OpenAIGPTForSequenceClassification"
CASES = {
    "language model": ("OpenAIGPTLMHeadModel", {}, language),
    "double heads": ("OpenAIGPTDoubleHeadsModel", {}, choices),
    "single label": (
        CLASSIFIER,
        {"num_labels": 3, "pad_token_id": 0},
        classes(lambda rng: rng.integers(0, 3, 3)),
    ),
    "multi label": (
        CLASSIFIER,
        {"num_labels": 3, "pad_token_id": 0},
        classes(lambda rng: rng.integers(0, 2, (3, 3)).astype("float32")),
    ),
    "regression": (
        CLASSIFIER,
        {"num_labels": 1, "pad_token_id": 0},
        classes(lambda rng: rng.normal(size=3).astype("float32")),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_steps_of_fit_are_pytorchs(tmp_path, case, jit):
    name, fields, make = CASES[case]
    reference, ours = pair(name, tmp_path, **fields)
    data = batches(make)
    optimizer = torch.optim.SGD(reference.parameters(), lr=RATE)
    wanted = []
    for batch in data:
        optimizer.zero_grad()
        out = reference(**{k: torch.tensor(v) for k, v in batch.items()})
        loss = out.loss
        if case == "double heads":
            loss = 0.5 * out.loss + out.mc_loss
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())

    stacked = {k: np.stack([b[k] for b in data]) for k in data[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked)
    found = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda i, logs: found.append(logs["loss"])
    )
    ours.compile(keras.optimizers.SGD(RATE), jit_compile=jit)
    ours.fit(dataset, shuffle=False, verbose=0, callbacks=[record])
    # Keras logs the mean of the losses so far.
    means = np.cumsum(wanted) / np.arange(1, N_STEPS + 1)
    np.testing.assert_allclose(found, means, rtol=1e-5)
    assert abs(wanted[0] - wanted[-1]) > 1e-3
    check_weights(reference, ours)
