"""SavedModels run by a C++ program on TensorFlow's libraries, as in TF Serving."""

import pathlib
import shutil
import struct
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from exported import (
    alone,
    options_of,
    random_rows,
    rows_of,
    small_model,
    small_tokenizer,
)
from tensorflow.core.protobuf import meta_graph_pb2
from tokenization.hard_texts import generated_texts

from tf_gpt import add_tokens_for
from tf_gpt.serving import export_saved_model

pytestmark = pytest.mark.serving

SOURCE = pathlib.Path(__file__).with_name("loader.cc")
SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The C++ program, built once."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler (g++, clang++)")
    library = pathlib.Path(tf.sysconfig.get_lib())
    target = tmp_path_factory.mktemp("loader") / "loader"
    built = subprocess.run(
        [compiler, "-std=c++17", "-O1", "-w", *tf.sysconfig.get_compile_flags()]
        + ["-DEIGEN_MAX_ALIGN_BYTES=64", str(SOURCE), "-o", str(target)]
        # Otherwise the linker leaves out the library that no symbol is taken from,
        # and with it sessions and kernels.
        + [f"-L{library}", "-Wl,--no-as-needed", "-l:libtensorflow_cc.so.2"]
        + ["-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{library}"],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return target


@pytest.fixture(scope="session", params=["xla allowed", "xla disabled"])
def serve(request, program, tmp_path_factory):
    """Runs requests [(signature, inputs)] against a folder, in one process.

    Returns a dict of outputs for each, or the text of its error.
    """

    def serve(folder, requests):
        place = tmp_path_factory.mktemp("requests")
        with (place / "in").open("wb") as file:
            for name, inputs in requests:
                message = meta_graph_pb2.SignatureDef(method_name=name)
                for key, value in inputs.items():
                    message.defaults[key].CopyFrom(tf.make_tensor_proto(value))
                data = message.SerializeToString()
                file.write(struct.pack("=Q", len(data)) + data)
        flags = ["--no-xla"] if request.param == "xla disabled" else []
        result = subprocess.run(
            [program, folder, place / "in", place / "out", *flags],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return list(answers(place / "out"))

    serve.has_xla = request.param == "xla allowed"
    return serve


def answers(path):
    with path.open("rb") as file:
        while size := file.read(8):
            message = meta_graph_pb2.SignatureDef()
            message.ParseFromString(file.read(*struct.unpack("=Q", size)))
            if message.method_name.startswith("error: "):
                yield message.method_name
            else:
                yield {n: tf.make_ndarray(v) for n, v in message.defaults.items()}


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def language_model(tokenizer, tmp_path_factory):
    model = small_model()
    base = tmp_path_factory.mktemp("language_model")
    return model, export_saved_model(model, base, tokenizer)


BATCHES = [[1], [500, 3, 77], [1, 2, 8, 31, 64, 200, 5, 500]]


def test_scores_equal_the_models(language_model, serve):
    model, folder = language_model
    batches = [random_rows(lengths, seed=i) for i, lengths in enumerate(BATCHES)]
    names = ("serving_default", "last_logits", "score")
    requests = [
        (name, {"input_ids": ids, "lengths": lengths})
        for ids, lengths in batches
        for name in names
    ]
    out = iter(serve(folder, requests))
    for ids, lengths in batches:
        logits, last, score = next(out), next(out), next(out)
        log_probs = model.score(rows_of(ids, lengths)).log_probs
        for i, n in enumerate(lengths):
            expected = model(ids[i : i + 1, :n]).logits[0].numpy()
            np.testing.assert_allclose(logits["logits"][i, :n], expected, atol=1e-5)
            np.testing.assert_allclose(last["logits"][i], expected[-1], atol=1e-5)
            np.testing.assert_allclose(
                score["log_probs"][i, 1:n], log_probs[i], atol=1e-5
            )


def test_ids_equal_those_of_generate(language_model, serve):
    model, folder = language_model
    n_new = 12
    requests, expected = [], []
    for i, lengths in enumerate(BATCHES):
        ids, lengths = random_rows(lengths, seed=i)
        n_rows = len(lengths)
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype("int32")
        for options in ({}, {"seed": list(range(n_rows)), **SAMPLED}):
            tensors = options_of(n_rows, max_new_tokens=n_new, **options)
            inputs = {name: tensor.numpy() for name, tensor in tensors.items()}
            requests.append(
                ("generate", {"input_ids": ids, "lengths": lengths, **inputs})
            )
            made = model.generate(
                np.where(mask == 1, ids, 0),
                mask,
                max_new_tokens=n_new,
                do_sample=bool(options),
                **options,
            ).numpy()
            expected.append(
                [
                    [*row[:n].tolist(), *row[-n_new:].tolist()]
                    for row, n in zip(made, lengths, strict=True)
                ]
            )
    for answer, rows in zip(serve(folder, requests), expected, strict=True):
        assert rows_of(answer["output_ids"], answer["output_lengths"]) == rows


def test_options_that_are_left_out_have_their_defaults(language_model, serve):
    model, folder = language_model
    ids, lengths = random_rows([4])
    (answer,) = serve(folder, [("generate", {"input_ids": ids, "lengths": lengths})])
    expected = alone(model, ids[0], max_new_tokens=20)
    assert answer["output_ids"][0].tolist() == expected


def test_texts_equal_those_made_outside(language_model, tokenizer, serve):
    model, folder = language_model
    texts = [text[:80] for text in generated_texts(120, seed=8)]
    texts = [text for text in texts if tokenizer(text)["input_ids"]]
    encoded = np.array([text.encode() for text in texts], object)
    tensors = options_of(1, max_new_tokens=7, seed=3, **SAMPLED)
    options = {name: tensor.numpy() for name, tensor in tensors.items()}
    ids = tokenizer(texts)["input_ids"]
    made, tokens = serve(
        folder,
        [
            ("generate_text", {"text": encoded, **options}),
            ("tokenize", {"text": encoded}),
        ],
    )
    assert rows_of(tokens["input_ids"], tokens["lengths"]) == ids
    batch = tokenizer(texts, padding=True, return_tensors="np")
    rows = model.generate(
        **batch, max_new_tokens=7, seed=3, do_sample=True, **SAMPLED
    ).numpy()
    rows = [
        [*prompt, *row[-7:].tolist()] for prompt, row in zip(ids, rows, strict=True)
    ]
    expected = tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert [text.decode() for text in made["output_text"]] == expected
    padded, lengths = np.zeros((len(rows), max(map(len, rows))), "int32"), []
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
        lengths.append(len(row))
    inputs = {"input_ids": padded, "lengths": np.array(lengths, "int32")}
    (back,) = serve(folder, [("detokenize", inputs)])
    assert [text.decode() for text in back["text"]] == expected


def test_a_bad_request_fails_alone(language_model, serve):
    _, folder = language_model
    good = {"input_ids": np.array([[1, 2]], "int32"), "lengths": np.array([2], "int32")}
    bad = [
        ("serving_default", {**good, "input_ids": np.array([[1, 9999]], "int32")}),
        ("score", {**good, "lengths": np.array([3], "int32")}),
        ("generate", {**good, "lengths": np.array([0], "int32")}),
        ("generate", {**good, "max_new_tokens": np.array([511], "int32")}),
        ("generate", {**good, "top_p": np.array([0], "float32")}),
        ("generate", {**good, "top_k": np.array([1, 2, 3], "int32")}),
    ]
    rules = [
        "`input_ids` must be in [0, 8192)",
        "`lengths`",
        "`lengths`",
        "n_positions=512",
        "`top_p`",
        "`top_k`",
    ]
    requests = [request for one in bad for request in (one, ("last_logits", good))]
    out = serve(folder, requests)
    for error, rule in zip(out[::2], rules, strict=True):
        assert error.startswith("error: ")
        assert rule in error
    for answer in out[1::2]:
        assert answer["logits"].shape == (1, 8192)


def test_classes_equal_the_models(serve, tmp_path):
    tokenizer = small_tokenizer(bos_token=None)
    add_tokens_for(tokenizer, task_tokens=True)
    model = small_model(
        "OpenAIGPTForSequenceClassification",
        vocab_size=len(tokenizer),
        id2label={0: "bad", 1: "good", 2: "neither"},
    )
    folder = export_saved_model(model, tmp_path, tokenizer)
    ids, lengths = random_rows([1, 500, 12])
    texts = ["The king had three sons.", "no"]
    pair = {"text_a": texts, "text_b": texts[::-1]}
    orders = {"input_ids": ids[None, :2], "lengths": lengths[None, :2]}
    entailed = dict(zip(("premise", "hypothesis"), pair.values(), strict=True))
    as_bytes = {
        name: {k: np.array([t.encode() for t in v], object) for k, v in given.items()}
        for name, given in (("alike", pair), ("entailed", entailed))
    }
    ids_out, text_out, logits, orders_out, alike, follows = serve(
        folder,
        [
            ("classify", {"input_ids": ids, "lengths": lengths}),
            ("classify_text", {"text": np.array([t.encode() for t in texts], object)}),
            ("serving_default", {"input_ids": ids, "lengths": lengths}),
            ("classify_orders", orders),
            ("classify_similarity", as_bytes["alike"]),
            ("classify_entailment", as_bytes["entailed"]),
        ],
    )
    check_class(model, orders_out, 0, logits["logits"][:2].sum(axis=0))
    start, between, end = (
        [getattr(tokenizer, f"{name}_token_id")] for name in ("bos", "sep", "cls")
    )
    first, second = tokenizer(texts)["input_ids"]
    one = [*start, *first, *between, *second, *end]
    other = [*start, *second, *between, *first, *end]
    scores = [model(np.array([row])).logits[0].numpy() for row in (one, other)]
    for i, score in enumerate(scores):
        check_class(model, alike, i, sum(scores))
        check_class(model, follows, i, score)
    for i, n in enumerate(lengths):
        expected = model(ids[i : i + 1, :n]).logits[0].numpy()
        np.testing.assert_allclose(logits["logits"][i], expected, atol=1e-5)
        check_class(model, ids_out, i, expected)
    for i, text in enumerate(texts):
        frame = [tokenizer.bos_token_id], [tokenizer.cls_token_id]
        row = [*frame[0], *tokenizer(text)["input_ids"], *frame[1]]
        check_class(model, text_out, i, model(np.array([row])).logits[0].numpy())


def check_class(model, out, i, logits):
    probabilities = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(out["probabilities"][i], probabilities, atol=1e-5)
    assert out["labels"][i].decode() == model.config.id2label[int(logits.argmax())]


def test_choices_equal_the_models(serve, tmp_path):
    model = small_model("OpenAIGPTDoubleHeadsModel")
    folder = export_saved_model(model, tmp_path)
    ids, lengths = random_rows([5, 500, 2, 30, 1, 7])
    ids, lengths = ids.reshape(3, 2, -1), lengths.reshape(3, 2)
    choices, score = serve(
        folder,
        [
            ("choose", {"input_ids": ids, "lengths": lengths}),
            ("score", {"input_ids": ids[:, 0], "lengths": lengths[:, 0]}),
        ],
    )
    clean = np.where(ids < model.config.vocab_size, ids, 0)
    scores = model(clean, mc_token_ids=lengths - 1).mc_logits.numpy()
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(choices["probabilities"], expected, atol=1e-5)
    assert choices["choice"].tolist() == expected.argmax(axis=1).tolist()
    assert np.isfinite(score["log_probs"]).all()


def test_hidden_states_equal_the_models(serve, tmp_path):
    model = small_model("OpenAIGPTModel")
    folder = export_saved_model(model, tmp_path)
    ids, lengths = random_rows([3, 40])
    (out,) = serve(
        folder, [("serving_default", {"input_ids": ids, "lengths": lengths})]
    )
    for i, n in enumerate(lengths):
        expected = model(ids[i : i + 1, :n]).last_hidden_state[0]
        np.testing.assert_allclose(out["last_hidden_state"][i, :n], expected, atol=1e-5)


def test_a_compiled_export_runs_only_where_xla_may(serve, tokenizer, tmp_path):
    model = small_model(n_layer=1)
    folder = export_saved_model(
        model,
        tmp_path,
        tokenizer,
        jit_compile=True,
        batch_sizes=[1, 3],
        lengths=[16, 64],
        max_new_tokens=8,
    )
    ids, lengths = random_rows([5, 40])
    tensors = options_of(2, max_new_tokens=8, temperature=[0.0, 0.8], seed=5)
    options = {name: tensor.numpy() for name, tensor in tensors.items()}
    rows = {"input_ids": ids, "lengths": lengths}
    made, logits, tokens = serve(
        folder,
        [
            ("generate", {**rows, **options}),
            ("serving_default", rows),
            ("tokenize", {"text": np.array([b"the king"], object)}),
        ],
    )
    assert tokens["lengths"].tolist() == [2]
    if not serve.has_xla:
        assert "XLA compilation disabled" in made
        assert "XLA compilation disabled" in logits
        return
    answers = rows_of(made["output_ids"], made["output_lengths"])
    first, second = rows_of(ids, lengths)
    assert answers[0] == alone(model, first, max_new_tokens=8)
    assert answers[1] == alone(
        model,
        second,
        max_new_tokens=8,
        do_sample=True,
        temperature=0.8,
        seed=5,
        top_k=0,
    )
    for i, n in enumerate(lengths):
        expected = model(ids[i : i + 1, :n]).logits[0]
        np.testing.assert_allclose(logits["logits"][i, :n], expected, atol=1e-5)
