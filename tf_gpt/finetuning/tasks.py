"""What a model is fine-tuned for: from examples to the batches of its model.

    task = Classification(tokenizer)
    task.scan("train.jsonl")                      # checks it, finds the labels
    model = task.load_model("openai-community/openai-gpt")
    model.compile(optimizer=...)
    model.fit(task.dataset("train.jsonl", 32, shuffle_seed=0).as_tf_data())
    task.save("out"); model.save_pretrained("out")

`load_task("out")` is all that evaluation and prediction need to know.

Source: Radford et al. 2018, sections 3.2, 3.3 and 4.
"""

import dataclasses
import itertools
import json
import math
from typing import Any, NamedTuple

import numpy as np

from tf_gpt import hub
from tf_gpt.finetuning import transforms
from tf_gpt.finetuning.readers import describe, read_examples
from tf_gpt.tokenization import files
from tf_gpt.tokenization.corpus import DOCUMENTS, check_choice
from tf_gpt.tokenization.fast import OpenAIGPTTokenizerFast
from tf_gpt.tokenization.task_tokens import add_tokens_for
from tf_gpt.tokenization.tokenizer import OpenAIGPTTokenizer

FILE_NAME = "task.json"
IGNORED_LABEL = -100
# Of a tokenizer that knows no limit: GPT-1's `n_positions`.
DEFAULT_MAX_LENGTH = 512
TOKENIZERS = {cls.__name__: cls for cls in (OpenAIGPTTokenizer, OpenAIGPTTokenizerFast)}
# Examples whose texts go through the tokenizer together.
_GROUP = 256


class Row(NamedTuple):
    """An example as ids.

    Entries:
        sequences: List of int32 NumPy arrays (n,): one, or one for each order
            of a pair, or for each answer.
        label: Class index, score, index of the right answer, or None.
        is_truncated: Whether some of its text was cut off.
    """

    sequences: list
    label: Any
    is_truncated: bool

    @property
    def length(self):
        """Ids of its longest sequence."""
        return max(map(len, self.sequences))


