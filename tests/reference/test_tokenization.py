"""Both tokenizers beside those of transformers 4.57."""

import pathlib
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.reference
transformers = pytest.importorskip("transformers")
sys.path.append(str(pathlib.Path(__file__).parents[1] / "tokenization"))

import hard_texts  # noqa: E402

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast  # noqa: E402

VOCAB = hard_texts.DATA / "gpt1_vocab" / "hf"
if not VOCAB.is_dir():
    pytest.skip("no shared data: OpenAI's vocabulary", allow_module_level=True)

TEXTS = [
    "Mr. Darcy didn't know <unk> what she'd said; the U.S. was far away...",
    "Hello there!",
    "“Once upon a time”, she said — and then nothing…",
    "a\n\nb",
    "",
]
PAIRS = ["The second text is a little longer than the first.", "No."]


def their_slow(monkeypatch, with_spacy=True):
    if not with_spacy:
        monkeypatch.setitem(sys.modules, "ftfy", None)
    tokenizer = transformers.OpenAIGPTTokenizer.from_pretrained(str(VOCAB))
    monkeypatch.undo()
    return tokenizer


@pytest.fixture(params=["transformers", "basic", "fast"])
def both(request, monkeypatch):
    """Ours and theirs, each with a pad token."""
    if request.param == "fast":
        ours = OpenAIGPTTokenizerFast.from_pretrained(VOCAB)
        theirs = transformers.OpenAIGPTTokenizerFast.from_pretrained(str(VOCAB))
    else:
        ours = OpenAIGPTTokenizer.from_pretrained(VOCAB, pre_tokenizer=request.param)
        theirs = their_slow(monkeypatch, request.param == "transformers")
    for tokenizer in (ours, theirs):
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
        tokenizer.add_tokens(["newtok"])
    return ours, theirs


def test_ids_are_equal_on_hard_texts(both):
    ours, theirs = both
    texts = hard_texts.natural_texts(500) + hard_texts.generated_texts(700, seed=11)
    texts += ["a newtok b NEWTOK<pad>newtoks", "<unk><unk>there"]
    if getattr(ours, "pre_tokenizer", None) == "transformers":
        texts.append("<PAD> <Unk>")  # found by its slow tokenizer, not by its fast one
    expected = [theirs.encode(text) for text in texts]
    ids = ours(texts)["input_ids"]
    assert [t for t, a, b in zip(texts, ids, expected, strict=True) if a != b] == []


@pytest.mark.parametrize(
    "options",
    [
        {"padding": True},
        {"padding": "longest", "pad_to_multiple_of": 8},
        {"padding": "max_length", "max_length": 40},
        {"padding": True, "padding_side": "left", "return_special_tokens_mask": True},
        {"truncation": True, "max_length": 6},
        {
            "truncation": "longest_first",
            "max_length": 11,
            "return_token_type_ids": True,
        },
        {"truncation": "only_first", "max_length": 300},
        {"return_attention_mask": False},
        {"padding": True, "truncation": True, "max_length": 9, "return_tensors": "np"},
    ],
    ids=str,
)
@pytest.mark.parametrize("pairs", [False, True])
def test_batches_are_equal(both, options, pairs):
    ours, theirs = both
    texts = TEXTS[:2]
    second = PAIRS if pairs else None
    a = ours(texts, second, **options)
    b = theirs(texts, second, **options)
    assert set(a) == set(b)
    for name in b:
        assert np.array_equal(np.array(a[name], object), np.array(b[name], object)), (
            name
        )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("n", range(1, 20))
def test_pairs_cut_longest_first_are_equal(both, side, n):
    ours, theirs = both
    ours.truncation_side = theirs.truncation_side = side
    for a, b in ((3, 9), (9, 3), (6, 6)):
        texts = ("a " * a, "b " * b)
        options = {"truncation": True, "max_length": n}
        assert (
            ours(*texts, **options)["input_ids"]
            == (theirs(*texts, **options)["input_ids"])
        )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
