"""A client of an exported model behind TensorFlow Serving, over REST or gRPC.

    client = ServingClient("http://localhost:8501", model="gpt")   # or grpc://...:8500
    client.generate(["Once upon a time"], max_new_tokens=40, temperature=0.8, seed=1)

It imports no TensorFlow. REST needs nothing but the standard library and NumPy;
gRPC needs `grpcio`.
"""

import base64
import contextlib
import dataclasses
import http.client
import itertools
import json
import random
import time
import urllib.parse

import numpy as np

from tf_gpt.serving import messages

# Seconds before the first attempt after a failed one; each wait doubles.
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 5.0

_HTTP_CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


# What the two texts of a pair are, by its kind.
_PAIRS = {
    "entailment": ("premise", "hypothesis"),
    "similarity": ("text_a", "text_b"),
}


class ServingError(OSError):
    """A server cannot be reached, or refused a request.

    Attributes:
        code: Name of gRPC's status code, over REST too: "UNAVAILABLE",
            "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "NOT_FOUND", ...
        details: What the server said.
        url: Whom it was asked of.
    """

    def __init__(self, code, details, url):
        super().__init__(f"{code} from {url}: {details}")
        self.code = code
        self.details = details
        self.url = url


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of a signature.

    Args:
        dtype: NumPy dtype; `object` for strings.
        shape: Tuple of ints, -1 where the size is free; None if the rank is.
        default: The array that an input takes when left out, or None.
    """

    dtype: np.dtype
    shape: tuple | None
    default: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a signature takes and gives: dicts of name -> `TensorSpec`."""

    inputs: dict
    outputs: dict


