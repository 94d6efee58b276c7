"""The client against the stand-in, over REST and gRPC."""

import concurrent.futures
import http.server
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")

import toy
from google.protobuf import any_pb2, descriptor, wrappers_pb2
from standin import BatchingParameters, StandIn, model_config
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    status_pb2,
)

from tf_gpt.serving import ServingClient, ServingError, messages

TRANSPORTS = ("rest_url", "grpc_url")


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    toy.save(folder / "1")
    toy.save(folder / "2", offset=1000)
    return folder


@pytest.fixture(scope="module")
def server(base_path):
    labels = {"old": 1, "new": 2}
    with StandIn(base_path, "toy", None, labels, specific_versions=[1, 2]) as server:
        yield server


@pytest.fixture(params=TRANSPORTS, ids=["rest", "grpc"])
def client(request, server):
    server.n_requests, server.n_unavailable, server.delay = 0, 0, 0.0
    with ServingClient(getattr(server, request.param), "toy") as client:
        yield client


def test_it_imports_no_tensorflow():
    check = (
        "from tf_gpt.serving import ServingClient as C; import sys; "
        "C('http://localhost:1').close(); C('grpc://localhost:1').close(); "
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_serving') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_without_grpcio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ImportError, match=r"tf-gpt\[serving\]"):
        ServingClient("grpc://localhost:8500")


def test_the_messages_are_those_of_the_official_package():
    official = {
        "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
        "Shape": tensor_shape_pb2.TensorShapeProto,
        "Tensor": tensor_pb2.TensorProto,
        "TensorInfo": meta_graph_pb2.TensorInfo,
        "SignatureDef": meta_graph_pb2.SignatureDef,
        "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
        "Any": any_pb2.Any,
        "Int64Value": wrappers_pb2.Int64Value,
        "ModelSpec": model_pb2.ModelSpec,
        "PredictRequest": predict_pb2.PredictRequest,
        "PredictResponse": predict_pb2.PredictResponse,
        "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
        "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
        "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
        "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
        "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
        "StatusProto": status_pb2.StatusProto,
    }
    entries = {name for name in messages.FIELDS if name.endswith("Entry")}
    assert messages.FIELDS.keys() == official.keys() | entries
    ours = messages.classes()
    enum, number = descriptor.FieldDescriptor.TYPE_ENUM, 5  # int32 is 5
    for name, message in official.items():
        fields = getattr(ours, name).DESCRIPTOR.fields_by_name
        theirs = message.DESCRIPTOR.fields_by_name
        for field in fields.values():
            other = theirs[field.name]
            kind = number if other.type == enum else other.type
            assert (field.number, field.type) == (other.number, kind), field.name
            assert field.is_repeated == other.is_repeated
            if field.message_type and "Entry" in field.message_type.name:
                assert other.message_type.GetOptions().map_entry
    states = get_model_status_pb2.ModelVersionStatus.State.DESCRIPTOR.values_by_number
    assert {key: value.name for key, value in states.items()} == messages.STATES


@pytest.mark.parametrize("dtype", [d for _, d, _ in messages.DTYPES.values()], ids=str)
def test_tensors_go_to_and_fro(dtype):
    import tensorflow as tf

    array = np.array([[1, 0, 1], [0, 1, 1]]).astype(dtype)
    if dtype.kind == "O":
        array = np.array([[b"a", b""], [b"\xff", b"b"]], object)
    sent = messages.tensor_of(array).SerializeToString()
    read = tf.make_ndarray(tensor_pb2.TensorProto.FromString(sent))
    np.testing.assert_array_equal(read, array)
    for value in (array, array[:0], np.full_like(array, array[0, 0])):
        answer = tf.make_tensor_proto(value).SerializeToString()
        got = messages.array_of(messages.classes().Tensor.FromString(answer))
        np.testing.assert_array_equal(got, value)
        assert got.dtype == dtype


def test_it_predicts(client):
    got = client.predict(
        "serving_default", {"input_ids": [[1, 2], [3, 4]], "lengths": [2, 1]}
    )
    np.testing.assert_array_equal(got["sums"], [1003, 1003])
    np.testing.assert_array_equal(got["ids"], [[1, 2], [3, 4]])
    assert got["sums"].dtype == np.int32
    got = client.predict("raw", {"text": ["é", b"\xff"]})
    assert got["raw_bytes"].tolist() == ["é".encode(), b"\xff"]
    assert client.predict("shout", {"text": ["é"]})["text"].tolist() == ["é!".encode()]


def test_inputs_left_out_take_the_models_defaults_in_every_row(client):
    got = client.predict("scale", {"x": [1, 0.1, 3]})["y"]
    np.testing.assert_array_equal(got, np.float32([1, 0.1, 3]) * 2)
    assert client.metadata()["scale"].inputs["factor"].default == np.float32([2])


def test_both_transports_say_the_same_of_the_model(server):
    clients = [ServingClient(getattr(server, name), "toy") for name in TRANSPORTS]
    rest, grpc = (client.metadata() for client in clients)
    assert (
        rest.keys()
        == grpc.keys()
        == {
            "serving_default",
            "scale",
            "shout",
            "raw",
            "total",
        }
    )
    for name, signature in rest.items():
        for side in ("inputs", "outputs"):
            one, other = getattr(signature, side), getattr(grpc[name], side)
            assert one.keys() == other.keys()
            for key, spec in one.items():
                assert (spec.dtype, spec.shape) == (other[key].dtype, other[key].shape)
                np.testing.assert_array_equal(spec.default, other[key].default)
    assert rest["serving_default"].inputs["input_ids"].shape == (-1, -1)
    expected = {1: "AVAILABLE", 2: "AVAILABLE"}
    assert [client.status() for client in clients] == [expected] * 2


@pytest.mark.parametrize("url", TRANSPORTS)
@pytest.mark.parametrize(
    "version, total", [(1, 3), (2, 1003), ("old", 3), (None, 1003)]
)
def test_a_version_is_asked_by_number_or_label(server, url, version, total):
    with ServingClient(getattr(server, url), "toy", version) as client:
        inputs = {"input_ids": [[1, 2]], "lengths": [2]}
        assert client.predict("serving_default", inputs)["sums"] == [total]


@pytest.mark.parametrize("url", TRANSPORTS)
@pytest.mark.parametrize(
    "model, version, code",
    [
        ("other", None, "NOT_FOUND"),
        ("toy", 7, "NOT_FOUND"),
        ("toy", "best", "INVALID_ARGUMENT"),
    ],
)
def test_what_is_not_served_is_an_error_with_the_url(server, url, model, version, code):
    url = getattr(server, url)
    client = ServingClient(url, model, version)
    with client, pytest.raises(ServingError) as caught:
        client.predict("shout", {"text": ["a"]})
    assert caught.value.code == code
    assert caught.value.url.startswith(url)
    assert str(version or model) in caught.value.details


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"url": "localhost:8501"}, "url.*localhost:8501"),
        ({"url": "ftp://a"}, "url.*ftp"),
        ({"url": "grpc://a:1/path"}, "path"),
        ({"model": ""}, "model"),
        ({"version": -1}, "version.*-1"),
        ({"version": True}, "version.*True"),
        ({"version": ""}, "version"),
        ({"timeout": 0}, "timeout.*0"),
        ({"retries": -1}, "retries.*-1"),
        ({"retries": 1.5}, r"retries.*1\.5"),
    ],
)
def test_wrong_settings_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        ServingClient(**{"url": "http://localhost:1", **arguments})


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda c: c.predict("nothing", {}), "no signature 'nothing'.*shout"),
        (lambda c: c.predict("shout", {"words": ["a"]}), "Received also: words"),
        (lambda c: c.predict("shout", {}), "`text` must be given"),
        (lambda c: c.predict("shout", {"text": [1]}), "`text` must be texts.*1"),
        (lambda c: c.predict("scale", {"x": ["a"]}), "`x` must be float32"),
        (lambda c: c.predict("total", {"x": [1.5]}), r"`x` must be int32.*1\.5"),
        (lambda c: c.predict("total", {"x": [2**31]}), "`x` must fit.*2147483648"),
        (lambda c: c.predict("total", {"x": [[1], [1, 2]]}), "`x` must be int32"),
        (lambda c: c.generate("text"), "`prompts` must be a list"),
        (lambda c: c.generate([]), "`prompts` must not be empty"),
        (lambda c: c.generate(["a", [1]]), "`prompts` must be all texts"),
        (lambda c: c.generate([[]]), "`prompts` must not be empty"),
        (lambda c: c.generate([[0.5]]), "`prompts` must be lists of token ids"),
        (lambda c: c.generate([[[1]]]), "`prompts` must be lists of token ids"),
        (lambda c: c.generate([[2**40]]), "`prompts` must fit"),
        (lambda c: c.generate(["\ud800"]), "`prompts` must be Unicode"),
        (lambda c: c.generate([[1]]), "no signature 'generate'"),
        (lambda c: c.tokenize([[1]]), "`texts` must be texts"),
        (lambda c: c.choose([[]]), "`choices` must not be empty"),
    ],
)
def test_wrong_arguments_are_named(client, call, words):
    with pytest.raises(ValueError, match=words):
        call(client)


