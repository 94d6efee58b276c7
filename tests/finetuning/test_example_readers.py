import bz2
import csv
import gzip
import json
import lzma
import types

import numpy as np
import pytest

from tf_gpt.finetuning.readers import read_examples

FIELDS = ("text", "label")
ROWS = [
    {"text": "a good line", "label": "good"},
    {"text": "a “bad”, bad line", "label": "bad"},
]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(source, fields=FIELDS, **options):
    return list(read_examples(source, fields, **options))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        tuple(ROWS),
        [tuple(row.values()) for row in ROWS],
        [{**row, "id": 7} for row in ROWS],
        [{"label": row["label"], "text": np.str_(row["text"])} for row in ROWS],
    ],
    ids=["dicts", "tuple", "tuples", "more fields", "numpy"],
)
def test_rows_of_a_list_are_counted_from_0(source):
    assert read(source) == [(ROWS[0], "row 0"), (ROWS[1], "row 1")]


def test_what_is_optional_may_be_missing():
    texts = [{"text": row["text"]} for row in ROWS]
    expected = [(texts[0], "row 0"), (texts[1], "row 1")]
    for source in (
        texts,
        [row["text"] for row in ROWS],
        [(row["text"],) for row in ROWS],
        [{**row, "label": None} for row in ROWS],
    ):
        assert read(source, optional=("label",)) == expected


@pytest.mark.parametrize(
    "suffix, pack",
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
    ],
)
def test_lines_of_json_are_named_by_file_and_line(tmp_path, suffix, pack):
    path = write(tmp_path / f"a.jsonl{suffix}", pack(b"\xef\xbb\xbf" + JSONL))
    for source in (path, str(path)):
        assert read(source) == [(ROWS[0], f"{path}:1"), (ROWS[1], f"{path}:2")]


def test_rows_of_a_table_may_span_lines(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["label", "text"], ["good", 'two\nlines, "so"'], ["x", "y"]])
    assert read(path) == [
        ({"text": 'two\nlines, "so"', "label": "good"}, f"{path}:2"),
        ({"text": "y", "label": "x"}, f"{path}:4"),
    ]


def test_a_table_between_tabs_has_no_quotes(tmp_path):
    path = write(tmp_path / "a.tsv.gz", gzip.compress(b'text\tlabel\r\n"a" b"\t1\r\n'))
    assert read(path) == [({"text": '"a" b"', "label": "1"}, f"{path}:2")]


