"""OpenAI's vocabulary; skipped where the shared data is absent."""

import gzip
import json

import pytest
from hard_texts import DATA, generated_texts

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast


@pytest.fixture(scope="module")
def slow(released):
    return OpenAIGPTTokenizer.from_pretrained(released)


@pytest.fixture(scope="module")
def golden(released):
    path = DATA / "golden" / "openai_tokenization.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_ids_equal_those_of_openais_encoder(slow, golden):
    assert len(golden) == 1939
    ids = slow([row["text"] for row in golden])["input_ids"]
    wrong = [
        row["text"] for row, ours in zip(golden, ids, strict=True) if row["ids"] != ours
    ]
    assert wrong == []


def test_traced_tokens_of_golden_texts_are_the_same(slow, golden):
    for row in golden[:300]:
        out = slow(row["text"], return_offsets_mapping=True)
        assert slow.convert_tokens_to_ids(out.tokens()) == row["ids"]
        for token, (start, end) in zip(
            out.tokens(), out["offset_mapping"], strict=True
        ):
            piece, source = token.removesuffix("</w>"), row["text"][start:end]
            assert source.lower() == piece or not source.isascii() or "\n" in source


def test_known_pieces(slow):
    assert slow.convert_ids_to_tokens([0, 40477, 1682, 538, 535, 749]) == [
        "<unk>",
        "\n</w>",
        "mr.</w>",
        "n't</w>",
        "'s</w>",
        "...</w>",
    ]
    assert slow.encode("Mr. Darcy\nisn't") == [
        *slow.encode("Mr."),
        *slow.encode("Darcy"),
        40477,
        *slow.encode("is"),
        538,
    ]
    assert slow.encode("Mr.") == [1682]


def test_fast_equals_basic_on_texts_of_old_characters(released):
    basic = OpenAIGPTTokenizer.from_pretrained(released, pre_tokenizer="basic")
    fast = OpenAIGPTTokenizerFast.from_pretrained(released)
    texts = [t for t in generated_texts(800, seed=5) if max(t, default="") < "\u0250"]
    assert len(texts) > 200
    ours, theirs = basic(texts), fast(texts)
    assert ours["input_ids"] == theirs["input_ids"]
    for i in range(len(texts)):
        assert ours.word_ids(i) == theirs.word_ids(i)
        assert ours[i].offsets == theirs[i].offsets