class Task:
    """What all tasks share. A task is a dataclass that names

        kind: What it is called in `task.json`.
        shortest: The least `max_length`.
        text_fields: Fields of an example that are texts.
        label_field: The field of its label, or None.
        label_name, lm_name: Entries of a batch that hold the labels of the task
            and of the language model, or None.

    and has the methods `_sequences(parts)`, ids of texts to ids of sequences;
    `_full_length(parts)`; and `_label(value, where)`.
    """

    # Not fields of the dataclasses: without annotations.
    kind = shortest = None
    text_fields = ()
    label_field = label_name = None
    lm_name = "lm_labels"
    label_dtype = "int32"
    n_sequences = None  # of a row, where a batch has a dimension for them
    has_task_tokens = True
    documents = "lines"

    def __post_init__(self):
        add_tokens_for(self.tokenizer, task_tokens=self.has_task_tokens)
        if self.has_task_tokens:
            self._special = transforms.special_ids(self.tokenizer)
        if self.max_length is None:
            limit = self.tokenizer.model_max_length
            self.max_length = limit if limit < 2**31 else DEFAULT_MAX_LENGTH
        _check_integer("max_length", self.max_length, self.shortest)
        if not _is_number(self.lm_coef) or not 0 <= self.lm_coef < math.inf:
            raise ValueError(
                f"`lm_coef` must be 0 or more. Received: {self.lm_coef!r}."
            )

    # What it is.

    @property
    def fields(self):
        """Names of an example's fields, the label's last."""
        label = () if self.label_field is None else (self.label_field,)
        return (*self.text_fields, *label)

    @property
    def optional(self):
        """Fields that an example may lack, whether or not it has a label."""
        return ()

    @property
    def model_class(self):
        """The class of model that learns the task."""
        from tf_gpt.models.classifier import OpenAIGPTForSequenceClassification

        return OpenAIGPTForSequenceClassification

    def load_model(self, name, **options):
        """Loads a model for this task, and gives it the task's tokens.

        Args:
            name, **options: Those of the model class's `from_pretrained`: a
                pre-trained model, or one fine-tuned for this task.

        Returns:
            A `model_class` whose config has the task's labels, problem type,
            `lm_coef` and pad token, and whose embeddings have a row for each
            token of the task's tokenizer.

        Raises:
            ValueError: If the labels are not known yet, or the model takes
                fewer tokens than `max_length`; and as `from_pretrained`.
        """
        self._check_known()
        fields = self._config_fields()
        twice = sorted(fields.keys() & options.keys())
        if twice:
            raise ValueError(
                f"The task decides these fields of the config. Received: {twice}."
            )
        model = self.model_class.from_pretrained(name, **fields, **options)
        if model.config.n_positions < self.max_length:
            raise ValueError(
                "`max_length` must not exceed the model's `n_positions`. Received: "
                f"max_length={self.max_length}, n_positions={model.config.n_positions}."
            )
        add_tokens_for(self.tokenizer, model, task_tokens=self.has_task_tokens)
        return model

    def scan(self, source):
        """Reads a training source once: checks each example, finds the labels.

        Args:
            source: See `read_examples`.

        Returns:
            The number of examples.

        Raises:
            ValueError: Naming the place, if an example is broken, lacks a text
                or its label, or the labels are of no use: of different types,
                fewer than two, one that a single example has. (Labels that
                were given to the task may be as rare as they like.)
        """
        before = dict(vars(self))
        n_examples = 0
        try:
            for example, where in self.read(source):
                self._texts(example, where)
                self._see(example, where)
                n_examples += 1
            self._seen(source)
        except BaseException:
            vars(self).update(before)  # what a broken source says is not kept
            raise
        return n_examples

    def read(self, source, labelled=True):
        """Yields the examples of a source for this task: see `read_examples`."""
        unlabelled = [] if labelled or self.label_field is None else [self.label_field]
        optional = (*self.optional, *unlabelled)
        return read_examples(source, self.fields, optional, self.documents)

    # From examples to batches.

    def encode(self, example, where="the example", labelled=True):
        """Returns the `Row` of one example.

        Args:
            example: Dict of the `fields`.
            where: Its place, for messages.
            labelled: Whether to take its label too.

        Raises:
            ValueError: Naming `where`, if a field is missing or of a wrong
                type, a text has no token, or the label is unknown.
        """
        return next(self._encoded([(example, where)], labelled))

    def rows(self, examples, labelled=True):
        """Yields the rows of many examples, which takes less time for each.

        Args:
            examples: Iterable of (example, where), as `read` gives them.
            labelled: See `encode`.
        """
        return self._encoded(examples, labelled)

    def spec(self, labelled=True):
        """Returns the entries of a batch: name -> (shape, dtype).

        B, and T, the width, are None in the shapes.
        """
        rows = (None,) if self.n_sequences is None else (None, self.n_sequences)
        spec = {
            "input_ids": ((*rows, None), "int32"),
            "attention_mask": ((*rows, None), "int32"),
        }
        if labelled and self.label_name is not None:
            spec[self.label_name] = ((None,), self.label_dtype)
        if labelled and self.lm_name is not None and self.lm_coef > 0:
            spec[self.lm_name] = ((*rows, None), "int32")
        return spec

    def collate(self, rows, width, labelled=True):
        """Returns the batch of B rows, padded on the right.

        Args:
            rows: List of `Row`.
            width: T, at least the length of the longest.
            labelled: Whether the batch has labels: without them it is for
                prediction.

        Returns:
            Dict of NumPy arrays, as `spec` says.

        Raises:
            ValueError: If `width` is too small.
        """
        longest = max(row.length for row in rows)
        if width < longest:
            raise ValueError(
                "`width` must be at least the longest row's length. "
                f"Received: width={width}, longest={longest}."
            )
        shape = (len(rows), len(rows[0].sequences), width)
        ids = np.full(shape, self.tokenizer.pad_token_id, "int32")
        mask = np.zeros(shape, "int32")
        for i, row in enumerate(rows):
            for j, sequence in enumerate(row.sequences):
                ids[i, j, : len(sequence)] = sequence
                mask[i, j, : len(sequence)] = 1
        if self.n_sequences is None:
            ids, mask = ids[:, 0], mask[:, 0]
        batch = {"input_ids": ids, "attention_mask": mask}
        spec = self.spec(labelled)
        if self.label_name in spec:
            labels = [row.label for row in rows]
            batch[self.label_name] = np.array(labels, self.label_dtype)
        if self.lm_name in spec:
            # By the mask, not the pad token, which a text may hold.
            batch[self.lm_name] = np.where(mask == 1, ids, np.int32(IGNORED_LABEL))
        return batch

    def dataset(self, source, batch_size=32, **options):
        """Returns the `TaskDataset` of a source; see there for the options."""
        from tf_gpt.finetuning.datasets import TaskDataset

        return TaskDataset(self, source, batch_size, **options)

    # Saving.

    def save(self, directory):
        """Writes `task.json` and the tokenizer's files, for `load_task`.

        Args:
            directory: Folder, made if it does not exist; that of the model.
        """
        self._check_known()
        self.tokenizer.save_pretrained(directory)
        content = {
            "kind": self.kind,
            "tokenizer_class": type(self.tokenizer).__name__,
            **self._settings(),
        }
        files.write(directory, {FILE_NAME: files.dump_json(content)})

    def _settings(self):
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name != "tokenizer"}

    # What the kinds of tasks do in their own ways.

    def _config_fields(self):
        return {} if self.label_field is None else {"lm_coef": self.lm_coef}

    def _check_known(self):
        """Raises ValueError if something is missing that `scan` finds."""

    def _see(self, example, where):
        """Takes note of one example's label."""

    def _seen(self, source):
        """Checks what was seen."""

    def _texts(self, example, where):
        return [_text(example, name, where, self.optional) for name in self.text_fields]

    def _encoded(self, examples, labelled):
        if labelled:
            self._check_known()
        for group in _groups(examples, _GROUP):
            texts = [self._texts(example, where) for example, where in group]
            ids = self._ids([text for own in texts for text in own])
            for (example, where), own in zip(group, texts, strict=True):
                parts = [next(ids) for _ in own]
                try:
                    sequences = self._sequences(parts)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None
                label = None
                if labelled and self.label_field is not None:
                    label = self._label(_given(example, self.label_field, where), where)
                yield Row(
                    [np.array(sequence, "int32") for sequence in sequences],
                    label,
                    self._full_length(parts) > self.max_length,
                )

    def _ids(self, texts):
        return iter(self.tokenizer(texts, verbose=False)["input_ids"])


