"""A stand-in for `tensorflow_model_server`: its interface over TensorFlow's own core.

It speaks what clients see of TensorFlow Serving: gRPC with the official stubs
(Predict, GetModelMetadata, GetModelStatus), the REST interface, numbered version
folders, labels, warm-up records and batching. The SavedModel runs in a TF1 session
through its SignatureDefs, as in the server; nothing here knows of tf_gpt.

Rules and messages follow tensorflow/serving: `json_tensor.cc`, `predict_util.cc`,
`http_rest_api_util.cc`, `http_server.cc`, `batching_session.cc`, `batching_util.cc`,
and TensorFlow's `shared_batch_scheduler.h`. XLA is not switched off here.

As a program it takes the server's flags:

    python tests/serving/standin.py --model_name=gpt --model_base_path=/models/gpt \
        --port=8500 --rest_api_port=8501 --enable_batching \
        --batching_parameters_file=batching.txt
"""

import argparse
import base64
import binascii
import collections
import concurrent.futures
import contextlib
import dataclasses
import http.server
import json
import math
import pathlib
import re
import threading
import time
import urllib.parse

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

HTTP_STATUS = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "UNAUTHENTICATED": 401,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
}
CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
MOST_WARM_UP_RECORDS = 1000


class Refused(Exception):
    """A request's error: one of gRPC's code names, and the message."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message):
    return Refused("INVALID_ARGUMENT", message)


# The model


class Servable:
    """One version of a model: a SavedModel in a TF1 session, by its SignatureDefs."""

    def __init__(self, directory, batching=None):
        graph = tf.Graph()
        with graph.as_default():
            self._session = tf.compat.v1.Session(graph=graph)
            self.meta_graph = tf.compat.v1.saved_model.load(
                self._session, ["serve"], str(directory)
            )
        self._callables = {}
        self._lock = threading.Lock()
        self.batcher = Batcher(self._run, batching) if batching else None
        self.n_warm_up = self._warm_up(pathlib.Path(directory) / WARM_UP_FILE)

    def predict(self, signature_name, inputs, output_filter=()):
        """Returns {output name: array} of {input name: array}."""
        signature_name = signature_name or "serving_default"
        if signature_name not in self.meta_graph.signature_def:
            raise Refused(
                "FAILED_PRECONDITION",
                f'Serving signature key "{signature_name}" not found.',
            )
        signature = self.meta_graph.signature_def[signature_name]
        feeds = _feeds(signature, inputs)
        aliases = list(output_filter) or sorted(signature.outputs)
        for alias in aliases:
            if alias not in signature.outputs:
                expected = ",".join(sorted(signature.outputs))
                raise invalid(
                    f"output tensor alias not found in signature: {alias} Outputs "
                    f"expected to be in the set {{{expected}}}."
                )
        fetches = tuple(signature.outputs[alias].name for alias in aliases)
        whole = set(fetches) == {info.name for info in signature.outputs.values()}
        # What matches no signature whole goes past the batching, as in the server.
        batched = self.batcher and whole and len(feeds) == len(signature.inputs)
        values = (self.batcher if batched else self._run)(feeds, fetches)
        return dict(zip(aliases, values, strict=True))

    def _run(self, feeds, fetches):
        names = tuple(sorted(feeds))
        with self._lock:
            call = self._callables.get((names, fetches))
            if call is None:
                options = config_pb2.CallableOptions(feed=names, fetch=fetches)
                # Unlike `Session.run`, this converts and checks nothing before
                # TensorFlow's core does: neither does the server.
                call = self._session._make_callable_from_options(options)
                self._callables[names, fetches] = call
        try:
            return call(*[feeds[name] for name in names])
        except tf.errors.OpError as error:
            raise Refused(CODE_NAMES[error.error_code], error.message) from None

    def _warm_up(self, path):
        if not path.exists():
            return 0
        n_records = 0
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            n_records += 1
            if n_records > MOST_WARM_UP_RECORDS:
                raise invalid("Number of warmup records exceeds the maximum (1000)")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            request = log.predict_log.request
            self.predict(
                request.model_spec.signature_name,
                _arrays_of(request.inputs),
                request.output_filter,
            )
        return n_records


def _feeds(signature, inputs):
    """Returns {tensor name: array}; omitted inputs take the signature's defaults."""
    sent, known = set(inputs), set(signature.inputs)
    if len(sent) > len(known) or (len(sent) < len(known) and not signature.defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(known))}}}). "
            f"Sent extra: {{{','.join(sorted(sent - known))}}}. "
            f"Missing but required: {{{','.join(sorted(known - sent))}}}."
        )
    feeds = {}
    for name, info in signature.inputs.items():
        if name in inputs:
            feeds[info.name] = inputs[name]
        elif name in signature.defaults:
            feeds[info.name] = tf.make_ndarray(signature.defaults[name])
        else:
            raise invalid(
                f"input tensor alias not found in request: {name}. Inputs expected "
                f"to be in the set {{{','.join(sorted(known))}}}."
            )
    return feeds