def test_an_empty_cell_is_a_missing_value(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,\n")
    assert read(path, optional=("label",)) == [({"text": "a"}, f"{path}:2")]
    with pytest.raises(ValueError, match=r"a\.csv:2.*`label`.*None"):
        read(path)


def test_plain_text_is_lines_or_paragraphs(tmp_path):
    path = write(tmp_path / "a.txt", "one\r\ntwo\n\n \n\nthree\n")
    assert read(path, ("text",)) == [
        ({"text": "one"}, f"{path}:1"),
        ({"text": "two"}, f"{path}:2"),
        ({"text": "three"}, f"{path}:6"),
    ]
    assert read(path, ("text",), documents="paragraphs") == [
        ({"text": "one\ntwo"}, f"{path}:1"),
        ({"text": "three"}, f"{path}:6"),
    ]
    assert len(read(path, FIELDS, optional=("label",))) == 3


def test_a_split_of_datasets_gives_the_names_of_its_classes():
    class Split(list):  # what this module knows of `datasets.Dataset`
        column_names = ["text", "label"]
        features = {
            "text": types.SimpleNamespace(dtype="string"),
            "label": types.SimpleNamespace(names=["bad", "good"]),
        }

    class Dataset:
        column_names, features = Split.column_names, Split.features

        def __iter__(self):
            yield {"text": "a", "label": 1, "more": 3}
            yield {"text": "b", "label": 0}
            yield {"text": "c", "label": -1}

    assert read(Dataset(), optional=("label",)) == [
        ({"text": "a", "label": "good"}, "row 0"),
        ({"text": "b", "label": "bad"}, "row 1"),
        ({"text": "c"}, "row 2"),
    ]
    whole = types.SimpleNamespace(column_names={"train": FIELDS, "test": FIELDS})
    with pytest.raises(ValueError, match=r"one split.*'test', 'train'"):
        read(whole)


def test_a_tensorflow_dataset_gives_text_and_plain_numbers():
    import tensorflow as tf

    columns = {"text": ["a", "ü"], "label": [1, 0], "choices": [["b", "c"]] * 2}
    dataset = tf.data.Dataset.from_tensor_slices(columns)
    rows = read(dataset, ("text", "label", "choices"))
    assert rows == [
        ({"text": "a", "label": 1, "choices": ["b", "c"]}, "row 0"),
        ({"text": "ü", "label": 0, "choices": ["b", "c"]}, "row 1"),
    ]
    assert type(rows[0][0]["label"]) is int


def test_files_are_read_as_far_as_they_are_asked_for(tmp_path):
    path = write(tmp_path / "a.jsonl", JSONL * 20000 + b"broken")
    rows = read_examples(path, FIELDS)
    assert next(rows) == (ROWS[0], f"{path}:1")
    rows.close()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", JSONL + b"{'text': 1}\n", r"a\.jsonl:3: not a line of JSON"),
        ("a.jsonl", JSONL + b'{"text": "caf\xe9"}\n', r"UTF-8.*line 3 of .*a\.jsonl"),
        ("a.jsonl", JSONL + b'{"text": "a"}\n', r"a\.jsonl:3.*`label`.*fields text"),
        ("a.jsonl", b'["a", "b"]\n', r"a\.jsonl:1.*must be a dict.*list"),
        ("a.jsonl", b"[" * 100000 + b"\n", r"a\.jsonl:1: not a line of JSON"),
        ("a.jsonl", b"", r"at least one example.*a\.jsonl.*empty"),
        ("a.jsonl", b"\n\n", r"at least one example.*a\.jsonl.*empty"),
        ("a.jsonl.gz", gzip.compress(JSONL * 99)[:-9], r"whole.*a\.jsonl\.gz.*damaged"),
        ("a.jsonl.gz", JSONL, r"whole.*a\.jsonl\.gz.*damaged"),
        ("a.jsonl.bz2", JSONL, r"whole.*a\.jsonl\.bz2.*damaged"),
        ("a.jsonl.xz", JSONL, r"whole.*a\.jsonl\.xz.*damaged"),
        ("a.csv", "text,label\na,b\nc\n", r"a\.csv:3.*2 columns text, label.*1"),
        ("a.csv", "text,label\na,b,c\n", r"a\.csv:2.*Received: 3"),
        ("a.csv", 'text,label\n"a,b\n', r"a\.csv:2: not a row"),
        ("a.csv", "text,text\na,b\n", r"a\.csv:1.*names.*\['text', 'text'\]"),
        ("a.csv", "text,label\n", r"at least one example.*a\.csv"),
        ("a.csv", "", r"at least one example.*a\.csv"),
        ("a.tsv", "text,label\na,b\n", r"a\.tsv:2.*`text`.*text,label"),
        ("a.json", b"[]", r"\.jsonl, \.csv or \.tsv, plain.*a\.json"),
        ("a.txt", b"one", r"\.jsonl, \.csv or \.tsv, plain.*a\.txt"),
    ],
)
def test_broken_files_are_named_with_the_line(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    "source, message",
    [
        ([], "at least one example.*a list of 0"),
        ([("a", "b"), ("a",)], r"row 1: a tuple must be \(text, label\).*1 values"),
        ([ROWS[0], {"text": "a", "label": None}], "row 1.*`label`.*None"),
        ([ROWS[0], 5], "row 1.*dict.*int"),
        (["a"], "row 0.*dict.*str"),
        ({"text": ["a"]}, "`source` must be a list.*a dict"),
        (iter(ROWS), "`source` must be a list.*list_iterator"),
    ],
)
def test_bad_rows_are_named(source, message):
    with pytest.raises(ValueError, match=message):
        read(source)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        read(tmp_path / "none.jsonl")


def test_the_real_files_are_read_whole(data):
    path = data / "tasks" / "clinc150" / "dev.jsonl.gz"
    rows = read(path)
    assert len(rows) == 3000
    example = {"text": "in spanish, meet me tomorrow is said how", "label": "translate"}
    assert rows[0] == (example, f"{path}:1")
    path = data / "text" / "tinystories_sample" / "tinystories_sample.txt.xz"
    assert len(read(path, ("text",), documents="paragraphs")) == 2316