class _Classes(Task):
    """A task whose label is one of some classes."""

    label_field = "label"
    label_name = "labels"

    def __post_init__(self):
        super().__post_init__()
        self.labels = None if self.labels is None else _label_indices(self.labels)
        # Of a scan: label -> [number of examples, place of the first].
        self._places = None

    @property
    def label_names(self):
        """The labels in the order of their indices."""
        self._check_known()
        return list(self.labels)

    def _check_known(self):
        if self.labels is None:
            raise ValueError(
                "The labels must be known: call `scan` with the training source, or "
                "pass `labels`. Received: labels=None."
            )

    def _config_fields(self):
        names = [str(name) for name in self.labels]
        return {
            **super()._config_fields(),
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
            "problem_type": "single_label_classification",
        }

    def _settings(self):
        return {**super()._settings(), "labels": self.label_names}

    def _see(self, example, where):
        label = example[self.label_field]
        if self.labels is not None:
            self._label(label, where)
            return
        _check_label(label, where)
        self._places = self._places or {}
        if self._places:
            other, (_, place) = next(iter(self._places.items()))
            if type(label) is not type(other):
                raise ValueError(
                    f"{where}: labels must be of one type. Received: {label!r} "
                    f"({type(label).__name__}), but {other!r} "
                    f"({type(other).__name__}) at {place}."
                )
        self._places.setdefault(label, [0, where])[0] += 1

    def _seen(self, source):
        places, self._places = self._places, None
        if self.labels is not None:
            return
        for label, (count, place) in places.items():
            if count == 1:
                raise ValueError(
                    f"{place}: a label must have more than one example. Received: "
                    f"{label!r} here alone. (Pass `labels` to the task if it is no "
                    "mistake.)"
                )
        if len(places) < 2:
            raise ValueError(
                "`source` must have two labels or more. Received: "
                f"{describe(source)} with {', '.join(map(repr, places))} alone."
            )
        self.labels = {label: i for i, label in enumerate(sorted(places))}

    def _label(self, value, where):
        index = None
        # By type too: a dict takes True for 1.
        if type(value) is type(next(iter(self.labels))):
            index = self.labels.get(value)
        if index is None:
            raise ValueError(
                f"{where}: a label must be one of the task's {len(self.labels)} labels "
                f"({_some(self.labels)}). Received: {value!r}."
            )
        return index


