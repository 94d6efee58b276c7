"""The choice of a token in NumPy: the same tokens as `tf_gpt.generation` chooses.

`tf_gpt.generation.noise` and `.processors` say what is computed and why; they need
Keras, which a machine that only runs a LiteRT file need not have.
"""

import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_KEY_PARITY = 0x1BD11BDA


def threefry2x32(key, counter):
    """Returns two uint32 arrays of random bits; `generation.noise` has the same.

    Args:
        key: Pair of integers.
        counter: Pair: uint32 (n,) and an integer.
    """
    keys = [np.uint32(part) for part in key]
    keys.append(keys[0] ^ keys[1] ^ np.uint32(_KEY_PARITY))
    x = np.asarray(counter[0], "uint32") + keys[0]
    y = np.full_like(x, np.uint32(counter[1])) + keys[1]
    for group in range(5):
        for n_bits in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << np.uint32(n_bits)) | (y >> np.uint32(32 - n_bits))
            y = y ^ x
        x = x + keys[(group + 1) % 3]
        # In arrays, where uint32 wraps without a warning.
        y = y + np.full_like(y, keys[(group + 2) % 3]) + np.uint32(group + 1)
    return x, y


def gumbel(seed, step, tokens):
    """Returns the Gumbel noise of some tokens, float32.

    Args:
        seed: Int.
        step: Int, the number of tokens generated so far.
        tokens: Int (n,).
    """
    bits, _ = threefry2x32((seed, 0), (tokens, step))
    uniform = (bits >> np.uint32(9)).astype("float32")
    uniform = (uniform + np.float32(0.5)) * np.float32(2.0**-23)
    return -np.log(-np.log(uniform))


def choose(logits, step, *, do_sample, temperature, top_k, top_p, seed):
    """Returns the next token.

    Args:
        logits: Float32 (V,).
        step: Int, the number of tokens generated so far.
        do_sample: Whether to sample; the most probable token otherwise.
        temperature, top_k, top_p, seed: Of the sampling.
    """
    if not do_sample:
        return int(np.argmax(logits))
    scores = logits / np.float32(temperature)
    # Noise is drawn by a token's number: only that of the tokens kept is needed.
    kept = np.arange(len(scores))
    if top_k and top_k < len(scores):
        last = np.partition(scores, -top_k)[-top_k]
        kept = np.flatnonzero(scores >= last)
    if top_p < 1.0:
        kept = kept[_nucleus(scores[kept], top_p)]
    return int(kept[np.argmax(scores[kept] + gumbel(seed, step, kept))])


def _nucleus(scores, p):
    """Returns which scores (n,) make up the probability `p`, ties included."""
    descending = np.sort(scores)[::-1]
    weights = np.exp(descending - descending[0], dtype="float64")
    reached = np.cumsum(weights) >= np.float32(p) * weights.sum()
    return scores >= descending[np.argmax(reached)]
