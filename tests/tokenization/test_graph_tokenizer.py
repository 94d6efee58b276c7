import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from hard_texts import every_code_point, generated_texts
from tokenizers import AddedToken

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast
from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization.graph import GraphTokenizer, IdsToText, TextToIds


@pytest.fixture(scope="module")
def fast(trained):
    return OpenAIGPTTokenizerFast.from_pretrained(
        trained, pad_token="<pad>", eos_token="<eos>"
    )


@pytest.fixture(scope="module")
def graph(fast):
    return GraphTokenizer(fast)


def encoded(texts):
    return tf.constant([text.encode("utf-8", "surrogatepass") for text in texts])


def assert_equal_to_fast(graph, fast, texts):
    ids = graph(encoded(texts)).to_list()
    expected = fast(texts)["input_ids"]
    wrong = [t for t, a, b in zip(texts, ids, expected, strict=True) if a != b]
    assert wrong == []


def test_ids_equal_those_of_fast_on_hard_texts(graph, fast):
    assert_equal_to_fast(graph, fast, generated_texts(400, surrogates=True))


def test_ids_equal_those_of_fast_on_a_sample_of_code_points(graph, fast):
    assert_equal_to_fast(graph, fast, every_code_point(step=499))


@pytest.mark.slow
def test_ids_equal_those_of_fast_on_every_code_point(graph, fast):
    texts = every_code_point()
    for begin in range(0, len(texts), 20_000):
        assert_equal_to_fast(graph, fast, texts[begin : begin + 20_000])


def test_ids_equal_those_of_fast_with_the_released_vocabulary(released):
    fast = OpenAIGPTTokenizerFast.from_pretrained(released)
    graph = GraphTokenizer(fast)
    assert_equal_to_fast(graph, fast, every_code_point(step=997))
    assert_equal_to_fast(graph, fast, generated_texts(200, seed=9))


def test_special_tokens_are_found_as_fast_finds_them(graph, fast):
    texts = [
        "",
        "<pad>",
        "a<pad><eos>b <unk> time",
        "<p\x00ad> \x00<eos>\x02 <EOS> <<pad>>",
        "\U00100000 \U00100001x \U0010fffd",
        " \n",
    ]
    assert_equal_to_fast(graph, fast, texts)


def test_the_longest_of_overlapping_tokens_wins(trained):
    fast = OpenAIGPTTokenizerFast.from_pretrained(
        trained, additional_special_tokens=["<a", "<a><b>", "><b", "b>.", "(x)*"]
    )
    texts = ["<a><b>.", "<a>.", "x><b>.", "<a<a><b><a", "(x)* xx"]
    assert_equal_to_fast(GraphTokenizer(fast), fast, texts)


def test_an_empty_batch_and_empty_texts(graph):
    assert graph(tf.constant([], tf.string)).to_list() == []
    assert graph(["", " "]).to_list() == [[], []]
    assert graph.detokenize(tf.zeros([2, 0], tf.int32)).numpy().tolist() == [b"", b""]


def test_bytes_that_are_not_utf8_are_removed(graph):
    ids = graph([b"ti\xffme \xc3", b"time"]).to_list()
    assert ids[0] == ids[1]


def test_words_longer_than_the_limit_are_merged_in_stretches(fast):
    graph = GraphTokenizer(fast, max_word_length=10)
    word = "looked" * 5
    assert graph([word[:10]]).to_list() == [fast.encode(word[:10])]
    ids = graph([word]).to_list()[0]
    assert graph.detokenize([ids]).numpy() == [word.encode()]
    inner = [fast.encode(word[i : i + 10] + "x")[:-1] for i in (0, 10)]
    assert ids[: len(inner[0])] == inner[0]
    # Two thousand stretches side by side, in as many steps as one of them takes.
    hostile = "ab" * 10_000
    assert graph([hostile]).row_lengths().numpy()[0] > 0


def test_text_of_ids_equals_decode(graph, fast):
    for text in ["Once upon a time.", "a<pad> time <eos><pad>", "don't", ""]:
        ids = fast.encode(text)
        for skip in (False, True):
            ours = graph.detokenize(tf.ragged.constant([ids], tf.int32), skip)
            assert ours.numpy() == [fast.decode(ids, skip_special_tokens=skip).encode()]
    dense = np.array(
        [[*fast.encode("a time"), -1], [len(fast), *fast.encode("a time")]]
    )
    assert graph.detokenize(dense).numpy().tolist() == [b"a time"] * 2