@dataclasses.dataclass
class Classification(_Classes):
    """The class of a text: `[start] text [extract]`.

    Examples have `text` and `label`.

    Args:
        tokenizer: `OpenAIGPTTokenizer` or `OpenAIGPTTokenizerFast`; it gets the
            special tokens that it lacks.
        labels: The classes in the order of their indices, all str, all int or
            all bool; or a dict to the indices. None for `scan` to find them, in
            sorted order.
        max_length: The most tokens of a sequence; the tokenizer's
            `model_max_length` if None, or 512 if that is unlimited.
        lm_coef: Weight of the language model's loss beside the task's (lambda
            of equation 5); 0 for none.

    Attributes: `labels`, a dict from each label to its index.

    Raises:
        ValueError: If an argument is out of range.
    """

    kind = "classification"
    shortest = 3
    text_fields = ("text",)

    tokenizer: Any
    labels: Any = None
    max_length: int | None = None
    lm_coef: float = 0.5

    def _sequences(self, parts):
        return [transforms.classification(*parts, self._special, self.max_length)]

    def _full_length(self, parts):
        return len(parts[0]) + 2


@dataclasses.dataclass
class Entailment(_Classes):
    """Whether one text follows from another.

    `[start] premise [delimiter] hypothesis [extract]`. Examples have `premise`,
    `hypothesis` and `label`. Arguments: those of `Classification`.
    """

    kind = "entailment"
    shortest = 5
    text_fields = ("premise", "hypothesis")

    tokenizer: Any
    labels: Any = None
    max_length: int | None = None
    lm_coef: float = 0.5

    def _sequences(self, parts):
        return [transforms.entailment(*parts, self._special, self.max_length)]

    def _full_length(self, parts):
        return sum(map(len, parts)) + 3


