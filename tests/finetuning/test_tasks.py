import csv
import json
import warnings

import keras
import numpy as np
import pytest
from letters import (
    DELIMITER,
    EXTRACT,
    PAD,
    START,
    ids_of,
    letters,
    save_small_model,
)

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast
from tf_gpt.finetuning.tasks import (
    Classification,
    Entailment,
    LanguageModelling,
    MultipleChoice,
    Row,
    Similarity,
    load_task,
)

TEXTS = [("a b c", "good"), ("z", "bad"), ("d e", "good"), ("y x", "bad")]
CHOICE = {"context": "a b", "question": "c", "choices": ["d", "e f"], "label": 1}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


def as_lists(rows):
    return [[s.tolist() for s in row.sequences] for row in rows]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def example_of(task):
    """Returns an example of a task that has two labels, or two scores."""
    return {
        "classification": {"text": "a b", "label": "x"},
        "entailment": {"premise": "a", "hypothesis": "b", "label": "x"},
        "similarity": {"text_a": "a", "text_b": "b", "score": 0.5},
        "multiple_choice": CHOICE,
        "language_modelling": {"text": "a b"},
    }[task.kind]


def all_tasks(tokenizer=None):
    tokenizer = tokenizer or letters()
    labels = ["x", "y"]
    return [
        Classification(tokenizer, labels, max_length=16),
        Entailment(tokenizer, labels, max_length=16),
        Similarity(tokenizer, score_range=(0, 5), max_length=16),
        MultipleChoice(tokenizer, num_choices=2, max_length=16),
        LanguageModelling(tokenizer, packed=False, max_length=16),
    ]


ALL = pytest.mark.parametrize("task", all_tasks(), ids=lambda task: task.kind)


def test_a_task_gives_the_tokenizer_its_tokens():
    tokenizer = letters()
    Classification(tokenizer)
    ids = [getattr(tokenizer, f"{k}_token_id") for k in ("pad", "bos", "sep", "cls")]
    assert ids == [PAD, START, DELIMITER, EXTRACT]
    tokenizer = letters(bos_token="a</w>")
    task = Classification(tokenizer, ["x", "y"])
    assert task.encode({"text": "b", "label": "x"}).sequences[0][0] == 1  # its own
    tokenizer = letters()
    LanguageModelling(tokenizer)
    assert tokenizer.pad_token_id == PAD
    assert tokenizer.cls_token is None


def test_a_class_and_its_text():
    task = Classification(letters(), ["good", "bad"], max_length=5)
    rows = [task.encode({"text": t, "label": label}) for t, label in TEXTS[:2]]
    assert as_lists(rows) == [[[START, 1, 2, 3, EXTRACT]], [[START, 26, EXTRACT]]]
    assert [row.label for row in rows] == [0, 1]
    assert not any(row.is_truncated for row in rows)
    long = task.encode({"text": "a b c d", "label": "bad"})
    assert as_lists([long]) == [[[START, 1, 2, 3, EXTRACT]]]
    assert long.is_truncated

    batch = task.collate(rows, 6)
    assert {name: value.dtype.name for name, value in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels", "lm_labels"), "int32"
    )
    assert batch["input_ids"].tolist() == [
        [START, 1, 2, 3, EXTRACT, PAD],
        [START, 26, EXTRACT, PAD, PAD, PAD],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 5 + [0], [1] * 3 + [0] * 3]
    assert batch["labels"].tolist() == [0, 1]
    assert batch["lm_labels"].tolist() == [
        [START, 1, 2, 3, EXTRACT, -100],
        [START, 26, EXTRACT, -100, -100, -100],
    ]
    assert task.collate(rows, 6, labelled=False).keys() == {
        "input_ids",
        "attention_mask",
    }
    assert "lm_labels" not in Classification(letters(), ["a", "b"], lm_coef=0).collate(
        rows, 6
    )
    with pytest.raises(ValueError, match=r"`width`.*width=4, longest=5"):
        task.collate(rows, 4)


