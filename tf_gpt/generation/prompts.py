"""Prompts: checked, as NumPy, and padded to a bucket."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops


class Batch(NamedTuple):
    """Prompts as they came.

    Args:
        ids: Int32 (B, T); all -1 if there are embeddings.
        mask: Int32 (B, T) of 1 and 0, with a 1 in each row.
        embeds: Float32 (B, T, C) or None.
    """

    ids: Any
    mask: Any
    embeds: Any = None

    @property
    def longest(self):
        """The number of tokens in the longest prompt."""
        return int(self.mask.sum(axis=1).max())

    def repeated(self, n):
        """Returns the batch with each prompt `n` times."""
        return Batch(
            *(None if part is None else np.repeat(part, n, axis=0) for part in self)
        )


def check(
    decoder,
    input_ids=None,
    attention_mask=None,
    *,
    inputs_embeds=None,
    bos_token_id=None,
    name="input_ids",
):
    """Checks prompts.

    Args:
        decoder: See `generate.Decoder`.
        input_ids: Int (B, T), or None or (B, 0) for `bos_token_id` alone.
        attention_mask: (B, T) of 1 and 0, or None for all 1.
        inputs_embeds: Float (B, T, C) in place of the ids.
        bos_token_id: What an empty prompt starts from.
        name: What the ids are called in an error.

    Returns:
        `Batch`.

    Raises:
        ValueError: If they are no prompts for this model.
    """
    if inputs_embeds is not None:
        if input_ids is not None:
            raise ValueError(
                "Pass `input_ids` or `inputs_embeds` as the prompt. Received: both."
            )
        embeds = _check_embeds(decoder, inputs_embeds)
        ids = np.full(embeds.shape[:2], -1, "int32")
        return Batch(ids, _check_mask(attention_mask, ids, "inputs_embeds"), embeds)
    ids = None if input_ids is None else _as_array(name, input_ids)
    if ids is None or ids.shape[1] == 0:
        if bos_token_id is None:
            raise ValueError(
                "An empty prompt starts from `bos_token_id`, and there is none. "
                "Pass bos_token_id=, or a prompt."
            )
        batch_size = 1 if ids is None else len(ids)
        ids = np.full((batch_size, 1), bos_token_id, "int32")
        attention_mask = None
    if ids.size == 0:
        raise ValueError(f"`{name}` must hold a prompt. Received: {ids.shape}.")
    mask = _check_mask(attention_mask, ids, name)
    kept = ids[mask == 1]
    if kept.min() < 0 or kept.max() >= decoder.vocab_size:
        raise ValueError(
            f"`{name}` must be in [0, {decoder.vocab_size}). Received values from "
            f"{kept.min()} to {kept.max()}."
        )
    batch = Batch(ids.astype("int32"), mask)
    if batch.longest > decoder.n_positions:
        raise ValueError(
            f"A prompt may have at most n_positions={decoder.n_positions} tokens. "
            f"Received: {batch.longest}."
        )
    return batch


def check_length(decoder, config, batch):
    """Returns the number of tokens to add.

    Raises:
        ValueError: If there is no room for them.
    """
    n_new = config.max_new_tokens
    if n_new is None:
        n_new = config.max_length - batch.mask.shape[1]
        if n_new < 1:
            raise ValueError(
                "`max_length` counts the prompt and must leave room after it; or "
                f"pass max_new_tokens. Received: max_length={config.max_length}, a "
                f"prompt of {batch.mask.shape[1]} tokens."
            )
    if batch.longest + n_new > decoder.n_positions:
        raise ValueError(
            "Prompt and new tokens must fit into "
            f"n_positions={decoder.n_positions}. Received: a prompt of "
            f"{batch.longest} tokens and {n_new} new ones."
        )
    return n_new


def push_right(values, mask, width):
    """Moves each row's tokens, in order, to the right end of `width` columns.

    Args:
        values: (B, T, ...), with at most `width` tokens a row.
        mask: Int (B, T).
        width: P.

    Returns:
        (B, P, ...): zeros, then the values where mask was 1.
    """
    pushed = np.zeros((len(values), width, *values.shape[2:]), values.dtype)
    for row, (row_values, row_mask) in enumerate(zip(values, mask, strict=True)):
        kept = row_values[row_mask == 1]
        if len(kept):
            pushed[row, -len(kept) :] = kept
    return pushed


def _check_mask(mask, ids, name):
    if mask is None:
        return np.ones(ids.shape[:2], "int32")
    mask = _as_array("attention_mask", mask)
    if mask.shape != ids.shape:
        raise ValueError(
            f"`attention_mask` must have the shape of `{name}`, {ids.shape}. "
            f"Received: {mask.shape}."
        )
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(
            "`attention_mask` must be of 1 and 0. "
            f"Received values from {mask.min()} to {mask.max()}."
        )
    empty = np.flatnonzero(mask.sum(axis=1) == 0)
    if empty.size:
        raise ValueError(
            "Every row must have a token that `attention_mask` keeps. "
            f"Received none in rows {empty.tolist()}."
        )
    return mask.astype("int32")


def _check_embeds(decoder, embeds):
    embeds = np.asarray(_to_numpy(embeds))
    if embeds.dtype.kind != "f" and "bfloat16" not in str(embeds.dtype):
        raise ValueError(
            f"`inputs_embeds` must be floats. Received: dtype {embeds.dtype}."
        )
    if embeds.ndim != 3 or 0 in embeds.shape or embeds.shape[2] != decoder.n_embd:
        raise ValueError(
            f"`inputs_embeds` must have the shape (B, T, {decoder.n_embd}). "
            f"Received: {embeds.shape}."
        )
    return embeds.astype("float32")


def _as_array(name, value) -> Any:
    array = _to_numpy(value)
    if array.size == 0 or array.dtype == bool:
        array = array.astype("int32")
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be integers of shape (B, T). "
            f"Received: {array.dtype} {array.shape}."
        )
    return array


def _to_numpy(value):
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor not on the host
        return ops.convert_to_numpy(value)