@dataclasses.dataclass
class Similarity(_Classes):
    """How alike two texts are: both orders, whose last hidden states are summed.

    `[start] a [delimiter] b [extract]` and `[start] b [delimiter] a [extract]`.
    Examples have `text_a`, `text_b` and `score`, a number; or `label`.

    Args:
        tokenizer, max_length, lm_coef: See `Classification`.
        classes: Whether examples have a class `label` (whether two texts say
            the same), not a `score`.
        labels: See `Classification`; with `classes` only.
        score_range: (least, largest) score that an example may have; None for
            any. Without `classes` only.
    """

    kind = "similarity"
    shortest = 5
    text_fields = ("text_a", "text_b")
    n_sequences = 2

    tokenizer: Any
    classes: bool = False
    labels: Any = None
    score_range: Any = None
    max_length: int | None = None
    lm_coef: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.classes, bool):
            raise ValueError(f"`classes` must be a bool. Received: {self.classes!r}.")
        if self.classes and self.score_range is not None:
            raise ValueError(
                "`score_range` is of scores. Received: "
                f"score_range={self.score_range!r} with classes=True."
            )
        if not self.classes:
            if self.labels is not None:
                raise ValueError(
                    "`labels` need classes=True. Received: "
                    f"labels={self.labels!r} with classes=False."
                )
            self.label_field, self.label_dtype = "score", "float32"
        if self.score_range is not None:
            self.score_range = _range(self.score_range)

    def _config_fields(self):
        if self.classes:
            return super()._config_fields()
        return {
            **Task._config_fields(self),
            "num_labels": 1,
            "problem_type": "regression",
        }

    def _settings(self):
        labels = self.label_names if self.classes else None
        return {**Task._settings(self), "labels": labels}

    def _check_known(self):
        if self.classes:
            super()._check_known()

    def _see(self, example, where):
        if self.classes:
            super()._see(example, where)
        else:
            score = self._label(example["score"], where)
            self._places = self._places or {}
            if len(self._places) < 2:  # enough to know that they differ
                self._places.setdefault(score)

    def _seen(self, source):
        if self.classes:
            super()._seen(source)
            return
        scores, self._places = self._places, None
        if len(scores) < 2:
            raise ValueError(
                "`source` must have two scores or more. Received: "
                f"{describe(source)} with {', '.join(map(str, scores))} alone."
            )

    def _label(self, value, where):
        if self.classes:
            return super()._label(value, where)
        score = _number(value)
        if score is None or not math.isfinite(score):
            raise ValueError(
                f"{where}: `score` must be a finite number. Received: {value!r}."
            )
        low, high = self.score_range or (-math.inf, math.inf)
        if not low <= score <= high:
            raise ValueError(
                f"{where}: `score` must be in [{low}, {high}], the task's "
                f"`score_range`. Received: {value!r}."
            )
        return float(score)

    def _sequences(self, parts):
        return transforms.similarity(*parts, self._special, self.max_length)

    def _full_length(self, parts):
        return sum(map(len, parts)) + 3


@dataclasses.dataclass
class MultipleChoice(Task):
    """Which answer is right: `[start] context question [delimiter] answer [extract]`.

    Examples have `context` and `question`, one of which may be empty or missing,
    `choices`, a list of texts (in a table: as JSON), and `label`, the index of
    the right one.

    Args:
        tokenizer, max_length, lm_coef: See `Classification`.
        num_choices: How many choices every example has; None for `scan` to find
            it.
    """

    kind = "multiple_choice"
    shortest = 6
    text_fields = ("context", "question", "choices")
    label_field = "label"
    label_name = "mc_labels"
    lm_name = "labels"

    tokenizer: Any
    num_choices: int | None = None
    max_length: int | None = None
    lm_coef: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.num_choices is not None:
            _check_integer("num_choices", self.num_choices, 2)

    @property
    def optional(self):
        return ("context", "question")

    @property
    def n_sequences(self):
        return self.num_choices

    @property
    def model_class(self):
        from tf_gpt.models.double_heads import OpenAIGPTDoubleHeadsModel

        return OpenAIGPTDoubleHeadsModel

    def spec(self, labelled=True):
        self._check_known()
        positions = {"mc_token_ids": ((None, self.num_choices), "int32")}
        return {**super().spec(labelled), **positions}

    def collate(self, rows, width, labelled=True):
        batch = super().collate(rows, width, labelled)
        # The last token of each is the extract token.
        batch["mc_token_ids"] = batch["attention_mask"].sum(-1, dtype="int32") - 1
        return batch

    def _check_known(self):
        if self.num_choices is None:
            raise ValueError(
                "The number of choices must be known: call `scan` with the training "
                "source, or pass `num_choices`. Received: num_choices=None."
            )

    def _see(self, example, where):
        if self.num_choices is None:
            self.num_choices = len(_choices(example, where))
        self._label(example["label"], where)

    def _texts(self, example, where):
        first = [
            _text(example, name, where, self.optional)
            for name in ("context", "question")
        ]
        if not any(text.strip() for text in first):
            raise ValueError(
                f"{where}: an example must have a `context` or a `question`. "
                "Received: neither."
            )
        choices = _choices(example, where)
        if self.num_choices is not None and len(choices) != self.num_choices:
            raise ValueError(
                f"{where}: `choices` must be {self.num_choices}, as in every example. "
                f"Received: {len(choices)}."
            )
        return [*first, *choices]

    def _label(self, value, where):
        index = value
        if isinstance(value, str) and value.isascii() and value.isdigit():
            index = int(value)  # of a table
        if type(index) is not int or not 0 <= index < self.num_choices:
            raise ValueError(
                f"{where}: `label` must be the index of a choice, in "
                f"[0, {self.num_choices}). Received: {value!r}."
            )
        return index

    def _sequences(self, parts):
        context, question, *answers = parts
        return transforms.multiple_choice(
            context, question, answers, self._special, self.max_length
        )

    def _full_length(self, parts):
        context, question, *answers = parts
        return len(context) + len(question) + max(map(len, answers)) + 3


