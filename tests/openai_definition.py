"""GPT-1 written out in NumPy, float64, after OpenAI's train.py; for comparison.

One sequence at a time; weights in a dict by their path (see `weights_by_path`).
"""

import numpy as np

from tf_gpt.models.pretrained import weights_by_path


def weights_of(model):
    """Returns a model's weights as float64 arrays by path."""
    return {
        path: np.asarray(variable.value, "float64")
        for path, variable in weights_by_path(model).items()
    }


def hidden_states(weights, config, ids, positions=None):
    """Returns the embeddings and each block's output, (T, C) each."""
    positions = np.arange(len(ids)) if positions is None else positions
    x = weights["tokens_embed/embeddings"][ids]
    x = x + weights["positions_embed/embeddings"][positions]
    states = [x]
    for i in range(config.n_layer):
        w = {
            path.removeprefix(f"h_{i}/"): value
            for path, value in weights.items()
            if path.startswith(f"h_{i}/")
        }
        n = _norm(x + _attention(x, w, config.n_head), w, "ln_1")
        m = _gelu(n @ w["mlp/c_fc/kernel"] + w["mlp/c_fc/bias"])
        x = _norm(n + m @ w["mlp/c_proj/kernel"] + w["mlp/c_proj/bias"], w, "ln_2")
        states.append(x)
    return states


def logits(weights, config, ids, positions=None):
    """Returns the scores (T, V)."""
    hidden = hidden_states(weights, config, ids, positions)[-1]
    return hidden @ weights["tokens_embed/embeddings"].T


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _attention(x, w, n_head):
    qkv = x @ w["attn/c_attn/kernel"] + w["attn/c_attn/bias"]
    size = x.shape[-1] // n_head
    merged = []
    for head in range(n_head):
        query, key, value = (
            part[:, head * size : (head + 1) * size]
            for part in np.split(qkv, 3, axis=-1)
        )
        scores = query @ key.T / np.sqrt(size)
        mask = np.tril(np.ones_like(scores))
        scores = scores * mask - 1e9 * (1 - mask)
        merged.append(np.exp(log_softmax(scores)) @ value)
    merged = np.concatenate(merged, axis=-1)
    return merged @ w["attn/c_proj/kernel"] + w["attn/c_proj/bias"]


def _norm(x, w, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * w[f"{name}/gamma"] + w[f"{name}/beta"]


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
