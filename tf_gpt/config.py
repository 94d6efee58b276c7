"""`OpenAIGPTConfig`: the fields of a released `config.json`, checked.

Imports nothing heavy, so that a command line can read a model's sizes at once.
"""

import json
import pathlib

from tf_gpt.storage import replaced_file

FILE_NAME = "config.json"

ACTIVATIONS = ("gelu", "gelu_new", "relu", "silu", "swish")
SUMMARY_TYPES = ("cls_index", "last", "first", "mean")
PROBLEM_TYPES = (
    None,
    "regression",
    "single_label_classification",
    "multi_label_classification",
)

# Field -> default, in the order in which they are written.
_DEFAULTS = {
    "vocab_size": 40478,
    "n_positions": 512,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "afn": "gelu",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "summary_activation": None,
    "summary_proj_to_labels": True,
    "summary_first_dropout": 0.1,
    "summary_last_dropout": 0.0,
    "lm_coef": 0.5,
    "pruned_heads": None,
    "problem_type": None,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "return_dict": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "tie_word_embeddings": True,
}

# The names other libraries use for the same sizes.
ALIASES = {
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
_RATES = (
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "summary_first_dropout",
    "summary_last_dropout",
)
# A size above this is a damaged or hostile file, not a model of this family.
_LARGEST_SIZE = 2**31 - 1


class OpenAIGPTConfig:
    """Sizes and options of a GPT-1 model.

    Args:
        vocab_size: Number of token embeddings V.
        n_positions: Number of position embeddings; the longest sequence.
        n_embd: Hidden size C. Must be a multiple of `n_head`.
        n_layer: Number of transformer blocks.
        n_head: Number of attention heads H.
        afn: Activation of the feed-forward layers: "gelu" and "gelu_new" (both
            the tanh form, which the released weights were trained with),
            "relu", "silu" or "swish".
        resid_pdrop, embd_pdrop, attn_pdrop: Dropout rates, in [0, 1).
        layer_norm_epsilon: Added to the variance in each layer norm.
        initializer_range: Standard deviation of the initial weights.
        summary_type: Which position the multiple-choice head reads:
            "cls_index" (the one `mc_token_ids` names), "last", "first", "mean".
        summary_use_proj: Whether that head has a dense layer.
        summary_activation: Name of a Keras activation after it, or None.
        summary_proj_to_labels: Whether it maps to the labels (or to C).
        summary_first_dropout, summary_last_dropout: Dropout rates around it.
        lm_coef: Weight of the language-model loss beside a task's.
        pruned_heads: Dict from the index of a block to the list of its heads
            that were removed, or None.
        problem_type: Loss of the classifier: "regression",
            "single_label_classification", "multi_label_classification", or
            None to tell from the labels.
        pad_token_id, bos_token_id, eos_token_id: Special tokens, or None.
            The released model has none of them.
        return_dict: False makes the models return tuples.
        output_attentions, output_hidden_states: What the models add to their
            outputs unless a call says otherwise.
        tie_word_embeddings: Must be True: the head shares the token table.
        num_labels: Number of classes, 2 unless `id2label` says otherwise.
        id2label, label2id: Names of the classes.
        **kwargs: Any other entry; kept as an attribute and written again.
            `hidden_size`, `num_attention_heads`, `num_hidden_layers` and
            `max_position_embeddings` are other names for the sizes.

    Raises:
        ValueError: If a size is not a positive integer, `n_head` does not
            divide `n_embd`, a rate is outside [0, 1), or an option is unknown.

    Source: OpenAI, finetune-transformer-lm, train.py;
        transformers 4.57, OpenAIGPTConfig (field names and defaults).
    """

    model_type = "openai-gpt"

    def __init__(self, **kwargs):
        for alias, field in ALIASES.items():
            if alias in kwargs:
                value = kwargs.pop(alias)
                if kwargs.setdefault(field, value) != value:
                    raise ValueError(
                        f"`{alias}` and `{field}` are the same size. Received: "
                        f"{alias}={value}, {field}={kwargs[field]}."
                    )
        for field, default in _DEFAULTS.items():
            setattr(self, field, kwargs.pop(field, default))
        self._set_labels(
            kwargs.pop("num_labels", None),
            kwargs.pop("id2label", None),
            kwargs.pop("label2id", None),
        )
        model_type = kwargs.pop("model_type", self.model_type)
        if model_type != self.model_type:
            raise ValueError(
                f"`model_type` must be {self.model_type!r}. Received: {model_type!r}."
            )
        kwargs.pop("_name_or_path", None)  # where an old copy came from
        for name in kwargs:
            # An entry of a file must not replace a method.
            if not name.isidentifier() or hasattr(type(self), name):
                raise ValueError(f"Not usable as a config field: {name!r}.")
        vars(self).update(kwargs)
        self._check()

    def _set_labels(self, num_labels, id2label, label2id):
        if id2label is None:
            num_labels = 2 if num_labels is None else num_labels
            _check_integer("num_labels", num_labels, minimum=1)
            id2label = {i: f"LABEL_{i}" for i in range(num_labels)}
        if not isinstance(id2label, dict) or not id2label:
            raise ValueError(
                f"`id2label` must map class indices to names. Received: {id2label!r}."
            )
        try:
            self.id2label = {int(key): str(name) for key, name in id2label.items()}
        except (TypeError, ValueError):
            raise ValueError(
                f"The keys of `id2label` must be integers. Received: {id2label!r}."
            ) from None
        if num_labels is not None and num_labels != len(self.id2label):
            raise ValueError(
                "`num_labels` must be the length of `id2label`. Received: "
                f"num_labels={num_labels}, {len(self.id2label)} names."
            )
        if label2id is None or len(label2id) != len(self.id2label):
            label2id = {name: index for index, name in self.id2label.items()}
        self.label2id = {str(name): int(index) for name, index in label2id.items()}

    def _check(self):
        for field in _SIZES:
            _check_integer(field, getattr(self, field), minimum=1)
        if self.n_embd % self.n_head:
            raise ValueError(
                "`n_head` must divide the hidden size `n_embd`. "
                f"Received: n_head={self.n_head}, n_embd={self.n_embd}."
            )
        for field in _RATES:
            value = getattr(self, field)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(f"`{field}` must be in [0, 1). Received: {value!r}.")
        for field in ("layer_norm_epsilon", "initializer_range"):
            value = getattr(self, field)
            if not _is_number(value) or not 0 < value < 1e3:
                raise ValueError(f"`{field}` must be positive. Received: {value!r}.")
        for field, choices in (
            ("afn", ACTIVATIONS),
            ("summary_type", SUMMARY_TYPES),
            ("problem_type", PROBLEM_TYPES),
            ("tie_word_embeddings", (True,)),
        ):
            value = getattr(self, field)
            if value not in choices:
                raise ValueError(
                    f"`{field}` must be one of {choices}. Received: {value!r}."
                )
        self._check_pruned_heads()
        for field in ("pad_token_id", "bos_token_id", "eos_token_id"):
            value = getattr(self, field)
            for token_id in value if isinstance(value, list) else [value]:
                if token_id is not None:
                    _check_integer(field, token_id, minimum=0)

    def _check_pruned_heads(self):
        pruned = self.pruned_heads or {}
        try:
            # The keys of a JSON object are strings.
            pruned = {int(i): sorted(set(heads)) for i, heads in pruned.items()}
            for i, heads in pruned.items():
                _check_integer("block", i, minimum=0)
                for head in heads:
                    _check_integer("head", head, minimum=0)
            fits = all(
                i < self.n_layer
                and len(heads) < self.n_head
                and heads[-1] < self.n_head
                for i, heads in pruned.items()
                if heads
            )
        except (AttributeError, TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                "`pruned_heads` must map blocks below n_layer to lists of some, not "
                f"all, of their heads. Received: {self.pruned_heads!r}."
            )
        self.pruned_heads = {i: heads for i, heads in pruned.items() if heads} or None

    @property
    def num_labels(self):
        """Number of classes: the length of `id2label`."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value):
        self._set_labels(value, None, None)

    @property
    def _extra(self):
        """The names of the entries that this class has no field for."""
        known = {*_DEFAULTS, "id2label", "label2id"}
        return sorted(vars(self).keys() - known)

    def num_parameters(self):
        """Returns the number of weights of the body; the tied head adds none."""
        n_embd = self.n_embd
        n_gone = sum(map(len, (self.pruned_heads or {}).values()))
        block = 12 * n_embd**2 + 13 * n_embd
        # Of a head: three projections of C to D with biases, and D to C.
        head = (n_embd // self.n_head) * (4 * n_embd + 3)
        tables = (self.vocab_size + self.n_positions) * n_embd
        return tables + self.n_layer * block - n_gone * head

    def to_dict(self):
        """Returns every field, unknown ones too, as JSON-ready values."""
        return {
            "model_type": self.model_type,
            **{field: getattr(self, field) for field in _DEFAULTS},
            **self._pruned_to_json(),
            "id2label": {str(i): name for i, name in self.id2label.items()},
            "label2id": dict(self.label2id),
            **{field: getattr(self, field) for field in self._extra},
        }

    def _pruned_to_json(self):
        # transformers expects a dict here; without pruning it is left out.
        pruned = self.pruned_heads or {}
        return {"pruned_heads": {str(i): heads for i, heads in pruned.items()}}

    @classmethod
    def from_dict(cls, values, **overrides):
        """Returns a config from a dict such as `to_dict` makes.

        Args:
            values: Dict of fields.
            **overrides: Fields that replace those of `values`.

        Raises:
            ValueError: If `values` is no dict or holds a value out of range.
        """
        if not isinstance(values, dict):
            raise ValueError(
                f"A config must be a dict of fields. Received: {type(values).__name__}."
            )
        fields = {ALIASES.get(name, name): v for name, v in values.items()}
        for name, value in overrides.items():
            fields[ALIASES.get(name, name)] = value
        if "num_labels" in overrides and "id2label" not in overrides:
            fields.pop("id2label", None)
            fields.pop("label2id", None)
        return cls(**fields)

    @classmethod
    def from_pretrained(cls, name, *, overrides=None, **hub_options):
        """Reads `config.json` of a model.

        Args:
            name: A directory, a bundled preset, or a Hub repository.
            overrides: Dict of fields that replace those of the file.
            **hub_options: `revision`, `subfolder`, `cache_dir`,
                `local_files_only`, `token`, `force_download`.

        Raises:
            HubError: If there is no such model (an `OSError`).
            ValueError: If it has no `config.json`, or the file is not a config
                of this architecture.
        """
        from tf_gpt.hub import resolve_files

        files = resolve_files(name, [FILE_NAME], **hub_options)
        if FILE_NAME not in files:
            raise ValueError(f"There is no {FILE_NAME} in {name!r}.")
        return cls.from_file(files[FILE_NAME], **(overrides or {}))

    @classmethod
    def from_file(cls, path, **overrides):
        """Reads one `config.json`; raises ValueError naming the file."""
        try:
            values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(values, **overrides)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not a usable config: {error}") from None

    def save_pretrained(self, directory):
        """Writes `config.json` into `directory`, which is made if missing."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        with replaced_file(directory / FILE_NAME, "w") as stream:
            stream.write(text)

    def __eq__(self, other):
        return isinstance(other, OpenAIGPTConfig) and self.to_dict() == other.to_dict()

    __hash__ = None

    def __repr__(self):
        fields = ", ".join(f"{field}={getattr(self, field)}" for field in _SIZES)
        return f"{type(self).__name__}({fields}, ...)"


def _alias(field):
    return property(
        lambda self: getattr(self, field),
        lambda self, value: setattr(self, field, value),
        doc=f"The same as `{field}`.",
    )


for _name, _field in ALIASES.items():
    setattr(OpenAIGPTConfig, _name, _alias(_field))


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_integer(name, value, minimum):
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not minimum <= value <= _LARGEST_SIZE:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}. Received: {value!r}."
        )