@dataclasses.dataclass
class LanguageModelling(Task):
    """The next token of long text.

    Examples have `text`; documents without a token are left out. Where the
    tokenizer has an end token, it stands after each document.

    Args:
        tokenizer: See `Classification`; it gets a pad token if it has none.
        packed: Whether rows are filled with one document after the other, so
            that all but the last have `max_length` tokens. Else a row is a
            document, cut to `max_length`.
        documents: Of a text file: "lines" or "paragraphs", see `read_examples`.
        max_length: See `Classification`.
    """

    kind = "language_modelling"
    shortest = 2
    text_fields = ("text",)
    lm_name = "labels"
    lm_coef = 1.0
    has_task_tokens = False

    tokenizer: Any
    packed: bool = True
    documents: str = "lines"
    max_length: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.packed, bool):
            raise ValueError(f"`packed` must be a bool. Received: {self.packed!r}.")
        check_choice("documents", self.documents, DOCUMENTS)

    @property
    def model_class(self):
        from tf_gpt.models.lm_head import OpenAIGPTLMHeadModel

        return OpenAIGPTLMHeadModel

    def rows(self, examples, labelled=True):
        del labelled  # the tokens are the labels
        documents = self._documents(examples)
        if not self.packed:
            for ids in documents:
                yield self._row(ids)
            return
        end_id = self.tokenizer.eos_token_id
        for block in transforms.pack(documents, self.max_length, end_id):
            yield Row([np.array(block, "int32")], None, False)

    def encode(self, example, where="the example", labelled=True):
        """Returns the `Row` of one document by itself, packed or not."""
        del labelled
        for ids in self._documents([(example, where)]):
            return self._row(ids)
        raise ValueError(f"{where}: `text` must have at least one token.")

    def _documents(self, examples):
        for group in _groups(examples, _GROUP):
            texts = [self._texts(example, where)[0] for example, where in group]
            yield from filter(None, self._ids(texts))

    def _row(self, ids):
        end_id = self.tokenizer.eos_token_id
        ids_kept = transforms.one_document(ids, self.max_length, end_id)
        is_truncated = len(ids) > self.max_length
        return Row([np.array(ids_kept, "int32")], None, is_truncated)


TASKS = {
    cls.kind: cls
    for cls in (
        Classification,
        Entailment,
        Similarity,
        MultipleChoice,
        LanguageModelling,
    )
}