def test_what_the_server_refuses_is_said_and_not_sent_again(client, server):
    with pytest.raises(ServingError, match=r"100 is not in \[0, 100\)") as caught:
        client.predict("serving_default", {"input_ids": [[100]], "lengths": [1]})
    assert caught.value.code == "INVALID_ARGUMENT"
    assert server.n_requests == 1


def test_an_unavailable_server_is_asked_again(client, server):
    client.metadata()
    server.n_unavailable = 2
    assert client.predict("shout", {"text": ["a"]})["text"] == [b"a!"]
    assert server.n_requests == 3


@pytest.mark.parametrize("url", TRANSPORTS)
def test_it_is_asked_no_more_often_than_retries_say(server, url):
    with ServingClient(getattr(server, url), "toy", retries=1) as client:
        client.metadata()
        server.n_requests, server.n_unavailable = 0, 9
        with pytest.raises(ServingError, match="attempt 2") as caught:
            client.predict("shout", {"text": ["a"]})
        server.n_unavailable = 0
    assert caught.value.code == "UNAVAILABLE"
    assert server.n_requests == 2


@pytest.mark.parametrize("url", TRANSPORTS)
def test_an_answer_that_comes_too_late_is_an_error(server, url):
    with ServingClient(getattr(server, url), "toy", timeout=0.5) as client:
        client.metadata()
        server.n_requests, server.delay = 0, 3.0
        try:
            with pytest.raises(ServingError) as caught:
                client.predict("shout", {"text": ["a"]})
        finally:
            server.delay = 0.0
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert server.n_requests == 1


