"""The decoder as a LiteRT graph, written op by op.

LiteRT wants another graph than Keras: fixed shapes, weights as (outputs, inputs),
and for speed int8 products and caches that no op copies. TensorFlow's converter
cannot be told so; so the blocks stand here a second time, and a test compares
their logits with the model's.

Dimension key: T tokens in this call, S slots of the past (any number: the caller's
arrays say how many), H heads, D head size, C hidden size, V vocabulary. There is no
batch: one sequence.

Needs NumPy and `ai_edge_litert`, not TensorFlow.
"""

import hashlib
import zlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tf_gpt.serving.litert_file import IDENTIFIER, append_metadata
from tf_gpt.serving.litert_runtime import MASKED_SCORE, SLOTS

OP = schema.BuiltinOperator
TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int8": schema.TensorType.INT8,
    "bool": schema.TensorType.BOOL,
}
UNKNOWN = -1  # a size that the caller's arrays give, as LiteRT's shapes have it
_ALIGNMENT = 64  # bytes; of weights in the file


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
        self.model.signatureDefs = []
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
        """Adds a tensor that an op, or the caller, fills.

        Sizes may be `UNKNOWN`.
        """
        tensor = schema.TensorT()
        tensor.shape = [1 if size == UNKNOWN else size for size in shape]
        tensor.shapeSignature = list(shape)
        tensor.type, tensor.hasRank = TYPES[dtype], True
        tensor.buffer, tensor.name = 0, f"t{len(self._sub.tensors)}"
        self._sub.tensors.append(tensor)
        return len(self._sub.tensors) - 1

    def input_of_any_size(self, first):
        """Adds a flat float32 input that can be resized; `first` is its size until."""
        tensor = self.tensor([UNKNOWN])
        self._sub.tensors[tensor].shape = [first]
        return tensor

    def shape(self, tensor):
        return list(self._sub.tensors[tensor].shapeSignature)

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
            tensor.shape = tensor.shapeSignature = list(array.shape)
            tensor.type = TYPES[str(array.dtype)]
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
            stream: Binary file, empty.
            metadata: Dict for JSON. Added are `graph_bytes`, `graph_crc32` and
                `weights_sha256`.
        """
        # Lengths first: the offsets do not change the graph's own length, for
        # they are stored as numbers of eight bytes, none of them the default.
        graph_bytes = len(self._packed(2**20))
        graph = self._packed(_aligned(graph_bytes))
        stream.write(graph)
        digest = hashlib.sha256()
        for buffer, array in self._arrays:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            padding = b"\0" * (buffer.offset - stream.tell())
            for part in (padding, data):
                stream.write(part)
                digest.update(part)
        known = {
            "graph_bytes": graph_bytes,
            "graph_crc32": zlib.crc32(graph),
            "weights_sha256": digest.hexdigest(),
        }
        append_metadata(stream, {**metadata, **known})

    def _packed(self, position):
        """Returns the graph, with the weights from `position` of the file on."""
        import flatbuffers

        for buffer, array in self._arrays:
            buffer.offset, buffer.size = position, array.nbytes
            position = _aligned(position + array.nbytes)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


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

    def add_signature(self, name, n_tokens, with_logits):
        """Adds a signature for T tokens after those in S slots of the caches.

        Inputs: ids and positions int32 (T,); mask float32 (S,), 0 for a slot that
        is filled or will be by these tokens, else `MASKED_SCORE`; places float32,
        flat: (T, S), 1 where a token's slot is, 0 elsewhere; for block i keys_i
        and values_i, float32, flat: (H, S, D), 0 in the slots of these tokens.
        (Flat, since LiteRT's Python takes a caller's memory for flat tensors
        only.)
        Outputs: new_keys_i and new_values_i (H, T, D); logits (T, V) if
            `with_logits`.
        """
        graph, size = self.graph, self.sizes["head_size"]
        graph.begin(name)
        inputs = {
            "ids": graph.tensor([n_tokens], "int32"),
            "positions": graph.tensor([n_tokens], "int32"),
            "mask": graph.input_of_any_size(SLOTS),
            "places": graph.input_of_any_size(n_tokens * SLOTS),
        }
        outputs = {}
        x = self._embedded(inputs["ids"], inputs["positions"])
        mask = self._reshape(inputs["mask"], [1, 1, UNKNOWN])
        places = self._reshape(inputs["places"], [1, n_tokens, UNKNOWN])
        for i, n_head in enumerate(self.sizes["n_heads"]):
            past = []
            for kind in ("keys", "values"):
                flat = graph.input_of_any_size(n_head * SLOTS * size)
                inputs[f"{kind}_{i}"] = flat
                past.append(self._reshape(flat, [n_head, UNKNOWN, size]))
            x, new = self._block(x, f"h_{i}", n_head, past, mask, places)
            outputs[f"new_keys_{i}"], outputs[f"new_values_{i}"] = new
        if with_logits:
            outputs["logits"] = self._product(x, self._table(), bias=None)
        graph.end(inputs, outputs)

    def _embedded(self, ids, positions):
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
        name = "positions_embed/embeddings"
        table = graph.constant(name, lambda: self.weights(name))
        rows = graph.op(OP.GATHER, [table, positions], shape, "GatherOptions")
        return self._add(x, rows)

    def _block(self, x, path, n_head, past, mask, places):
        y, new = self._attention(x, f"{path}/attn", n_head, past, mask, places)
        x = self._norm(self._add(x, y), f"{path}/ln_1")
        hidden = self._projection(x, f"{path}/mlp/c_fc")
        y = self._projection(self._activation(hidden), f"{path}/mlp/c_proj")
        return self._norm(self._add(x, y), f"{path}/ln_2"), new

    def _attention(self, x, path, n_head, past, mask, places):
        """Returns y (T, C) and the new keys and values (H, T, D).

        Nothing is appended to the caches here: they hold zeros in the new tokens'
        slots, to which the new tokens' own scores are added, and from which their
        own weights are taken.
        """
        graph, size = self.graph, self.sizes["head_size"]
        (n_tokens, _) = graph.shape(x)
        query, key, value = (
            self._heads(self._projection(x, f"{path}/c_attn", part), n_head)
            for part in ("query", "key", "value")
        )
        own = self._matmul(query, key, adj_y=True)
        if n_tokens > 1:
            own = self._add(own, self._causal(n_tokens))
        scores = self._add(self._matmul(query, past[0], adj_y=True), mask)
        scores = self._add(scores, self._matmul(own, places))
        shape = graph.shape(scores)
        weights = graph.op(OP.SOFTMAX, [scores], shape, "SoftmaxOptions", beta=1.0)
        own = self._matmul(weights, places, adj_y=True)
        y = self._add(self._matmul(weights, past[1]), self._matmul(own, value))
        if n_tokens > 1:  # (H, T, D)
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
        """Returns x + y, of x's shape."""
        shape = self.graph.shape(x)
        return self.graph.op(OP.ADD, [x, y], shape, "AddOptions")

    def _matmul(self, x, y, adj_y=False):
        n_out = self.graph.shape(y)[1 if adj_y else 2]
        shape = [*self.graph.shape(x)[:-1], n_out]
        return self.graph.op(
            OP.BATCH_MATMUL, [x, y], shape, "BatchMatMulOptions", adjY=adj_y
        )

    def _reshape(self, x, shape):
        target = self.graph.integers(*shape)
        return self.graph.op(
            OP.RESHAPE, [x, target], shape, "ReshapeOptions", newShape=shape
        )

    def _transpose(self, x, order):
        shape = [self.graph.shape(x)[axis] for axis in order]
        places = self.graph.integers(*order)
        return self.graph.op(OP.TRANSPOSE, [x, places], shape, "TransposeOptions")
