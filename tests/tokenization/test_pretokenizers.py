import random
import subprocess
import sys

import hard_texts
import pytest

from tf_gpt.tokenization import pretokenizers


def words(flavour, text):
    splitter = pretokenizers.pre_tokenizer(flavour)
    return splitter.join(splitter.chunks(text))


@pytest.mark.parametrize(
    "text, openai, transformers, basic",
    [
        ("Mr. Darcy", "mr. darcy", "mr . darcy", "mr . darcy"),
        ("don't", "do n't", "do n't", "don ' t"),
        ("DON'T", "don't", "do n't", "don ' t"),
        ("the U.S. at", "the u.s. at", "the u.s . at", "the u . s . at"),
        ("well...", "well ...", "well ...", "well . . ."),
        ("a—b", "a - b", "a - b", "a — b"),
        ("a\n\nb", "a \n b", "a \n b", "a b"),
        ("café", "café", "café", "cafe"),
        ("sheâ€™s", "she 's", "she 's", "shea€™s"),
        ("---", "---", "---", "- - -"),
        ("cannot", "can not", "can not", "cannot"),
        # OpenAI's pattern never set backslashes apart; transformers' does.
        ("a\\b", "a\\b", "a \\ b", "a \\ b"),
        ("ΟΔΟΣ", "οδος", "οδοσ", "οδοσ"),
        ("中文", "中文", "中文", "中 文"),
        ("a\u200bb", "a\u200bb", "a\u200bb", "ab"),
        ("", "", "", ""),
        (" \n\t ", "", "", ""),
    ],
)
def test_words_of_each_flavour(text, openai, transformers, basic):
    assert words("openai", text) == [w for w in openai.split(" ") if w]
    assert words("transformers", text) == [w for w in transformers.split(" ") if w]
    assert words("basic", text) == [w for w in basic.split(" ") if w]


@pytest.mark.parametrize("lower_first", [False, True])
def test_chunks_give_the_words_of_the_whole_text(lower_first):
    """Chunk by chunk, as the tokenizer caches them, or as spaCy splits it all."""
    splitter = pretokenizers.SpacyRules(lower_first)
    rnd = random.Random(0)
    emoticons = [*splitter._spacy.rules, *":;()-8=xXoOD3"]
    texts = hard_texts.generated_texts(400)
    texts += ["".join(rnd.choices(emoticons, k=5)) for _ in range(400)]
    texts += [" ".join(rnd.choices(emoticons, k=5)) for _ in range(400)]
    n_hard = 0
    for text in texts:
        chunks = splitter.chunks(text)
        try:
            ours = [word for chunk in chunks for word in splitter.split(chunk)]
        except pretokenizers.NeighboursMatter:
            n_hard += 1
            continue
        assert ours == splitter.join(chunks)
    assert n_hard < 200


def test_a_chunk_whose_neighbours_matter_is_told():
    splitter = pretokenizers.SpacyRules()
    # spaCy finds ":o)" across the space, and so misses ":o".
    assert splitter.join(["1pm:o", ")"]) == ["1pm", ":", "o", ")"]
    assert splitter.join(["1pm:o", "x"]) == ["1pm", ":o", "x"]
    with pytest.raises(pretokenizers.NeighboursMatter):
        splitter.split("1pm:o")


@pytest.mark.parametrize("flavour", pretokenizers.FLAVOURS)
def test_traced_words_are_the_same_words(flavour):
    splitter = pretokenizers.pre_tokenizer(flavour)
    for text in hard_texts.generated_texts(300, seed=3, surrogates=True):
        traced = splitter.traced_words(text)
        assert [word.text for word in traced] == splitter.join(splitter.chunks(text))
        for word in traced:
            assert len(word.spans) == len(word.text)
            assert all(0 <= a <= b <= len(text) for a, b in word.spans)


def test_a_new_spacy_gives_the_same_words(monkeypatch):
    monkeypatch.setattr(pretokenizers, "_CHUNKS_PER_SPACY", 3)
    splitter = pretokenizers.SpacyRules()
    first = splitter._spacy
    assert [splitter.split("don't") for _ in range(5)] == [["do", "n't"]] * 5
    assert splitter._spacy is not first


def test_importing_the_tokenizers_imports_neither_tensorflow_nor_spacy():
    code = (
        "import sys, tf_gpt; tf_gpt.OpenAIGPTTokenizer, tf_gpt.OpenAIGPTTokenizerFast;"
        "print(sys.modules.keys() & {'tensorflow', 'keras', 'spacy', 'ftfy'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
