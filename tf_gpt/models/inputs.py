"""Call arguments of the models: from dict or keywords, checked once."""

import numpy as np
from keras import ops

# Of every model; a head adds its own. Tensors first, then options.
TENSORS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "position_ids",
    "head_mask",
    "inputs_embeds",
)
OPTIONS = ("output_attentions", "output_hidden_states", "return_dict")


def unpack(first, **named):
    """Returns the call arguments as one dict, absent ones left out.

    Args:
        first: The first call argument: token ids, or a dict of arguments.
        **named: The other call arguments, None where absent.

    Raises:
        ValueError: If the dict has an unknown entry, or one that also came by
            name.
    """
    given = dict(first) if isinstance(first, dict) else {"input_ids": first}
    unknown = given.keys() - {"input_ids", *named}
    if unknown:
        raise ValueError(
            f"Unknown inputs: {sorted(unknown)}. "
            f"Allowed: {', '.join(['input_ids', *named])}."
        )
    given, named = (
        {name: value for name, value in arguments.items() if value is not None}
        for arguments in (given, named)
    )
    twice = given.keys() & named.keys()
    if twice:
        raise ValueError(f"Received twice, in the dict and by name: {sorted(twice)}.")
    return given | named


def check(inputs, config, ranks=(2,)):
    """Checks the tensors that the body takes against the config.

    Args:
        inputs: Dict as `unpack` returns it.
        config: `OpenAIGPTConfig`.
        ranks: Ranks that `input_ids` may have.

    Raises:
        ValueError: Both or neither of `input_ids` and `inputs_embeds`; a rank,
            shape, dtype or length that does not fit; ids out of range (where
            the values are known: eagerly).
    """
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if (ids is None) == (embeds is None):
        raise ValueError(
            "Pass exactly one of `input_ids` and `inputs_embeds`. Received: "
            + ("neither." if ids is None else "both.")
        )
    if ids is None:
        _check_rank("inputs_embeds", embeds, [rank + 1 for rank in ranks])
        if embeds.shape[-1] != config.n_embd:
            raise ValueError(
                "The last dimension of `inputs_embeds` must be the hidden size "
                f"{config.n_embd}. Received: shape {tuple(embeds.shape)}."
            )
        shape = tuple(embeds.shape)[:-1]
    else:
        _check_rank("input_ids", ids, ranks)
        shape = tuple(ids.shape)
        check_ids("input_ids", ids, config.vocab_size)
    length = shape[-1]
    if length is not None and length > config.n_positions and not inputs.get("caches"):
        raise ValueError(
            f"A sequence may have at most `n_positions`={config.n_positions} tokens. "
            f"Received: {length}."
        )
    for name, limit in (
        ("token_type_ids", config.vocab_size),
        ("position_ids", config.n_positions),
    ):
        if name in inputs:
            value = inputs[name]
            check_shape(name, value, shape, may_broadcast=name == "position_ids")
            check_ids(name, value, limit)
    if "attention_mask" in inputs and not inputs.get("caches"):
        check_shape("attention_mask", inputs["attention_mask"], shape)
    if "head_mask" in inputs:
        sizes = tuple(inputs["head_mask"].shape)
        if sizes not in ((config.n_head,), (config.n_layer, config.n_head)):
            raise ValueError(
                "`head_mask` must have the shape (n_head,) or (n_layer, n_head) = "
                f"({config.n_layer}, {config.n_head}). Received: {sizes}."
            )


def leading_shape(inputs):
    """Returns the sizes in front of the sequence: (B, N) of choices, or (B,)."""
    if "input_ids" in inputs:
        return ops.shape(inputs["input_ids"])[:-1]
    return ops.shape(inputs["inputs_embeds"])[:-2]


def without_choices(inputs):
    """Returns the body's inputs with batch and choices as one dimension."""
    flat = dict(inputs)
    for name in TENSORS:
        n_kept = 2 if name == "inputs_embeds" else 1
        if name in flat and name != "head_mask":
            shape = ops.shape(flat[name])
            if len(shape) - n_kept == 2:
                flat[name] = ops.reshape(flat[name], (-1, *shape[-n_kept:]))
    return flat


def check_ids(name, ids, limit):
    """Raises ValueError unless `ids` are integers in [0, limit), as far as known."""
    if "int" not in dtype_name(ids):
        raise ValueError(
            f"`{name}` must be integers. Received: dtype {dtype_name(ids)}."
        )
    values = concrete(ids)
    if values is not None and values.size:
        low, high = values.min(), values.max()
        if low < 0 or high >= limit:
            raise ValueError(
                f"`{name}` must be in [0, {limit}). Received values from {low} to "
                f"{high}."
            )


def dtype_name(x):
    """Returns the dtype of a tensor or array as a string."""
    return str(getattr(x.dtype, "name", x.dtype))


def concrete(x):
    """Returns a tensor's values as NumPy, None while tracing."""
    if isinstance(x, np.ndarray):
        return x
    # Eager TensorFlow and PyTorch tensors have `numpy`, JAX's arrays this class.
    if hasattr(x, "numpy") or type(x).__name__ == "ArrayImpl":
        return ops.convert_to_numpy(x)
    return None


def _check_rank(name, value, ranks):
    if len(value.shape) not in ranks:
        raise ValueError(
            f"`{name}` must have rank {' or '.join(map(str, ranks))}. "
            f"Received: shape {tuple(value.shape)}."
        )


def check_shape(name, value, shape, may_broadcast=False):
    """Raises ValueError unless a tensor has this shape, None fitting any size."""
    received = tuple(value.shape)
    fits = len(received) == len(shape) and all(
        a is None or b is None or a == b or (may_broadcast and a == 1)
        for a, b in zip(received, shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{name}` must have the shape {tuple(shape)}. Received: {received}."
        )
