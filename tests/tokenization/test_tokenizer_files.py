"""Saving, loading, and files that do not fit."""

import json
import shutil
import sys

import pytest
from small_vocabularies import MERGES, PIECES, write_vocabulary
from tokenizers import AddedToken, processors

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast
from tf_gpt.errors import HubError, TokenizerError
from tf_gpt.tokenization import files, pretokenizers

TEXT = "Once upon a time <pad> Mr. Brown doesn't know;\nNewTok <x> the U.S."


def edit(path, **changes):
    content = json.loads(path.read_text("utf-8"))
    content.update(changes)
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("flavour", pretokenizers.FLAVOURS)
def test_the_flavour_is_saved(trained, tmp_path, flavour):
    tokenizer = OpenAIGPTTokenizer.from_pretrained(trained, pre_tokenizer=flavour)
    tokenizer.save_pretrained(tmp_path)
    again = OpenAIGPTTokenizer.from_pretrained(tmp_path)
    assert again.pre_tokenizer == flavour
    assert again.encode(TEXT) == tokenizer.encode(TEXT)


def test_a_saved_tokenizer_comes_back_whole(tokenizer, tmp_path):
    tokenizer.add_tokens(["NewTok", AddedToken("dog", single_word=True)])
    tokenizer.add_special_tokens(
        {"eos_token": "<eos>", "additional_special_tokens": ["<x>"]}
    )
    tokenizer.model_max_length = 77
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.encode("dog dogs") == tokenizer.encode("dog dogs")
    assert again.model_max_length == 77
    assert again.padding_side == again.truncation_side == "left"
    changed = type(tokenizer).from_pretrained(
        tmp_path, padding_side="right", eos_token="<end>", pad_token=None
    )
    assert changed.padding_side == "right"
    assert changed.pad_token is None
    assert changed.eos_token == "<end>"
    assert len(changed) == len(tokenizer) + 1


@pytest.mark.parametrize("first", [OpenAIGPTTokenizer, OpenAIGPTTokenizerFast])
def test_either_tokenizer_reads_the_others_files(trained, tmp_path, first, caplog):
    options = {"pre_tokenizer": "basic", "pad_token": "<pad>", "eos_token": "<eos>"}
    saved = first.from_pretrained(trained, **options)
    saved.add_tokens("newtok")
    saved.save_pretrained(tmp_path)
    for cls in (OpenAIGPTTokenizer, OpenAIGPTTokenizerFast):
        loaded = cls.from_pretrained(tmp_path)
        assert loaded.get_vocab() == saved.get_vocab()
        assert loaded.encode(TEXT) == saved.encode(TEXT)
        assert loaded.pre_tokenizer == "basic"
    assert not caplog.records


def test_fast_says_that_it_splits_otherwise_than_saved(trained, tmp_path, caplog):
    OpenAIGPTTokenizer.from_pretrained(trained).save_pretrained(tmp_path)
    OpenAIGPTTokenizerFast.from_pretrained(tmp_path)
    assert "'openai'" in caplog.text
    with pytest.raises(TokenizerError, match="'openai'"):
        OpenAIGPTTokenizerFast.from_pretrained(tmp_path, pre_tokenizer="openai")


def test_a_tokenizer_json_alone_is_enough(trained, tmp_path):
    saved = OpenAIGPTTokenizerFast.from_pretrained(trained, pad_token="<pad>")
    saved.save_pretrained(tmp_path / "all")
    shutil.copy(tmp_path / "all" / "tokenizer.json", tmp_path)
    slow = OpenAIGPTTokenizer.from_pretrained(tmp_path, pre_tokenizer="basic")
    fast = OpenAIGPTTokenizerFast.from_pretrained(tmp_path)
    by_path = OpenAIGPTTokenizerFast(tokenizer_file=tmp_path / "tokenizer.json")
    for loaded in (slow, fast, by_path):
        assert loaded.encode(TEXT) == saved.encode(TEXT)


