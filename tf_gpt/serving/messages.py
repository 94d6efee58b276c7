"""The messages of TensorFlow Serving's gRPC interface that the client needs.

The package tensorflow-serving-api has all of them and imports TensorFlow, which
takes seconds; a client has no other use for it. The tables below name the same
fields by the same numbers, which is all that the two sides must agree on.

Source: tensorflow/serving `apis/*.proto`, tensorflow `core/framework/tensor.proto`,
    `core/protobuf/meta_graph.proto`. Maps are written as what they are on the
    wire: repeated entries of a key and a value.
"""

import functools
import math
import types

import numpy as np

PREDICT = "/tensorflow.serving.PredictionService/Predict"
GET_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
GET_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

# Message -> {field: (number, type)}. A type in a list is repeated; a type with a
# capital is a message; enums are written as int32, the same on the wire.
FIELDS = {
    "Dim": {"size": (1, "int64")},
    "Shape": {"dim": (2, ["Dim"]), "unknown_rank": (3, "bool")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "Shape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, ["float"]),
        "double_val": (6, ["double"]),
        "int_val": (7, ["int32"]),
        "string_val": (8, ["bytes"]),
        "int64_val": (10, ["int64"]),
        "bool_val": (11, ["bool"]),
    },
    "TensorEntry": {"key": (1, "string"), "value": (2, "Tensor")},
    "TensorInfo": {
        "name": (1, "string"),
        "dtype": (2, "int32"),
        "tensor_shape": (3, "Shape"),
    },
    "TensorInfoEntry": {"key": (1, "string"), "value": (2, "TensorInfo")},
    "SignatureDef": {
        "inputs": (1, ["TensorInfoEntry"]),
        "outputs": (2, ["TensorInfoEntry"]),
        "defaults": (4, ["TensorEntry"]),
    },
    "SignatureDefEntry": {"key": (1, "string"), "value": (2, "SignatureDef")},
    "SignatureDefMap": {"signature_def": (1, ["SignatureDefEntry"])},
    "Any": {"type_url": (1, "string"), "value": (2, "bytes")},
    "AnyEntry": {"key": (1, "string"), "value": (2, "Any")},
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Int64Value"),
        "signature_name": (3, "string"),
        "version_label": (4, "string"),
    },
    "PredictRequest": {
        "model_spec": (1, "ModelSpec"),
        "inputs": (2, ["TensorEntry"]),
    },
    "PredictResponse": {"outputs": (1, ["TensorEntry"])},
    "GetModelMetadataRequest": {
        "model_spec": (1, "ModelSpec"),
        "metadata_field": (2, ["string"]),
    },
    "GetModelMetadataResponse": {"metadata": (2, ["AnyEntry"])},
    "GetModelStatusRequest": {"model_spec": (1, "ModelSpec")},
    "StatusProto": {"error_code": (1, "int32"), "error_message": (2, "string")},
    "ModelVersionStatus": {
        "version": (1, "int64"),
        "state": (2, "int32"),
        "status": (3, "StatusProto"),
    },
    "GetModelStatusResponse": {"model_version_status": (1, ["ModelVersionStatus"])},
}

STATES = {
    0: "UNKNOWN",
    10: "START",
    20: "LOADING",
    30: "AVAILABLE",
    40: "UNLOADING",
    50: "END",
}

# TensorFlow's type -> its name, NumPy's type, and the field of its values.
DTYPES = {
    1: ("DT_FLOAT", np.dtype("float32"), "float_val"),
    2: ("DT_DOUBLE", np.dtype("float64"), "double_val"),
    3: ("DT_INT32", np.dtype("int32"), "int_val"),
    7: ("DT_STRING", np.dtype(object), "string_val"),
    9: ("DT_INT64", np.dtype("int64"), "int64_val"),
    10: ("DT_BOOL", np.dtype("bool"), "bool_val"),
}
DTYPE_OF_NAME = {name: dtype for name, dtype, _ in DTYPES.values()}
_NUMBER_OF_DTYPE = {dtype: number for number, (_, dtype, _) in DTYPES.items()}


@functools.cache
def classes():
    """Returns a namespace of the messages' classes, by the names in `FIELDS`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    package = "tf_gpt.serving"
    file = descriptor_pb2.FileDescriptorProto(
        name="tf_gpt_serving.proto", package=package, syntax="proto3"
    )
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number)
            repeated = isinstance(kind, list)
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            kind = kind[0] if repeated else kind
            if kind in FIELDS:
                field.type = field.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()  # its own: the names are nobody else's
    pool.Add(file)
    return types.SimpleNamespace(
        **{
            name: message_factory.GetMessageClass(
                pool.FindMessageTypeByName(f"{package}.{name}")
            )
            for name in FIELDS
        }
    )


def tensor_of(array):
    """Returns the `Tensor` of an array of one of `DTYPES`; objects are bytes."""
    tensor = classes().Tensor(dtype=_NUMBER_OF_DTYPE[array.dtype])
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype == object:
        tensor.string_val.extend(array.ravel().tolist())
    else:
        tensor.tensor_content = np.ascontiguousarray(array).tobytes()
    return tensor


def array_of(tensor):
    """Returns the array of a `Tensor`.

    Raises:
        ValueError: If its type is none of `DTYPES`, or it has too many values.
    """
    if tensor.dtype not in DTYPES:
        raise ValueError(f"cannot read a tensor of TensorFlow's type {tensor.dtype}")
    _, dtype, field = DTYPES[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    size = math.prod(shape)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = list(getattr(tensor, field))
    if len(values) > size:
        raise ValueError(f"{len(values)} values came for the shape {shape}")
    # Values at the end that are alike may come once, and zeros not at all.
    rest = values[-1] if values else (b"" if field == "string_val" else 0)
    array = np.full(size, rest, dtype)
    array[: len(values)] = values
    return array.reshape(shape)