def test_overflow_is_equal(both, side, strategy):
    ours, theirs = both
    ours.truncation_side = theirs.truncation_side = side
    options = {"max_length": 16, "stride": 2, "return_overflowing_tokens": True}
    texts = (TEXTS[0], None) if strategy == "longest_first" else (TEXTS[0], PAIRS[0])
    if strategy == "only_second":
        options["max_length"] = 30
    a = ours(*texts, truncation=strategy, **options)
    b = theirs(*texts, truncation=strategy, **options)
    assert dict(a) == dict(b)


def test_texts_of_ids_are_equal(both):
    ours, theirs = both
    for tokenizer in both:
        tokenizer.add_special_tokens({"additional_special_tokens": ["_start_"]})
    for text in [
        "_start_ the dog<pad>",
        "a newtok b",
        "hello, i don't. <unk>there !",
        *TEXTS,
    ]:
        ids = theirs.encode(text)
        for skip in (False, True):
            for clean in (False, True):
                options = {
                    "skip_special_tokens": skip,
                    "clean_up_tokenization_spaces": clean,
                }
                assert ours.decode(ids, **options) == theirs.decode(ids, **options)


def test_places_are_equal_to_those_of_fast(both):
    if not both[1].is_fast:
        pytest.skip("transformers gives places for its fast tokenizer only")
    for text in hard_texts.natural_texts(100, seed=2) + TEXTS:
        a, b = (t(text, return_offsets_mapping=True) for t in both)
        assert a["offset_mapping"] == b["offset_mapping"]
        assert a.word_ids() == b.word_ids()
        assert a.tokens() == b.tokens()
        for char in range(len(text)):
            assert a.char_to_token(char) == b.char_to_token(char)


def test_their_collator_pads_what_we_return(both):
    ours, theirs = both
    collate = transformers.DataCollatorWithPadding
    rows = [dict(ours(text)) for text in TEXTS[:3]]
    a = collate(ours, return_tensors="np")(rows)
    b = collate(theirs, return_tensors="np")(rows)
    for name in b:
        assert a[name].tolist() == b[name].tolist()


@pytest.mark.parametrize("flavour", ["openai", "basic", "fast"])
def test_they_load_what_we_save(tmp_path, flavour):
    if flavour == "fast":
        ours = OpenAIGPTTokenizerFast.from_pretrained(VOCAB)
    else:
        ours = OpenAIGPTTokenizer.from_pretrained(VOCAB, pre_tokenizer=flavour)
    ours.add_special_tokens({"pad_token": "<pad>", "eos_token": "<eos>"})
    ours.add_tokens("newtok")
    ours.model_max_length = 512
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.OpenAIGPTTokenizerFast)
    assert theirs.get_vocab() == ours.get_vocab()
    assert theirs.pad_token_id == ours.pad_token_id
    assert theirs.model_max_length == 512
    fast = OpenAIGPTTokenizerFast.from_pretrained(tmp_path)
    texts = [*TEXTS, "a newtok <pad>NEWTOK<eos>"]
    assert fast(texts)["input_ids"] == theirs(texts)["input_ids"]


@pytest.mark.parametrize("kind", ["slow", "fast"])
def test_we_load_what_they_save(tmp_path, monkeypatch, kind):
    if kind == "slow":
        theirs = their_slow(monkeypatch)
    else:
        theirs = transformers.OpenAIGPTTokenizerFast.from_pretrained(str(VOCAB))
    theirs.add_special_tokens({"pad_token": "<pad>"})
    theirs.add_tokens("newtok")
    theirs.save_pretrained(tmp_path)
    ours = OpenAIGPTTokenizer.from_pretrained(tmp_path)
    assert ours.pre_tokenizer == {"slow": "transformers", "fast": "basic"}[kind]
    assert ours.get_vocab() == theirs.get_vocab()
    texts = [*TEXTS, "a newtok <pad>NEWTOK"]
    expected = [theirs.encode(text) for text in texts]
    assert ours(texts)["input_ids"] == expected
    if kind == "fast":
        fast = OpenAIGPTTokenizerFast.from_pretrained(tmp_path)
        assert fast(texts)["input_ids"] == expected
