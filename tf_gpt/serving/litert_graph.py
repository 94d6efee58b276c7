"""The decoder as a LiteRT graph, written op by op.

LiteRT wants another graph than Keras: fixed shapes, weights as (outputs, inputs),
and for speed int8 products and caches that no op copies. TensorFlow's converter
cannot be told so; so the blocks stand here a second time, and a test compares
their logits with the model's.

Dimension key: T tokens in this call, S slots of the past, H heads, D head size,
C hidden size, V vocabulary. There is no batch: one sequence.

Needs NumPy and `ai_edge_litert`, not TensorFlow.
"""

import hashlib
import json
import os

import numpy as np
from ai_edge_litert import schema_py_generated as schema

OP = schema.BuiltinOperator
TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int8": schema.TensorType.INT8,
    "bool": schema.TensorType.BOOL,
}
IDENTIFIER = b"TFL3"
METADATA = "tf_gpt"

MASKED_SCORE = -1e9
_ALIGNMENT = 64  # bytes; of weights in the file
_DIGEST = "0" * 64  # stands in for a digest until it is known


class Graph:
    """A LiteRT file in the making: subgraphs that share their constants.

    Op methods take and return indices of the current subgraph's tensors.
    """

    def __init__(self):
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "GPT-1 decoder by tf_gpt"
        self.model.buffers = [schema.BufferT()]  # the first is no buffer, by rule
        self.model.operatorCodes, self.model.subgraphs = [], []
        self.model.signatureDefs, self.model.metadata = [], []
        self._op_indices = {}
        self._stored = {}  # constant's name -> (tensor, its array)
        self._arrays = []  # (buffer, array), in the order of the file

    def begin(self, name):
        """Begins a subgraph, which will be a signature of this name."""
        self._sub = schema.SubGraphT()
        self._sub.name = name
        self._sub.tensors, self._sub.operators = [], []
        self._here = {}  # constant's name -> index

    def end(self, inputs, outputs):
        """Ends the subgraph; takes dicts of signature name -> tensor."""
        signature = schema.SignatureDefT()
        signature.signatureKey = self._sub.name
        signature.subgraphIndex = len(self.model.subgraphs)
        self._sub.inputs = list(inputs.values())
        self._sub.outputs = list(outputs.values())
        signature.inputs = [self._named(*item) for item in inputs.items()]
        signature.outputs = [self._named(*item) for item in outputs.items()]
        self.model.subgraphs.append(self._sub)
        self.model.signatureDefs.append(signature)

    def _named(self, name, index):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, index
        self._sub.tensors[index].name = f"{self._sub.name}_{name}"
        return entry

    def tensor(self, shape, dtype="float32"):
        """Adds a tensor that an op, or the caller, fills."""
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.hasRank = list(shape), TYPES[dtype], True
        tensor.buffer, tensor.name = 0, f"t{len(self._sub.tensors)}"
        self._sub.tensors.append(tensor)
        return len(self._sub.tensors) - 1

    def shape(self, tensor):
        return list(self._sub.tensors[tensor].shape)

    def constant(self, name, make):
        """Adds a constant; of one name there is one copy in the file.

        Args:
            name: Its name.
            make: () -> NumPy array, or (int8 array (N, K), scales (N,)).
        """
        if name not in self._stored:
            array = make()
            scales = None
            if isinstance(array, tuple):
                array, scales = array
            tensor = schema.TensorT()
            tensor.name, tensor.hasRank = name, True
            tensor.shape, tensor.type = list(array.shape), TYPES[str(array.dtype)]
            tensor.quantization = None if scales is None else _PerRow(scales)
            tensor.buffer = self._buffer(array)
            self._stored[name] = tensor
        if name not in self._here:
            self._sub.tensors.append(self._stored[name])
            self._here[name] = len(self._sub.tensors) - 1
        return self._here[name]

    def integers(self, *values):
        """Adds an int32 constant."""
        name = "integers" + "_".join(map(str, values))
        return self.constant(name, lambda: np.array(values, "int32"))

    def _buffer(self, array):
        buffer = schema.BufferT()
        self.model.buffers.append(buffer)
        self._arrays.append((buffer, array))
        return len(self.model.buffers) - 1

    def op(self, code, inputs, shape, options=None, version=1, dtype="float32", **set):
        """Adds an op with one output; `set` are the fields of its options."""
        key = (code, version)
        if key not in self._op_indices:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.version = code, version
            entry.deprecatedBuiltinCode = min(code, 127)
            self.model.operatorCodes.append(entry)
            self._op_indices[key] = len(self._op_indices)
        op = schema.OperatorT()
        op.opcodeIndex, op.inputs = self._op_indices[key], list(inputs)
        if options is not None:
            op.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            op.builtinOptions = getattr(schema, options + "T")()
            for field, value in set.items():
                setattr(op.builtinOptions, field, value)
        op.outputs = [self.tensor(shape, dtype)]
        self._sub.operators.append(op)
        return op.outputs[0]

    def write(self, stream, metadata):
        """Writes the file: the graph, the weights behind it, then the metadata.

        Args:
            stream: Binary file, at its start.
            metadata: Dict for JSON. Added are `graph_sha256` and
                `weights_sha256`, and `graph_bytes`.
        """
        entry = schema.MetadataT()
        entry.name = METADATA
        last = schema.BufferT()
        self.model.buffers.append(last)
        entry.buffer = len(self.model.buffers) - 1
        self.model.metadata.append(entry)
        # Lengths first: the offsets do not change the graph's own length, for
        # they are stored as numbers of eight bytes, none of them the default.
        graph_bytes = len(self._packed(last, 2**20, 1, metadata))
        first = _aligned(graph_bytes)
        end = self._place(first)
        digest = hashlib.sha256()
        stream.seek(first)
        for buffer, array in self._arrays:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            padding = b"\0" * (buffer.offset - stream.tell())
            for part in (padding, data):
                stream.write(part)
                digest.update(part)
        stream.write(b"\0" * (end - stream.tell()))
        known = {
            **metadata,
            "graph_bytes": graph_bytes,
            "graph_sha256": _DIGEST,
            "weights_sha256": digest.hexdigest(),
        }
        graph = self._packed(last, end, len(_json(known)))
        known["graph_sha256"] = hashlib.sha256(graph).hexdigest()
        stream.write(_json(known))
        stream.seek(0)
        stream.write(graph)

    def _place(self, position):
        """Gives every array its place from `position` on; returns the end."""
        for buffer, array in self._arrays:
            buffer.offset, buffer.size = position, array.nbytes
            position = _aligned(position + array.nbytes)
        return position

    def _packed(self, last, offset, size, metadata=None):
        import flatbuffers

        if metadata is not None:
            self._place(offset)
        last.offset, last.size = offset, size
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


