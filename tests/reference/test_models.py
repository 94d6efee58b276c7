"""Every model, output and loss beside the PyTorch classes of transformers."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import tensorflow as tf  # noqa: E402

import tf_gpt  # noqa: E402

pytestmark = pytest.mark.reference

SIZES = {"vocab_size": 101, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 4}
TINY = 2e-6


def pair(name, tmp_path, **fields):
    """Returns a random PyTorch model and ours, loaded from its files."""
    torch.manual_seed(0)
    fields = {**SIZES, "initializer_range": 0.15, **fields}
    reference = getattr(transformers, name)(transformers.OpenAIGPTConfig(**fields))
    reference.eval().save_pretrained(tmp_path)
    ours, info = getattr(tf_gpt, name).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values())
    return reference, ours


def difference(reference, ours):
    return np.abs(reference.detach().numpy() - np.asarray(ours)).max()


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(1, 101, (3, 4, 9))


@pytest.fixture
def mask(ids):
    mask = np.ones_like(ids)
    mask[1, :, 6:] = 0
    return mask


def test_base_outputs_are_equal(ids, mask, tmp_path):
    reference, ours = pair("OpenAIGPTModel", tmp_path)
    flags = {"output_hidden_states": True, "output_attentions": True}
    ids, mask = ids[:, 0], mask[:, 0]
    for options in ({}, {"attention_mask": mask}, {"token_type_ids": ids[:, ::-1]}):
        options = {name: np.ascontiguousarray(v) for name, v in options.items()}
        tensors = {name: torch.tensor(v) for name, v in options.items()}
        a = reference(torch.tensor(ids), **tensors, **flags)
        b = ours(ids, **options, **flags)
        assert difference(a.last_hidden_state, b.last_hidden_state) < TINY
        for x, y in zip(a.hidden_states, b.hidden_states, strict=True):
            assert difference(x, y) < TINY
        for x, y in zip(a.attentions, b.attentions, strict=True):
            assert difference(x, y) < TINY


@pytest.mark.parametrize("afn", ["gelu", "relu", "swish"])
def test_every_activation_is_equal(ids, tmp_path, afn):
    reference, ours = pair("OpenAIGPTModel", tmp_path, afn=afn)
    a, b = reference(torch.tensor(ids[0])), ours(ids[0])
    assert difference(a.last_hidden_state, b.last_hidden_state) < TINY


def test_head_masks_and_pruned_heads_are_equal(ids, tmp_path):
    reference, ours = pair("OpenAIGPTModel", tmp_path)
    ids = ids[:, 0]
    for shape in ((4,), (2, 4)):
        head_mask = np.random.default_rng(1).random(shape).astype("float32")
        a = reference(torch.tensor(ids), head_mask=torch.tensor(head_mask))
        b = ours(ids, head_mask=head_mask)
        assert difference(a.last_hidden_state, b.last_hidden_state) < TINY
    heads = {0: [1, 2], 1: [3]}
    reference.prune_heads(heads)
    ours.prune_heads(heads)
    a = reference(torch.tensor(ids)).last_hidden_state
    assert difference(a, ours(ids).last_hidden_state) < TINY
    ours.save_pretrained(tmp_path / "pruned")
    again = transformers.OpenAIGPTModel.from_pretrained(tmp_path / "pruned")
    assert difference(a, again(torch.tensor(ids)).last_hidden_state.detach()) < TINY


def test_language_model_loss_and_gradients_are_equal(ids, mask, tmp_path):
    reference, ours = pair("OpenAIGPTLMHeadModel", tmp_path)
    ids, mask = ids[:, 0], mask[:, 0]
    labels = np.where(mask == 1, ids, -100)
    a = reference(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        labels=torch.tensor(labels),
    )
    a.loss.backward()
    with tf.GradientTape() as tape:
        b = ours(ids, attention_mask=mask, labels=labels)
    assert difference(a.logits, b.logits) < TINY
    assert difference(a.loss, b.loss) < TINY
    check_gradients(reference, ours, tape.gradient(b.loss, ours.trainable_variables))


def check_gradients(reference, ours, gradients):
    """Compares gradients by the name of the weight in the PyTorch layout."""
    from tf_gpt.checkpoints.names import TRANSPOSED, to_pytorch
    from tf_gpt.models.pretrained import weights_by_path

    paths = {id(v): path for path, v in weights_by_path(ours).items()}
    parameters = dict(reference.named_parameters())
    for variable, gradient in zip(ours.trainable_variables, gradients, strict=True):
        path = paths[id(variable)]
        want = parameters[to_pytorch(path, True)].grad.numpy()
        got = tf.convert_to_tensor(gradient).numpy()
        got = got.T if path in TRANSPOSED else got
        assert np.abs(got - want).max() < TINY * max(1, np.abs(want).max()), path


def test_double_heads_are_equal(ids, tmp_path):
    reference, ours = pair("OpenAIGPTDoubleHeadsModel", tmp_path)
    rng = np.random.default_rng(2)
    batch = {
        "mc_token_ids": rng.integers(0, 9, (3, 4)),
        "labels": np.where(rng.random(ids.shape) < 0.3, -100, ids),
        "mc_labels": np.array([0, 3, 2]),
    }
    a = reference(torch.tensor(ids), **{k: torch.tensor(v) for k, v in batch.items()})
    (0.5 * a.loss + a.mc_loss).backward()
    with tf.GradientTape() as tape:
        b = ours({"input_ids": ids, **batch})
    assert difference(a.loss, b.lm_loss) < TINY
    assert difference(a.mc_loss, b.mc_loss) < TINY
    assert difference(a.logits, b.logits) < TINY
    assert difference(a.mc_logits, b.mc_logits) < TINY
    check_gradients(reference, ours, tape.gradient(b.loss, ours.trainable_variables))


@pytest.mark.parametrize(
    "n_labels, labels",
    [
        (1, np.array([0.5, -1.0, 2.0], "float32")),
        (3, np.array([0, 2, 1])),
        (3, np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], "float32")),
    ],
    ids=["regression", "single label", "multi label"],
)
def test_the_classifier_is_equal(ids, tmp_path, n_labels, labels):
    reference, ours = pair(
        "OpenAIGPTForSequenceClassification",
        tmp_path,
        num_labels=n_labels,
        pad_token_id=0,
    )
    ids = copy.copy(ids[:, 0])
    ids[1, 5:] = 0
    a = reference(torch.tensor(ids), labels=torch.tensor(labels))
    a.loss.backward()
    with tf.GradientTape() as tape:
        b = ours(ids, labels=labels)
    assert difference(a.logits, b.logits) < TINY
    assert difference(a.loss, b.loss) < TINY
    check_gradients(reference, ours, tape.gradient(b.loss, ours.trainable_variables))


def test_full_size_logits_and_greedy_ids_are_equal(tmp_path):
    torch.manual_seed(0)
    reference = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig()).eval()
    reference.save_pretrained(tmp_path)
    ours = tf_gpt.OpenAIGPTLMHeadModel.from_pretrained(tmp_path)
    assert ours.num_parameters() == 116_534_784
    ids = np.random.default_rng(0).integers(0, 40478, (2, 128))
    mask = np.ones_like(ids)
    mask[1, 100:] = 0
    with torch.no_grad():
        a = reference(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits
    b = ours(ids, attention_mask=mask).logits
    errors = np.abs(a.numpy() - b.numpy())[mask == 1]
    assert errors.max() < 1e-4
    assert errors.mean() < 1e-5

    prompt = ids[:1, :32]
    want = reference.generate(
        torch.tensor(prompt), max_new_tokens=64, do_sample=False, pad_token_id=0
    ).numpy()
    np.testing.assert_array_equal(ours.generate(prompt, max_new_tokens=64), want)
    # The same row, padded on the left beside a longer one.
    padded = np.concatenate([np.zeros((1, 9), int), prompt], axis=1)
    batch = np.concatenate([ids[1:, :41], padded])
    mask = np.ones_like(batch)
    mask[1, :9] = 0
    got = ours.generate(batch, attention_mask=mask, max_new_tokens=64)
    np.testing.assert_array_equal(got[1, 9:], want[0])
