"""Measures the models beside the PyTorch classes, and writes docs/PARITY.md.

    python scripts/maintain/parity.py [--skip-full]

Needs torch and transformers 4.57 (`pip install torch -e ".[reference]"`). Both
sides get the same random weights, through safetensors files that PyTorch wrote.
"""

import argparse
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
import torch
import transformers

import tf_gpt
from tf_gpt.checkpoints.names import TRANSPOSED, to_pytorch
from tf_gpt.models.pretrained import body_of, weights_by_path

TINY = {"vocab_size": 211, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 4}
FULL = {}
BELOW = {"tiny": 2e-6, "full": 1e-4}


def make_batch(name, vocab_size, padded, shape):
    """Returns NumPy call arguments, labels among them, for a model class."""
    rng = np.random.default_rng(0)
    batch_size, length = shape
    if name == "OpenAIGPTDoubleHeadsModel":
        shape = (batch_size, 2, length)
    ids = rng.integers(1, vocab_size, shape)
    batch = {"input_ids": ids}
    mask = np.ones_like(ids)
    if padded:
        mask[-1, ..., length * 2 // 3 :] = 0
        if name != "OpenAIGPTDoubleHeadsModel":  # fails in the PyTorch class
            batch["attention_mask"] = mask
    if name == "OpenAIGPTForSequenceClassification":
        batch["input_ids"] = ids * mask
        batch["labels"] = rng.integers(0, 2, batch_size)
    elif name != "OpenAIGPTModel":
        batch["labels"] = np.where(mask == 1, ids, -100)
    if name == "OpenAIGPTDoubleHeadsModel":
        batch["mc_token_ids"] = mask.sum(-1) - 1
        batch["mc_labels"] = rng.integers(0, 2, batch_size)
    return batch


def reference_outputs(model, batch):
    """Returns `(outputs, loss)` of the PyTorch model, under our names."""
    tensors = {key: torch.tensor(value) for key, value in batch.items()}
    flags = {"output_hidden_states": True, "output_attentions": True}
    out = dict(model(**tensors, **flags))
    loss = out.get("loss")
    if "mc_loss" in out:
        out["lm_loss"] = out.pop("loss")
        loss = 0.5 * out["lm_loss"] + out["mc_loss"]
        # All but the last lack the choices' dimension there.
        states = [
            h.reshape(out["hidden_states"][-1].shape) for h in out["hidden_states"]
        ]
        out["hidden_states"] = states
    if loss is None:
        loss = out["last_hidden_state"].square().mean()
    return out, loss


def largest(a, b, keep=None):
    """Returns (largest, mean) absolute difference of tensors or tuples of them."""
    if isinstance(a, (tuple, list)):
        pairs = [largest(x, y, keep) for x, y in zip(a, b, strict=True)]
        return max(p[0] for p in pairs), float(np.mean([p[1] for p in pairs]))
    a = a.detach().float().numpy()
    error = np.abs(a - np.asarray(tf.cast(b, "float32")))
    if keep is not None and error.shape[: keep.ndim] == keep.shape:
        error = error[keep]
    return float(error.max()), float(error.mean())


def compare(name, sizes, padded, shape, gradients=True, dtype=None):
    """Yields (what, largest, mean) for one model and batch."""
    torch.manual_seed(0)
    fields = {"pad_token_id": 0, **sizes}
    config = transformers.OpenAIGPTConfig(**fields)
    reference = getattr(transformers, name)(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        ours = getattr(tf_gpt, name).from_pretrained(folder, dtype=dtype)
    if dtype is not None:
        reference = reference.to(getattr(torch, dtype))
    batch = make_batch(name, reference.config.vocab_size, padded, shape)
    theirs, loss = reference_outputs(reference, batch)
    with tf.GradientTape() as tape:
        out = ours(batch, output_hidden_states=True, output_attentions=True)
        own_loss = out.get("loss")
        if own_loss is None:
            own_loss = tf.reduce_mean(tf.square(out.last_hidden_state))
    keep = batch["attention_mask"] == 1 if "attention_mask" in batch else None
    for key, value in out.items():
        if key in theirs:
            yield key, *largest(theirs[key], value, keep)
    if gradients:
        loss.backward()
        yield "gradients", *gradient_difference(reference, ours, tape, own_loss)


def gradient_difference(reference, ours, tape, loss):
    paths = {id(v): path for path, v in weights_by_path(ours).items()}
    parameters = dict(reference.named_parameters())
    pairs = []
    variables = ours.trainable_variables
    for variable, g in zip(variables, tape.gradient(loss, variables), strict=True):
        path = paths[id(variable)]
        want = parameters[to_pytorch(path, body_of(ours) is not ours)].grad
        if g is not None:
            got = tf.convert_to_tensor(g)
            pairs.append(largest(want.T if path in TRANSPOSED else want, got))
    return max(p[0] for p in pairs), float(np.mean([p[1] for p in pairs]))


def rows(skip_full):
    """Yields the table's rows."""
    names = (
        "OpenAIGPTModel",
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTDoubleHeadsModel",
        "OpenAIGPTForSequenceClassification",
    )
    for size, sizes, shape in (("tiny", TINY, (3, 24)), ("full", FULL, (2, 128))):
        if size == "full" and skip_full:
            continue
        for name in names:
            for padded in (False, True):
                if padded and name == "OpenAIGPTDoubleHeadsModel" and size == "full":
                    continue  # differs from unpadded in the positions read alone
                for what, most, mean in compare(name, sizes, padded, shape):
                    limit = BELOW[size]
                    verdict = "yes" if most < limit else "**no**"
                    yield name, size, padded, "float32", what, most, mean, verdict
        for what, most, mean in compare(
            names[1], sizes, True, shape, gradients=False, dtype="bfloat16"
        ):
            yield names[1], size, True, "bfloat16", what, most, mean, "-"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skip-full", action="store_true")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path(__file__).parents[2] / "docs" / "PARITY.md",
    )
    arguments = parser.parse_args()
    lines = [
        "# Parity with the PyTorch classes",
        "",
        "Differences from transformers "
        f"{transformers.__version__} on torch {torch.__version__}, on the same random "
        "weights; written by `scripts/maintain/parity.py`. Tiny is 3 layers of 48, "
        "3 x 24 tokens; full is the released size (116,534,784 weights), 2 x 128 "
        "tokens. Positions that the mask drops are left out. Gradients are of the "
        "model's loss (of the mean square for the body) in every weight. The limits "
        "in float32 are 2e-6 (tiny) and 1e-4 (full); bfloat16 keeps 8 bits, and "
        "differs by its rounding.",
        "",
        "| model | size | padded | dtype | output | largest | mean | below the limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, size, padded, dtype, what, most, mean, verdict in rows(
        arguments.skip_full
    ):
        is_padded = "yes" if padded else "no"
        lines.append(
            f"| {name.removeprefix('OpenAIGPT')} | {size} | {is_padded} | {dtype} "
            f"| {what} | {most:.1e} | {mean:.1e} | {verdict} |"
        )
        print(lines[-1], flush=True)
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
