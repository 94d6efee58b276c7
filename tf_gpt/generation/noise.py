"""Random numbers that depend on (seed, row, step, token) and on nothing else.

The frameworks' generators give a row other numbers when the batch around it
changes, and other ones with XLA than without. A counter-based generator gives
each of them by its coordinates.
"""

from keras import ops

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_KEY_PARITY = 0x1BD11BDA


def threefry2x32(key, counter):
    """Returns two uint32 tensors of random bits.

    Args:
        key: Pair of uint32 tensors.
        counter: Pair of uint32 tensors, broadcastable with the key.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
        Threefry-2x32 with 20 rounds.
    """
    keys = ops.stack([*key, key[0] ^ key[1] ^ _uint32(_KEY_PARITY)])
    rotations = _uint32(_ROTATIONS)

    # A loop, not 20 rounds in a row: XLA would copy the rounds before a value
    # into each place that reads it, and compile for hours.
    def four_rounds(group, x, y):
        for i in range(4):
            x = x + y
            y = _rotate_left(y, rotations[group % 2, i]) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + _uint32(group + 1)
        return group + 1, x, y

    zero = counter[0] ^ counter[0]  # gives both the shape of their sum
    start = (0, counter[0] + keys[0], counter[1] + keys[1] + zero)
    _, x, y = ops.while_loop(lambda group, *_: group < 5, four_rounds, start)
    return x, y


def gumbel(seeds, samples, step, vocab_size):
    """Returns standard Gumbel noise: argmax(logits + noise) is a sample.

    Args:
        seeds: Int32 (B,), the seed of each row.
        samples: Int32 (B,), which of the samples of its prompt each row is.
        step: Int scalar, the number of tokens generated so far.
        vocab_size: V.

    Returns:
        Float32 (B, V).
    """
    key = (_uint32(seeds)[:, None], _uint32(samples)[:, None])
    tokens = _uint32(ops.arange(vocab_size, dtype="int32"))[None]  # (1, V)
    bits, _ = threefry2x32(key, (tokens, _uint32(step)))
    # 23 bits and a half: never 0 or 1, whose logarithms are infinite.
    uniform = ops.cast(ops.right_shift(bits, _uint32(9)), "float32")
    uniform = (uniform + 0.5) * 2.0**-23
    return -ops.log(-ops.log(uniform))


def _rotate_left(x, n_bits):
    return ops.left_shift(x, _uint32(n_bits)) | ops.right_shift(x, _uint32(32 - n_bits))


def _uint32(x):
    return ops.cast(ops.convert_to_tensor(x), "uint32")
