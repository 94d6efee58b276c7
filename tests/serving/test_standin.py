"""The stand-in keeps the rules of TensorFlow Serving that clients meet."""

import base64
import concurrent.futures
import http.client
import json
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("tensorflow_serving")

import grpc
import tensorflow as tf
import toy
from standin import BatchingParameters, StandIn, model_config, pad
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "toy"
    toy.save(folder / "1")
    toy.save(folder / "2", offset=1000)
    return folder


@pytest.fixture(scope="module")
def server(base_path):
    with StandIn(base_path, "toy", labels={"old": 1, "new": 2}) as server:
        yield server


def rest(server, body, path="/v1/models/toy:predict"):
    """Returns (status, the answer's JSON)."""
    if not isinstance(body, (bytes, type(None))):
        body = json.dumps(body).encode()
    request = urllib.request.Request(server.rest_url + path, body)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(server, signature, **inputs):
    """Predicts with the official stubs; values are arrays."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "toy"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=60)
    return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def refused(server, signature, **inputs):
    """Returns (code, message) of a prediction that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, signature, **inputs)
    return caught.value.code().name, caught.value.details()


ROWS = {"input_ids": np.array([[1, 2, 3], [4, 5, 6]]), "lengths": np.array([3, 2])}


def int32(**arrays):
    return {name: np.asarray(array, "int32") for name, array in arrays.items()}


def test_rows_and_columns_give_the_same_answers(server):
    columns = {name: value.tolist() for name, value in ROWS.items()}
    rows = [
        {"input_ids": [1, 2, 3], "lengths": 3},
        {"input_ids": [4, 5, 6], "lengths": 2},
    ]
    status, answer = rest(server, {"inputs": columns})
    assert status == 200
    assert answer == {"outputs": {"ids": columns["input_ids"], "sums": [1006, 1009]}}
    status, answer = rest(server, {"instances": rows})
    assert answer == {
        "predictions": [
            {"ids": [1, 2, 3], "sums": 1006},
            {"ids": [4, 5, 6], "sums": 1009},
        ]
    }


def test_an_output_alone_loses_its_name_and_an_input_alone_needs_none(server):
    asked = {"signature_name": "shout", "instances": ["a", "b"]}
    assert rest(server, asked) == (200, {"predictions": ["a!", "b!"]})
    asked = {"signature_name": "shout", "inputs": ["é"]}
    assert rest(server, asked) == (200, {"outputs": ["é!"]})


def test_bytes_are_base64_by_the_name_of_the_output(server):
    value = {"b64": base64.b64encode(b"\xff\x00").decode()}
    status, answer = rest(server, {"signature_name": "raw", "instances": [value]})
    assert (status, answer) == (
        200,
        {"predictions": [{"length": 2, "raw_bytes": value}]},
    )


def test_floats_are_written_short(server):
    inputs = {"x": [0.1, 0.2], "factor": [1, 1]}
    asked = {"signature_name": "scale", "inputs": inputs}
    assert rest(server, asked) == (200, {"outputs": [0.1, 0.2]})


def test_defaults_are_for_grpc_alone(server):
    np.testing.assert_array_equal(
        ask(server, "scale", x=np.float32([1.5, 2.0]))["y"], [3.0, 4.0]
    )
    status, answer = rest(server, {"signature_name": "scale", "inputs": {"x": [1.0]}})
    assert status == 400
    assert "Missing named input: factor" in answer["error"]