def _arrays_of(protos):
    arrays = {}
    for name, proto in protos.items():
        try:
            arrays[name] = tf.make_ndarray(proto)
        except (ValueError, TypeError):
            raise invalid(f"tensor parsing error: {name}") from None
    return arrays


# Batching


@dataclasses.dataclass
class BatchingParameters:
    """The fields of the server's batching parameters file, with its defaults."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 2
    allowed_batch_sizes: list = dataclasses.field(default_factory=list)
    pad_variable_length_inputs: bool = False

    def __post_init__(self):
        sizes = self.allowed_batch_sizes
        if sizes and (sizes != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise ValueError(
                "Last entry in allowed_batch_sizes must match max_batch_size; last "
                f"entry was {sizes[-1]}; expected {self.max_batch_size}"
            )

    @classmethod
    def from_text(cls, text):
        """Reads the text form of the `BatchingParameters` message."""
        text = re.sub(r"#.*", "", text)
        pattern = r"(\w+)\s*(?::\s*(\w+)|\{\s*value\s*:\s*(\w+)\s*\})\s*,?\s*"
        if rest := re.sub(pattern, "", text).strip():
            raise ValueError(f"not batching parameters: {rest!r}")
        values = {}
        for name, plain, wrapped in re.findall(pattern, text):
            wraps = name not in ("allowed_batch_sizes", "pad_variable_length_inputs")
            if wraps != bool(wrapped) or name not in cls.__dataclass_fields__:
                raise ValueError(f"not a batching parameter: {name}")
            value = wrapped or plain
            if name == "allowed_batch_sizes":
                values.setdefault(name, []).append(int(value))
            else:
                values[name] = value == "true" if plain else int(value)
        return cls(**values)


class _Task:
    def __init__(self, feeds, size):
        self.feeds = feeds
        self.size = size
        self.future = concurrent.futures.Future()


class _Batch:
    def __init__(self):
        self.tasks = []
        self.opened = time.monotonic()

    @property
    def size(self):
        return sum(task.size for task in self.tasks)


class Batcher:
    """Merges runs of one signature along the 0th dimension, and splits the results.

    A run that fails fails every request of its batch, as in the server.
    """

    def __init__(self, run, parameters):
        self._run = run
        self._parameters = parameters
        self._queues = {}
        self._changed = threading.Condition()
        self.n_tasks = []  # how many requests each batch was made of
        for _ in range(parameters.num_batch_threads):
            threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, feeds, fetches):
        limit = self._parameters.max_batch_size
        task = _Task(feeds, _batch_size(feeds))
        if task.size > limit:
            raise invalid(
                f"Task size {task.size} is larger than maximum input batch size {limit}"
            )
        with self._changed:
            key = (frozenset(feeds), fetches)
            queue = self._queues.setdefault(key, collections.deque())
            if not queue or queue[-1].size + task.size > limit:
                if len(queue) >= self._parameters.max_enqueued_batches:
                    raise Refused(
                        "UNAVAILABLE",
                        "The batch scheduling queue to which this task was submitted "
                        f"is full; currently {len(queue)} batches enqueued and "
                        "max_enqueued_batches is "
                        f"{self._parameters.max_enqueued_batches}",
                    )
                queue.append(_Batch())
            queue[-1].tasks.append(task)
            self._changed.notify_all()
        return task.future.result()

    def _work(self):
        while True:
            fetches, tasks = self._next()
            try:
                results = self._process(tasks, fetches)
            except Refused as error:
                for task in tasks:
                    task.future.set_exception(Refused(error.code, error.message))
            except Exception as error:
                for task in tasks:
                    task.future.set_exception(Refused("INTERNAL", repr(error)))
            else:
                for task, result in zip(tasks, results, strict=True):
                    task.future.set_result(result)

    def _next(self):
        """Waits for a batch that is full, or whose time is up."""
        patience = self._parameters.batch_timeout_micros / 1e6
        with self._changed:
            while True:
                now, waits = time.monotonic(), []
                for (_, fetches), queue in self._queues.items():
                    if not queue:
                        continue
                    first = queue[0]
                    full = first.size >= self._parameters.max_batch_size
                    if full or len(queue) > 1 or first.opened + patience <= now:
                        self.n_tasks.append(len(first.tasks))
                        return fetches, queue.popleft().tasks
                    waits.append(first.opened + patience - now)
                self._changed.wait(min(waits, default=None))

    def _process(self, tasks, fetches):
        size = sum(task.size for task in tasks)
        allowed = self._parameters.allowed_batch_sizes
        n_added = next((n for n in allowed if n >= size), size) - size
        merged = {}
        for name in tasks[0].feeds:
            values = [task.feeds[name] for task in tasks]
            if self._parameters.pad_variable_length_inputs:
                values = pad(values)
            elif len({value.shape[1:] for value in values}) > 1:
                raise Refused(
                    "FAILED_PRECONDITION",
                    f"Tensors with name '{name}' from different tasks have different "
                    "shapes and padding is turned off.Set pad_variable_length_inputs "
                    "to true, or ensure that all tensors with the same namehave equal "
                    "dimensions starting with the first dim.",
                )
            if len({value.dtype for value in values}) > 1:
                raise Refused("INTERNAL", "Tensor concat operation failed")
            # Rows are added as copies of the last request's first row.
            values += [values[-1][:1]] * n_added
            merged[name] = np.concatenate(values)
        outputs = self._run(merged, fetches)
        ends = np.cumsum([task.size for task in tasks])
        for output in outputs:
            if np.ndim(output) == 0:
                raise Refused(
                    "FAILED_PRECONDITION", "Batched output tensor has 0 dimensions"
                )
            if len(output) != size + n_added:
                raise Refused(
                    "FAILED_PRECONDITION",
                    "Batched output tensor's 0th dimension does not equal the sum of "
                    "the 0th dimension sizes of the input tensors",
                )
        split = [np.split(output, ends)[: len(tasks)] for output in outputs]
        return list(zip(*split, strict=True))


def pad(values):
    """Pads arrays on the right to one size, each with its own first element."""
    if len({value.ndim for value in values}) > 1:
        raise Refused("INTERNAL", "Tensor concat operation failed: ranks differ")
    sizes = np.max([value.shape for value in values], axis=0)[1:]
    padded = []
    for value in values:
        missing = sizes - value.shape[1:]
        if missing.any():
            if not value.size:
                raise invalid("Got empty tensor in batch of non-empty tensors.")
            widths = [(0, 0), *((0, n) for n in missing)]
            value = np.pad(value, widths, constant_values=value.flat[0])
        padded.append(value)
    return padded


def _batch_size(feeds):
    if any(value.ndim == 0 for value in feeds.values()):
        raise invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(value) for value in feeds.values()}
    if len(sizes) > 1:
        raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


# REST's JSON


def request_of_json(body, get_inputs):
    """Returns (signature name, {input: array}, row or column) of a request's JSON.

    Args:
        body: Bytes.
        get_inputs: signature name -> {input name: TensorInfo}.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except RecursionError:
        raise invalid("JSON Parse error: too deep") from None
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    inputs = get_inputs(name)
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only "
            "one of 'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise invalid(
                f"JSON Value: {_shown(document)} Excepting 'instances' to be an "
                "list/array"
            )
        if not rows:
            raise invalid(
                f"JSON Value: {_shown(document)} No values in 'instances' array"
            )
        return name, _arrays_of_rows(rows, inputs), "predictions"
    if "inputs" in document:
        return name, _arrays_of_columns(document["inputs"], inputs), "outputs"
    raise invalid("Missing 'inputs' or 'instances' key")