def test_it_works_in_tf_data(graph, fast):
    texts = generated_texts(64, seed=4)
    dataset = tf.data.Dataset.from_tensor_slices(encoded(texts)).batch(16)
    rows = [row for batch in dataset.map(graph) for row in batch.to_list()]
    assert rows == fast(texts)["input_ids"]


@pytest.mark.parametrize("side, length", [("left", 6), ("right", None)])
def test_the_layer_pads_and_truncates_like_fast(fast, side, length):
    layer = TextToIds(
        fast, sequence_length=length, padding_side=side, truncation_side=side
    )
    texts = ["a time", "the dog looked at the little girl", ""]
    expected = type(fast)(
        tokenizer_object=fast.backend_tokenizer, pad_token="<pad>", truncation_side=side
    )(
        texts,
        padding="max_length" if length else True,
        truncation=length is not None,
        max_length=length,
        padding_side=side,
    )
    out = layer(tf.constant(texts))
    for name in ("input_ids", "attention_mask"):
        assert out[name].dtype == tf.int32
        assert out[name].numpy().tolist() == expected[name]


def test_layers_in_a_keras_model_survive_saving(fast, tmp_path):
    text = keras.Input((), dtype="string")
    ids = TextToIds(fast, sequence_length=8)(text)
    back = IdsToText(fast)(ids["input_ids"])
    model = keras.Model(text, {**ids, "text": back})
    texts = tf.constant(["Once upon a time", "the dog"])
    expected = model(texts)
    assert expected["text"].numpy().tolist() == [b"once upon a time", b"the dog"]
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")(texts)
    for name, value in expected.items():
        assert value.numpy().tolist() == again[name].numpy().tolist()


def test_a_saved_model_needs_neither_the_library_nor_assets(graph, fast, tmp_path):
    texts = [t for t in generated_texts(120, seed=7) if "\0" not in t]

    class Served(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def tokenize(self, text):
            ids = graph(text)
            return {"ids": ids.flat_values, "splits": ids.row_splits}

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
        def detokenize(self, ids):
            return {"text": graph.detokenize(ids)}

    served = Served()
    signatures = {"tokenize": served.tokenize, "detokenize": served.detokenize}
    tf.saved_model.save(served, str(tmp_path / "served"), signatures)
    assert list((tmp_path / "served" / "assets").glob("*")) == []
    np.save(tmp_path / "texts.npy", encoded(texts).numpy())
    program = f"""
        import sys
        import numpy as np, tensorflow as tf
        loaded = tf.saved_model.load({str(tmp_path / "served")!r})
        texts = np.load({str(tmp_path / "texts.npy")!r}, allow_pickle=True)
        out = loaded.signatures["tokenize"](tf.constant(texts.tolist()))
        back = loaded.signatures["detokenize"](out["ids"][None])
        assert "tf_gpt" not in sys.modules
        assert len(back["text"]) == 1
        arrays = {{name: value.numpy() for name, value in out.items()}}
        np.savez({str(tmp_path / "out.npz")!r}, **arrays)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    out = np.load(tmp_path / "out.npz")
    rows = np.split(out["ids"], out["splits"][1:-1])
    assert [row.tolist() for row in rows] == fast(texts)["input_ids"]


def test_what_a_graph_cannot_do_raises(fast, trained):
    with pytest.raises(TokenizerError, match="Received: OpenAIGPTTokenizer"):
        GraphTokenizer(OpenAIGPTTokenizer.from_pretrained(trained))
    with pytest.raises(TokenizerError, match=r"max_word_length.*0"):
        GraphTokenizer(fast, max_word_length=0)
    plain = OpenAIGPTTokenizerFast.from_pretrained(trained)
    plain.add_tokens("newtok")
    with pytest.raises(TokenizerError, match="newtok"):
        GraphTokenizer(plain)
    strips = OpenAIGPTTokenizerFast.from_pretrained(
        trained, eos_token=AddedToken("<e>", lstrip=True)
    )
    with pytest.raises(TokenizerError, match="lstrip=True"):
        GraphTokenizer(strips)
    marks = OpenAIGPTTokenizerFast(vocab={"<unk>": 0, "\U0001e944": 1}, merges=[])
    with pytest.raises(TokenizerError, match="1e944"):
        GraphTokenizer(marks)
    other = OpenAIGPTTokenizerFast.from_pretrained(trained)
    other.backend_tokenizer.normalizer = None
    with pytest.raises(TokenizerError, match="normalizer"):
        GraphTokenizer(other)
