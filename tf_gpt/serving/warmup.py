"""Warm-up records: requests that TF Serving runs before it serves a version.

The first request of each kind is slow: the graph is prepared then, and what XLA
compiles is compiled.
"""

import pathlib

import tensorflow as tf


def check_installed():
    """Raises ImportError unless the package with TF Serving's messages is there."""
    _messages()


def write(path, signatures, n_positions, buckets=None):
    """Writes a file of warm-up records.

    Args:
        path: The file, `assets.extra/tf_serving_warmup_requests` of a version.
        signatures: Dict of name -> `signatures.Signature`.
        n_positions: The longest sequence.
        buckets: `signatures.Buckets`: a record for each of the sizes; None for one
            record of each signature.
    """
    predict_pb2, log_pb2 = _messages()
    path = pathlib.Path(path)
    path.parent.mkdir(exist_ok=True)
    sizes = [(1, 2)]
    if buckets is not None:
        sizes = [(b, t) for b in buckets.batch_sizes for t in buckets.lengths]
    with tf.io.TFRecordWriter(str(path)) as file:
        for name, signature in signatures.items():
            for n_rows, length in sizes if "lengths" in signature.inputs else sizes[:1]:
                if buckets is not None and n_rows < _least_rows(signature):
                    continue
                # Compiled, one new token is as good as many, and fits anywhere.
                n_new = 2 if buckets is None else 1
                if "max_new_tokens" in signature.inputs:
                    length = min(length, n_positions - n_new)
                request = predict_pb2.PredictRequest()
                request.model_spec.name = "model"
                request.model_spec.signature_name = name
                inputs = _inputs(signature, n_rows, length, n_new)
                for key, value in inputs.items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = log_pb2.PredictLog(request=request)
                record = log_pb2.PredictionLog(predict_log=log)
                file.write(record.SerializeToString())


def _least_rows(signature):
    """Returns how many rows of ids an entry has: both orders of two texts are two."""
    _, *n_sequences = signature.inputs.get("lengths", tf.TensorSpec([None])).shape
    return (n_sequences or [1])[0] or 1


def _inputs(signature, n_rows, length, n_new):
    """Returns the inputs of a signature, NumPy, by name."""
    values = {
        **signature.defaults,
        "input_ids": 0,
        "lengths": length,
        "max_new_tokens": n_new,
    }
    inputs = {}
    for name, spec in signature.inputs.items():
        shape = [n_rows, length] if name == "input_ids" else [n_rows]
        if spec.shape.rank > len(shape):  # so many sequences of one row
            shape = [1, spec.shape[1] or n_rows, *shape[1:]]
        value = "a" if spec.dtype == tf.string else values[name]
        inputs[name] = tf.fill(shape, tf.constant(value, spec.dtype)).numpy()
    return inputs


def _messages():
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise ImportError(
            "`warmup` needs the messages of TF Serving: pip install "
            f"tensorflow-serving-api. {error}"
        ) from None
    return predict_pb2, prediction_log_pb2