class ServingClient:
    """Asks a model that `export_saved_model` wrote, behind TensorFlow Serving.

    One client may be shared by threads. Answers do not depend on the transport.

    Args:
        url: `http://host:8501` or `https://...` for REST, with a path in front of
            `/v1` if there is one; `grpc://host:8500` or, with TLS, `grpcs://...`.
        model: Name of the model on the server.
        version: None for the one that is served, an int, or a label.
        timeout: Seconds that a call may take in all, with what is tried again.
        retries: How often more a request is sent while the server is unavailable:
            nobody listens, or it says UNAVAILABLE (503 over REST). Nothing else is
            sent again.

    Raises:
        ValueError: If an argument is none of these.
        ImportError: If `grpc` is asked for and not installed.
    """

    def __init__(self, url, model="gpt", version=None, *, timeout=60.0, retries=5):
        if not isinstance(model, str) or not model:
            raise ValueError(f"`model` must be a name. Received: {model!r}.")
        if isinstance(version, bool) or not (
            version is None
            or (isinstance(version, int) and version >= 0)
            or (isinstance(version, str) and version)
        ):
            raise ValueError(
                "`version` must be None, an integer from 0, or a label. "
                f"Received: {version!r}."
            )
        if not timeout > 0:
            raise ValueError(f"`timeout` must be above 0. Received: {timeout!r}.")
        if not isinstance(retries, int) or retries < 0:
            raise ValueError(
                f"`retries` must be an integer from 0. Received: {retries!r}."
            )
        parts = urllib.parse.urlsplit(str(url))
        transports = {"http": _Rest, "https": _Rest, "grpc": _Grpc, "grpcs": _Grpc}
        if parts.scheme not in transports or not parts.hostname:
            raise ValueError(
                "`url` must begin with http://, https://, grpc:// or grpcs:// and a "
                f"host. Received: {url!r}."
            )
        self.timeout = timeout
        self.retries = retries
        self._transport = transports[parts.scheme](parts, model, version)
        self._signatures = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes the connection, if one is kept."""
        self._transport.close()

    # What the server has

    def status(self):
        """Returns {version: state}: "AVAILABLE", "LOADING", "END", ...

        Raises:
            ServingError: As of every method: if the server refuses, is not there,
                or does not answer in time.
        """
        return self._send(self._transport.status)

    def metadata(self):
        """Returns the signatures of the model: dict of name -> `Signature`."""
        self._signatures = self._send(self._transport.signatures)
        return dict(self._signatures)

    # What a model can be asked

    def generate(
        self,
        prompts,
        *,
        max_new_tokens=None,
        temperature=None,
        top_k=None,
        top_p=None,
        seed=None,
        eos_token_id=None,
    ):
        """Continues prompts, as `generate` of the model does.

        Every option is one value, or one for each prompt; None leaves what the
        model was exported with.

        Args:
            prompts: List of texts (for a model exported with its tokenizer), or
                list of lists of token ids.
            max_new_tokens: Int, the most new tokens.
            temperature: Float; 0 takes the most probable token.
            top_k: Int; 0 keeps every token.
            top_p: Float in (0, 1].
            seed: Int; -1 draws one. A prompt's answer depends on its own alone.
            eos_token_id: Int, the token to stop after; -1 for none.

        Returns:
            List of texts, or of lists of token ids: prompt and continuation.

        Raises:
            ValueError: If an argument cannot be sent.
            ServingError: See `status`.
        """
        options = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "seed": seed,
            "eos_token_id": eos_token_id,
        }
        if _are_texts("prompts", prompts):
            inputs = {"text": _texts("prompts", prompts)}
            outputs = self._ask("generate_text", inputs, len(prompts), options)
            return _strings(outputs["output_text"])
        inputs = _rows("prompts", prompts)
        outputs = self._ask("generate", inputs, len(prompts), options)
        return _trimmed(outputs["output_ids"], outputs["output_lengths"])

    def score(self, rows):
        """Returns the log-probability of every token after those before it.

        Args:
            rows: List of texts, or list of lists of token ids.

        Returns:
            List of float32 arrays, one entry a token. The first is 0: nothing
            stands before it.

        Raises:
            ValueError, ServingError: See `generate`.
        """
        if _are_texts("rows", rows):
            rows = self.tokenize(rows)
        log_probs = self._ask("score", _rows("rows", rows))["log_probs"]
        return [values[: len(row)] for values, row in zip(log_probs, rows, strict=True)]

    def last_logits(self, rows):
        """Returns the logits of the token that comes next: float32 (B, V).

        Args:
            rows: List of lists of token ids, B of them.

        Raises:
            ValueError, ServingError: See `generate`.
        """
        return self._ask("last_logits", _rows("rows", rows))["logits"]

    def classify(self, rows):
        """Classifies rows by a model with a classification head.

        Args:
            rows: List of texts, or list of lists of token ids, B of them.

        Returns:
            Dict with `labels`, a list of B strings, and `probabilities`, float32
            (B, L); of a regression with `scores`, float32 (B, L).

        Raises:
            ValueError, ServingError: See `generate`.
        """
        if _are_texts("rows", rows):
            outputs = self._ask("classify_text", {"text": _texts("rows", rows)})
        else:
            outputs = self._ask("classify", _rows("rows", rows))
        return _classes(outputs)

    def classify_pairs(self, pairs, kind):
        """Classifies pairs of texts by a model that was fine-tuned for them.

        Args:
            pairs: List of B pairs (text, text).
            kind: "entailment", whose pairs are of a premise and a hypothesis, or
                "similarity", whose order says nothing.

        Returns:
            See `classify`.

        Raises:
            ValueError, ServingError: See `generate`.
        """
        if kind not in _PAIRS:
            raise ValueError(
                f"`kind` must be one of {', '.join(sorted(_PAIRS))}. "
                f"Received: kind={kind!r}."
            )
        _check_list("pairs", pairs)
        for pair in pairs:
            is_pair = isinstance(pair, (list, tuple)) and len(pair) == 2
            if not is_pair or not all(isinstance(text, str) for text in pair):
                raise ValueError(
                    f"`pairs` must be pairs (text, text). Received: {pair!r}."
                )
        inputs = {
            name: _texts("pairs", [pair[i] for pair in pairs])
            for i, name in enumerate(_PAIRS[kind])
        }
        return _classes(self._ask(f"classify_{kind}", inputs))

    def choose(self, choices):
        """Chooses among the choices of each row, by a model with two heads.

        Args:
            choices: B lists of choices, each a list of token ids that ends in the
                token whose state is read. Rows may differ in how many they have.

        Returns:
            Dict with `choice`, a list of B ints, and `probabilities`, a list of B
            float32 arrays, one entry a choice.

        Raises:
            ValueError, ServingError: See `generate`.
        """
        _check_list("choices", choices)
        for row in choices:
            _check_list("choices", row)
        most = max(len(row) for row in choices)
        # A choice that fills up is the row's first again.
        filled = [[*row, *[row[0]] * (most - len(row))] for row in choices]
        flat = _rows("choices", list(itertools.chain(*filled)))
        width = flat["input_ids"].shape[1]
        inputs = {
            "input_ids": flat["input_ids"].reshape(len(choices), most, width),
            "lengths": flat["lengths"].reshape(len(choices), most),
        }
        # The server, too, may have filled up with choices, if it merged requests.
        probabilities = [
            values[: len(row)] / values[: len(row)].sum()
            for values, row in zip(
                self._ask("choose", inputs)["probabilities"], choices, strict=True
            )
        ]
        return {
            "choice": [int(np.argmax(values)) for values in probabilities],
            "probabilities": probabilities,
        }

    def tokenize(self, texts):
        """Returns the token ids of each of a list of texts, as lists."""
        if not _are_texts("texts", texts):
            raise ValueError(f"`texts` must be texts. Received: {texts[0]!r}.")
        outputs = self._ask("tokenize", {"text": _texts("texts", texts)})
        return _trimmed(outputs["input_ids"], outputs["lengths"])

    def detokenize(self, rows):
        """Returns the texts of a list of lists of token ids."""
        return _strings(self._ask("detokenize", _rows("rows", rows))["text"])

    def predict(self, signature, inputs):
        """Runs any signature.

        Args:
            signature: Its name.
            inputs: Dict of name -> array or nested lists, texts as str or bytes.
                Those that have a default may be left out; it is repeated for
                each row.

        Returns:
            Dict of name -> array; strings are `bytes` in an object array.

        Raises:
            ValueError, ServingError: See `generate`.
        """
        spec = self._signature(signature)
        unknown = sorted(inputs.keys() - spec.inputs.keys())
        if unknown:
            raise ValueError(
                f"`inputs` of {signature} are {', '.join(sorted(spec.inputs))}. "
                f"Received also: {', '.join(unknown)}."
            )
        arrays = {
            name: _array(name, value, spec.inputs[name].dtype)
            for name, value in inputs.items()
        }
        n_rows = max((len(a) for a in arrays.values() if a.ndim), default=1)
        for name in spec.inputs.keys() - arrays.keys():
            default = spec.inputs[name].default
            if default is None:
                raise ValueError(
                    f"`{name}` must be given: {signature} has no default for it at "
                    f"{self._transport.url}."
                )
            # REST has no defaults, and a merged batch wants an entry for each row.
            arrays[name] = np.repeat(default.ravel()[:1], n_rows)
        return self._send(
            lambda timeout: self._transport.predict(signature, spec, arrays, timeout)
        )

    def _ask(self, signature, inputs, n_rows=0, options=()):
        if options:
            dtypes = self._signature(signature).inputs
            for name, value in options.items():
                if value is not None:
                    inputs[name] = _option(name, value, n_rows, dtypes[name].dtype)
        return self.predict(signature, inputs)

    def _signature(self, name):
        if name not in self._signatures:
            self.metadata()  # which may have changed: the next version may have more
        if name not in self._signatures:
            raise ValueError(
                f"The model at {self._transport.url} has no signature {name!r}: it "
                "was exported from another class, or without a tokenizer. It has: "
                f"{', '.join(sorted(self._signatures))}."
            )
        return self._signatures[name]

    def _send(self, request):
        """Calls `request(seconds left)`, again while the server is unavailable."""
        deadline = time.monotonic() + self.timeout
        for attempt in itertools.count():
            try:
                return request(max(deadline - time.monotonic(), 0.001))
            except ServingError as error:
                wait = min(_FIRST_WAIT * 2**attempt, _LONGEST_WAIT)
                wait *= random.uniform(0.5, 1.0)  # or all clients come back at once
                last = attempt == self.retries or time.monotonic() + wait > deadline
                if error.code != "UNAVAILABLE" or last:
                    if attempt:
                        details = f"{error.details} (attempt {attempt + 1})"
                        raise ServingError(error.code, details, error.url) from error
                    raise
            time.sleep(wait)


# Arguments


def _check_list(name, value):
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__"):
        raise ValueError(f"`{name}` must be a list. Received: {value!r}.")
    if not len(value):
        raise ValueError(f"`{name}` must not be empty. Received: {value!r}.")


def _are_texts(name, rows):
    """Tells whether all rows are texts; some of them raise."""
    _check_list(name, rows)
    kinds = {isinstance(row, str) for row in rows}
    if len(kinds) > 1:
        raise ValueError(
            f"`{name}` must be all texts or all lists of token ids. Received both."
        )
    return kinds.pop()


def _texts(name, texts):
    try:
        values = [text.encode() for text in texts]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`{name}` must be Unicode texts. Received: {error}."
        ) from None
    return _objects(values, (len(values),))


def _rows(name, rows):
    """Returns `input_ids` (B, T), filled up with 0 on the right, and `lengths` (B,)."""
    _check_list(name, rows)
    arrays = []
    for row in rows:
        _check_list(name, row)
        array = np.asarray(row)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}` must be lists of token ids, integers. Received: {row!r}."
            )
        arrays.append(_array(name, array, np.dtype("int32")))
    lengths = np.array([len(array) for array in arrays], "int32")
    ids = np.zeros((len(arrays), lengths.max()), "int32")
    for i, array in enumerate(arrays):
        ids[i, : len(array)] = array
    return {"input_ids": ids, "lengths": lengths}


def _option(name, value, n_rows, dtype):
    array = _array(name, value, dtype)
    if array.shape not in ((), (n_rows,)):
        raise ValueError(
            f"`{name}` must be one value or one for each of {n_rows} rows. "
            f"Received: {value!r}."
        )
    return np.array(np.broadcast_to(array, (n_rows,)))


def _array(name, value, dtype):
    """Returns an array of the dtype, if nothing is lost by it."""
    if dtype.kind == "O":
        array = np.asarray(value, dtype=object)
        flat = [v.encode() if isinstance(v, str) else v for v in array.ravel()]
        if not all(isinstance(v, bytes) for v in flat):
            raise ValueError(f"`{name}` must be texts. Received: {value!r}.")
        return _objects(flat, array.shape)
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, object)  # rows of different lengths
    kinds = {"i": "iu", "f": "iuf", "b": "b"}[dtype.kind]
    if array.dtype.kind not in kinds:
        raise ValueError(f"`{name}` must be {dtype} throughout. Received: {value!r}.")
    converted = array.astype(dtype)
    if dtype.kind == "i" and not np.array_equal(converted, array):
        raise ValueError(f"`{name}` must fit into {dtype}. Received: {value!r}.")
    return converted


def _objects(values, shape):
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _classes(outputs):
    if "labels" in outputs:
        outputs["labels"] = _strings(outputs["labels"])
    return outputs


def _strings(array):
    return [value.decode("utf-8", "replace") for value in array]


def _trimmed(ids, lengths):
    return [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]


# Transports: url, close(), status(timeout), signatures(timeout),
# predict(signature name, Signature, {input: array}, timeout) -> {output: array}


class _Rest:
    """The REST interface, a connection for each request.

    Proxies that the environment may name are not used: the server is a neighbour.
    """

    def __init__(self, parts, model, version):
        model = urllib.parse.quote(model, safe="")
        path = f"{parts.path.rstrip('/')}/v1/models/{model}"
        if isinstance(version, int):
            path += f"/versions/{version}"
        elif version is not None:
            path += f"/labels/{urllib.parse.quote(version, safe='')}"
        self._path = path
        self._address = parts.hostname, parts.port
        self._connection = {
            "http": http.client.HTTPConnection,
            "https": http.client.HTTPSConnection,
        }[parts.scheme]
        self._root = f"{parts.scheme}://{parts.netloc}"
        self.url = self._root + path

    def close(self):
        pass

    def status(self, timeout):
        answer, url = self._request("GET", "", None, timeout)
        with _reading(url):
            return {
                int(entry["version"]): entry["state"]
                for entry in answer["model_version_status"]
            }

    def signatures(self, timeout):
        answer, url = self._request("GET", "/metadata", None, timeout)
        with _reading(url):
            found = answer["metadata"]["signature_def"]["signature_def"]
            return {
                name: Signature(
                    _specs_of_json(signature["inputs"], signature.get("defaults", {})),
                    _specs_of_json(signature["outputs"], {}),
                )
                for name, signature in found.items()
                if signature["inputs"]
            }

    def predict(self, name, signature, arrays, timeout):
        columns = {key: _json_of(array) for key, array in arrays.items()}
        body = {"signature_name": name, "inputs": columns}
        answer, url = self._request("POST", ":predict", body, timeout)
        with _reading(url):
            outputs = answer["outputs"]
            if len(signature.outputs) == 1:  # which loses its name
                outputs = {next(iter(signature.outputs)): outputs}
            return {
                key: _array_of_json(outputs[key], spec)
                for key, spec in signature.outputs.items()
            }

    def _request(self, method, suffix, body, timeout):
        """Returns `(the answer's JSON, url)`."""
        path, deadline = self._path + suffix, time.monotonic() + timeout
        url = self._root + path
        if body is not None:
            body = json.dumps(body, separators=(",", ":")).encode()
        connection = self._connection(*self._address, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json", "Connection": "close"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = []
            while chunk := response.read1(2**20):
                content.append(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError
        except TimeoutError:
            message = f"no whole answer in {timeout:.3g} seconds"
            raise ServingError("DEADLINE_EXCEEDED", message, url) from None
        except (OSError, http.client.HTTPException) as error:
            # Refused, reset, hung up on, or a host not known: nobody answered.
            message = f"{type(error).__name__}: {error}"
            raise ServingError("UNAVAILABLE", message, url) from error
        finally:
            connection.close()
        content = b"".join(content)
        if response.status != 200:
            code = _HTTP_CODES.get(response.status, f"HTTP {response.status}")
            raise ServingError(code, _error_in(content), url)
        with _reading(url):
            return json.loads(content), url


@contextlib.contextmanager
def _reading(url):
    """Turns errors of reading an answer into a `ServingError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"not an answer of TensorFlow Serving ({error!r})"
        raise ServingError("DATA_LOSS", message, url) from error


def _error_in(content):
    """Returns the message of an error's body: JSON, or a proxy's page."""
    try:
        return json.loads(content)["error"]
    except (ValueError, KeyError, TypeError):
        return content[:500].decode("utf-8", "replace") or "no message"


def _specs_of_json(infos, defaults):
    return {
        name: TensorSpec(
            messages.DTYPE_OF_NAME[info["dtype"]],
            None
            if info["tensor_shape"].get("unknown_rank")
            else tuple(int(dim["size"]) for dim in info["tensor_shape"].get("dim", [])),
            _default_of_json(defaults[name]) if name in defaults else None,
        )
        for name, info in infos.items()
    }


def _default_of_json(tensor):
    """Returns the array of a TensorProto as protobuf's JSON."""
    message = messages.classes().Tensor()
    names = {name: number for number, (name, *_) in messages.DTYPES.items()}
    message.dtype = names[tensor["dtype"]]
    for dim in tensor["tensor_shape"].get("dim", []):
        message.tensor_shape.dim.add(size=int(dim["size"]))
    message.tensor_content = base64.b64decode(tensor.get("tensor_content", ""))
    field = messages.DTYPES[message.dtype][2]
    values = tensor.get(field, [])
    if field == "string_val":
        values = [base64.b64decode(value) for value in values]
    elif field != "bool_val":  # 64-bit integers and infinities come as strings
        number = float if field in ("float_val", "double_val") else int
        values = [number(value) for value in values]
    getattr(message, field).extend(values)
    return messages.array_of(message)


def _json_of(array):
    """Returns nested lists; bytes that are no UTF-8 go as base64."""
    if array.dtype != object:
        return array.tolist()

    def of_bytes(value):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}

    values = [of_bytes(value) for value in array.ravel()]
    return _objects(values, array.shape).tolist()


def _array_of_json(value, spec):
    if spec.dtype != object:
        return np.asarray(value, spec.dtype)
    array = np.asarray(value, dtype=object)
    values = [
        base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode()
        for v in array.ravel()
    ]
    return _objects(values, array.shape)


class _Grpc:
    """The gRPC interface, over one channel."""

    def __init__(self, parts, model, version):
        try:
            import grpc
        except ImportError as error:
            raise ImportError(
                f"A {parts.scheme}:// url needs grpcio: pip install tf-gpt[serving]. "
                "An http:// url needs nothing more."
            ) from error
        if parts.path.strip("/"):
            raise ValueError(
                f"A {parts.scheme}:// url has no path. Received: {parts.path!r}."
            )
        self._grpc, self._messages = grpc, messages.classes()
        self._model, self._version = model, version
        self.url = f"{parts.scheme}://{parts.netloc}/{model}"
        options = [
            ("grpc.max_receive_message_length", -1),  # logits are large
            ("grpc.max_send_message_length", -1),
            # This client tries again by itself, and sooner than in a second.
            ("grpc.enable_retries", 0),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        target = f"{parts.hostname}:{parts.port or 8500}"
        if ":" in parts.hostname:  # an IPv6 address
            target = f"[{parts.hostname}]:{parts.port or 8500}"
        if parts.scheme == "grpcs":
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(target, credentials, options)
        else:
            self._channel = grpc.insecure_channel(target, options)

    def close(self):
        self._channel.close()

    def status(self, timeout):
        request = self._messages.GetModelStatusRequest(model_spec=self._spec())
        answer = self._call(
            messages.GET_STATUS, request, "GetModelStatusResponse", timeout
        )
        return {
            entry.version: messages.STATES.get(entry.state, str(entry.state))
            for entry in answer.model_version_status
        }

    def signatures(self, timeout):
        request = self._messages.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )
        answer = self._call(
            messages.GET_METADATA, request, "GetModelMetadataResponse", timeout
        )
        with _reading(self.url):
            (found,) = (e.value.value for e in answer.metadata)
            found = self._messages.SignatureDefMap.FromString(found)
            return {
                entry.key: Signature(
                    _specs_of(entry.value.inputs, entry.value.defaults),
                    _specs_of(entry.value.outputs, ()),
                )
                for entry in found.signature_def
                if entry.value.inputs
            }

    def predict(self, name, signature, arrays, timeout):
        request = self._messages.PredictRequest(model_spec=self._spec(name))
        for key, array in arrays.items():
            request.inputs.add(key=key, value=messages.tensor_of(array))
        answer = self._call(messages.PREDICT, request, "PredictResponse", timeout)
        with _reading(self.url):
            return {
                entry.key: messages.array_of(entry.value) for entry in answer.outputs
            }

    def _spec(self, signature_name=""):
        spec = self._messages.ModelSpec(name=self._model, signature_name=signature_name)
        if isinstance(self._version, int):
            spec.version.value = self._version
        elif self._version is not None:
            spec.version_label = self._version
        return spec

    def _call(self, method, request, answer, timeout):
        call = self._channel.unary_unary(
            method,
            type(request).SerializeToString,
            getattr(self._messages, answer).FromString,
        )
        try:
            return call(request, timeout=timeout)
        except self._grpc.RpcError as error:
            raise ServingError(error.code().name, error.details(), self.url) from error


def _specs_of(infos, defaults):
    found = {entry.key: messages.array_of(entry.value) for entry in defaults}
    return {
        entry.key: TensorSpec(
            messages.DTYPES[entry.value.dtype][1],
            None
            if entry.value.tensor_shape.unknown_rank
            else tuple(dim.size for dim in entry.value.tensor_shape.dim),
            found.get(entry.key),
        )
        for entry in infos
    }
