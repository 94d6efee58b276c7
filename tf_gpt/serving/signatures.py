"""What a SavedModel can be asked: its signatures, as functions of tensors.

    serving_default  input_ids, lengths -> logits (B, T, V)
    last_logits      input_ids, lengths -> logits (B, V), of the next token
    score            input_ids, lengths -> log_probs (B, T)
    generate         input_ids, lengths, options -> output_ids, output_lengths
    generate_text    text, options -> output_text
    tokenize         text -> input_ids, lengths
    detokenize       input_ids, lengths -> text
    classify         input_ids, lengths -> labels, probabilities
    classify_text    text -> labels, probabilities
    classify_orders, classify_entailment, classify_similarity
                     the same of two texts
    choose           input_ids, lengths -> probabilities, choice

`export.export_saved_model` says what each of them means. The graphs are plain
ones, of core operations, with a batch size and a length that are free; or, with
`Buckets`, their inner parts are compiled by XLA for some fixed sizes.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tf_gpt.generation.loop import Prompt
from tf_gpt.generation.rows import ByRow, row_ends, rules_by_row
from tf_gpt.layers.summary import read_positions
from tf_gpt.models.classifier import OpenAIGPTForSequenceClassification
from tf_gpt.models.double_heads import OpenAIGPTDoubleHeadsModel
from tf_gpt.models.gpt import OpenAIGPTModel
from tf_gpt.models.lm_head import OpenAIGPTLMHeadModel
from tf_gpt.models.pretrained import body_of
from tf_gpt.tokenization.base import CLEAN_UP

DEFAULT = "serving_default"

# New tokens of a request that does not say how many, as in `GenerationConfig`.
N_NEW = 20

# Bytes of a prompt's text for each position of the model, at most: ten times what
# text has. A longer one is refused before the time that tokenizing it would take.
MAX_BYTES = 64

# Bytes of any other text, at most: one word of as many takes four seconds.
MAX_TEXT_BYTES = 2**20

# Options of `GenerationConfig` that requests have, or that change no ids here.
_HONOURED = {
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
}


class Buckets(NamedTuple):
    """The sizes that XLA compiles for.

    Args:
        batch_sizes: Tuple of ints, rising; a batch is filled up to one of them.
        lengths: Tuple of ints, rising; rows are padded to one of them.
        max_new_tokens: The most new tokens of a row.
    """

    batch_sizes: tuple
    lengths: tuple
    max_new_tokens: int


class Signature(NamedTuple):
    """A function of tensors by name, and what it takes.

    Args:
        call: Callable of the inputs by name -> dict of tensors.
        inputs: Dict of name -> `tf.TensorSpec`.
        defaults: Dict of name -> Python number, of inputs that may be left out:
            each stands for a vector of one entry.
    """

    call: Callable
    inputs: dict
    defaults: dict

    def traced(self):
        """Returns a `tf.function` whose defaults a SavedModel keeps."""

        def function(*values):
            return self.call(**dict(zip(self.inputs, values, strict=True)))

        # The default must be a tensor of Python's signature to be stored.
        function.__signature__ = inspect.Signature(
            [
                inspect.Parameter(
                    name,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=tf.constant([self.defaults[name]], spec.dtype)
                    if name in self.defaults
                    else inspect.Parameter.empty,
                )
                for name, spec in self.inputs.items()
            ]
        )
        specs = list(self.inputs.values())
        return tf.function(function, input_signature=specs, autograph=False)


def signatures_of(model, graph_tokenizer=None, tokens=None, buckets=None):
    """Returns the signatures of a model.

    Args:
        model: One of the four model classes.
        graph_tokenizer: `GraphTokenizer`, or None.
        tokens: The tokenizer it was made from: the ids of its special tokens.
        buckets: `Buckets` to compile for, or None.

    Returns:
        Dict of name -> `Signature`.

    Raises:
        ValueError: If the model, or its generation config, asks for what no
            signature does.
    """
    rows = _Rows(model, buckets)
    texts = graph_tokenizer and _Text(graph_tokenizer, tokens, model.config)
    found = {}
    if isinstance(model, (OpenAIGPTLMHeadModel, OpenAIGPTDoubleHeadsModel)):
        found |= _language_model(rows)
    if isinstance(model, OpenAIGPTLMHeadModel):
        found |= _generation(rows, texts)
    if isinstance(model, OpenAIGPTDoubleHeadsModel):
        found |= _choices(rows)
    if isinstance(model, OpenAIGPTForSequenceClassification):
        found |= _classification(rows, texts)
    if isinstance(model, OpenAIGPTModel):
        found |= _body(rows)
    if texts:
        found["tokenize"] = Signature(texts.tokenize, _TEXT, {})
        found["detokenize"] = Signature(texts.detokenize, _ROWS, {})
    return found


def _spec(dtype, name, *shape):
    return tf.TensorSpec(shape, dtype, name=name)


_ROWS = {
    "input_ids": _spec(tf.int32, "input_ids", None, None),
    "lengths": _spec(tf.int32, "lengths", None),
}


def _groups(n_sequences):
    """Returns the inputs of so many sequences a row; None for any number."""
    return {
        "input_ids": _spec(tf.int32, "input_ids", None, n_sequences, None),
        "lengths": _spec(tf.int32, "lengths", None, n_sequences),
    }


def _texts(*names):
    return {name: _spec(tf.string, name, None) for name in names}


_TEXT = _texts("text")
_OPTIONS = {
    name: _spec(
        tf.float32 if name in ("temperature", "top_p") else tf.int32, name, None
    )
    for name in (
        "max_new_tokens",
        "temperature",
        "top_k",
        "top_p",
        "seed",
        "eos_token_id",
    )
}


# Checks. A graph cannot raise with Python's words, but it can say as much.


def _require(condition, rule, *values):
    """Returns an operation that fails with a message unless all is true."""
    return tf.debugging.Assert(
        tf.reduce_all(condition), [f"{rule} Received:", *values], summarize=8
    )


def _after(checks, *tensors):
    """Returns the tensors, which nothing reads before the checks are done."""
    with tf.control_dependencies(checks):
        return [tf.identity(tensor) for tensor in tensors]


def _checked_rows(config, ids, lengths):
    """Returns `(ids, lengths)`, checked, with id 0 at the padding."""
    n_rows, width = tf.unstack(tf.shape(ids))
    n_positions, vocab_size = config.n_positions, config.vocab_size
    lengths, ids = _after(
        [
            _require(n_rows > 0, "`input_ids` must have a row.", tf.shape(ids)),
            _require(
                tf.shape(lengths) == n_rows,
                "`lengths` must have one entry for each row of `input_ids`.",
                tf.shape(lengths),
                tf.shape(ids),
            ),
            _require(
                (lengths >= 1) & (lengths <= width),
                "`lengths` must be at least 1 and at most T of `input_ids` (B, T).",
                lengths,
                "T =",
                width,
            ),
            _require(
                lengths <= n_positions,
                f"`lengths` must be at most n_positions={n_positions}.",
                lengths,
            ),
        ],
        lengths,
        ids,
    )
    kept = tf.range(width)[None] < lengths[:, None]
    # What stands at the padding is nobody's concern: a server puts anything there.
    ids = tf.where(kept, ids, 0)
    rule = f"`input_ids` must be in [0, {vocab_size})."
    extremes = tf.reduce_min(ids), tf.reduce_max(ids)
    is_known = (extremes[0] >= 0) & (extremes[1] < vocab_size)
    (ids,) = _after(
        [_require(is_known, rule, "from", extremes[0], "to", extremes[1])], ids
    )
    return ids, lengths


def _checked_choices(config, ids, lengths):
    """Returns `(ids, lengths, [B, N])` of (B, N, T), as B * N checked rows."""
    shape = tf.shape(ids)
    rule = "`lengths` must be (B, N) for `input_ids` (B, N, T), with N at least 1."
    same = (tf.shape(lengths) == shape[:2]) & (shape[1] > 0)
    (ids,) = _after([_require(same, rule, tf.shape(lengths), shape)], ids)
    flat = tf.reshape(ids, [-1, shape[2]]), tf.reshape(lengths, [-1])
    return *_checked_rows(config, *flat), shape[:2]


def _checked_options(config, lengths, buckets, options):
    """Returns the options of generation, each with an entry for each row."""
    n_rows = tf.size(lengths)
    options = {
        name: _one_a_row(name, values, n_rows) for name, values in options.items()
    }
    n_new, seed = options["max_new_tokens"], options["seed"]
    temperature, top_p = options["temperature"], options["top_p"]
    eos = options["eos_token_id"]
    checks = [
        _require(n_new >= 1, "`max_new_tokens` must be at least 1.", n_new),
        _require(
            # Not lengths + n_new, which may pass the largest int32.
            n_new <= config.n_positions - lengths,
            f"Prompt and new tokens must fit into n_positions={config.n_positions}.",
            "lengths",
            lengths,
            "max_new_tokens",
            n_new,
        ),
        _require(
            (temperature >= 0.0) & tf.math.is_finite(temperature),
            "`temperature` must be positive, or 0 for the most probable token.",
            temperature,
        ),
        _require(
            options["top_k"] >= 0,
            "`top_k` must be at least 1, or 0 for every token.",
            options["top_k"],
        ),
        _require((top_p > 0.0) & (top_p <= 1.0), "`top_p` must be in (0, 1].", top_p),
        _require(
            seed >= -1,
            "`seed` must be in [0, 2**31), or -1 for one that is drawn.",
            seed,
        ),
        _require(
            (eos >= -1) & (eos < config.vocab_size),
            f"`eos_token_id` must be in [0, {config.vocab_size}), or -1 for none.",
            eos,
        ),
    ]
    if buckets is not None:
        checks.append(
            _require(
                n_new <= buckets.max_new_tokens,
                f"This export makes at most {buckets.max_new_tokens} new tokens.",
                n_new,
            )
        )
    checked = dict(zip(options, _after(checks, *options.values()), strict=True))
    # Not `tf.random.uniform`, which would store Python's global seed, if it is set.
    fresh = tf.raw_ops.RandomUniformInt(
        shape=tf.shape(seed), minval=0, maxval=tf.int32.max
    )
    checked["seed"] = tf.where(checked["seed"] < 0, fresh, checked["seed"])
    return checked


def _one_a_row(name, values, n_rows):
    size = tf.size(values)
    rule = f"`{name}` must have one entry, or one for each row."
    (values,) = _after(
        [_require((size == 1) | (size == n_rows), rule, size, "of", n_rows)], values
    )
    return tf.broadcast_to(values, [n_rows])


# Sizes.


class _Rows:
    """A model, and how to run its parts on rows padded on the right."""

    def __init__(self, model, buckets):
        self.model = model
        self.body = body_of(model)
        self.config = model.config
        self.buckets = buckets
        self._traced = {}

    def hidden(self, ids):
        """Returns the hidden states (B, T, C) of checked rows.

        Causal attention keeps a row's tokens from its padding, on their right.
        """
        positions = tf.range(tf.shape(ids)[1])[None]
        # Padding may go on where there are no positions left.
        positions = tf.minimum(positions, self.config.n_positions - 1)
        return self.body(
            ids, position_ids=positions, training=False, return_dict=True
        ).last_hidden_state

    def logits(self, hidden):
        return tf.cast(self.body.logits(hidden), tf.float32)

    def run(self, part, by_token=(), **tensors):
        """Runs a part of a signature; compiled, in a bucket, if there are any.

        Args:
            part: Bound method or function of the tensors by name -> dict of
                tensors with B rows.
            by_token: Names of those that have T columns too.
            **tensors: `input_ids` (B, T), `lengths` (B,), and more of (B,).
        """
        if part not in self._traced:  # once, for all signatures that have it
            compiles = None if self.buckets is None else True
            self._traced[part] = tf.function(
                part, jit_compile=compiles, autograph=False
            )
        traced = self._traced[part]
        if self.buckets is None:
            return traced(**tensors)
        n_rows, width = tf.unstack(tf.shape(tensors["input_ids"]))
        longest = tf.reduce_max(tensors["lengths"])
        sizes = [
            (batch_size, length)
            for batch_size in self.buckets.batch_sizes
            for length in self.buckets.lengths
        ]
        row = _bucket_of("rows", n_rows, self.buckets.batch_sizes)
        column = _bucket_of("tokens a row", longest, self.buckets.lengths)

        def branch(batch_size, length):
            def run():
                filled = {
                    name: _fitted(tensor, (batch_size, length))
                    for name, tensor in tensors.items()
                }
                # A row that is filling only must be as harmless as any other.
                for name in ("lengths", "max_new_tokens", "top_p"):
                    if name in filled:
                        filler = tf.ones_like(filled[name])
                        is_row = tf.range(batch_size) < n_rows
                        filled[name] = tf.where(is_row, filled[name], filler)
                return traced(**filled)

            return run

        branches = [branch(*size) for size in sizes]
        index = row * len(self.buckets.lengths) + column
        outputs = tf.switch_case(index, branches) if branches[1:] else branches[0]()
        return {
            name: _cut(tensor[:n_rows], width) if name in by_token else tensor[:n_rows]
            for name, tensor in outputs.items()
        }


def _bucket_of(what, size, buckets):
    rule = f"This export is compiled for at most {buckets[-1]} {what}."
    (size,) = _after([_require(size <= buckets[-1], rule, size)], size)
    return tf.searchsorted(tf.constant(buckets, tf.int32), size[None])[0]


def _fitted(x, sizes):
    """Returns x cut or filled with zeros to the first of `sizes` of its rank."""
    sizes = sizes[: x.shape.rank]
    x = x[tuple(slice(size) for size in sizes)]
    missing = [[0, size - tf.shape(x)[i]] for i, size in enumerate(sizes)]
    return tf.ensure_shape(tf.pad(x, missing), sizes)


def _cut(x, width):
    """Returns x (B, T, ...) with `width` columns, cut or filled with zeros."""
    x = x[:, :width]
    missing = [[0, 0]] * x.shape.rank
    missing[1] = [0, width - tf.shape(x)[1]]
    return tf.pad(x, missing)


# The signatures of each kind of model.


def _body(rows):
    def states(input_ids, lengths):
        return {"last_hidden_state": tf.cast(rows.hidden(input_ids), tf.float32)}

    def call(input_ids, lengths):
        ids, lengths = _checked_rows(rows.config, input_ids, lengths)
        return rows.run(states, ("last_hidden_state",), input_ids=ids, lengths=lengths)

    return {DEFAULT: Signature(call, _ROWS, {})}


def _language_model(rows):
    def logits(input_ids, lengths):
        return {"logits": rows.logits(rows.hidden(input_ids))}

    def last_logits(input_ids, lengths):
        last = read_positions(rows.hidden(input_ids), lengths - 1)  # (B, C)
        return {"logits": rows.logits(last)}

    def score(input_ids, lengths):
        scores = rows.logits(rows.hidden(input_ids)[:, :-1])
        chosen = tf.gather(scores, input_ids[:, 1:], batch_dims=2)
        log_probs = chosen - tf.reduce_logsumexp(scores, axis=-1)
        # The first token has nothing before it to be predicted from.
        log_probs = tf.pad(log_probs, [[0, 0], [1, 0]])
        kept = tf.range(tf.shape(input_ids)[1])[None] < lengths[:, None]
        return {"log_probs": tf.where(kept, log_probs, 0.0)}

    def signature(part, *by_token):
        def call(input_ids, lengths):
            ids, lengths = _checked_rows(rows.config, input_ids, lengths)
            return rows.run(part, by_token, input_ids=ids, lengths=lengths)

        return Signature(call, _ROWS, {})

    return {
        DEFAULT: signature(logits, "logits"),
        "last_logits": signature(last_logits),
        "score": signature(score, "log_probs"),
    }


def _generation(rows, texts):
    defaults, pad_id = _generation_defaults(rows.model)
    decoder, strategy = rows.model._decoder, ByRow()

    def continued(input_ids, lengths, **options):
        # Compiled, all sizes are known; otherwise no longer than need be.
        until = tf.reduce_max(options["max_new_tokens"])
        width, n_new = input_ids.shape[1], until
        if rows.buckets is None:
            width = tf.reduce_max(lengths)
        else:
            n_new = rows.buckets.max_new_tokens
        place = tf.range(width)[None] - (width - lengths)[:, None]  # (B, P)
        prompt = Prompt(
            ids=tf.gather(input_ids, tf.maximum(place, 0), batch_dims=1),
            mask=tf.cast(place >= 0, tf.int32),
        )
        rules = rules_by_row(**options, pad_id=pad_id)
        state = strategy.start(decoder, prompt, width + n_new, rules, ())
        state = strategy.resume(decoder, state, rules, until)
        ends = lengths + row_ends(state.ids, width, state.step, rules)
        place = tf.range(width + n_new)[None]  # (1, S)
        source = tf.minimum(place + (width - lengths)[:, None], width + n_new - 1)
        ids = tf.gather(state.ids, source, batch_dims=1)
        ids = tf.where(place < ends[:, None], ids, pad_id)
        return {"output_ids": ids, "output_lengths": ends}

    def generate(input_ids, lengths, **options):
        ids, lengths = _checked_rows(rows.config, input_ids, lengths)
        options = _checked_options(rows.config, lengths, rows.buckets, options)
        out = rows.run(continued, input_ids=ids, lengths=lengths, **options)
        longest = tf.reduce_max(out["output_lengths"])
        return {**out, "output_ids": out["output_ids"][:, :longest]}

    signatures = {"generate": Signature(generate, {**_ROWS, **_OPTIONS}, defaults)}
    if not texts:
        return signatures

    def generate_text(text, **options):
        prompt = texts.prompt(text, rows.model.generation_config.bos_token_id)
        out = generate(**prompt, **options)
        made = texts.detokenize(out["output_ids"], out["output_lengths"])
        return {"output_text": made["text"]}

    inputs = {**_TEXT, **_OPTIONS}
    return {**signatures, "generate_text": Signature(generate_text, inputs, defaults)}


def _generation_defaults(model):
    """Returns the defaults of `generate`'s inputs, and the padding's id."""
    config = model.generation_config
    others = sorted(config.to_dict().keys() - _HONOURED)
    if others:
        raise ValueError(
            "The model's `generation_config` must have nothing that a request cannot "
            f"ask for: {', '.join(sorted(_HONOURED))}. Received: "
            + ", ".join(f"{name}={getattr(config, name)!r}" for name in others)
            + "."
        )
    eos_ids = config.eos_token_ids
    if len(eos_ids) > 1 or isinstance(config.seed, (list, tuple)):
        raise ValueError(
            "The model's `generation_config` must have one `eos_token_id` and one "
            f"`seed`, or none. Received: {config.eos_token_id!r}, {config.seed!r}."
        )
    eos_id = eos_ids[0] if eos_ids else -1
    pad_id = config.pad_token_id
    if pad_id is None:
        pad_id = max(eos_id, 0)
    for name, token_id in (("eos_token_id", eos_id), ("pad_token_id", pad_id)):
        if token_id >= model.config.vocab_size:
            raise ValueError(
                f"`{name}` must be below the vocabulary size "
                f"{model.config.vocab_size}. Received: {token_id}."
            )
    sampled = config.do_sample
    defaults = {
        "max_new_tokens": config.max_new_tokens or N_NEW,
        "temperature": config.temperature if sampled else 0.0,
        "top_k": (config.top_k or 0) if sampled else 0,
        "top_p": config.top_p if sampled else 1.0,
        "seed": -1 if config.seed is None else config.seed,
        "eos_token_id": eos_id,
    }
    return defaults, pad_id


def _choices(rows):
    head, config = rows.model.multiple_choice_head, rows.config
    reads_padding = config.summary_type in ("last", "mean")
    if reads_padding or head.units != 1:
        raise ValueError(
            "`choose` needs a head that gives each choice one score, and that reads "
            "one of its tokens, not the padding: summary_type 'cls_index' or 'first', "
            "with a projection. Received: "
            f"summary_type={config.summary_type!r}, units={head.units}."
        )

    def scores(input_ids, lengths):
        summary = head(
            rows.hidden(input_ids), positions=lengths - 1, training=False
        )  # (B * N, 1)
        return {"scores": tf.cast(summary[:, 0], tf.float32)}

    def choose(input_ids, lengths):
        ids, flat, shape = _checked_choices(config, input_ids, lengths)
        values = rows.run(scores, input_ids=ids, lengths=flat)["scores"]
        values = tf.reshape(values, shape)
        return {
            "probabilities": tf.nn.softmax(values),
            "choice": tf.argmax(values, axis=1, output_type=tf.int32),
        }

    return {"choose": Signature(choose, _groups(None), {})}


_OF_TWO_ROWS = {"classify_orders", "classify_similarity"}


def _classification(rows, texts):
    config = rows.config
    problem = config.problem_type
    if problem is None:
        problem = "regression" if config.num_labels == 1 else "single_label"
    names = tf.constant([config.id2label[i] for i in range(config.num_labels)])

    def logits(input_ids, lengths):
        last = read_positions(rows.hidden(input_ids), lengths - 1)  # (B, C)
        return {"logits": tf.cast(rows.model.score(last), tf.float32)}

    def scored(input_ids, lengths):
        ids, lengths = _checked_rows(config, input_ids, lengths)
        return rows.run(logits, input_ids=ids, lengths=lengths)

    def summed(input_ids, lengths):
        ids, lengths, shape = _checked_choices(config, input_ids, lengths)
        values = rows.run(logits, input_ids=ids, lengths=lengths)["logits"]
        # The sum's score, as the model has it: the head has no bias.
        values = tf.reshape(values, [*tf.unstack(shape), config.num_labels])
        return {"logits": tf.reduce_sum(values, axis=1)}

    def classified(values):
        if problem == "regression":
            return {"scores": values}
        is_multiple = problem == "multi_label_classification"
        return {
            "labels": tf.gather(names, tf.argmax(values, axis=1)),
            "probabilities": tf.sigmoid(values)
            if is_multiple
            else tf.nn.softmax(values),
        }

    def signature(inputs, logits_of, rows_of=dict):
        def call(**given):
            return classified(logits_of(**rows_of(**given))["logits"])

        return Signature(call, inputs, {})

    signatures = {
        DEFAULT: Signature(scored, _ROWS, {}),
        "classify": signature(_ROWS, scored),
        # Not of any number: a server's batcher would fill up the sum's terms.
        "classify_orders": signature(_groups(2), summed),
    }
    if texts:
        signatures["classify_text"] = signature(_TEXT, scored, texts.example)
    if texts and texts.delimiter is not None:
        signatures["classify_entailment"] = signature(
            _texts("premise", "hypothesis"), scored, texts.entailment
        )
        signatures["classify_similarity"] = signature(
            _texts("text_a", "text_b"), summed, texts.similarity
        )
    if rows.buckets is not None and rows.buckets.batch_sizes[-1] < 2:
        return {k: v for k, v in signatures.items() if k not in _OF_TWO_ROWS}
    return signatures


def _no_longer(name, text, most, rule):
    """Returns texts that have no more bytes than `rule` says."""
    n_bytes = tf.strings.length(text)
    rule = f"`{name}` must have at most {rule}."
    (text,) = _after([_require(n_bytes <= most, rule, n_bytes)], text)
    return text


class _Text:
    """The tokenizer's part of signatures."""

    def __init__(self, graph, tokenizer, config):
        self.graph = graph
        self.pad_id = tokenizer.pad_token_id or 0
        self.cleans_up = tokenizer.clean_up_tokenization_spaces
        self.n_positions = config.n_positions
        # Of fine-tuning: `[start] text [extract]`, and between two texts.
        self.frame = self.delimiter = None
        if tokenizer.cls_token_id is not None:
            if tokenizer.bos_token_id is None:
                raise ValueError(
                    "A tokenizer with an extract token (cls) must have a start token "
                    "(bos) too. Received: bos_token=None."
                )
            self.frame = tokenizer.bos_token_id, tokenizer.cls_token_id
            self.delimiter = tokenizer.sep_token_id

    def tokenize(self, text):
        return self._padded(self._ids("text", text))

    def detokenize(self, input_ids, lengths):
        width = tf.shape(input_ids)[1]
        rule = "`lengths` must have an entry in [0, T] for each row (B, T)."
        same = tf.shape(lengths) == tf.shape(input_ids)[0]
        (lengths,) = _after(
            [_require(same, rule, tf.shape(lengths), tf.shape(input_ids))], lengths
        )
        good = (lengths >= 0) & (lengths <= width)
        (lengths,) = _after([_require(good, rule, lengths, "T =", width)], lengths)
        ids = tf.RaggedTensor.from_tensor(input_ids, lengths)
        text = self.graph.detokenize(ids, skip_special_tokens=True)
        if self.cleans_up:
            text = tf.strings.regex_replace(text, CLEAN_UP.pattern, r"\1\2")
        return {"text": text}

    def prompt(self, text, bos_id):
        """Returns the rows of prompts; an empty one starts from `bos_id`, if any."""
        rule = f"{MAX_BYTES} bytes for each of n_positions={self.n_positions}"
        text = _no_longer("text", text, MAX_BYTES * self.n_positions, rule)
        rows = self._padded(self.graph(text))
        if bos_id is None:
            return rows
        ids, lengths = rows["input_ids"], rows["lengths"]
        is_start = (lengths == 0)[:, None] & (tf.range(tf.shape(ids)[1]) == 0)
        return {
            "input_ids": tf.where(is_start, bos_id, ids),
            "lengths": tf.maximum(lengths, 1),
        }

    def example(self, text):
        """Returns the rows of texts to classify, cut as in fine-tuning."""
        ids = self._ids("text", text)
        if self.frame is None:
            return self._padded(ids[:, : self.n_positions])
        return self._padded(self._framed(ids[:, : self.n_positions - 2]))

    def entailment(self, premise, hypothesis):
        """Returns the rows of a text and what may follow from it, as in fine-tuning."""
        parts = self._parts(premise=premise, hypothesis=hypothesis)
        return self._padded(self._framed(*parts))

    def similarity(self, text_a, text_b):
        """Returns both orders of two texts, (B, 2, T), as in fine-tuning."""
        first, second = self._parts(text_a=text_a, text_b=text_b)
        orders = [
            self._padded(self._framed(*parts))
            for parts in ((first, second), (second, first))
        ]
        return {
            name: tf.stack([rows[name] for rows in orders], axis=1)
            for name in ("input_ids", "lengths")
        }

    def _parts(self, **texts):
        """Returns two columns of ids, the longer cut as `finetuning.transforms` does.

        Each must have a token, and there must be as many of each.
        """
        sizes = [tf.size(text) for text in texts.values()]
        names = " and ".join(f"`{name}`" for name in texts)
        rule = f"{names} must have as many entries."
        values = _after([_require(sizes[0] == sizes[1], rule, *sizes)], *texts.values())
        ids = [self._ids(name, text) for name, text in zip(texts, values, strict=True)]
        n_first, n_second = (tf.cast(part.row_lengths(), tf.int32) for part in ids)
        rule = f"{names} must have at least one token each."
        room = self.n_positions - 3
        kept = tf.minimum(n_first, tf.maximum(room - n_second, room - room // 2))
        kept = _after(
            [_require((n_first > 0) & (n_second > 0), rule, n_first, n_second)],
            kept,
            tf.minimum(n_second, room - kept),
        )
        return [
            tf.RaggedTensor.from_tensor(part.to_tensor(), n)
            for part, n in zip(ids, kept, strict=True)
        ]

    def _framed(self, first, second=None):
        """Returns `[start] first [extract]`, with `[delimiter] second` between."""

        def column(token):
            n_rows = tf.cast(first.nrows(), tf.int32)
            return tf.fill([n_rows, 1], token)

        start, extract = map(column, self.frame)
        between = [] if second is None else [column(self.delimiter), second]
        return tf.concat([start, first, *between, extract], axis=1)

    def _ids(self, name, text):
        rule = f"{MAX_TEXT_BYTES} bytes"
        return self.graph(_no_longer(name, text, MAX_TEXT_BYTES, rule))

    def _padded(self, ids):
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        ids = ids.to_tensor(self.pad_id)
        # At least one column, for a row that has no token.
        missing = tf.maximum(1 - tf.shape(ids)[1], 0)
        ids = tf.pad(ids, [[0, 0], [0, missing]], constant_values=self.pad_id)
        return {"input_ids": ids, "lengths": lengths}