def _json(metadata):
    return json.dumps(metadata, sort_keys=True).encode()


def _aligned(position):
    return -(-position // _ALIGNMENT) * _ALIGNMENT


class _PerRow(schema.QuantizationParametersT):
    """Scales of a weight's rows, stored once for all the subgraphs that use it."""

    def __init__(self, scales):
        super().__init__()
        self.scale = scales.astype("float32")
        self.zeroPoint = np.zeros(len(scales), "int64")
        self.quantizedDimension = 0
        self._builder = self._place = None

    def Pack(self, builder):  # the schema's name for it
        if self._builder is not builder:
            self._builder, self._place = builder, super().Pack(builder)
        return self._place


def quantized(weights):
    """Returns int8 (N, K) and a scale for each row, symmetric: float32 (N,)."""
    largest = np.abs(weights).max(axis=1)
    scales = (np.where(largest > 0, largest, 1.0) / 127.0).astype("float32")
    return np.rint(weights / scales[:, None]).astype("int8"), scales


class Decoder:
    """Adds the signatures of a decoder to a `Graph`.

    Args:
        graph: `Graph`.
        weights: Function of a weight's path, as `h_0/attn/c_attn/kernel`, that
            returns it as NumPy float32, kernels as (inputs, outputs).
        sizes: Dict of `vocab_size`, `n_positions`, `n_embd`, `n_heads` (a list,
            of each block), `head_size`, `afn` and `layer_norm_epsilon`.
        quantize: None, "float16" or "int8".
    """

    def __init__(self, graph, weights, sizes, quantize):
        self.graph = graph
        self.weights = weights
        self.sizes = sizes
        self.quantize = quantize

    def add_signature(self, name, n_tokens, n_slots, with_logits):
        """Adds a signature for T tokens after at most S in the caches.

        Inputs: ids int32 (T,); position int32 (1,), of the first token, also the
            number of slots that are filled; for block i keys_i and values_i,
            float32, flat: (H, S, D). (Flat, since LiteRT's Python takes a
            caller's memory for flat tensors only.)
        Outputs: new_keys_i and new_values_i (H, T, D); logits (T, V) if
            `with_logits`.
        """
        graph, size = self.graph, self.sizes["head_size"]
        graph.begin(name)
        inputs = {"ids": graph.tensor([n_tokens], "int32")}
        inputs["position"] = graph.tensor([1], "int32")
        outputs = {}
        x = self._embedded(inputs["ids"], inputs["position"])
        is_past = self._past_mask(inputs["position"], n_slots)
        for i, n_head in enumerate(self.sizes["n_heads"]):
            past = []
            for kind in ("keys", "values"):
                flat = graph.tensor([n_head * n_slots * size])
                inputs[f"{kind}_{i}"] = flat
                past.append(self._reshape(flat, [n_head, n_slots, size]))
            x, new = self._block(x, f"h_{i}", n_head, past, is_past)
            outputs[f"new_keys_{i}"], outputs[f"new_values_{i}"] = new
        if with_logits:
            outputs["logits"] = self._product(x, self._table(), bias=None)
        graph.end(inputs, outputs)

    def _embedded(self, ids, position):
        graph, width = self.graph, self.sizes["n_embd"]
        (n_tokens,) = graph.shape(ids)
        shape = [n_tokens, width]
        table = self._stored_table()
        if self.quantize == "float16":
            rows = graph.op(
                OP.GATHER, [table, ids], shape, "GatherOptions", dtype="float16"
            )
            x = graph.op(OP.DEQUANTIZE, [rows], shape, "DequantizeOptions", version=3)
        else:  # int8 rows are scaled here, and no others
            version = 4 if self.quantize == "int8" else 1
            x = graph.op(OP.EMBEDDING_LOOKUP, [ids, table], shape, version=version)
        steps = graph.integers(*range(n_tokens))
        positions = graph.op(
            OP.ADD, [position, steps], [n_tokens], "AddOptions", dtype="int32"
        )
        # The padding of a chunk may stand behind the last position.
        last = graph.integers(self.sizes["n_positions"] - 1)
        positions = graph.op(
            OP.MINIMUM,
            [positions, last],
            [n_tokens],
            "MaximumMinimumOptions",
            dtype="int32",
        )
        name = "positions_embed/embeddings"
        table = graph.constant(name, lambda: self.weights(name))
        rows = graph.op(OP.GATHER, [table, positions], shape, "GatherOptions")
        return self._add(x, rows)

    def _past_mask(self, position, n_slots):
        """Returns (1, 1, S): 0 where a slot is filled, else the masked score."""
        graph = self.graph
        slots = graph.integers(*range(n_slots))
        filled = graph.op(
            OP.LESS, [slots, position], [n_slots], "LessOptions", dtype="bool"
        )
        scores = [self._number("zero", 0.0), self._number("masked", MASKED_SCORE)]
        mask = graph.op(OP.SELECT_V2, [filled, *scores], [n_slots], "SelectV2Options")
        return self._reshape(mask, [1, 1, n_slots])

    def _block(self, x, path, n_head, past, is_past):
        y, new = self._attention(x, f"{path}/attn", n_head, past, is_past)
        x = self._norm(self._add(x, y), f"{path}/ln_1")
        hidden = self._projection(x, f"{path}/mlp/c_fc")
        y = self._projection(self._activation(hidden), f"{path}/mlp/c_proj")
        return self._norm(self._add(x, y), f"{path}/ln_2"), new

    def _attention(self, x, path, n_head, past, is_past):
        """Returns y (T, C) and the new keys and values (H, T, D).

        The past and the new tokens are read apart, and weighed by one softmax:
        nothing is appended to the caches here.
        """
        graph, size = self.graph, self.sizes["head_size"]
        n_tokens, n_slots = graph.shape(x)[0], graph.shape(past[0])[1]
        query, key, value = (
            self._heads(self._projection(x, f"{path}/c_attn", part), n_head)
            for part in ("query", "key", "value")
        )
        before = self._add(self._matmul(query, past[0], adj_y=True), is_past)
        own = self._matmul(query, key, adj_y=True)
        if n_tokens > 1:
            own = self._add(own, self._causal(n_tokens))
        shape = [n_head, n_tokens, n_slots + n_tokens]
        scores = graph.op(
            OP.CONCATENATION, [before, own], shape, "ConcatenationOptions", axis=2
        )
        weights = graph.op(OP.SOFTMAX, [scores], shape, "SoftmaxOptions", beta=1.0)
        y = self._add(
            self._matmul(self._part(weights, 0, n_slots), past[1]),
            self._matmul(self._part(weights, n_slots, n_tokens), value),
        )  # (H, T, D)
        if n_tokens > 1:
            y = self._transpose(y, [1, 0, 2])
        y = self._reshape(y, [n_tokens, n_head * size])
        return self._projection(y, f"{path}/c_proj"), (key, value)

    def _heads(self, x, n_head):
        """Returns (T, H x D) as (H, T, D)."""
        n_tokens, size = self.graph.shape(x)[0], self.sizes["head_size"]
        if n_tokens == 1:
            return self._reshape(x, [n_head, 1, size])
        return self._transpose(self._reshape(x, [n_tokens, n_head, size]), [1, 0, 2])

    def _causal(self, n_tokens):
        def mask():
            may_read = np.tri(n_tokens, dtype=bool)[None]
            return np.where(may_read, 0.0, MASKED_SCORE).astype("float32")

        return self.graph.constant(f"causal_{n_tokens}", mask)

    def _projection(self, x, path, part=None):
        """Returns x @ kernel + bias; of `c_attn` one third, scaled if the query."""
        index = {None: None, "query": 0, "key": 1, "value": 2}[part]
        scale = self.sizes["head_size"] ** -0.5 if part == "query" else 1.0

        def third(name):
            array = self.weights(f"{path}/{name}")
            if index is not None:
                array = np.split(array, 3, axis=-1)[index] * np.float32(scale)
            return array

        name = path if part is None else f"{path}/{part}"
        kernel = self._weight(f"{name}/kernel", lambda: third("kernel").T)
        bias = self.graph.constant(f"{name}/bias", lambda: third("bias"))
        return self._product(x, kernel, bias)

    def _weight(self, name, make):
        """Returns a weight (outputs, inputs) in the form that products take."""
        tensor = self._stored_weight(name, make)
        if self.quantize != "float16":
            return tensor
        return self.graph.op(
            OP.DEQUANTIZE,
            [tensor],
            self.graph.shape(tensor),
            "DequantizeOptions",
            version=3,
        )

    def _stored_weight(self, name, make):
        def stored():
            array = np.ascontiguousarray(make(), "float32")
            if self.quantize == "int8":
                return quantized(array)
            return array.astype(self.quantize or "float32")

        return self.graph.constant(name, stored)

    def _stored_table(self):
        name = "tokens_embed/embeddings"
        return self._stored_weight(name, lambda: self.weights(name))

    def _table(self):
        name = "tokens_embed/embeddings"
        return self._weight(name, lambda: self.weights(name))

    def _product(self, x, kernel, bias):
        n_out = self.graph.shape(kernel)[0]
        is_int8 = self.quantize == "int8"
        return self.graph.op(
            OP.FULLY_CONNECTED,
            [x, kernel, -1 if bias is None else bias],
            [*self.graph.shape(x)[:-1], n_out],
            "FullyConnectedOptions",
            version=12 if is_int8 else 6,
            keepNumDims=True,
            asymmetricQuantizeInputs=is_int8,
        )

    def _norm(self, x, path):
        graph = self.graph
        width = [self.sizes["n_embd"]]
        mean = self._mean(x)
        shape = graph.shape(x)
        squares = graph.op(
            OP.SQUARED_DIFFERENCE, [x, mean], shape, "SquaredDifferenceOptions"
        )
        epsilon = self._number("epsilon", self.sizes["layer_norm_epsilon"])
        variance = self._add(self._mean(squares), epsilon)
        inverse = graph.op(OP.RSQRT, [variance], graph.shape(variance))
        x = graph.op(OP.SUB, [x, mean], shape, "SubOptions")
        gain = self.graph.constant(
            f"{path}/gamma", lambda: self.weights(f"{path}/gamma").reshape(width)
        )
        bias = self.graph.constant(
            f"{path}/beta", lambda: self.weights(f"{path}/beta").reshape(width)
        )
        x = graph.op(OP.MUL, [x, inverse], shape, "MulOptions")
        x = graph.op(OP.MUL, [x, gain], shape, "MulOptions")
        return self._add(x, bias)

    def _mean(self, x):
        shape = [*self.graph.shape(x)[:-1], 1]
        axis = self.graph.integers(len(shape) - 1)
        return self.graph.op(OP.MEAN, [x, axis], shape, "ReducerOptions", keepDims=True)

    def _activation(self, x):
        graph, shape, afn = self.graph, self.graph.shape(x), self.sizes["afn"]
        if afn in ("gelu", "gelu_new"):  # both mean the tanh form
            return graph.op(OP.GELU, [x], shape, "GeluOptions", approximate=True)
        if afn == "relu":
            return graph.op(OP.RELU, [x], shape)
        gate = graph.op(OP.LOGISTIC, [x], shape)  # silu and swish
        return graph.op(OP.MUL, [x, gate], shape, "MulOptions")

    def _number(self, name, value):
        return self.graph.constant(name, lambda: np.array([value], "float32"))

    def _add(self, x, y):
        shape = np.broadcast_shapes(self.graph.shape(x), self.graph.shape(y))
        return self.graph.op(OP.ADD, [x, y], list(shape), "AddOptions")

    def _matmul(self, x, y, adj_y=False):
        n_out = self.graph.shape(y)[1 if adj_y else 2]
        shape = [*self.graph.shape(x)[:-1], n_out]
        return self.graph.op(
            OP.BATCH_MATMUL, [x, y], shape, "BatchMatMulOptions", adjY=adj_y
        )

    def _part(self, x, start, size):
        """Returns `size` entries of the last axis of (H, T, S)."""
        shape = [*self.graph.shape(x)[:-1], size]
        places = [self.graph.integers(0, 0, start), self.graph.integers(*shape)]
        return self.graph.op(OP.SLICE, [x, *places], shape, "SliceOptions")

    def _reshape(self, x, shape):
        target = self.graph.integers(*shape)
        return self.graph.op(
            OP.RESHAPE, [x, target], shape, "ReshapeOptions", newShape=shape
        )

    def _transpose(self, x, order):
        shape = [self.graph.shape(x)[axis] for axis in order]
        places = self.graph.integers(*order)
        return self.graph.op(OP.TRANSPOSE, [x, places], shape, "TransposeOptions")


def read_metadata(path):
    """Returns the metadata of a file that `Graph.write` wrote, checked.

    LiteRT ends the process on some damaged files; so the graph's digest, and
    the file's length, are checked before LiteRT sees it.

    Raises:
        ValueError: If it is no such file, or damaged.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        head = stream.read(8)
        if head[4:] != IDENTIFIER:
            raise ValueError(f"{path} is no LiteRT model: it does not begin like one.")
        offset, length = _find_metadata(path, size)
        stream.seek(offset)
        try:
            metadata = json.loads(stream.read(length))
            graph_bytes, digest = metadata["graph_bytes"], metadata["graph_sha256"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise ValueError(f"{path} is damaged: its metadata is no JSON.") from None
        stream.seek(0)
        if not isinstance(graph_bytes, int) or not 0 < graph_bytes <= size:
            raise ValueError(f"{path} is damaged: graph_bytes={graph_bytes!r}.")
        if hashlib.sha256(stream.read(graph_bytes)).hexdigest() != digest:
            raise ValueError(f"{path} is damaged: its graph is not what was written.")
    return metadata


def _find_metadata(path, size):
    """Returns the place of the metadata in a file, (offset, length)."""
    import mmap
    import struct

    with (
        open(path, "rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        try:
            model = schema.Model.GetRootAs(data, 0)
            for i in range(min(model.MetadataLength(), 100)):
                entry = model.Metadata(i)
                if entry.Name() == METADATA.encode():
                    buffer = model.Buffers(entry.Buffer())
                    offset, length = buffer.Offset(), buffer.Size()
                    break
            else:
                raise ValueError(
                    f"{path} was not written by `export_litert`: it has no metadata "
                    f"{METADATA!r}."
                )
        except (struct.error, IndexError, TypeError, OverflowError) as error:
            raise ValueError(f"{path} is damaged: {error}.") from None
    if offset + length != size:
        raise ValueError(
            f"{path} is truncated or too long: it should have {offset + length} "
            f"bytes. Received: {size}."
        )
    return offset, length