def _arrays_of_columns(columns, inputs):
    if not isinstance(columns, dict) or _is_base64(columns):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple "
                "input tensors required as per tensorinfo_map"
            )
        columns = {next(iter(inputs)): columns}
    arrays = {}
    for name, info in inputs.items():
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = array_of_json(columns[name], info.dtype)
    return arrays


def _arrays_of_rows(rows, inputs):
    named = isinstance(rows[0], dict) and not _is_base64(rows[0])
    if not isinstance(rows[0], dict) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple "
            "input tensors required as per tensorinfo_map"
        )
    columns = collections.defaultdict(list)
    for i, row in enumerate(rows):
        if named != (isinstance(row, dict) and not _is_base64(row)):
            if named:
                raise invalid(
                    f"Expecting object but got list at item {i} of input list"
                )
            raise invalid(
                f"Expecting value/list but got object at item {i} of input list"
            )
        for name, value in (row if named else {next(iter(inputs)): row}).items():
            try:
                if name not in inputs:
                    raise invalid(f"JSON object: does not have named input: {name}")
                array = array_of_json(value, inputs[name].dtype)
                first = columns[name][0] if columns[name] else array
                if array.shape != first.shape:
                    raise invalid(
                        f"Expecting shape {list(first.shape)} but got: "
                        f"{list(array.shape)}"
                    )
            except Refused as error:
                raise invalid(
                    f"Failed to process element: {i} key: {name} of 'instances' list. "
                    f"Error: {error.message}"
                ) from None
            columns[name].append(array)
        if named and row.keys() != inputs.keys():
            raise invalid(
                f"Failed to process element: {i} of 'instances' list. JSON object: "
                f"{_shown(row)} keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {name: np.stack(arrays) for name, arrays in columns.items()}


def array_of_json(value, dtype):
    """Returns the array of nested lists; the first of each level gives its size."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        if not first:
            break
        first = first[0]
    flat = []
    _flatten(value, 0, shape, dtype, flat)
    dtype = tf.dtypes.as_dtype(dtype)
    array = np.empty(len(flat), dtype.as_numpy_dtype)
    array[:] = flat
    return array.reshape(shape)


def _flatten(value, level, shape, dtype, flat):
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in "
                f"the JSON DOM. Expected at level: {len(shape)}"
            )
        flat.append(_value_of_json(value, tf.dtypes.as_dtype(dtype)))
        return
    if level >= len(shape):
        raise invalid(
            f"Encountered list at unexpected level: {level} expected < {len(shape)}"
        )
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for item in value:
        _flatten(item, level + 1, shape, dtype, flat)


def _value_of_json(value, dtype):
    if dtype == tf.string and _is_base64(value):
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error:
            raise invalid("Unable to base64 decode") from None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype == tf.string and isinstance(value, str):
        # Lone surrogates cannot be written as UTF-8; rapidjson refuses them too.
        return value.encode("utf-8", "replace")
    if dtype == tf.bool and isinstance(value, bool):
        return value
    if dtype.is_floating and number:
        largest = 2**24 - 1 if isinstance(value, int) else dtype.max
        if math.isfinite(value) and abs(value) > largest:
            raise invalid(
                f"Cannot convert JSON value: {value} to float without loss of "
                "precision."
            )
        return value
    whole = dtype.is_integer and isinstance(value, int) and number
    if whole and dtype.min <= value <= dtype.max:
        return value
    kind = {dict: "Object", list: "Array", str: "String", type(None): "Null"}
    kind = "Number" if number else kind.get(type(value), str(value))
    raise invalid(
        f"JSON Value: {_shown(value)} Type: {kind} is not of expected type: "
        f"{dtype.name}"
    )


def _is_base64(value):
    return (
        isinstance(value, dict)
        and value.keys() == {"b64"}
        and isinstance(value["b64"], str)
    )


def _shown(value):
    return json.dumps(value)[:1000]


def json_of_outputs(outputs, key):
    """Returns the answer's dict; one output alone loses its name."""
    columns = {name: _plain(name, value) for name, value in outputs.items()}
    if key == "outputs":
        return {key: columns if len(columns) > 1 else next(iter(columns.values()))}
    sizes = {len(value) if value.ndim else None for value in outputs.values()}
    if None in sizes:
        raise invalid("Tensor has no shape information ")
    if len(sizes) > 1:
        raise invalid(f"Tensors have inconsistent batch size: {sorted(sizes)}")
    if len(columns) == 1:
        return {key: next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {key: [dict(zip(columns, row, strict=True)) for row in rows]}


def _plain(name, value):
    """Returns nested lists; floats as the shortest decimals that read back the same."""
    if value.dtype == object:
        if name.endswith("_bytes"):
            one = lambda item: {"b64": base64.b64encode(item).decode()}  # noqa: E731
        else:
            one = lambda item: item.decode("utf-8", "replace")  # noqa: E731
        flat = np.empty(value.size, object)
        flat[:] = [one(item) for item in value.flat]
        return flat.reshape(value.shape).tolist()
    if value.dtype == np.float32:
        return value.astype(str).astype(np.float64).tolist()
    return value.tolist()


# The server


class StandIn:
    """Serves the numbered versions under a folder; `with StandIn(...) as server:`.

    Args:
        base_path: Folder of version folders. The highest is served, a new one as
            soon as it is loaded; `specific_versions` are served all.
        name: The model's name.
        batching: `BatchingParameters`, or None.
        labels: {label: version}.
        max_request_bytes: Larger REST requests are refused by 413, as proxies do, and
            larger gRPC ones by RESOURCE_EXHAUSTED. The server itself has no limit.
        port, rest_api_port: 0 finds free ones.

    Attributes:
        delay: Seconds that every request waits before it is run.
        n_unavailable: How many more requests are answered by UNAVAILABLE.
        n_requests: How many predictions were asked for.
    """

    def __init__(
        self,
        base_path,
        name="gpt",
        batching=None,
        labels=None,
        specific_versions=(),
        max_request_bytes=None,
        port=0,
        rest_api_port=0,
    ):
        self.base_path = pathlib.Path(base_path)
        self.name = name
        self.batching = batching
        self.labels = labels or {}
        self.specific_versions = tuple(specific_versions)
        self.max_request_bytes = max_request_bytes
        self.delay = 0.0
        self.n_unavailable = 0
        self.n_requests = 0
        self.servables = {}
        self.states = {}  # version -> (state, error message)
        self._ports = (port, rest_api_port)
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def __enter__(self):
        self.poll()
        port, rest_port = self._ports
        limit = self.max_request_bytes or 2**31 - 1
        self._grpc = grpc.server(
            concurrent.futures.ThreadPoolExecutor(max_workers=128),
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        add = prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server
        add(_Prediction(self), self._grpc)
        add = model_service_pb2_grpc.add_ModelServiceServicer_to_server
        add(_Models(self), self._grpc)
        self.port = self._grpc.add_insecure_port(f"127.0.0.1:{port}")
        self._http = _Http(("127.0.0.1", rest_port), _Rest)
        self._http.standin = self
        self.rest_port = self._http.server_address[1]
        self._grpc.start()
        self._threads = [
            threading.Thread(target=self._http.serve_forever, args=[0.02]),
            threading.Thread(target=self._poll_until_stopped),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._grpc.stop(None).wait()
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def rest_url(self):
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def grpc_url(self):
        return f"grpc://127.0.0.1:{self.port}"

    def poll(self):
        """Loads what is to be served and is not; then drops what is no longer."""
        found = [int(p.name) for p in self.base_path.glob("*") if p.name.isdigit()]
        wanted = [v for v in self.specific_versions if v in found]
        if not self.specific_versions and found:
            wanted = [max(found)]
        for version in wanted:
            if version in self.states:
                continue
            self.states[version] = ("LOADING", "")
            try:
                servable = Servable(self.base_path / str(version), self.batching)
            except Exception as error:  # whatever a folder can hold
                self.states[version] = ("END", str(error))
                continue
            with self._lock:
                self.servables[version] = servable
            self.states[version] = ("AVAILABLE", "")
        # The version before goes only when the one after it is there.
        if any(version in self.servables for version in wanted):
            with self._lock:
                for version in set(self.servables) - set(wanted):
                    del self.servables[version]
                    self.states[version] = ("END", "")

    def _poll_until_stopped(self):
        while not self._stopped.wait(0.2):
            self.poll()

    def find(self, spec):
        """Returns (version, Servable) of a ModelSpec."""
        with self._lock:
            servables = dict(self.servables)
        version, asked = None, f"Latest({spec.name})"
        if spec.version_label:
            if spec.version_label not in self.labels:
                raise invalid(
                    f"Unrecognized servable version label: {spec.version_label}"
                )
            version = self.labels[spec.version_label]
        elif spec.HasField("version"):
            version = spec.version.value
        elif servables:
            version = max(servables)
        if spec.version_label or spec.HasField("version"):
            asked = f"Specific({spec.name}, {version})"
        if spec.name != self.name or version not in servables:
            raise Refused("NOT_FOUND", f"Servable not found for request: {asked}")
        return version, servables[version]

    def predict(self, spec, inputs, output_filter=()):
        """Returns (version, {output name: array})."""
        with self._lock:
            self.n_requests += 1
            refuse = self.n_unavailable > 0
            self.n_unavailable -= refuse
        if refuse:
            raise Refused("UNAVAILABLE", "the server is told to be unavailable")
        if self.delay:
            time.sleep(self.delay)
        version, servable = self.find(spec)
        outputs = servable.predict(spec.signature_name, inputs, output_filter)
        return version, outputs

    def metadata(self, spec):
        version, servable = self.find(spec)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.meta_graph.signature_def.items():
            signatures.signature_def[name].CopyFrom(signature)
        response.metadata["signature_def"].Pack(signatures)
        return response, signatures

    def status(self, spec):
        response = get_model_status_pb2.GetModelStatusResponse()
        states = self.states if spec.name == self.name else {}
        if spec.HasField("version"):
            version = spec.version.value
            if version not in states:
                raise Refused(
                    "NOT_FOUND",
                    f"Could not find version {version} of model {spec.name}",
                )
            states = {version: states[version]}
        elif not states:
            raise Refused(
                "NOT_FOUND", f"Could not find any versions of model {spec.name}"
            )
        for version, (state, message) in sorted(states.items(), reverse=True):
            entry = response.model_version_status.add(version=version)
            entry.state = entry.State.Value(state)
            entry.status.SetInParent()
            if message:
                entry.status.error_code = 2
                entry.status.error_message = message
        return response


@contextlib.contextmanager
def _refusals_to(context):
    try:
        yield
    except Refused as error:
        context.abort(grpc.StatusCode[error.code], error.message)


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, standin):
        self._standin = standin

    def Predict(self, request, context):
        response = predict_pb2.PredictResponse()
        with _refusals_to(context):
            version, outputs = self._standin.predict(
                request.model_spec, _arrays_of(request.inputs), request.output_filter
            )
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version
            response.model_spec.signature_name = (
                request.model_spec.signature_name or "serving_default"
            )
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    def GetModelMetadata(self, request, context):
        with _refusals_to(context):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            if list(request.metadata_field) != ["signature_def"]:
                raise invalid(
                    "GetModelMetadataRequest must specify at least one metadata_field"
                )
            return self._standin.metadata(request.model_spec)[0]


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, standin):
        self._standin = standin

    def GetModelStatus(self, request, context):
        with _refusals_to(context):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            return self._standin.status(request.model_spec)


_WHICH = r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
_PREDICT = re.compile(_WHICH + r":(classify|regress|predict)")
_ABOUT = re.compile(_WHICH + r"(?:/(metadata))?")


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass  # a client that went away


class _Rest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(self._about)

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        limit = self.server.standin.max_request_bytes
        if limit and length > limit:
            self.close_connection = True
            while length > 0:  # or the client never comes to read the answer
                length -= len(self.rfile.read(min(length, 2**20)))
            self._send(413, {"error": "Request entity too large"})
            return
        body = self.rfile.read(length)
        self._answer(lambda: self._predict(body))

    def _answer(self, handle):
        try:
            if not self.path.lower().startswith("/v1/"):
                raise Refused("NOT_FOUND", "Not Found")
            status, value = 200, handle()
        except Refused as error:
            status, value = HTTP_STATUS[error.code], {"error": error.message}
        except Exception as error:  # what nobody thought of is one request's trouble
            status, value = 500, {"error": repr(error)}
        self._send(status, value)

    def _send(self, status, value):
        content = json.dumps(value, indent=4).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _match(self, pattern):
        match = pattern.fullmatch(self.path)
        if match is None:
            raise invalid(f"Malformed request: {self.command} {self.path}")
        spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match[1]))
        if match[2]:
            spec.version.value = int(match[2])
        if match[3]:
            spec.version_label = urllib.parse.unquote(match[3])
        return spec, match[4]

    def _about(self):
        spec, wanted = self._match(_ABOUT)
        options = {"preserving_proto_field_name": True}
        options["always_print_fields_with_no_presence"] = True
        if not wanted:
            return json_format.MessageToDict(
                self.server.standin.status(spec), **options
            )
        response, signatures = self.server.standin.metadata(spec)
        as_dict = json_format.MessageToDict
        return {
            "model_spec": as_dict(response.model_spec, **options),
            "metadata": {"signature_def": as_dict(signatures, **options)},
        }

    def _predict(self, body):
        standin = self.server.standin
        spec, method = self._match(_PREDICT)
        if method.lower() != "predict":
            raise Refused("UNIMPLEMENTED", f"the stand-in has no {method}")

        def get_inputs(name):
            signatures = standin.find(spec)[1].meta_graph.signature_def
            if (name or "serving_default") not in signatures:
                raise invalid(
                    f'Serving signature name: "{name or "serving_default"}" not found '
                    "in signature def"
                )
            return dict(signatures[name or "serving_default"].inputs)

        name, inputs, key = request_of_json(body, get_inputs)
        spec.signature_name = name
        return json_of_outputs(standin.predict(spec, inputs)[1], key)


def model_config(text):
    """Returns the `ModelConfig` of a model_config file with one model."""
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


def main():
    """Serves until it is told to stop; the flags are those of the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", default="default")
    parser.add_argument("--model_base_path")
    parser.add_argument("--model_config_file")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--rest_api_port", type=int, default=0)
    parser.add_argument("--enable_batching", action="store_true")
    parser.add_argument("--batching_parameters_file")
    given = parser.parse_args()
    batching = BatchingParameters() if given.enable_batching else None
    if given.batching_parameters_file:
        text = pathlib.Path(given.batching_parameters_file).read_text()
        batching = BatchingParameters.from_text(text)
    settings = {"name": given.model_name, "base_path": given.model_base_path}
    if given.model_config_file:
        model = model_config(pathlib.Path(given.model_config_file).read_text())
        settings = {
            "name": model.name,
            "base_path": model.base_path,
            "labels": dict(model.version_labels),
            "specific_versions": list(model.model_version_policy.specific.versions),
        }
    ports = {"port": given.port, "rest_api_port": given.rest_api_port}
    with StandIn(batching=batching, **settings, **ports) as server:
        print(f"serving at {server.grpc_url} and {server.rest_url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