def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_nobody_there_is_an_error(scheme):
    url = f"{scheme}://127.0.0.1:{free_port()}"
    client = ServingClient(url, "toy", retries=1)
    with client, pytest.raises(ServingError, match=re.escape(url)) as caught:
        client.status()
    assert caught.value.code == "UNAVAILABLE"


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_starts_late_is_waited_for(base_path, scheme):
    ports = {"port": free_port(), "rest_api_port": free_port()}
    port = ports["port" if scheme == "grpc" else "rest_api_port"]
    client = ServingClient(f"{scheme}://127.0.0.1:{port}", "toy", retries=30)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, client:
        answer = pool.submit(client.predict, "shout", {"text": ["a"]})
        time.sleep(0.5)
        assert not answer.done()
        with StandIn(base_path, "toy", **ports):
            assert answer.result()["text"] == [b"a!"]


@pytest.mark.parametrize(
    "status, body, code, words",
    [
        (200, b"<html>", "DATA_LOSS", "not an answer"),
        (200, b"{}", "DATA_LOSS", "not an answer"),
        (502, b"<html>bad gateway", "HTTP 502", "bad gateway"),
        (404, b"", "NOT_FOUND", "no message"),
    ],
)
def test_other_servers_answers_are_errors(status, body, code, words):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever, args=[0.01])
        thread.start()
        try:
            client = ServingClient(f"http://127.0.0.1:{other.server_port}")
            with pytest.raises(ServingError, match=words) as caught:
                client.metadata()
        finally:
            other.shutdown()
            thread.join()
    assert caught.value.code == code


