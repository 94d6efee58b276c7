"""What the models return: dicts whose entries are also attributes.

Only entries that were computed are there; the attribute of an absent one is
None. They pass through `fit`, `predict`, `tf.function`, `keras.tree` and
`tf.nest` as the dicts they are.
"""

import optree


class ModelOutput(dict):
    """A dict with a fixed set of possible keys, readable as attributes.

    Entries keep the order of the class's annotations. An index or a slice reads
    the values as a tuple, as `to_tuple` gives them.

    Args:
        **entries: Tensors or tuples of tensors; None leaves an entry out.

    Raises:
        KeyError: If an entry is not one of the class's fields.
    """

    def __init__(self, entries=(), /, **kwargs):
        entries = {**dict(entries), **kwargs}
        unknown = entries.keys() - self.fields()
        if unknown:
            raise KeyError(f"{type(self).__name__} has no fields {sorted(unknown)}.")
        super().__init__(
            (name, entries[name])
            for name in self.fields()
            if entries.get(name) is not None
        )

    def __init_subclass__(cls):
        # Keras flattens through optree, which looks up the exact class.
        optree.register_pytree_node(
            cls,
            lambda out: (tuple(out.values()), tuple(out), tuple(out)),
            lambda keys, values: cls(zip(keys, values, strict=True)),
            namespace="keras",
        )

    @classmethod
    def fields(cls):
        """Returns the names of all possible entries, in order."""
        return tuple(cls.__annotations__)

    def __getattr__(self, name):
        if name in type(self).fields():
            return self.get(name)
        raise AttributeError(f"{type(self).__name__!r} has no entry {name!r}")

    def __getitem__(self, key):
        if isinstance(key, (int, slice)):
            return self.to_tuple()[key]
        return super().__getitem__(key)

    def __reduce__(self):
        return type(self), (dict(self),)

    def to_tuple(self):
        """Returns the entries' values as a tuple."""
        return tuple(self.values())


class BaseModelOutput(ModelOutput):
    """Output of `OpenAIGPTModel`.

    Entries:
        last_hidden_state: Float (B, T, C).
        caches: A `KVCache` per layer, if caches came in.
        hidden_states: The embeddings and each block's output, (B, T, C) each,
            if asked for.
        attentions: Each layer's weights (B, H, T, S), if asked for.
    """

    last_hidden_state: object
    caches: object
    hidden_states: object
    attentions: object


class CausalLMOutput(ModelOutput):
    """Output of `OpenAIGPTLMHeadModel`.

    Entries:
        loss: Float scalar, mean over the tokens kept, if labels came in.
        logits: Float (B, T, V).
        hidden_states, attentions: As in `BaseModelOutput`.
    """

    loss: object
    logits: object
    hidden_states: object
    attentions: object


class OpenAIGPTDoubleHeadsModelOutput(ModelOutput):
    """Output of `OpenAIGPTDoubleHeadsModel`, N choices.

    Entries:
        loss: Float scalar, `lm_coef * lm_loss + mc_loss`, if labels came in.
        lm_loss: Float scalar, if `labels` came in.
        mc_loss: Float scalar, if `mc_labels` came in.
        logits: Float (B, N, T, V).
        mc_logits: Float (B, N).
        hidden_states: (B, N, T, C) each; attentions: (B * N, H, T, S) each.
    """

    loss: object
    lm_loss: object
    mc_loss: object
    logits: object
    mc_logits: object
    hidden_states: object
    attentions: object


class SequenceClassifierOutput(ModelOutput):
    """Output of `OpenAIGPTForSequenceClassification`.

    Entries:
        loss: Float scalar, if labels came in: `task_loss + lm_coef * lm_loss`
            if both kinds did.
        task_loss: Float scalar, if `labels` came in beside `lm_labels`.
        lm_loss: Float scalar, if `lm_labels` came in.
        logits: Float (B, number of labels).
        hidden_states, attentions: As in `BaseModelOutput`; with N sequences a
            row (B, N, T, C) and (B * N, H, T, S).
    """

    loss: object
    task_loss: object
    lm_loss: object
    logits: object
    hidden_states: object
    attentions: object
