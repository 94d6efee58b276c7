import gzip
import json
import lzma

import numpy as np
import pytest

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast
from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization import corpus
from tf_gpt.tokenization.corpus import load_shards, tokenize_file

LINES = [
    f"Once upon a time there were {i} dogs; Mr. Brown didn't know." for i in range(300)
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("\n".join(LINES) + "\n\n", "utf-8")
    return path


def flat(tokenizer, texts, end=()):
    return [i for text in texts for i in [*tokenizer.encode(text), *end]]


def test_shards_hold_the_ids_of_the_file(tokenizer, source, tmp_path):
    summary = tokenize_file(
        source, tmp_path / "ids", tokenizer, shard_bytes=4000, num_workers=1
    )
    shards = load_shards(tmp_path / "ids")
    assert len(shards) == summary["shards"] > 3
    assert shards[0].dtype == np.uint16
    ids = np.concatenate(shards).tolist()
    assert ids == flat(tokenizer, LINES)
    assert summary["tokens"] == len(ids)
    assert summary["documents"] == 300


def test_processes_write_the_same_shards_as_one(trained, source, tmp_path):
    tokenizer = OpenAIGPTTokenizerFast.from_pretrained(trained)
    for n in (1, 2):
        tokenize_file(
            source, tmp_path / str(n), tokenizer, shard_bytes=4000, num_workers=n
        )
    one, two = load_shards(tmp_path / "1"), load_shards(tmp_path / "2")
    assert len(one) == len(two) > 3
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    "suffix, compress", [(".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_compressed_files_and_end_tokens(tokenizer, source, tmp_path, suffix, compress):
    packed = tmp_path / f"stories.txt{suffix}"
    packed.write_bytes(compress(source.read_bytes()))
    tokenize_file(packed, tmp_path / "ids", tokenizer, end_token="<pad>", num_workers=1)
    [ids] = load_shards(tmp_path / "ids")
    assert ids.tolist() == flat(tokenizer, LINES, [tokenizer.pad_token_id])


def test_paragraphs_keep_their_line_breaks(trained, tmp_path):
    tokenizer = OpenAIGPTTokenizer.from_pretrained(trained)
    path = tmp_path / "a.txt"
    path.write_bytes(b"the dog\r\na time\r\n\r\n\r\nonce\n \nupon")
    summary = tokenize_file(
        path, tmp_path / "ids", tokenizer, documents="paragraphs", num_workers=1
    )
    [ids] = load_shards(tmp_path / "ids")
    assert summary["documents"] == 3
    assert ids.tolist() == flat(tokenizer, ["the dog\na time", "once", "upon"])


def test_records_hold_one_document_each(tokenizer, source, tmp_path):
    import tensorflow as tf

    tokenize_file(
        source, tmp_path / "ids", tokenizer, file_format="tfrecord", num_workers=1
    )
    [path] = (tmp_path / "ids").glob("*.tfrecord")
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    rows = [
        tf.train.Example.FromString(r).features.feature["input_ids"].int64_list.value[:]
        for r in records
    ]
    assert rows == [tokenizer.encode(line) for line in LINES]
    with pytest.raises(TokenizerError, match="TFRecordDataset"):
        load_shards(tmp_path / "ids")


def test_a_run_that_was_stopped_goes_on(tokenizer, source, tmp_path, monkeypatch):
    written = []
    write_shard = corpus._write_shard

    def stop_at_third(path, *args):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        return write_shard(path, *args)

    options = {"shard_bytes": 4000, "num_workers": 1}
    monkeypatch.setattr(corpus, "_write_shard", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        tokenize_file(source, tmp_path / "ids", tokenizer, **options)
    with pytest.raises(TokenizerError, match="must be whole"):
        load_shards(tmp_path / "ids")
    index = json.loads((tmp_path / "ids" / "index.json").read_text())
    n_whole = len(index["shards"])
    (tmp_path / "ids" / "stories-00000.npy").unlink()  # and one got lost

    monkeypatch.setattr(
        corpus,
        "_write_shard",
        lambda p, *a: written.append(p.name) or write_shard(p, *a),
    )
    written.clear()
    summary = tokenize_file(source, tmp_path / "ids", tokenizer, **options)
    assert "stories-00000.npy" in written
    assert len(written) == summary["shards"] - n_whole + 1
    ids = np.concatenate(load_shards(tmp_path / "ids")).tolist()
    assert ids == flat(tokenizer, LINES)


def test_other_shards_are_not_overwritten_unasked(tokenizer, source, tmp_path):
    tokenize_file(source, tmp_path / "ids", tokenizer, num_workers=1)
    with pytest.raises(TokenizerError, match=r"made otherwise.*'<pad>'"):
        tokenize_file(
            source, tmp_path / "ids", tokenizer, end_token="<pad>", num_workers=1
        )
    tokenize_file(
        source,
        tmp_path / "ids",
        tokenizer,
        end_token="<pad>",
        num_workers=1,
        overwrite=True,
    )
    assert len(load_shards(tmp_path / "ids")) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"file_format": "csv"}, "'csv'"),
        ({"documents": "pages"}, "'pages'"),
        ({"end_token": "<none>"}, "'<none>'"),
        ({"shard_bytes": 0}, "`shard_bytes`.*0"),
        ({"num_workers": 0}, "`num_workers`.*0"),
    ],
)
def test_options_out_of_range_raise_before_work(
    tokenizer, source, tmp_path, options, message
):
    with pytest.raises(TokenizerError, match=message):
        tokenize_file(source, tmp_path / "ids", tokenizer, **options)
    assert not (tmp_path / "ids").exists()


def test_files_that_are_not_utf8_or_missing_raise(tokenizer, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    with pytest.raises(TokenizerError, match=r"UTF-8.*line 2"):
        tokenize_file(
            tmp_path / "latin.txt", tmp_path / "ids", tokenizer, num_workers=1
        )
    with pytest.raises(FileNotFoundError):
        tokenize_file(tmp_path / "none.txt", tmp_path / "ids", tokenizer)