@pytest.mark.parametrize(
    "with_json, flavour", [(False, "transformers"), (True, "basic")]
)
def test_files_of_transformers_get_the_flavour_they_had(
    trained, tmp_path, with_json, flavour, caplog
):
    saved = OpenAIGPTTokenizerFast.from_pretrained(trained)
    saved.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    del config["pre_tokenizer"]  # all that transformers does not write
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    if not with_json:
        (tmp_path / "tokenizer.json").unlink()
    assert OpenAIGPTTokenizer.from_pretrained(tmp_path).pre_tokenizer == flavour
    assert repr(flavour) in caplog.text
    chosen = OpenAIGPTTokenizer.from_pretrained(tmp_path, pre_tokenizer="openai")
    assert chosen.pre_tokenizer == "openai"


def test_released_files_get_the_flavour_of_the_authors(trained, tmp_path, caplog):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    tokenizer = OpenAIGPTTokenizer.from_pretrained(tmp_path)
    assert tokenizer.pre_tokenizer == "openai"
    assert tokenizer.model_max_length == 512
    assert not caplog.records


def test_older_files_of_added_tokens_are_read(cls, trained, tmp_path):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    n = len(cls.from_pretrained(trained))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<b>": n + 1, "<a>": n}))
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps(
            {"eos_token": "<a>", "sep_token": {"content": "<b>", "lstrip": False}}
        )
    )
    tokenizer = cls.from_pretrained(tmp_path, pre_tokenizer="basic")
    assert tokenizer.eos_token_id == n
    assert tokenizer.sep_token_id == n + 1
    assert len(tokenizer) == n + 2
    assert tokenizer.tokenize("a<b>") == ["a</w>", "<b>"]


def test_without_spacy_the_default_is_basic_and_says_so(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(trained)
    with pytest.warns(UserWarning, match="spacy is not installed"):
        ids = tokenizer.encode(TEXT)
    basic = OpenAIGPTTokenizer.from_pretrained(trained, pre_tokenizer="basic")
    assert ids == basic.encode(TEXT)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert OpenAIGPTTokenizer.from_pretrained(tmp_path).pre_tokenizer == "basic"


@pytest.mark.parametrize("missing", ["spacy", "ftfy"])
@pytest.mark.parametrize("flavour", ["openai", "transformers"])
def test_a_saved_flavour_that_cannot_be_had_raises(
    trained, tmp_path, monkeypatch, missing, flavour
):
    tokenizer = OpenAIGPTTokenizer.from_pretrained(trained, pre_tokenizer=flavour)
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f"{flavour!r}.*{missing} is not installed"):
        OpenAIGPTTokenizer.from_pretrained(tmp_path)


def test_save_vocabulary_writes_two_files(tokenizer, tmp_path):
    paths = tokenizer.save_vocabulary(tmp_path / "new", filename_prefix="my")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["my-merges.txt", "my-vocab.json"]
    again = type(tokenizer)(*paths, pad_token="<pad>")
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    first, *merges = (tmp_path / "new" / "my-merges.txt").read_text("utf-8").split("\n")
    assert first == "#version: 0.2"
    assert merges[-1] == ""
    with pytest.raises(TokenizerError, match="must be a directory"):
        tokenizer.save_vocabulary(paths[0])


def test_files_are_never_half_written(tokenizer, tmp_path, monkeypatch):
    tokenizer.save_pretrained(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    tokenizer.add_tokens("newtok")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        tokenizer.save_pretrained(tmp_path)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name in before}
    assert after == before


def test_saving_over_another_tokenizer_leaves_nothing_of_it(trained, toy_dir, tmp_path):
    first = OpenAIGPTTokenizerFast.from_pretrained(trained, pad_token="<pad>")
    first.save_pretrained(tmp_path)
    second = OpenAIGPTTokenizer.from_pretrained(toy_dir, pre_tokenizer="basic")
    second.save_pretrained(tmp_path)
    for cls in (OpenAIGPTTokenizer, OpenAIGPTTokenizerFast):
        assert cls.from_pretrained(tmp_path).get_vocab() == second.get_vocab()


def test_push_to_hub_uploads_what_save_pretrained_writes(tokenizer, monkeypatch):
    import pathlib

    uploads = []

    def upload_folder(repo_id, folder, **options):
        names = sorted(path.name for path in pathlib.Path(folder).iterdir())
        uploads.append((repo_id, names, options))

    monkeypatch.setattr("tf_gpt.hub.upload_folder", upload_folder)
    tokenizer.push_to_hub("me/mine", private=True)
    [(repo_id, names, options)] = uploads
    assert repo_id == "me/mine"
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= set(names)
    assert options["private"] is True