def test_grpc_answers_with_the_served_version(server):
    got = ask(server, "", **int32(**ROWS))
    np.testing.assert_array_equal(got["sums"], [1006, 1009])
    np.testing.assert_array_equal(got["ids"], ROWS["input_ids"])


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "empty"),
        (b"{", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        ([1], "Is not object"),
        ({"signature_name": 3}, "must be a string"),
        ({"signature_name": "nothing", "inputs": []}, "nothing"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": {}, "instances": []}, "only one of"),
        ({"instances": {}}, "list/array"),
        ({"instances": []}, "No values"),
        ({"instances": [1]}, "multiple input tensors"),
        ({"inputs": [1]}, "multiple input tensors"),
        ({"inputs": {"lengths": [1]}}, "Missing named input: input_ids"),
        ({"inputs": {"lengths": [1], "input_ids": [["a"]]}}, "String"),
        ({"inputs": {"lengths": [1], "input_ids": [[1.5]]}}, "1.5"),
        ({"inputs": {"lengths": [1], "input_ids": [[True]]}}, "int32"),
        ({"inputs": {"lengths": [1], "input_ids": [[2**31]]}}, str(2**31)),
        ({"inputs": {"lengths": [1], "input_ids": [[1, 2], [3]]}}, "unexpected size"),
        ({"inputs": {"lengths": [1], "input_ids": [[1], 2]}}, "incorrect level"),
        ({"inputs": {"lengths": [1], "input_ids": [[100]]}}, "100 is not in [0, 100)"),
        ({"instances": [{"input_ids": [1]}]}, "keys must be equal"),
        (
            {"instances": [{"input_ids": [1], "lengths": 1, "x": 2}]},
            "does not have named input: x",
        ),
        (
            {
                "instances": [
                    {"input_ids": [1], "lengths": 1},
                    {"input_ids": [1, 2], "lengths": 2},
                ]
            },
            "Expecting shape [1] but got: [2]",
        ),
        ({"signature_name": "shout", "inputs": [3]}, "Number"),
        ({"signature_name": "shout", "inputs": [{"b64": "?"}]}, "base64"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_malformed_rest_requests_are_refused_and_the_server_goes_on(
    server, body, words
):
    status, answer = rest(server, body)
    assert status == 400
    assert words in answer["error"]
    assert rest(server, {"signature_name": "shout", "inputs": ["a"]})[0] == 200


def test_rest_paths(server):
    status, answer = rest(server, None, "/v1/models/toy")
    assert (status, answer["model_version_status"][0]["version"]) == (200, "2")
    assert answer["model_version_status"][0]["state"] == "AVAILABLE"
    status, answer = rest(server, None, "/v1/models/toy/metadata")
    inputs = answer["metadata"]["signature_def"]["signature_def"]["shout"]["inputs"]
    assert inputs["text"]["dtype"] == "DT_STRING"
    assert inputs["text"]["tensor_shape"]["dim"] == [{"name": "", "size": "-1"}]
    assert rest(server, None, "/v1/models/other")[0] == 404
    assert rest(server, None, "/v1/models/toy/versions/7")[0] == 404
    assert rest(server, None, "/other")[0] == 404
    assert rest(server, {}, "/v1/models/toy:sing")[0] == 400
    asked = {"signature_name": "shout", "inputs": ["a"]}
    assert rest(server, asked, "/v1/models/toy/labels/new:predict")[0] == 200
    status, answer = rest(server, asked, "/v1/models/toy/labels/best:predict")
    assert (status, "best" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    "signature, inputs, code, words",
    [
        ("nothing", {}, "FAILED_PRECONDITION", '"nothing" not found'),
        ("", int32(lengths=[1]), "INVALID_ARGUMENT", "{input_ids}"),
        ("", {**int32(**ROWS), "x": 1}, "INVALID_ARGUMENT", "Sent extra: {x}"),
        (
            "",
            {"input_ids": np.float32([[1]]), "lengths": np.int32([1])},
            "INVALID_ARGUMENT",
            "float",
        ),
        ("", int32(input_ids=[[-1]], lengths=[1]), "INVALID_ARGUMENT", "-1 is not in"),
        ("", int32(input_ids=[3], lengths=[1]), "INVALID_ARGUMENT", "index 1"),
        ("shout", {"text": np.int32([1])}, "INVALID_ARGUMENT", "int32"),
    ],
)
def test_malformed_grpc_requests_are_refused(server, signature, inputs, code, words):
    got_code, message = refused(server, signature, **inputs)
    assert got_code == code
    assert words in message
    assert ask(server, "shout", text=["a"])["text"] == [b"a!"]


def test_status_and_metadata_over_grpc(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "toy"
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        (entry,) = stub.GetModelStatus(request).model_version_status
        assert (entry.version, entry.state) == (2, entry.AVAILABLE)
        request = get_model_metadata_pb2.GetModelMetadataRequest()
        request.model_spec.name = "toy"
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError, match="metadata_field"):
            stub.GetModelMetadata(request)
        request.metadata_field.append("signature_def")
        found = get_model_metadata_pb2.SignatureDefMap()
        stub.GetModelMetadata(request).metadata["signature_def"].Unpack(found)
        assert {"serving_default", "scale", "shout"} <= found.signature_def.keys()


def test_ten_megabytes_of_text_are_answered_or_refused_by_a_limit(base_path):
    text = "once " * 2_000_000
    asked = {"signature_name": "shout", "inputs": [text]}
    with StandIn(base_path, "toy") as server:
        assert rest(server, asked) == (200, {"outputs": [text + "!"]})
    with StandIn(base_path, "toy", max_request_bytes=2**20) as server:
        status, answer = rest(server, asked)
        assert (status, "too large" in answer["error"]) == (413, True)
        code, _ = refused(server, "shout", text=[text])
        assert code == "RESOURCE_EXHAUSTED"
        assert ask(server, "shout", text=["a"])["text"] == [b"a!"]


def test_a_client_that_hangs_up_harms_nobody(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port)
    connection.putrequest("POST", "/v1/models/toy:predict")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"{")
    connection.close()
    assert rest(server, {"signature_name": "shout", "inputs": ["a"]})[0] == 200


def test_a_new_version_takes_over_without_a_lost_request(tmp_path):
    toy.save(tmp_path / "1")
    with StandIn(tmp_path, "toy") as server:
        stop, sums = threading.Event(), []

        def keep_asking():
            while not stop.is_set():
                sums.append(int(ask(server, "", **int32(**ROWS))["sums"][0]))

        with concurrent.futures.ThreadPoolExecutor() as pool:
            asking = pool.submit(keep_asking)
            try:
                toy.save(tmp_path / "written", offset=1000)
                (tmp_path / "written").rename(tmp_path / "10")
                limit = time.monotonic() + 60
                while 1006 not in sums and time.monotonic() < limit:
                    time.sleep(0.05)
            finally:
                stop.set()
            asking.result()
        assert sums[0] == 6
        assert sums[-1] == 1006
        assert sums == sorted(sums)


def test_a_broken_version_leaves_the_old_one_in_place(tmp_path):
    toy.save(tmp_path / "1")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"not a model")
    with StandIn(tmp_path, "toy", specific_versions=[1, 2]) as server:
        assert server.states[2][0] == "END"
        assert rest(server, None, "/v1/models/toy/versions/1")[0] == 200
        assert list(server.servables) == [1]


def test_warm_up_records_are_run_when_a_version_is_loaded(tmp_path):
    toy.save(tmp_path / "1")
    path = tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()

    def write(text):
        log = prediction_log_pb2.PredictionLog()
        request = log.predict_log.request
        request.model_spec.name = "toy"
        request.model_spec.signature_name = "shout"
        request.inputs["text"].CopyFrom(tf.make_tensor_proto(text))
        with tf.io.TFRecordWriter(str(path)) as file:
            file.write(log.SerializeToString())
            file.write(log.SerializeToString())

    write(["a"])
    with StandIn(tmp_path, "toy") as server:
        assert server.servables[1].n_warm_up == 2
    write([1])  # a record that fails keeps the version from being served
    with StandIn(tmp_path, "toy") as server:
        assert server.states[1][0] == "END"
        assert server.servables == {}


# Batching


def batched(base_path, **parameters):
    parameters = {"batch_timeout_micros": 300_000, "num_batch_threads": 1} | parameters
    return StandIn(base_path, "toy", batching=BatchingParameters(**parameters))


def together(calls):
    """Calls all at the same time; returns results and exceptions, in order."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
    return [future.exception() or future.result() for future in futures]


def row(*ids):
    return int32(input_ids=[ids], lengths=[len(ids)])


def test_padding_repeats_the_first_element_of_each_tensor():
    first = np.array([[7, 2], [3, 4]])
    second = np.array([[5, 6, 8]])
    got = pad([first, second])
    np.testing.assert_array_equal(got[0], [[7, 2, 7], [3, 4, 7]])
    np.testing.assert_array_equal(got[1], second)


def test_requests_of_different_lengths_are_padded_merged_and_split(base_path):
    rows = [row(*range(1, n + 1)) for n in range(1, 9)]
    parameters = {"max_batch_size": 8, "pad_variable_length_inputs": True}
    with batched(base_path, **parameters) as server:
        answers = together([lambda r=r: ask(server, "", **r) for r in rows])
        sizes = server.servables[2].batcher.n_tasks
    assert max(sizes) > 1
    for n, answer in enumerate(answers, start=1):
        np.testing.assert_array_equal(answer["sums"], [1000 + n * (n + 1) // 2])
        ids = answer["ids"][0]  # as long as the longest of its batch
        np.testing.assert_array_equal(ids[:n], range(1, n + 1))
        assert set(ids[n:]) <= {1}


def test_without_padding_other_lengths_fail_the_batch(base_path):
    rows = [row(1), row(1, 2)]
    with batched(base_path, max_batch_size=2) as server:
        errors = together([lambda r=r: ask(server, "", **r) for r in rows])
    assert [error.code().name for error in errors] == ["FAILED_PRECONDITION"] * 2


def test_batches_are_filled_to_an_allowed_size_and_no_larger(base_path):
    sizes = []
    with batched(base_path, max_batch_size=8, allowed_batch_sizes=[4, 8]) as server:
        batcher = server.servables[2].batcher
        run = batcher._run

        def noting(feeds, fetches):
            sizes.append({len(value) for value in feeds.values()})
            return run(feeds, fetches)

        batcher._run = noting
        answers = together([lambda i=i: ask(server, "", **row(i)) for i in range(3)])
        assert [int(answer["sums"][0]) for answer in answers] == [1000, 1001, 1002]
        assert sizes
        assert all(size == {4} for size in sizes)
        code, message = refused(server, "shout", text=["a"] * 9)
    assert code == "INVALID_ARGUMENT"
    assert "Task size 9 is larger than maximum input batch size 8" in message


def test_one_bad_row_fails_the_requests_it_was_merged_with(base_path):
    rows = [row(1), row(100)]
    with batched(base_path, max_batch_size=2) as server:
        errors = together([lambda r=r: ask(server, "", **r) for r in rows])
        assert [error.code().name for error in errors] == ["INVALID_ARGUMENT"] * 2
        assert ask(server, "", **row(1))["sums"] == [1001]


def test_batching_wants_rows_everywhere(base_path):
    with batched(base_path, max_batch_size=4, batch_timeout_micros=0) as server:
        x, factor = np.float32([1, 2]), np.float32([1])
        code, message = refused(server, "scale", x=x, factor=factor)
        assert (code, "equal 0th-dimension" in message) == ("INVALID_ARGUMENT", True)
        code, message = refused(server, "total", x=np.int32(1))
        assert (code, "at least one dimension" in message) == ("INVALID_ARGUMENT", True)
        code, message = refused(server, "total", x=np.int32([1, 2]))
        assert (code, "0 dimensions" in message) == ("FAILED_PRECONDITION", True)


def test_a_full_queue_is_unavailable(base_path):
    parameters = {"max_batch_size": 1, "max_enqueued_batches": 1}
    with batched(base_path, **parameters) as server:
        batcher = server.servables[2].batcher
        entered, go_on = threading.Event(), threading.Event()
        run = batcher._run

        def held(feeds, fetches):
            entered.set()
            assert go_on.wait(60)
            return run(feeds, fetches)

        batcher._run = held
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(ask, server, "shout", text=["a"])
            assert entered.wait(60)  # the one thread is busy
            second = pool.submit(ask, server, "shout", text=["b"])
            limit = time.monotonic() + 60
            while not any(batcher._queues.values()) and time.monotonic() < limit:
                time.sleep(0.01)
            code, message = refused(server, "shout", text=["c"])
            status, _ = rest(server, {"signature_name": "shout", "inputs": ["c"]})
            go_on.set()
            assert first.result()["text"] == [b"a!"]
            assert second.result()["text"] == [b"b!"]
    assert (code, status) == ("UNAVAILABLE", 503)
    assert "full" in message


def test_parameters_are_read_from_the_servers_text_form():
    got = BatchingParameters.from_text(
        "max_batch_size { value: 32 }\n"
        "batch_timeout_micros { value: 1000 }  # microseconds\n"
        "max_enqueued_batches { value: 100 }\nnum_batch_threads { value: 4 }\n"
        "allowed_batch_sizes: 8\nallowed_batch_sizes: 32\n"
        "pad_variable_length_inputs: true\n"
    )
    assert got == BatchingParameters(32, 1000, 100, 4, [8, 32], True)
    for wrong in ("max_batch_size: 32", "batch { value: 1 }", "x y"):
        with pytest.raises(ValueError, match="not"):
            BatchingParameters.from_text(wrong)
    with pytest.raises(ValueError, match=r"16.*expected 32"):
        BatchingParameters(max_batch_size=32, allowed_batch_sizes=[8, 16])


def test_a_model_config_says_which_versions_and_labels(base_path):
    config = model_config(
        f'model_config_list {{ config {{ name: "toy" base_path: "{base_path}" '
        'model_platform: "tensorflow" model_version_policy { specific { versions: 1 '
        'versions: 2 } } version_labels { key: "stable" value: 1 } } }'
    )
    versions = config.model_version_policy.specific.versions
    labels = dict(config.version_labels)
    with StandIn(config.base_path, config.name, None, labels, versions) as server:
        asked = {"inputs": {name: value.tolist() for name, value in ROWS.items()}}
        for which, first in (("", 1006), ("/labels/stable", 6), ("/versions/1", 6)):
            status, answer = rest(server, asked, f"/v1/models/toy{which}:predict")
            assert (status, answer["outputs"]["sums"][0]) == (200, first)