# Exported models, behind the stand-in with its batcher

BATCHING = BatchingParameters(
    max_batch_size=32,
    batch_timeout_micros=20_000,
    num_batch_threads=2,
    allowed_batch_sizes=[1, 2, 4, 8, 16, 32],
    pad_variable_length_inputs=True,
)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A small random model with the tokenizer of `mini`, and where it is served."""
    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizerFast
    from tf_gpt.serving import export_saved_model

    tokenizer = OpenAIGPTTokenizerFast.from_pretrained("mini")
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=len(tokenizer), initializer_range=0.3, **sizes)
    )
    folder = tmp_path_factory.mktemp("language") / "gpt"
    export_saved_model(model, folder, tokenizer=tokenizer)
    with StandIn(folder, batching=BATCHING) as server:
        yield model, tokenizer, server


def alone(model, prompt, n_new, temperature, seed):
    """The Python model's answer to one prompt."""
    sampling = {
        "do_sample": True,
        "temperature": temperature,
        "seed": seed,
        "top_k": 50,
    }
    ids = model.generate(
        np.array([prompt]),
        max_new_tokens=n_new,
        eos_token_id=None,
        **(sampling if temperature else {"do_sample": False}),
    )
    return np.array(ids)[0].tolist()


def requests_of(n, vocab_size):
    """Returns n requests that differ in everything: prompt, length and options."""
    rng = np.random.default_rng(n)
    return [
        (
            rng.integers(vocab_size, size=1 + i % 7).tolist(),
            1 + (i * 5) % 11,
            (0.0, 0.7, 1.0)[i % 3],
            i,
        )
        for i in range(n)
    ]


@pytest.mark.serving
@pytest.mark.parametrize("n_clients", [1, 8, 32])
@pytest.mark.parametrize("url", TRANSPORTS)
def test_each_of_many_clients_gets_its_own_answer(language_model, url, n_clients):
    model, _, server = language_model
    requests = requests_of(32, model.config.vocab_size)
    expected = [alone(model, *request) for request in requests]
    (servable,) = server.servables.values()
    servable.batcher.n_tasks.clear()
    with ServingClient(getattr(server, url)) as client:

        def ask(request):
            prompt, n_new, temperature, seed = request
            (ids,) = client.generate(
                [prompt],
                max_new_tokens=n_new,
                temperature=temperature,
                top_k=50 if temperature else 0,
                seed=seed,
                eos_token_id=-1,
            )
            return ids

        with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
            answers = list(pool.map(ask, requests))
    assert answers == expected
    assert sum(servable.batcher.n_tasks) == len(requests)
    assert (max(servable.batcher.n_tasks) > 1) == (n_clients > 1)


@pytest.mark.serving
@pytest.mark.parametrize("url", TRANSPORTS)
def test_rows_of_one_request_have_options_of_their_own(language_model, url):
    model, _, server = language_model
    prompts, n_new, temperature, seeds = zip(
        *requests_of(6, model.config.vocab_size), strict=True
    )
    with ServingClient(getattr(server, url)) as client:
        answers = client.generate(
            list(prompts),
            max_new_tokens=list(n_new),
            temperature=np.array(temperature),
            top_k=50,
            seed=list(seeds),
            eos_token_id=-1,
        )
        with pytest.raises(
            ValueError, match="`seed` must be one value or one for each"
        ):
            client.generate(list(prompts), seed=[1, 2])
        with pytest.raises(ValueError, match="`temperature` must be float32"):
            client.generate(list(prompts), temperature="hot")
    expected = [
        alone(model, *request)
        for request in zip(prompts, n_new, temperature, seeds, strict=True)
    ]
    assert answers == expected


