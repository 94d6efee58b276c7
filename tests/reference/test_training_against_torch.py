"""Twenty training steps beside OpenAI's, by PyTorch's autograd in float64.

The forward pass and both losses are written out in PyTorch functions after
OpenAI's train.py, the update in NumPy after opt.py: nothing of tf_gpt but the
first weights is in them.
"""

import keras
import numpy as np
import pytest
from openai_adam import SHAPES, Adam
from openai_definition import weights_of

torch = pytest.importorskip("torch")

import tensorflow as tf  # noqa: E402

from tf_gpt import OpenAIGPTConfig, OpenAIGPTForSequenceClassification  # noqa: E402
from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear  # noqa: E402
from tf_gpt.models.pretrained import weights_by_path  # noqa: E402

pytestmark = pytest.mark.reference

N_STEPS = 20
PEAK = 1e-3
LENGTHS = (7, 4, 10, 5)
CONFIG = OpenAIGPTConfig(
    vocab_size=41, n_positions=12, n_embd=16, n_layer=2, n_head=2, num_labels=3,
    initializer_range=0.2, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    summary_first_dropout=0.0, lm_coef=0.5,
)  # fmt: skip


def batches():
    """Yields batches with sequences of several lengths, padded on the right."""
    rng = np.random.default_rng(0)
    for _ in range(N_STEPS):
        ids = rng.integers(1, CONFIG.vocab_size, (len(LENGTHS), 10))
        mask = (np.arange(10) < np.array(LENGTHS)[:, None]).astype("int32")
        yield {
            "input_ids": (ids * mask).astype("int32"),
            "attention_mask": mask,
            "labels": rng.integers(0, CONFIG.num_labels, len(LENGTHS)).astype("int32"),
            "lm_labels": np.where(mask, ids, -100).astype("int32"),
        }


def norm(x, w, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + 1e-5)
    return x * w[f"{name}/gamma"] + w[f"{name}/beta"]


def gelu(x):
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def attention(x, w):
    qkv = x @ w["attn/c_attn/kernel"] + w["attn/c_attn/bias"]
    n_rows, length, n_embd = x.shape
    query, key, value = (
        part.reshape(n_rows, length, CONFIG.n_head, -1).transpose(1, 2)
        for part in qkv.split(n_embd, -1)
    )
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    mask = torch.tril(torch.ones(length, length, dtype=x.dtype))
    weights = torch.softmax(scores * mask - 1e9 * (1 - mask), -1)
    y = (weights @ value).transpose(1, 2).reshape(n_rows, length, n_embd)
    return y @ w["attn/c_proj/kernel"] + w["attn/c_proj/bias"]


def losses(weights, batch):
    """Returns `(mean classification loss, mean language-model loss)`."""
    ids = torch.tensor(batch["input_ids"]).long()
    mask = torch.tensor(batch["attention_mask"]).double()
    table = weights["tokens_embed/embeddings"]
    x = table[ids] + weights["positions_embed/embeddings"][: ids.shape[1]]
    for i in range(CONFIG.n_layer):
        start = f"h_{i}/"
        w = {
            path.removeprefix(start): value
            for path, value in weights.items()
            if path.startswith(start)
        }
        n = norm(x + attention(x, w), w, "ln_1")
        m = gelu(n @ w["mlp/c_fc/kernel"] + w["mlp/c_fc/bias"])
        x = norm(n + m @ w["mlp/c_proj/kernel"] + w["mlp/c_proj/bias"], w, "ln_2")
    logits = torch.log_softmax(x[:, :-1] @ table.T, -1)
    lm_losses = -logits.gather(-1, ids[:, 1:, None])[..., 0]
    kept = mask[:, 1:]
    lm_losses = (lm_losses * kept).sum(1) / kept.sum(1)  # one per example
    last = x[torch.arange(len(ids)), mask.sum(1).long() - 1]
    scores = torch.log_softmax(last @ weights["score/kernel"], -1)
    labels = torch.tensor(batch["labels"]).long()
    clf_losses = -scores.gather(-1, labels[:, None])[:, 0]
    return clf_losses.mean(), lm_losses.mean()


def train_by_definition(weights):
    """Returns the losses of the steps and, by path, the weights after them."""
    paths = list(weights)
    adam = Adam(
        [weights[path] for path in paths],
        lambda t: PEAK * SHAPES["linear"](t / N_STEPS, 0.1),
    )
    history = []
    for batch in batches():
        tensors = [torch.tensor(p, requires_grad=True) for p in adam.p]
        clf_loss, lm_loss = losses(dict(zip(paths, tensors, strict=True)), batch)
        loss = clf_loss + 0.5 * lm_loss
        loss.backward()
        adam.update([t.grad.numpy() for t in tensors])
        history.append(loss.item())
    return history, dict(zip(paths, adam.p, strict=True))


class Losses(keras.callbacks.Callback):
    """Keeps each batch's loss: Keras reports the mean of those so far."""

    def __init__(self):
        super().__init__()
        self.values, self.total = [], 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        self.values.append(total - self.total)
        self.total = total


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_twenty_steps_of_fine_tuning_are_openais(jit):
    keras.utils.set_random_seed(0)
    model = OpenAIGPTForSequenceClassification(CONFIG)
    history, wanted = train_by_definition(weights_of(model))
    start = weights_of(model)
    model.compile(OpenAIAdam(WarmupLinear(PEAK, N_STEPS, 0.1)), jit_compile=jit)
    first = next(batches())
    dataset = tf.data.Dataset.from_generator(
        batches,
        output_signature={
            name: tf.TensorSpec(value.shape, value.dtype)
            for name, value in first.items()
        },
    )
    # Keras counts one update too many where it must find the end itself.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(N_STEPS))
    seen = Losses()
    model.fit(dataset, callbacks=[seen], verbose=0)
    np.testing.assert_allclose(seen.values, history, rtol=2e-6)
    distances = {}
    for path, variable in weights_by_path(model).items():
        got, want = np.array(variable, "float64"), wanted[path]
        assert np.abs(want - start[path]).max() > 0.2 * PEAK, path
        if path.endswith("c_attn/bias"):
            # The scores of a query all move by the same with the keys' bias:
            # its gradient is 0 but for rounding, which Adam makes large.
            got, want = (np.stack(np.split(x, 3)[::2]) for x in (got, want))
        distances[path] = np.abs(got - want).max()
    assert max(distances.values()) < 2e-6, distances