def test_a_premise_and_its_hypothesis():
    task = Entailment(letters(), {"no": 1, "yes": 0}, max_length=7)
    row = task.encode({"premise": "a b", "hypothesis": "c d e", "label": "no"})
    assert as_lists([row]) == [[[START, 1, 2, DELIMITER, 3, 4, EXTRACT]]]
    assert row.label == 1
    assert row.is_truncated
    assert task.collate([row], 8)["labels"].tolist() == [1]


def test_both_orders_of_two_texts():
    task = Similarity(letters(), score_range=(0, 5), max_length=8)
    row = task.encode({"text_a": "a b", "text_b": "c", "score": 2.5})
    orders = [
        [START, 1, 2, DELIMITER, 3, EXTRACT],
        [START, 3, DELIMITER, 1, 2, EXTRACT],
    ]
    assert as_lists([row]) == [orders]
    batch = task.collate([row, row._replace(label=4.0)], 8)
    padded = [[*order, PAD, PAD] for order in orders]
    assert batch["input_ids"].tolist() == [padded, padded]
    assert batch["attention_mask"].tolist() == [[[1] * 6 + [0] * 2] * 2] * 2
    assert batch["labels"].tolist() == [2.5, 4.0]
    assert batch["labels"].dtype == np.float32
    assert batch["lm_labels"][0].tolist() == [[*order, -100, -100] for order in orders]
    # From a table a score comes as text.
    table = {"text_a": "a", "text_b": "b", "score": "3.5"}
    assert task.encode(table).label == 3.5

    task = Similarity(letters(), classes=True, labels=[0, 1])
    batch = task.collate([task.encode({"text_a": "a", "text_b": "b", "label": 1})], 8)
    assert batch["labels"].tolist() == [1]
    assert batch["labels"].dtype == np.int32


def test_one_sequence_for_each_answer():
    task = MultipleChoice(letters(), num_choices=2, max_length=9)
    row = task.encode(CHOICE)
    answers = [
        [START, 1, 2, 3, DELIMITER, 4, EXTRACT],
        [START, 1, 2, 3, DELIMITER, 5, 6, EXTRACT],
    ]
    assert as_lists([row]) == [answers]
    batch = task.collate([row], 9)
    assert batch["input_ids"].tolist() == [
        [[*answers[0], PAD, PAD], [*answers[1], PAD]]
    ]
    assert batch["mc_token_ids"].tolist() == [[6, 7]]
    assert batch["mc_labels"].tolist() == [1]
    assert batch["labels"].tolist() == [
        [[*answers[0], -100, -100], [*answers[1], -100]]
    ]
    assert {value.dtype.name for value in batch.values()} == {"int32"}
    assert task.collate([row], 9, labelled=False).keys() == {
        "input_ids",
        "attention_mask",
        "mc_token_ids",
    }
    no_context = {"question": "c", "choices": '["d", "e"]', "label": "0"}  # of a table
    assert as_lists([task.encode(no_context)])[0][1] == [
        START,
        3,
        DELIMITER,
        5,
        EXTRACT,
    ]


def test_documents_are_packed_with_the_end_token_between():
    tokenizer = letters(eos_token="<eos>")  # 53; then the pad token is 54
    task = LanguageModelling(tokenizer, max_length=4)
    documents = [({"text": text}, "here") for text in ("a b c", "", "d", "e f g h")]
    rows = list(task.rows(documents))
    assert as_lists(rows) == [[[1, 2, 3, 53]], [[4, 53, 5, 6]], [[7, 8, 53]]]
    batch = task.collate(rows[1:], 4)
    assert batch["input_ids"].tolist() == [[4, 53, 5, 6], [7, 8, 53, 54]]
    assert batch["attention_mask"].tolist() == [[1] * 4, [1, 1, 1, 0]]
    assert batch["labels"].tolist() == [[4, 53, 5, 6], [7, 8, 53, -100]]
    assert len(batch) == 3

    task = LanguageModelling(tokenizer, packed=False, max_length=4)
    rows = list(task.rows(documents))
    assert as_lists(rows) == [[[1, 2, 3, 53]], [[4, 53]], [[5, 6, 7, 8]]]
    assert [row.is_truncated for row in rows] == [False] * 3  # all of their text
    assert task.encode({"text": "a b c d e"}).is_truncated