@pytest.mark.serving
@pytest.mark.parametrize("url", TRANSPORTS)
def test_texts_and_scores_are_the_python_models(language_model, url):
    model, tokenizer, server = language_model
    texts = ["Once upon a time", "The king's daughter", "a"]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    with ServingClient(getattr(server, url)) as client:
        assert client.tokenize(texts) == rows
        decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
        assert client.detokenize(rows) == decoded
        made = client.generate(texts, max_new_tokens=5, temperature=0, eos_token_id=-1)
        expected = [alone(model, row, 5, 0.0, 0) for row in rows]
        assert made == [tokenizer.decode(r, skip_special_tokens=True) for r in expected]
        scores, same = client.score(texts), client.score(rows)
        last = client.last_logits(rows)
    for row, score, again, logits in zip(rows, scores, same, last, strict=True):
        wanted = np.array(model(np.array([row])).logits, "float64")[0]
        log_probs = wanted - np.log(np.exp(wanted).sum(-1, keepdims=True))
        chosen = [0.0, *log_probs[np.arange(len(row) - 1), row[1:]]]
        np.testing.assert_allclose(score, chosen, atol=1e-4)
        np.testing.assert_allclose(again, score, atol=1e-5)
        np.testing.assert_allclose(logits, wanted[-1], atol=1e-4)