def vocabulary(**changes):
    vocab = {piece: index for index, piece in enumerate(PIECES.split())}
    vocab.update(changes)
    return {piece: index for piece, index in vocab.items() if index is not None}


@pytest.mark.parametrize(
    "vocab, merges, message",
    [
        (vocabulary(**{"<unk>": None}), MERGES, r"`unk_token`.*'<unk>'"),
        (vocabulary(extra=3), MERGES, "3 twice"),
        (vocabulary(extra=50), MERGES, "50 after a gap"),
        (vocabulary(extra=-1), MERGES, "-1"),
        (vocabulary(extra="7"), MERGES, "'7'"),
        (vocabulary(extra=True), MERGES, "True"),
        (vocabulary(), [*MERGES, ("q", "o")], "'q' 'o'; 'q' is"),
        (vocabulary(), [*MERGES, ("l", "e")], "'le' is"),
        (vocabulary(), [*MERGES, MERGES[0]], r"\('l', 'o'\) twice"),
    ],
)
def test_vocabularies_that_do_not_fit_raise(cls, tmp_path, vocab, merges, message):
    write_vocabulary(tmp_path, vocab, merges)
    with pytest.raises(TokenizerError, match=message):
        cls.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("vocab.json", "{", "not readable JSON"),
        ("vocab.json", "[]", "must hold a JSON object.*list"),
        ("merges.txt", "#version: 0.2\nl o\nl o w\n", r"'l o w' \(line 3"),
        ("merges.txt", "l\n", r"'l' \(line 1"),
        ("tokenizer_config.json", "5", "must hold a JSON object.*int"),
        (
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"30": {"content": "<x>"}}}',
            "'<x>' with id 30, where 21 is next",
        ),
        ("tokenizer_config.json", '{"padding_side": "top"}', "'top'"),
    ],
)
def test_damaged_files_raise(cls, toy_dir, tmp_path, name, content, message):
    shutil.copytree(toy_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(TokenizerError, match=message):
        cls.from_pretrained(tmp_path)


def test_missing_files_raise(cls, toy_dir, tmp_path):
    with pytest.raises(HubError, match="no-such-model"):
        cls.from_pretrained("no-such-model")
    with pytest.raises(TokenizerError, match="none of its files"):
        cls.from_pretrained(tmp_path)
    shutil.copy(toy_dir / "vocab.json", tmp_path)
    with pytest.raises(TokenizerError, match=r"which has vocab\.json"):
        cls.from_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="No such file"):
        cls(tmp_path / "vocab.json", tmp_path / "merges.txt")
    with pytest.raises(TokenizerError, match="vocab_file=None"):
        cls()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "'WordPiece'"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "GPT-2"),
    ],
)
def test_a_tokenizer_json_of_another_kind_raises(trained, tmp_path, changes, message):
    OpenAIGPTTokenizerFast.from_pretrained(trained).save_pretrained(tmp_path)
    edit(tmp_path / "tokenizer.json", **changes)
    with pytest.raises(TokenizerError, match=message):
        OpenAIGPTTokenizerFast.from_pretrained(tmp_path)


def test_only_a_template_that_adds_nothing_is_taken(trained, tmp_path):
    tokenizer = OpenAIGPTTokenizerFast.from_pretrained(trained, eos_token="<eos>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A")
    tokenizer.save_pretrained(tmp_path)
    again = OpenAIGPTTokenizerFast.from_pretrained(tmp_path)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="'TemplateProcessing' that adds 1"):
        OpenAIGPTTokenizerFast.from_pretrained(tmp_path)


def test_merges_may_hold_any_character_but_space_and_newline(tmp_path):
    # \x85 and \u2028 end a line for Python's splitlines, not in this file.
    pieces = ["<unk>", "a", "\x85</w>", "\u2028", "a\x85</w>", "\u2028a\x85</w>"]
    merges = [("a", "\x85</w>"), ("\u2028", "a\x85</w>")]
    write_vocabulary(tmp_path, {p: i for i, p in enumerate(pieces)}, merges)
    assert files.read_merges(tmp_path / "merges.txt") == merges