@ALL
def test_many_examples_are_encoded_as_each_alone(task):
    rng = np.random.default_rng(0)
    examples = []
    for i in range(600):
        example = dict(example_of(task))
        for name in task.text_fields:
            if name != "choices":
                words = rng.choice(list("abcdefgh"), rng.integers(1, 9))
                example[name] = " ".join(words)
        examples.append((example, f"row {i}"))
    together = list(task.rows(examples))
    alone = [task.encode(*pair) for pair in examples]
    assert as_lists(together) == as_lists(alone)
    assert [row.label for row in together] == [row.label for row in alone]
    assert all(type(row) is Row for row in together)


@ALL
def test_the_specification_is_what_the_batches_are(task):
    for labelled in (True, False):
        row = task.encode(example_of(task), labelled=labelled)
        batch = task.collate([row, row], 16, labelled)
        spec = task.spec(labelled)
        assert spec.keys() == batch.keys()
        for name, (shape, dtype) in spec.items():
            assert batch[name].dtype.name == dtype
            assert len(shape) == batch[name].ndim
            for size, real in zip(shape, batch[name].shape, strict=True):
                assert size in (None, real)


# Labels.


def test_labels_are_found_in_sorted_order(tmp_path):
    task = Classification(letters())
    with pytest.raises(ValueError, match=r"`scan`.*labels=None"):
        task.encode({"text": "a", "label": "good"})
    assert task.scan(TEXTS) == 4
    assert task.labels == {"bad": 0, "good": 1}
    numbers = Classification(letters())
    numbers.scan([("a", i) for i in (10, 9, 10, 9)])
    assert numbers.label_names == [9, 10]
    given = Classification(letters(), ["good", "bad", "none"])
    assert given.scan(TEXTS[:3]) == 3  # one "bad" alone, and no "none"
    assert given.label_names == ["good", "bad", "none"]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([("a", "x"), ("b", None)], r"a\.jsonl:2.*`label`.*None"),
        ([("a", "x"), ("a", "x"), ("b", 1)], r"a\.jsonl:3.*1 \(int\).*'x' \(str\).*:1"),
        ([("a", 1), ("b", True)], r"a\.jsonl:2.*True \(bool\).*1 \(int\).*:1"),
        ([("a", 0.5)], r"a\.jsonl:1.*str, an int or a bool.*0\.5 \(float\)"),
        ([("a", "x")] * 2 + [("b", "y")], r"a\.jsonl:3.*more than one.*'y'"),
        ([("a", "x")] * 2, r"two labels.*a\.jsonl' with 'x' alone"),
        ([("a", "x"), (5, "x")], r"a\.jsonl:2: `text` must be a text.*int"),
    ],
)
def test_labels_of_no_use_are_named_with_their_line(tmp_path, rows, message):
    rows = [{"text": text, "label": label} for text, label in rows]
    path = write_lines(tmp_path / "a.jsonl", rows)
    task = Classification(letters())
    with pytest.raises(ValueError, match=message):
        task.scan(path)
    assert task.labels is None
    assert task.scan(TEXTS) == 4  # nothing is left of the broken file


def test_a_label_that_training_did_not_have_is_named(tmp_path):
    task = Classification(letters())
    task.scan(TEXTS)
    rows = [{"text": "a", "label": "good"}, {"text": "b", "label": "awful"}]
    path = write_lines(tmp_path / "dev.jsonl", rows)
    with pytest.raises(ValueError, match=r"dev\.jsonl:2.*'bad', 'good'.*'awful'"):
        task.dataset(path)
    with pytest.raises(ValueError, match=r"dev\.jsonl:2.*'awful'"):
        task.scan(path)
    # The same number, but of another type.
    with pytest.raises(ValueError, match="Received: True"):
        Classification(letters(), [0, 1]).encode({"text": "a", "label": True})


@pytest.mark.parametrize(
    "score, message",
    [
        (float("nan"), r"row 1: `score` must be a finite number.*nan"),
        ("much", r"row 1: `score` must be a finite number.*'much'"),
        (True, r"row 1: `score` must be a finite number.*True"),
        (5.5, r"row 1: `score` must be in \[0, 5\].*5\.5"),
    ],
)
def test_scores_out_of_range_are_named(score, message):
    task = Similarity(letters(), score_range=(0, 5))
    rows = [("a", "b", 1.0), ("a", "b", score)]
    for use in (task.scan, task.dataset):
        with pytest.raises(ValueError, match=message):
            use(rows)


