"""Truncation and padding: numbers in, numbers out.

What goes where is that of transformers 4.57. Its two tokenizers differ in two
places: which sequence of a pair gets the odd token, and how tokens that were cut
off come back.
"""

from tf_gpt.errors import TokenizerError

TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
PADDING = ("longest", "max_length", "do_not_pad")
SIDES = ("left", "right")

# Field -> the value it has at padding; `input_ids` and `token_type_ids` take the
# tokenizer's own.
PAD_VALUES = {"attention_mask": 0, "special_tokens_mask": 1, "offset_mapping": (0, 0)}


def choice(name, value, choices):
    """Returns one of `choices`: the first for True, the last for False or None."""
    if value is True:
        return choices[0]
    if value is False or value is None:
        return choices[-1]
    value = getattr(value, "value", value)  # an enumeration of transformers
    if value not in choices:
        raise TokenizerError(
            f"`{name}` must be one of {', '.join(choices)}, True or False. "
            f"Received: {value!r}."
        )
    return value


def check_side(name, side):
    if side not in SIDES:
        raise TokenizerError(f"`{name}` must be 'left' or 'right'. Received: {side!r}.")


def kept(lengths, excess, truncation, odd_to_first):
    """Returns how many tokens each of one or two sequences keeps.

    Args:
        lengths: Tokens of each sequence.
        excess: Tokens to remove, not more than there are.
        truncation: One of `TRUNCATION`, but not "do_not_truncate".
        odd_to_first: Where both sequences of a pair are cut to one length and a
            token is left: whether the first gets it, or the longer one.

    Raises:
        TokenizerError: If the sequence to cut would have no token left.
    """
    if excess <= 0:
        return list(lengths)
    if truncation == "longest_first":
        total = sum(lengths) - excess
        if len(lengths) == 1:
            return [total]
        first, second = lengths
        if first <= second:
            first = min(first, (total + odd_to_first) // 2)
            return [first, total - first]
        second = min(second, total // 2)
        return [total - second, second]
    cut = TRUNCATION.index(truncation) - 1  # 0 for only_first, 1 for only_second
    if cut >= len(lengths):
        raise TokenizerError(
            "`truncation='only_second'` needs a pair. Received: one sequence of "
            f"{lengths[0]} tokens."
        )
    if lengths[cut] <= excess:
        raise TokenizerError(
            f"`truncation={truncation!r}` cannot remove {excess} tokens from a "
            f"sequence of {lengths[cut]}. Received: lengths {list(lengths)}, of which "
            f"{sum(lengths) - excess} tokens are to be left."
        )
    sizes = list(lengths)
    sizes[cut] -= excess
    return sizes


def span_kept(length, size, side):
    """Returns (start, stop) of what is kept when tokens are cut off at a side."""
    return (length - size, length) if side == "left" else (0, size)


def span_cut_off(length, size, side, stride):
    """Returns (start, stop) of what is cut off, and `stride` tokens next to it."""
    n = min(length, length - size + stride) if size < length else 0
    return (0, n) if side == "left" else (length - n, length)


def windows(lengths, sizes, side, stride):
    """Returns the windows that cover one or two sequences, the main one first.

    Each is a list with a (start, stop) for each sequence; the order for pairs is
    that of the `tokenizers` library.
    """
    cuts = [_slide(n, m, side, stride) for n, m in zip(lengths, sizes, strict=True)]
    if len(cuts) == 1:
        return [[cut] for cut in cuts[0]]
    (first, *firsts), (second, *seconds) = cuts
    rows = [[first, second]]
    for other in firsts:
        rows += [[other, second], *([other, s] for s in seconds)]
    return rows + [[first, s] for s in seconds]


def _slide(length, size, side, stride):
    """Returns the windows of one sequence; neighbours share `stride` tokens."""
    if size >= length:
        return [(0, length)]
    if stride >= size:
        raise TokenizerError(
            "`stride` must be less than the tokens that are kept. Received: "
            f"stride={stride}; of a sequence of {length} tokens {size} are kept."
        )
    step = size - stride
    n_windows = 1 + -(-(length - size) // step)
    spans = [(i * step, min(i * step + size, length)) for i in range(n_windows)]
    if side == "left":
        return [(length - stop, length - start) for start, stop in spans]
    return spans


def pad(fields, length, side, pad_values):
    """Pads every field it knows, in place.

    Args:
        fields: Dict of field -> list of B lists.
        length: The length to reach; longer rows stay.
        side: "left" or "right".
        pad_values: Dict of field -> value, beside those of `PAD_VALUES`.

    Returns:
        List of B (left, right): how much was added.
    """
    added = [max(length - len(ids), 0) for ids in fields["input_ids"]]
    for name, value in {**PAD_VALUES, **pad_values}.items():
        if name not in fields:
            continue
        rows = zip(fields[name], added, strict=True)
        if side == "left":
            fields[name] = [[value] * n + list(row) for row, n in rows]
        else:
            fields[name] = [list(row) + [value] * n for row, n in rows]
    return [(n, 0) if side == "left" else (0, n) for n in added]
