"""What both tokenizers do: the behaviour of transformers' own tests for this model."""

import pickle

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer

from tf_gpt import BatchEncoding, OpenAIGPTTokenizerFast
from tf_gpt.errors import TokenizerError

TEXTS = [
    "Once upon a time there was a king.",
    "the little girl",
    "He looked at the big brown dog, and the dog looked at the little girl.",
]


# Tokens, ids and text.


def test_pieces_and_ids_of_the_toy_vocabulary(cls, toy_dir):
    tokenizer = cls.from_pretrained(toy_dir)
    assert tokenizer.tokenize("lower") == ["low", "er</w>"]
    tokens = [*tokenizer.tokenize("lower"), "<unk>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [14, 15, 20]
    assert tokenizer.convert_ids_to_tokens([14, 15, 20]) == tokens
    assert tokenizer.encode("lower newer") == [14, 15, 9, 3, 2, 15]


def test_vocabulary_words_come_back(tokenizer):
    words = [
        p.removesuffix("</w>") for p in tokenizer.get_vocab() if p.endswith("</w>")
    ]
    words = [word for word in words if word.isalpha()]
    assert len(words) > 50
    text = " ".join(words)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokens_ids_and_a_call_agree(tokenizer):
    for text in [*TEXTS, "", "Mr. Brown doesn't know <pad> it"]:
        tokens = tokenizer.tokenize(text)
        ids = tokenizer.convert_tokens_to_ids(tokens)
        assert tokenizer(text)["input_ids"] == tokenizer.encode(text) == ids
        assert tokenizer(text).tokens() == tokens
        assert tokenizer.convert_ids_to_tokens(ids) == tokens


def test_a_batch_equals_its_texts(tokenizer):
    batch = tokenizer(TEXTS)
    assert isinstance(batch, dict)
    assert isinstance(batch, BatchEncoding)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert batch["input_ids"] == [tokenizer.encode(text) for text in TEXTS]
    assert batch.attention_mask == [[1] * len(ids) for ids in batch.input_ids]
    assert tokenizer.batch_encode_plus(TEXTS) == batch
    assert tokenizer.encode_plus(TEXTS[0]) == tokenizer(TEXTS[0])
    assert tokenizer(tuple(TEXTS)) == batch


def test_unknown_characters_are_the_unknown_token(tokenizer):
    assert tokenizer.encode("ж") == [tokenizer.unk_token_id]
    assert tokenizer.convert_tokens_to_ids("no such piece") == tokenizer.unk_token_id


def test_vocabulary_has_every_token(tokenizer):
    vocab = tokenizer.get_vocab()
    assert len(vocab) == len(tokenizer) == tokenizer.vocab_size + 1
    assert sorted(vocab.values()) == list(range(len(tokenizer)))
    assert vocab["<pad>"] == tokenizer.pad_token_id == tokenizer.vocab_size
    assert tokenizer.get_added_vocab() == {"<pad>": tokenizer.vocab_size}


# Pairs.


def test_a_pair_is_one_text_after_the_other(tokenizer):
    first, second = TEXTS[:2]
    ids = tokenizer.encode(first) + tokenizer.encode(second)
    pair = tokenizer(first, second, return_token_type_ids=True)
    n, m = len(tokenizer.encode(first)), len(tokenizer.encode(second))
    assert pair["input_ids"] == ids
    assert pair["token_type_ids"] == pair.sequence_ids() == [0] * n + [1] * m
    assert pair.n_sequences == 2
    assert tokenizer.encode(first, second) == ids
    assert tokenizer.batch_encode_plus([(first, second)])["input_ids"] == [ids]
    assert tokenizer([first], [second])["input_ids"] == [ids]
    assert tokenizer.tokenize(first, second) == pair.tokens()


def test_type_ids_come_only_on_request(tokenizer):
    assert "token_type_ids" not in tokenizer("a", "b")
    tokenizer.model_input_names = ["input_ids", "token_type_ids"]
    assert list(tokenizer("a", "b")) == ["input_ids", "token_type_ids"]


def test_no_token_is_put_around_a_text(tokenizer):
    a, b = [1, 2], [3]
    assert tokenizer.num_special_tokens_to_add(pair=True) == 0
    assert tokenizer.build_inputs_with_special_tokens(a, b) == [1, 2, 3]
    assert tokenizer.create_token_type_ids_from_sequences(a, b) == [0, 0, 1]
    assert tokenizer.get_special_tokens_mask(a, b) == [0, 0, 0]
    with_special = [1, tokenizer.pad_token_id]
    mask = tokenizer.get_special_tokens_mask(with_special, None, True)
    assert mask == [0, 1]
    text = TEXTS[0]
    assert tokenizer(text, add_special_tokens=False) == tokenizer(text)
    assert tokenizer("<unk> a", return_special_tokens_mask=True)[
        "special_tokens_mask"
    ] == [0] * len(tokenizer.encode("<unk> a"))


def test_prepare_for_model_equals_a_call(tokenizer):
    a, b = (tokenizer.encode(text) for text in TEXTS[:2])
    options = {"padding": "max_length", "max_length": 40, "truncation": True}
    options["return_token_type_ids"] = True
    assert tokenizer.prepare_for_model(a, b, **options) == tokenizer(
        *TEXTS[:2], **options
    )
    assert tokenizer.prepare_for_model(a) == tokenizer(TEXTS[0])
    with pytest.raises(TokenizerError, match="return_offsets_mapping"):
        tokenizer.prepare_for_model(a, return_offsets_mapping=True)


def test_words_given_one_by_one(tokenizer):
    words = ["once", "upon", "a", "time"]
    split = tokenizer(words, is_split_into_words=True)
    assert split["input_ids"] == tokenizer("once upon a time")["input_ids"]
    assert sorted(set(split.word_ids())) == [0, 1, 2, 3]
    batch = tokenizer([words, words[:2]], [words[:1], words], is_split_into_words=True)
    assert batch["input_ids"][0] == split["input_ids"] + tokenizer.encode("once")
    assert tokenizer([], is_split_into_words=True)["input_ids"] == []


# Padding.


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("by", ["argument", "attribute"])
def test_padding_goes_where_it_should(tokenizer, side, by):
    if by == "attribute":
        tokenizer.padding_side = side
    options = {"padding_side": side} if by == "argument" else {}
    plain = tokenizer(TEXTS)["input_ids"]
    longest = max(map(len, plain))
    batch = tokenizer(
        TEXTS,
        padding=True,
        return_special_tokens_mask=True,
        return_token_type_ids=True,
        return_offsets_mapping=True,
        **options,
    )
    for i, ids in enumerate(plain):
        pads = [tokenizer.pad_token_id] * (longest - len(ids))
        zeros, ones = [0] * len(pads), [1] * len(ids)
        left = side == "left"
        assert batch["input_ids"][i] == (pads + ids if left else ids + pads)
        assert batch["attention_mask"][i] == (zeros + ones if left else ones + zeros)
        assert batch["special_tokens_mask"][i] == [
            1 - m for m in batch.attention_mask[i]
        ]
        assert batch["token_type_ids"][i] == [0] * longest
        assert len(batch["offset_mapping"][i]) == longest
        row = batch[i]
        assert row.ids == batch["input_ids"][i]
        assert row.offsets == batch["offset_mapping"][i]
        assert row.attention_mask == batch["attention_mask"][i]
        assert row.special_tokens_mask == batch["special_tokens_mask"][i]
        assert len(row.tokens) == len(row.word_ids) == longest
        assert row.tokens.count("<pad>") == len(pads)


def test_padded_lengths(tokenizer):
    longest = max(len(ids) for ids in tokenizer(TEXTS)["input_ids"])

    def lengths(**options):
        return {len(ids) for ids in tokenizer(TEXTS, **options)["input_ids"]}

    assert lengths(padding=True) == lengths(padding="longest") == {longest}
    assert lengths(padding="max_length", max_length=50) == {50}
    assert lengths(padding=True, pad_to_multiple_of=8) == {-(-longest // 8) * 8}
    assert lengths(padding="max_length", max_length=50, pad_to_multiple_of=8) == {56}
    tokenizer.model_max_length = 60
    assert lengths(padding="max_length") == {60}
    assert lengths(padding=False) == lengths() == lengths(padding="do_not_pad")
    assert len(tokenizer("a", padding="max_length")["input_ids"]) == 60


def test_pad_equals_padding_in_the_call(tokenizer):
    padded = tokenizer(TEXTS, padding=True, pad_to_multiple_of=8)
    plain = tokenizer(TEXTS)
    assert tokenizer.pad(plain, pad_to_multiple_of=8) == padded
    rows = [tokenizer(text) for text in TEXTS]
    assert tokenizer.pad(rows, pad_to_multiple_of=8) == padded
    assert tokenizer.pad({"input_ids": plain["input_ids"]}) == tokenizer(
        TEXTS, padding=True
    )
    single = tokenizer.pad(rows[1], padding="max_length", max_length=40)
    assert single == tokenizer(TEXTS[1], padding="max_length", max_length=40)
    arrays = [{"input_ids": np.array(row["input_ids"])} for row in rows]
    assert tokenizer.pad(arrays)["input_ids"] == tokenizer.pad(plain)["input_ids"]
    labels = tokenizer.pad(
        [{"input_ids": [1], "labels": 5}, {"input_ids": [1, 2], "labels": 6}]
    )
    assert labels["labels"] == [5, 6]


def test_padding_without_a_pad_token_raises(cls, toy_dir):
    tokenizer = cls.from_pretrained(toy_dir)
    assert tokenizer.pad_token is None
    for call, texts in (
        (tokenizer.encode, "low"),
        (tokenizer.encode_plus, "low"),
        (tokenizer.batch_encode_plus, ["low", "lower"]),
        (tokenizer.batch_encode_plus, [("low", "lower"), ("new", "wider")]),
        (tokenizer, ["low"]),
    ):
        with pytest.raises(ValueError, match=r"padding='max_length', pad_token=None"):
            call(texts, padding="max_length", max_length=15)
    with pytest.raises(ValueError, match="pad_token=None"):
        tokenizer.pad({"input_ids": [[1], [1, 2]]})


# Truncation.


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_cuts_the_right_side(tokenizer, side):
    tokenizer.truncation_side = side
    ids = tokenizer.encode(TEXTS[2])
    kept = ids[-5:] if side == "left" else ids[:5]
    assert tokenizer.encode(TEXTS[2], truncation=True, max_length=5) == kept
    assert tokenizer.encode(TEXTS[2], max_length=5) == kept
    assert tokenizer.encode(TEXTS[2], truncation=False, max_length=5) == ids
    assert tokenizer.encode(TEXTS[2], truncation="do_not_truncate") == ids
    tokenizer.model_max_length = 5
    assert tokenizer.encode(TEXTS[2], truncation=True) == kept
    assert tokenizer.encode(TEXTS[2]) == ids
    batch = tokenizer(TEXTS, truncation=True, padding="max_length", return_tensors="np")
    assert batch["input_ids"].shape == (3, 5)


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pairs_are_truncated_by_strategy(tokenizer, strategy, side):
    tokenizer.truncation_side = side
    first, second = tokenizer.encode(TEXTS[2]), tokenizer.encode(TEXTS[0])
    n, m = len(first), len(second)
    for total in (n + m - 1, n + m - 3, n + m + 5):
        pair = tokenizer(TEXTS[2], TEXTS[0], truncation=strategy, max_length=total)
        kept = [pair.sequence_ids().count(i) for i in (0, 1)]
        excess = max(n + m - total, 0)
        expected = [n, m - excess] if strategy == "only_second" else [n - excess, m]
        assert kept == expected
        a, b = kept
        parts = (first[:a], second[:b])
        if side == "left":
            parts = (first[n - a :], second[m - b :])
        assert pair["input_ids"] == parts[0] + parts[1]


@pytest.mark.parametrize("n", range(1, 24, 3))
def test_longest_first_leaves_the_odd_token_where_transformers_does(tokenizer, n):
    a, b = "a " * 9, "a " * 6
    counts = tokenizer(a, b, max_length=n, truncation=True).sequence_ids()
    first, second = counts.count(0), counts.count(1)
    assert first + second == min(n, 15)
    if n < 12:  # both are cut, the longer one to one token more at most
        assert first - second in (0, 1)


def test_windows_of_a_long_text(trained):
    tokenizer = OpenAIGPTTokenizerFast.from_pretrained(trained)
    ids = tokenizer.encode(TEXTS[2])
    windows = tokenizer(
        [TEXTS[1], TEXTS[2]],
        truncation=True,
        max_length=7,
        stride=2,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    n_short = windows["overflow_to_sample_mapping"].count(0)
    rows = windows["input_ids"][n_short:]
    assert rows[0] == ids[:7]
    assert rows[1] == ids[5:12]
    assert sum((row[2:] for row in rows[1:]), rows[0]) == ids
    assert len(windows["offset_mapping"]) == len(windows["input_ids"])
    assert windows[n_short + 1].offsets == windows["offset_mapping"][n_short + 1]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("max_length, stride", [(9, 0), (9, 2), (14, 3), (40, 1)])
def test_fast_windows_equal_the_tokenizers_library(
    trained, side, strategy, max_length, stride
):
    tokenizer = OpenAIGPTTokenizerFast.from_pretrained(trained, truncation_side=side)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for texts in ((TEXTS[2],), ("a " * 6, "a " * 20), ("a " * 20, "a " * 5)):
        if len(texts) == 1 and strategy == "only_second":
            continue
        counts = [len(tokenizer.encode(text)) for text in texts]
        cut = 1 if strategy == "only_second" else 0
        if (
            strategy != "longest_first"
            and counts[cut] - sum(counts) + max_length <= stride
        ):
            continue
        backend.enable_truncation(
            max_length, stride=stride, strategy=strategy, direction=side
        )
        row = backend.encode(*texts)
        ours = tokenizer(
            *texts,
            truncation=strategy,
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
        )
        assert ours["input_ids"] == [e.ids for e in [row, *row.overflowing]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_slow_overflow_is_one_list(trained, side):
    from tf_gpt import OpenAIGPTTokenizer

    tokenizer = OpenAIGPTTokenizer.from_pretrained(trained, truncation_side=side)
    ids = tokenizer.encode(TEXTS[2])
    out = tokenizer(
        TEXTS[2],
        truncation=True,
        max_length=6,
        stride=2,
        return_overflowing_tokens=True,
    )
    left = side == "left"
    assert out["input_ids"] == (ids[-6:] if left else ids[:6])
    assert out["overflowing_tokens"] == (ids[:-4] if left else ids[4:])
    assert out["num_truncated_tokens"] == len(ids) - 6
    with pytest.raises(TokenizerError, match="longest_first"):
        tokenizer(
            "a a", "a a", max_length=3, truncation=True, return_overflowing_tokens=True
        )


def test_truncate_sequences(tokenizer):
    a, b = list(range(5)), list(range(10, 13))
    assert tokenizer.truncate_sequences(a, b, 2, "only_first", 1) == (
        [0, 1, 2],
        b,
        [2, 3, 4],
    )
    assert tokenizer.truncate_sequences(a, b, 1, "only_second") == (a, [10, 11], [12])
    assert tokenizer.truncate_sequences(a, None, 3) == ([0, 1], None, [2, 3, 4])
    assert tokenizer.truncate_sequences(a, b, 0) == (a, b, [])


# Tensors.


@pytest.mark.parametrize("tensors, dtype", [("np", "int64"), ("tf", "int32")])
def test_tensors_hold_the_ids(tokenizer, tensors, dtype):
    lists = tokenizer(TEXTS, padding=True, return_token_type_ids=True)
    batch = tokenizer(
        TEXTS, padding=True, return_token_type_ids=True, return_tensors=tensors
    )
    for name, rows in lists.items():
        assert np.array(batch[name]).tolist() == rows
        assert np.array(batch[name]).dtype == dtype
    assert np.array(tokenizer.encode("a time", return_tensors=tensors)).shape[0] == 1
    assert (
        np.array(tokenizer("a time", return_tensors=tensors)["attention_mask"]).ndim
        == 2
    )
    again = BatchEncoding(lists).convert_to_tensors(tensors)
    assert np.array(again["input_ids"]).tolist() == lists["input_ids"]


def test_tensors_need_rows_of_one_length(tokenizer):
    with pytest.raises(TokenizerError, match=r"padding=True.*'input_ids' with lengths"):
        tokenizer(TEXTS, return_tensors="np")
    with pytest.raises(TokenizerError, match="'jax'"):
        tokenizer("a", return_tensors="jax")


def test_flags_add_fields(tokenizer):
    out = tokenizer(TEXTS, return_length=True, return_attention_mask=False)
    assert list(out) == ["input_ids", "length"]
    assert out["length"] == [len(ids) for ids in out["input_ids"]]


def test_targets_become_labels(tokenizer):
    out = tokenizer(TEXTS, text_target=TEXTS[::-1])
    assert out["labels"] == tokenizer(TEXTS[::-1])["input_ids"]
    assert tokenizer(text_target="a time") == tokenizer("a time")


# Where tokens come from.


def test_offsets_words_and_characters_agree(tokenizer):
    text = "The little girl's dog, Mr. Brown!"
    out = tokenizer(text, return_offsets_mapping=True)
    for i, (token, (start, end)) in enumerate(
        zip(out.tokens(), out["offset_mapping"], strict=True)
    ):
        assert text[start:end].lower() == token.removesuffix("</w>")
        assert out.char_to_token(start) == i
        assert out.token_to_chars(0, i) == (start, end)
        word = out.token_to_word(i)
        assert out.char_to_word(start) == word == out.word_ids()[i] == out.words()[i]
        first, last = out.word_to_tokens(word)
        assert first <= i < last
        assert out.word_to_chars(word)[0] <= start
        assert out.token_to_sequence(i) == 0
    assert out.char_to_token(text.index(" ")) is None
    assert out.char_to_word(len(text)) is None
    assert out.word_to_tokens(99) is None


def test_places_in_the_second_text_of_a_pair(tokenizer):
    out = tokenizer(["a", "a"], ["the dog", "a dog"], padding=True)
    token = out.char_to_token(1, 2, sequence_index=1)
    assert out.sequence_ids(1)[token] == 1
    assert out[1].offsets[token][0] == 2
    assert out.word_to_chars(1, 1, sequence_index=1) == (2, 5)


def test_what_was_made_from_ids_has_no_words(tokenizer):
    with pytest.raises(TokenizerError, match="was made from ids"):
        tokenizer.pad({"input_ids": [[1]]}).word_ids()
    with pytest.raises(AttributeError, match="no_field"):
        _ = tokenizer("a").no_field


# Special and added tokens.


def test_special_tokens_can_be_set_and_unset(tokenizer):
    token = tokenizer.convert_ids_to_tokens(7)
    for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        setattr(tokenizer, f"{name}_token_id", None)
        assert getattr(tokenizer, f"{name}_token") is None
        assert getattr(tokenizer, f"{name}_token_id") is None
        setattr(tokenizer, f"{name}_token_id", 7)
        assert getattr(tokenizer, f"{name}_token") == token
    tokenizer.additional_special_tokens_ids = [7]
    assert tokenizer.additional_special_tokens == [token]
    tokenizer.additional_special_tokens_ids = []
    assert tokenizer.additional_special_tokens == []
    with pytest.raises(TokenizerError, match="'<none>'"):
        tokenizer.eos_token = "<none>"


def test_special_tokens_of_the_constructor_are_added(cls, trained):
    plain = cls.from_pretrained(trained)
    tokenizer = cls.from_pretrained(
        trained,
        eos_token="<eos>",
        bos_token=AddedToken("<bos>", lstrip=True),
        additional_special_tokens=["<x>"],
    )
    assert len(tokenizer) == len(plain) + 3
    assert tokenizer.special_tokens_map == {
        "unk_token": "<unk>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "additional_special_tokens": ["<x>"],
    }
    tokens = [token.strip() for token in tokenizer.tokenize("a <bos>time<x>")]
    assert tokens == ["a</w>", "<bos>", "time</w>", "<x>"]


def test_added_tokens_are_never_split_and_the_longest_wins(tokenizer):
    n = len(tokenizer)
    assert tokenizer.add_tokens(["new_tok", "new_tok long", "xy", "xyz", ""]) == 4
    assert tokenizer.add_tokens("new_tok") == 0
    assert len(tokenizer) == n + 4
    tokens = tokenizer.tokenize("a xyz xy new_tok long new_tok time")
    assert tokens == ["a</w>", "xyz", "xy", "new_tok long", "new_tok", "time</w>"]
    assert tokenizer.convert_tokens_to_ids("xyz") == n + 3


def test_plain_tokens_match_any_case_and_special_ones_their_own(tokenizer):
    tokenizer.add_tokens(["NewTok"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<Sp>"]})
    plain = tokenizer.tokenize("NEWTOK")
    assert plain == tokenizer.tokenize("newtok")
    assert len(plain) == 1
    assert tokenizer.tokenize("<Sp>") == ["<Sp>"]
    assert tokenizer.tokenize("<sp>") != ["<Sp>"]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"single_word": True}, "hotdogs dog"),
        ({"lstrip": True, "rstrip": True}, "a  dog  a"),
    ],
)
def test_options_of_added_tokens_count(cls, toy_dir, options, text):
    tokenizer = cls.from_pretrained(toy_dir)
    tokenizer.add_tokens(AddedToken("dog", normalized=False, **options))
    out = tokenizer(text, return_offsets_mapping=True)
    [place] = [i for i, index in enumerate(out["input_ids"]) if index == 21]
    start, end = out["offset_mapping"][place]
    assert text[start:end].strip() == "dog"
    # The letters around it: none of them was swallowed, nor any space kept.
    assert len(out["input_ids"]) == len(text.replace(" ", "")) - 2


def test_special_tokens_are_skipped_in_decoding(tokenizer):
    tokenizer.add_special_tokens({"eos_token": "<eos>"})
    ids = tokenizer.encode("a time<eos><pad>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a time"
    assert "<eos>" in tokenizer.decode(ids)
    assert tokenizer.convert_ids_to_tokens(ids, skip_special_tokens=True) == [
        "a</w>",
        "time</w>",
    ]
    batch = tokenizer(TEXTS, padding=True, return_tensors="np")["input_ids"]
    plain = [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS]
    assert tokenizer.batch_decode(batch, skip_special_tokens=True) == plain
    assert tokenizer.decode(np.int64(ids[0])) == "a"


def test_clean_up_removes_spaces_before_punctuation(tokenizer):
    ids = tokenizer.encode("well, i am. the end!")
    assert " ," in tokenizer.decode(ids)
    clean = tokenizer.decode(ids, clean_up_tokenization_spaces=True)
    assert clean == "well, i am. the end!"
    tokenizer.clean_up_tokenization_spaces = True
    assert tokenizer.decode(ids) == clean


def test_ids_outside_the_vocabulary_raise(tokenizer):
    for ids in ([len(tokenizer)], [-1], [0, 10**9]):
        with pytest.raises(TokenizerError, match=str(ids[-1])):
            tokenizer.decode(ids)
        with pytest.raises(TokenizerError, match=str(ids[-1])):
            tokenizer.convert_ids_to_tokens(ids)
    with pytest.raises(TokenizerError, match="whole numbers"):
        tokenizer.decode([1.5])


# Training, copies, bad input.


def test_a_new_vocabulary_keeps_the_rest(tokenizer):
    texts = ["This is the first sentence.", "This is the second one."] * 5
    new = tokenizer.train_new_from_iterator(
        iter([texts]),
        60,
        new_special_tokens=["<new>"],
        special_tokens_map={"<pad>": "<fill>"},
    )
    assert type(new) is type(tokenizer)
    assert len(new) <= 60
    assert new.pad_token == "<fill>"
    assert new.additional_special_tokens == ["<new>"]
    assert new.padding_side == tokenizer.padding_side
    ids = new.encode("this is the second sentence.")
    assert len(ids) == 6
    assert new.decode(ids) == "this is the second sentence ."
    assert new.pre_tokenizer == tokenizer.pre_tokenizer


def test_copies_give_equal_ids(tokenizer):
    tokenizer.add_tokens(["bonjour"])
    copy = pickle.loads(pickle.dumps(tokenizer))
    text = "a bonjour <pad> time"
    assert copy.encode(text) == tokenizer.encode(text)
    batch = tokenizer([text], return_tensors="np")
    again = pickle.loads(pickle.dumps(batch))
    assert again["input_ids"].tolist() == batch["input_ids"].tolist()
    assert again.tokens() == batch.tokens()


@pytest.mark.parametrize(
    "text, shown",
    [
        (None, "None"),
        (5, "5 \\(int\\)"),
        (b"bytes", "b'bytes'"),
        ([["a", "b"]], "\\['a', 'b'\\]"),
        (["a", None], r"text\[1\].*None"),
        (["a", 3], r"text\[1\].*3"),
        ([], r"\[\]"),
        ([1, 2], r"text\[0\].*1"),
        ([("a", "b", "c")], "'a', 'b', 'c'"),
        ({"a": 1}, "dict"),
    ],
)
def test_texts_of_the_wrong_kind_raise(tokenizer, text, shown):
    with pytest.raises(TokenizerError, match=shown):
        tokenizer(text)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"text_pair": "b"}, "text_pair"),
        ({"text_pair": ["b"]}, "2 texts"),
        ({"padding": "longst"}, "'longst'"),
        ({"truncation": "first"}, "'first'"),
        ({"truncation": True}, "`max_length` is needed"),
        ({"padding": "max_length"}, "`max_length` is needed"),
        ({"truncation": True, "max_length": 0}, "1 or more. Received: 0"),
        ({"truncation": True, "max_length": -3}, "-3"),
        ({"truncation": True, "max_length": 2.5}, "2.5"),
        ({"truncation": True, "max_length": 5, "stride": -1}, "`stride`.*-1"),
        ({"truncation": "only_second", "max_length": 2}, "needs a pair"),
        ({"padding": True, "padding_side": "top"}, "'top'"),
        ({"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of"),
        (
            {
                "padding": True,
                "truncation": True,
                "max_length": 9,
                "pad_to_multiple_of": 8,
            },
            "max_length=9",
        ),
        ({"return_overflowing_tokens": True}, "needs `truncation`"),
    ],
)
def test_options_out_of_range_raise(tokenizer, options, message):
    with pytest.raises(TokenizerError, match=message):
        tokenizer(["once upon a time", "the dog"], **options)


def test_a_stride_as_long_as_the_window_raises(trained):
    tokenizer = OpenAIGPTTokenizerFast.from_pretrained(trained)
    with pytest.raises(TokenizerError, match="stride=5"):
        tokenizer(
            TEXTS[2],
            truncation=True,
            max_length=5,
            stride=5,
            return_overflowing_tokens=True,
        )


def test_unknown_options_raise(cls, trained, tokenizer):
    with pytest.raises(TypeError, match="no_such_option"):
        tokenizer("a", no_such_option=1)
    with pytest.raises(TokenizerError, match="no_such_option"):
        cls.from_pretrained(trained, no_such_option=1)
    with pytest.raises(TokenizerError, match="'sideways'"):
        cls.from_pretrained(trained, padding_side="sideways")
    with pytest.raises(TokenizerError, match="'spacy'"):
        cls.from_pretrained(trained, pre_tokenizer="spacy")
    with pytest.raises(TokenizerError, match="'end_token'"):
        tokenizer.add_special_tokens({"end_token": "<end>"})
    with pytest.raises(TokenizerError, match="Received: 5"):
        tokenizer.add_tokens([5])
    with pytest.raises(TokenizerError, match="Received: 5"):
        tokenizer.add_special_tokens({"eos_token": 5})


def test_long_sequences_are_logged_once(tokenizer, caplog):
    tokenizer.model_max_length = 4
    tokenizer(TEXTS[2], verbose=False)
    assert not caplog.records
    tokenizer(TEXTS[2])
    tokenizer(TEXTS[2])
    assert [r.args[1] for r in caplog.records] == [4]