def test_scores_must_differ():
    task = Similarity(letters())
    with pytest.raises(ValueError, match=r"two scores.*a list of 2 with 1\.0 alone"):
        task.scan([("a", "b", 1), ("c", "d", 1.0)])
    assert task.scan([("a", "b", -7), ("c", "d", 1e9)]) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": 2}, r"row 1: `label`.*\[0, 2\).*2"),
        ({"label": -1}, r"row 1: `label`.*-1"),
        ({"label": True}, r"row 1: `label`.*True"),
        ({"label": None}, r"row 1.*`label`"),
        ({"choices": ["a", "b", "c"]}, "row 1: `choices` must be 2.*3"),
        ({"choices": ["a"]}, "row 1: `choices` must be a list of two"),
        ({"choices": "a b"}, "row 1: `choices` must be a list of two.*'a b'"),
        ({"choices": ["a", 5]}, "row 1: `choices` must be a list of two"),
        (
            {"choices": ["a", " "]},
            r"row 1: `answers\[1\]` must have at least one token",
        ),
        ({"context": "", "question": None}, "row 1.*`context` or a `question`"),
    ],
)
def test_choices_of_no_use_are_named(change, message):
    task = MultipleChoice(letters())
    rows = [CHOICE, {**CHOICE, **change}]
    with pytest.raises(ValueError, match=message):
        task.scan(rows) and task.dataset(rows)


def test_choices_are_found_in_a_table_too(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "w", newline="") as file:
        rows = [["question", "choices", "label"], ["a", json.dumps(["b", "c"]), 1]]
        csv.writer(file).writerows(rows)
    task = MultipleChoice(letters())
    with pytest.raises(ValueError, match=r"`scan`.*num_choices=None"):
        task.dataset(path)
    task.scan(path)
    assert task.num_choices == 2
    assert next(task.dataset(path).batches())["mc_labels"].tolist() == [1]


@ALL
def test_texts_of_no_use_are_named(task):
    field = "text" if "text" in task.fields else task.text_fields[-1]
    broken = {**example_of(task), field: 3}
    with pytest.raises(ValueError, match=rf"row 1: `{field}` must be.*(int|3)"):
        task.dataset([example_of(task), broken])
    missing = {k: v for k, v in example_of(task).items() if k != field}
    with pytest.raises(ValueError, match=f"row 1: an example must have `{field}`"):
        task.dataset([example_of(task), missing])
    with pytest.raises(ValueError, match=f"here: an example must have `{field}`"):
        task.encode(missing, "here")