def load_task(name, **hub_options):
    """Loads a task that `Task.save` wrote.

    Args:
        name: A directory or a Hub repository.
        **hub_options: See `tf_gpt.hub.resolve_files`.

    Returns:
        The task, with its tokenizer.

    Raises:
        HubError: If there is no such directory or repository.
        ValueError: If it has no `task.json`, or the file is none.
    """
    path = hub.resolve_files(str(name), [FILE_NAME], **hub_options).get(FILE_NAME)
    if path is None:
        raise ValueError(
            f"There is no {FILE_NAME} in {str(name)!r}: `Task.save` writes it."
        )
    content = files.read_json(path)
    kind, tokenizer_class = (
        content.pop(name, None) for name in ("kind", "tokenizer_class")
    )
    for field, value, choices in (
        ("kind", kind, tuple(TASKS)),
        ("tokenizer_class", tokenizer_class, tuple(TOKENIZERS)),
    ):
        if value not in choices:
            raise ValueError(
                f"`{field}` must be one of {', '.join(choices)}. "
                f"Received: {value!r} in {str(path)!r}."
            )
    known = {field.name for field in dataclasses.fields(TASKS[kind])} - {"tokenizer"}
    if content.keys() - known:
        raise ValueError(
            f"A task of kind {kind!r} has the settings {', '.join(sorted(known))}. "
            f"Received: {sorted(content.keys() - known)} in {str(path)!r}."
        )
    tokenizer = TOKENIZERS[tokenizer_class].from_pretrained(name, **hub_options)
    try:
        return TASKS[kind](tokenizer, **content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a task's: {error}") from error


def _groups(items, size):
    items = iter(items)
    while group := list(itertools.islice(items, size)):
        yield group


def _given(example, name, where):
    value = example.get(name)
    if value is None:
        raise ValueError(
            f"{where}: an example must have `{name}`. "
            f"Received: the fields {', '.join(map(str, example)) or '(none)'}."
        )
    return value


def _text(example, name, where, optional=()):
    if name in optional and example.get(name) is None:
        return ""
    value = _given(example, name, where)
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: `{name}` must be a text. Received: {type(value).__name__}."
        )
    return value


def _choices(example, where):
    value = _given(example, "choices", where)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = example["choices"]
    if (
        not isinstance(value, list)
        or len(value) < 2
        or not all(isinstance(choice, str) for choice in value)
    ):
        raise ValueError(
            f"{where}: `choices` must be a list of two texts or more. "
            f"Received: {example['choices']!r}."
        )
    return value


def _check_label(label, where):
    if type(label) not in (str, int, bool):
        raise ValueError(
            f"{where}: a label must be a str, an int or a bool. "
            f"Received: {label!r} ({type(label).__name__})."
        )


def _label_indices(labels):
    """Returns the dict from the labels, given as a list or as such a dict."""
    if isinstance(labels, dict):
        if sorted(labels.values(), key=str) != sorted(range(len(labels)), key=str):
            raise ValueError(
                "The indices of `labels` must be 0 to their number less one. "
                f"Received: {labels!r}."
            )
        labels = sorted(labels, key=labels.get)
    if not isinstance(labels, (list, tuple)):
        raise ValueError(
            f"`labels` must be a list of labels. Received: {type(labels).__name__}."
        )
    for i, label in enumerate(labels):
        _check_label(label, f"labels[{i}]")
    if len({type(label) for label in labels}) > 1:
        raise ValueError(f"`labels` must be of one type. Received: {labels!r}.")
    if len(set(labels)) != len(labels) or len(labels) < 2:
        raise ValueError(
            "`labels` must be two or more, each once. "
            f"Received: {len(labels)}, {len(set(labels))} of them different."
        )
    return {label: i for i, label in enumerate(labels)}


def _some(labels, n=5):
    """Returns the first few labels as text."""
    shown = ", ".join(map(repr, itertools.islice(labels, n)))
    return shown + (", ..." if len(labels) > n else "")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value):
    """Returns a number, which in a table is text, or None."""
    if _is_number(value):
        return value
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _range(value):
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if (
        not is_pair
        or not all(_is_number(v) and math.isfinite(v) for v in value)
        or value[0] >= value[1]
    ):
        raise ValueError(
            "`score_range` must be (least, largest), two finite numbers. "
            f"Received: {value!r}."
        )
    return tuple(value)


def _check_integer(name, value, least):
    if type(value) is not int or value < least:
        raise ValueError(
            f"`{name}` must be an integer of {least} or more. Received: {value!r}."
        )