@pytest.mark.serving
@pytest.mark.parametrize("url", TRANSPORTS)
@pytest.mark.parametrize(
    "signature, inputs, words",
    [
        ("generate", {"input_ids": [[9_999]], "lengths": [1]}, "input_ids"),
        ("generate", {"input_ids": [[-1]], "lengths": [1]}, "input_ids"),
        ("generate", {"input_ids": [[1, 2]], "lengths": [3]}, "lengths"),
        ("generate", {"input_ids": [[1, 2]], "lengths": [0]}, "lengths"),
        ("generate", {"input_ids": [[1] * 60], "lengths": [60]}, "n_positions"),
        ("score", {"input_ids": [[1] * 65], "lengths": [65]}, "n_positions"),
        ("score", {"input_ids": [[1]], "lengths": [1, 1]}, "0th-dimension"),
        ("score", {"input_ids": [1], "lengths": [1]}, r"must equal 2, got shape \[1\]"),
        ("score", {"input_ids": [[[1]]], "lengths": [1]}, "must equal 2"),
        (
            "generate",
            {"input_ids": [[1]], "lengths": [1], "max_new_tokens": [2**31 - 1]},
            "n_positions",
        ),
        (
            "generate",
            {"input_ids": [[1]], "lengths": [1], "temperature": [-1.0]},
            "temperature",
        ),
        ("generate", {"input_ids": [[1]], "lengths": [1], "top_p": [0.0]}, "top_p"),
        ("generate_text", {"text": ["word " * 100]}, "n_positions"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_server_says_what_is_wrong_and_goes_on(
    language_model, url, signature, inputs, words
):
    server = language_model[2]
    with ServingClient(getattr(server, url)) as client:
        with pytest.raises(ServingError, match=words) as caught:
            client.predict(signature, inputs)
        assert caught.value.code == "INVALID_ARGUMENT"
        assert len(client.generate([[1, 2]], max_new_tokens=2, eos_token_id=-1)[0]) == 4


@pytest.mark.serving
@pytest.mark.parametrize("url", TRANSPORTS)
def test_ten_megabytes_of_text_are_refused_and_the_server_goes_on(language_model, url):
    server = language_model[2]
    with ServingClient(getattr(server, url), timeout=300) as client:
        for text in ("once upon " * 2**20, "o" * 10**7):
            with pytest.raises(ServingError, match=r"64 bytes.*n_positions") as caught:
                client.generate([text])
            assert caught.value.code == "INVALID_ARGUMENT"
        assert len(client.tokenize(["once"])) == 1


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """A classifier and a model with two heads, small and random, behind servers."""
    from tf_gpt import (
        OpenAIGPTConfig,
        OpenAIGPTDoubleHeadsModel,
        OpenAIGPTForSequenceClassification,
    )
    from tf_gpt.serving import export_saved_model

    sizes = {"vocab_size": 101, "n_positions": 24, "n_embd": 16, "n_layer": 1}
    config = OpenAIGPTConfig(n_head=2, num_labels=3, initializer_range=0.3, **sizes)
    folder = tmp_path_factory.mktemp("heads")
    classifier = OpenAIGPTForSequenceClassification(config)
    export_saved_model(classifier, folder / "classifier")
    chooser = OpenAIGPTDoubleHeadsModel(config)
    export_saved_model(chooser, folder / "chooser")
    with (
        StandIn(folder / "classifier", batching=BATCHING) as one,
        StandIn(folder / "chooser", batching=BATCHING) as two,
    ):
        yield classifier, one, chooser, two


@pytest.mark.serving
@pytest.mark.parametrize("url", TRANSPORTS)
def test_it_classifies_as_the_python_model(heads, url):
    model, server, *_ = heads
    rows = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    with ServingClient(getattr(server, url)) as client:
        got = client.classify(rows)
        with pytest.raises(ValueError, match="no signature 'classify_text'"):
            client.classify(["text"])
        with pytest.raises(ValueError, match="no signature 'generate'"):
            client.generate(rows)
    for row, label, probabilities in zip(
        rows, got["labels"], got["probabilities"], strict=True
    ):
        mask = np.ones((1, len(row)), "int32")
        logits = np.array(model(np.array([row]), attention_mask=mask).logits)[0]
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        assert label == model.config.id2label[int(np.argmax(logits))]


@pytest.fixture(scope="module")
def pairs_server(tmp_path_factory):
    from exported import small_model, small_tokenizer

    from tf_gpt import add_tokens_for
    from tf_gpt.serving import export_saved_model

    tokenizer = small_tokenizer(bos_token=None)
    add_tokens_for(tokenizer, task_tokens=True)
    model = small_model(
        "OpenAIGPTForSequenceClassification", vocab_size=len(tokenizer), n_positions=40
    )
    folder = tmp_path_factory.mktemp("pairs")
    export_saved_model(model, folder, tokenizer)
    with StandIn(folder, batching=BATCHING) as server:
        yield model, tokenizer, server


@pytest.mark.serving
@pytest.mark.parametrize("kind", ["entailment", "similarity"])
@pytest.mark.parametrize("url", TRANSPORTS)
def test_pairs_of_texts_are_classified_as_by_the_python_model(pairs_server, url, kind):
    from tf_gpt.finetuning.transforms import entailment, similarity, special_ids

    model, tokenizer, server = pairs_server
    pairs = [("the king", "had three sons"), ["no", "a long one " * 40], ("a", "a")]
    with ServingClient(getattr(server, url)) as client:
        got = client.classify_pairs(pairs, kind)
    for i, pair in enumerate(pairs):
        parts = tokenizer(list(pair))["input_ids"]
        made = {"entailment": entailment, "similarity": similarity}[kind]
        rows = np.array([made(*parts, special_ids(tokenizer), 40)])
        logits = np.array(model(rows).logits)[0]
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(got["probabilities"][i], expected, atol=1e-5)
        assert got["labels"][i] == model.config.id2label[int(np.argmax(logits))]


@pytest.mark.parametrize(
    "pairs, kind, message",
    [
        ([("a", "b")], "paraphrase", "kind='paraphrase'"),
        ([("a", "b", "c")], "entailment", "`pairs` must be pairs"),
        (["ab"], "entailment", "`pairs` must be pairs"),
        ([("a", [1])], "entailment", "`pairs` must be pairs"),
        ([], "entailment", "`pairs` must not be empty"),
    ],
    ids=["kind", "three", "text", "ids", "none"],
)
def test_pairs_that_are_none_are_refused(client, pairs, kind, message):
    with pytest.raises(ValueError, match=message):
        client.classify_pairs(pairs, kind)


@pytest.mark.serving
@pytest.mark.parametrize("url", TRANSPORTS)
def test_rows_of_other_numbers_of_choices_may_be_merged(heads, url):
    *_, model, server = heads
    rng = np.random.default_rng(3)
    questions = [
        [rng.integers(101, size=rng.integers(1, 9)).tolist() for _ in range(n)]
        for n in (2, 4, 3, 1, 5, 2)
    ]
    with ServingClient(getattr(server, url)) as client:
        with concurrent.futures.ThreadPoolExecutor(len(questions)) as pool:
            answers = list(pool.map(lambda q: client.choose([q]), questions))
        at_once = client.choose(questions)
    for i, question in enumerate(questions):
        width = max(map(len, question))
        ids = np.array([[row + [0] * (width - len(row)) for row in question]])
        ends = np.array([[len(row) - 1 for row in question]])
        mask = (np.arange(width) <= ends[..., None]).astype("int32")
        out = model(ids, attention_mask=mask, mc_token_ids=ends)
        scores = np.exp(np.array(out.mc_logits)[0])
        for got in (answers[i]["probabilities"][0], at_once["probabilities"][i]):
            np.testing.assert_allclose(got, scores / scores.sum(), atol=1e-5)
        best = int(np.argmax(scores))
        assert answers[i]["choice"] == [best]
        assert at_once["choice"][i] == best


# What docs/SERVING.md shows

GUIDE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "SERVING.md"


def blocks(language):
    if not GUIDE.exists():
        return []
    pattern = rf"```{language}\n(.*?)```"
    return re.findall(pattern, GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_guides_model_config_is_one():
    (text,) = (text for text in blocks("text") if "model_config_list" in text)
    model = model_config(text)
    assert (model.name, model.base_path) == ("gpt", "/models/gpt")
    assert dict(model.version_labels) == {"stable": 1}


@pytest.fixture(scope="module")
def guide_server(tmp_path_factory):
    """Runs the guide's export, and serves it with the guide's parameters."""
    folder = tmp_path_factory.mktemp("guide")
    before = os.getcwd()
    os.chdir(folder)
    try:
        export = next(text for text in blocks("python") if "export_saved_model" in text)
        exec(compile(export, str(GUIDE), "exec"), {})
    finally:
        os.chdir(before)
    (parameters,) = (text for text in blocks("text") if "max_batch_size" in text)
    batching = BatchingParameters.from_text(parameters)
    with StandIn(folder / "serving" / "gpt", "gpt", batching, {"stable": 1}) as server:
        yield server


def addressed(text, server):
    """The text with the addresses of a server in the place of the usual ones."""
    return text.replace("localhost:8501", f"127.0.0.1:{server.rest_port}").replace(
        "localhost:8500", f"127.0.0.1:{server.port}"
    )


@pytest.mark.serving
@pytest.mark.parametrize(
    "program",
    [text for text in blocks("python") if "localhost" in text],
    ids=lambda text: text.strip()[-40:],
)
def test_the_guides_programs_run(guide_server, program):
    result = subprocess.run(
        [sys.executable, "-c", addressed(program, guide_server)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "once upon a time" in result.stdout


def commands():
    """Returns (command, answer) of the guide's curl commands, a paragraph each."""
    found = []
    for paragraph in "\n\n".join(blocks("sh")).split("\n\n"):
        lines = paragraph.strip().splitlines()
        if lines[0].startswith("curl"):
            answer = [line[2:] for line in lines if line.startswith("# ")]
            command = [line for line in lines if not line.startswith("# ")]
            found.append(("\n".join(command), " ".join(answer)))
    return found


@pytest.mark.serving
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("command, answer", commands(), ids=lambda text: text[-40:])
def test_the_guides_curl_commands_answer_as_shown(guide_server, command, answer):
    result = subprocess.run(
        ["bash", "-c", addressed(command, guide_server)],
        capture_output=True,
        text=True,
        check=True,
    )
    got, shown = ("".join(text.split()) for text in (result.stdout, answer))
    start, _, end = shown.partition("...")
    assert start
    assert got.startswith(start)
    assert got.endswith(end)