def test_a_text_without_tokens_is_named():
    task = Classification(letters(), ["x", "y"])
    with pytest.raises(ValueError, match="row 1: `text` must have at least one token"):
        task.dataset([("a", "x"), (" ", "y")])
    with pytest.raises(ValueError, match="here: `text` must have at least one token"):
        LanguageModelling(letters()).encode({"text": " "}, "here")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda t: Classification(t, max_length=2), "`max_length`.*3 or more.*2"),
        (lambda t: Entailment(t, max_length=4), "`max_length`.*5 or more.*4"),
        (lambda t: Similarity(t, max_length=True), "`max_length`.*True"),
        (lambda t: MultipleChoice(t, max_length=5), "`max_length`.*6 or more.*5"),
        (lambda t: LanguageModelling(t, max_length=1), "`max_length`.*2 or more.*1"),
        (lambda t: Classification(t, lm_coef=-1), "`lm_coef`.*-1"),
        (lambda t: Classification(t, lm_coef=float("nan")), "`lm_coef`.*nan"),
        (lambda t: Classification(t, "xy"), "`labels` must be a list.*str"),
        (lambda t: Classification(t, ["x"]), "`labels` must be two"),
        (lambda t: Classification(t, ["x", "x"]), "each once.*2, 1 of them"),
        (lambda t: Classification(t, ["x", 1]), "`labels` must be of one type"),
        (lambda t: Classification(t, ["x", None]), r"labels\[1\].*None"),
        (lambda t: Classification(t, {"x": 0, "y": 2}), "indices of `labels`"),
        (lambda t: Similarity(t, labels=["x", "y"]), "classes=True"),
        (lambda t: Similarity(t, classes=1), "`classes`.*1"),
        (lambda t: Similarity(t, classes=True, score_range=(0, 1)), "`score_range`"),
        (lambda t: Similarity(t, score_range=(1, 1)), r"`score_range`.*\(1, 1\)"),
        (lambda t: Similarity(t, score_range=5), "`score_range`.*5"),
        (lambda t: MultipleChoice(t, num_choices=1), "`num_choices`.*1"),
        (lambda t: LanguageModelling(t, packed=1), "`packed`.*1"),
        (lambda t: LanguageModelling(t, documents="pages"), "`documents`.*'pages'"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(letters())


def test_the_tokenizer_says_how_long_sequences_may_be():
    assert Classification(letters(model_max_length=40)).max_length == 40
    assert Classification(letters()).max_length == 512


# Models.


@ALL
def test_models_get_the_tasks_config_and_tokens(task, pretrained):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the head is new
        model = task.load_model(pretrained, attn_pdrop=0.0)
    config = model.config
    assert type(model) is task.model_class
    assert model.get_input_embeddings().embeddings.shape[0] == config.vocab_size
    assert config.vocab_size == len(task.tokenizer)
    assert config.pad_token_id == task.tokenizer.pad_token_id
    assert config.attn_pdrop == 0.0
    expected = {
        "classification": ("single_label_classification", {0: "x", 1: "y"}),
        "entailment": ("single_label_classification", {0: "x", 1: "y"}),
        "similarity": ("regression", {0: "LABEL_0"}),
    }
    if task.kind in expected:
        assert (config.problem_type, config.id2label) == expected[task.kind]
        assert config.label2id == {name: i for i, name in config.id2label.items()}
    if task.kind != "language_modelling":
        with pytest.raises(ValueError, match=r"decides.*\['lm_coef'\]"):
            task.load_model(pretrained, lm_coef=1.0)


def test_a_model_that_takes_fewer_tokens_is_refused(pretrained):
    task = LanguageModelling(letters(), max_length=25)
    with pytest.raises(ValueError, match="max_length=25, n_positions=24"):
        task.load_model(pretrained)


@ALL
@pytest.mark.parametrize("cls", [OpenAIGPTTokenizer, OpenAIGPTTokenizerFast])
def test_a_saved_task_is_the_same_task(task, cls, tmp_path):
    [task] = [t for t in all_tasks(letters(cls)) if t.kind == task.kind]
    task.save(tmp_path)
    loaded = load_task(tmp_path)
    assert type(loaded) is type(task)
    assert type(loaded.tokenizer) is cls
    assert loaded._settings() == task._settings()
    assert as_lists([loaded.encode(example_of(task))]) == as_lists(
        [task.encode(example_of(task))]
    )


def test_labels_keep_their_types_in_a_saved_task(tmp_path):
    for labels in ([True, False], [3, 1, 2], ["3", "ü"]):
        Classification(letters(), labels).save(tmp_path)
        loaded = load_task(tmp_path).label_names
        assert loaded == labels
        assert [type(label) for label in loaded] == [type(label) for label in labels]
    with pytest.raises(ValueError, match="labels=None"):
        Classification(letters()).save(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "posix.system"}, "`kind`.*'posix.system'.*task.json"),
        ({"kind": ["classification"]}, "`kind`.*task.json"),
        ({"tokenizer_class": "__import__"}, "`tokenizer_class`.*'__import__'"),
        ({"tokenizer": "x"}, r"settings.*\['tokenizer'\]"),
        ({"labels": None, "max_length": "9"}, "task.json.*`max_length`.*'9'"),
        ({"labels": [{}, {}]}, r"task.json.*labels\[0\]"),
        ({"lm_coef": [1]}, r"task.json.*`lm_coef`.*\[1\]"),
    ],
)
def test_broken_task_files_are_named(tmp_path, change, message):
    Classification(letters(), ["x", "y"]).save(tmp_path)
    path = tmp_path / "task.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_task(tmp_path)


def test_a_folder_without_a_task_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no task\.json in"):
        load_task(tmp_path)


def learnable(kind):
    """Returns examples of 24 that a small model can learn."""
    rng = np.random.default_rng(0)
    examples = []
    for i in range(24):
        words = " ".join(rng.choice(list("cdefgh"), rng.integers(1, 5)))
        sign = "ab"[i % 2]
        examples.append(
            {
                "classification": (f"{words} {sign}", sign),
                "entailment": (words, sign, sign),
                "similarity": (f"{words} {sign}", words, float(i % 2)),
                "multiple_choice": {
                    "context": words,
                    "question": "c",
                    "choices": ["a", "b"] if i % 2 else ["b", "a"],
                    "label": 0 if i % 2 else 1,
                },
                "language_modelling": f"{words} a b a b",
            }[kind]
        )
    return examples


@ALL
def test_fit_learns_the_task_and_the_folder_predicts(task, pretrained, tmp_path):
    options = {"lm_coef": 0.0} if task.kind == "entailment" else {}
    task = type(task)(letters(), max_length=24, **options)
    source = learnable(task.kind)
    assert task.scan(source) == 24
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the head is new
        model = task.load_model(
            pretrained, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0
        )
    model.compile(optimizer=keras.optimizers.Adam(0.01), jit_compile=False)
    data = task.dataset(source, 8, shuffle_seed=0).as_tf_data()
    history = model.fit(data, epochs=12, verbose=0).history["loss"]
    assert history[-1] < 0.6 * history[0]

    task.save(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = load_task(tmp_path)
    again = loaded.load_model(tmp_path)
    unlabelled = loaded.dataset(source, 8, labelled=False)
    name = "mc_logits" if task.kind == "multiple_choice" else "logits"
    for batch in unlabelled.batches():
        np.testing.assert_allclose(
            again(batch)[name], model(batch, training=False)[name], atol=1e-5
        )
    if task.kind in ("classification", "entailment", "multiple_choice"):
        predicted = [again(batch)[name] for batch in unlabelled.batches()]
        predicted = np.concatenate(predicted).argmax(-1)
        field = task.label_name
        labels = np.concatenate([b[field] for b in task.dataset(source, 8).batches()])
        assert (predicted == labels).mean() > 0.9


@pytest.mark.parametrize(
    "name, cls, options, n_labels",
    [
        ("clinc150", Classification, {}, 150),
        ("snli_small", Entailment, {}, 3),
        ("scitail_small", Entailment, {}, 2),
        ("stsb", Similarity, {"score_range": (0, 5)}, None),
        ("mctest160", MultipleChoice, {}, 4),
        ("codah", MultipleChoice, {}, 4),
        ("balanced_copa", MultipleChoice, {}, 2),
    ],
)
def test_the_real_tasks_are_encoded_whole(data, name, cls, options, n_labels):
    tokenizer = OpenAIGPTTokenizerFast.from_pretrained(data / "gpt1_vocab" / "hf")
    task = cls(tokenizer, **options)
    folder = data / "tasks" / name
    n_train = json.loads((folder / "info.json").read_text())["splits"]["train"]["rows"]
    assert task.scan(folder / "train.jsonl.gz") == n_train
    if cls is MultipleChoice:
        assert task.num_choices == n_labels
    elif n_labels:
        assert len(task.labels) == n_labels
    dev = task.dataset(folder / "dev.jsonl.gz", 32)
    assert dev.num_rows == sum(len(b["input_ids"]) for b in dev.batches())
    assert dev.truncated == 0
    first = next(dev.batches())["input_ids"]
    text = tokenizer.decode(first.reshape(-1, first.shape[-1])[0])
    assert text.startswith("_start_")
    if name == "balanced_copa":  # whose question is a word
        assert text.startswith(
            "_start_the man turned on the faucet . effect _delimiter_water flowed "
            "from the spout . _classify_"
        )


def test_ids_of_hand_made_texts_are_as_claimed():
    assert letters()("a z").input_ids == ids_of("a z") == [1, 26]
