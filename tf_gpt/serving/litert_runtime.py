"""One sequence in LiteRT: the compiled file, and the caches that it reads."""

import contextlib
import math
import os
import pathlib
import shutil
import tempfile

import numpy as np

# A prompt's last tokens are read one by one if they are at most so many: a padded
# chunk takes longer.
FEW = 3


class Runtime:
    """One sequence in LiteRT: the compiled signatures and the caches.

    The caches are NumPy arrays that LiteRT reads in place; their number of slots
    is the smallest of the file's that holds the tokens so far.

    Args:
        path, metadata: The file, and what `litert_graph.read_metadata` says of it.
        n_threads: Threads to compute with.
        cache_dir: Where to keep the packed weights, or None.
    """

    def __init__(self, path, metadata, n_threads, cache_dir):
        self._sizes = metadata["sizes"]
        self._slots = metadata["slots"]
        self._chunk = metadata["chunk"]
        self._shared = {}  # of one size for every signature: name -> (array, buffer)
        self._caches, self._n_slots = [], 0
        self.n_tokens = 0  # in the caches
        with _kept_back() as said:
            try:
                self._model = _load(
                    path, metadata["weights_sha256"], n_threads, cache_dir
                )
                self._make_arrays()
            except RuntimeError as error:
                raise ValueError(
                    f"LiteRT cannot load {path}: {error}. {said()}"
                ) from error

    def _make_arrays(self):
        self._logits = self._array("logits", self._sizes["vocab_size"])
        self._position = self._array("position", 1, "int32")
        self._ids, self._new = {}, {}
        for n_tokens in (1, self._chunk):
            self._ids[n_tokens] = self._array(f"ids_{n_tokens}", n_tokens, "int32")
            self._new[n_tokens] = [
                self._array(f"new_{n_tokens}_{i}", n * n_tokens * self._size)
                for i, n in enumerate(self._heads)
            ]
        self._memory = [
            _aligned(n * self._slots[-1] * self._size, "float32") for n in self._heads
        ]
        self._set_slots(self._slots[0])
        # LiteRT makes the last of its own with the first call, and talks of it.
        self.step(0)
        self.reset()

    def reset(self):
        """Forgets the tokens so far."""
        self.n_tokens = 0
        for cache in self._caches:  # an empty slot weighs 0, which a NaN would pass
            cache.fill(0)
        self._set_slots(self._slots[0])

    def read(self, ids):
        """Puts tokens into the caches, chunk by chunk."""
        start = 0
        while start < len(ids):
            part = ids[start : start + self._chunk]
            if len(part) <= FEW:
                for token in part:
                    self.step(int(token))
            else:
                self._run(part, self._chunk, "prefill")
            start += len(part)

    def step(self, token):
        """Puts a token into the caches; returns the scores after it, float32 (V,).

        The array is written anew by the next call.
        """
        self._run([token], 1, "step")
        return self._logits

    @property
    def _size(self):
        return self._sizes["head_size"]

    @property
    def _heads(self):
        """The heads of each cache: keys and values of the blocks in turn."""
        return [n for n in self._sizes["n_heads"] for _ in ("keys", "values")]

    def _run(self, tokens, n_tokens, kind):
        self._position[:] = self.n_tokens
        self._ids[n_tokens][:] = 0
        self._ids[n_tokens][: len(tokens)] = tokens
        self._invoke(kind, n_tokens)
        end = self.n_tokens + len(tokens)
        if end > self._n_slots:
            self._set_slots(next(n for n in self._slots if n >= end))
        for n_head, cache, new in zip(
            self._heads, self._caches, self._new[n_tokens], strict=True
        ):
            new = new.reshape(n_head, n_tokens, self._size)
            cache[:, self.n_tokens : end] = new[:, : len(tokens)]
        self.n_tokens = end

    def _invoke(self, kind, n_tokens):
        signature = f"{kind}_{self._n_slots}"
        if signature not in self._calls:
            inputs, outputs = self._arrays(kind, n_tokens)
            model = self._model
            _check(signature, inputs, model.get_input_tensor_details(signature))
            _check(signature, outputs, model.get_output_tensor_details(signature))
            self._calls[signature] = [
                {name: buffer for name, (_, buffer) in arrays.items()}
                for arrays in (inputs, outputs)
            ]
        self._model.run_by_name(signature, *self._calls[signature])

    def _arrays(self, kind, n_tokens):
        """Returns a signature's inputs and outputs: name -> (array, its buffer)."""
        shared = self._shared
        inputs = {"ids": shared[f"ids_{n_tokens}"], "position": shared["position"]}
        outputs = {"logits": shared["logits"]} if kind == "step" else {}
        for i, cache in enumerate(self._flat_caches):
            name = f"{'values' if i % 2 else 'keys'}_{i // 2}"
            inputs[name] = cache
            outputs[f"new_{name}"] = shared[f"new_{n_tokens}_{i}"]
        return inputs, outputs

    def _set_slots(self, n_slots):
        """Gives the caches so many slots, with the tokens so far in them.

        They lie at the beginning of the memory for the most slots, which the
        machine hands out as it is written to.
        """
        if n_slots == self._n_slots:
            return
        caches, self._flat_caches, self._calls = [], [], {}
        for i, (n_head, memory) in enumerate(
            zip(self._heads, self._memory, strict=True)
        ):
            flat = memory[: n_head * n_slots * self._size]
            cache = flat.reshape(n_head, n_slots, self._size)
            if self.n_tokens:
                cache[:, : self.n_tokens] = self._caches[i][:, : self.n_tokens].copy()
            caches.append(cache)
            self._flat_caches.append((flat, _as_buffer(flat)))
        self._caches, self._n_slots = caches, n_slots

    def _array(self, name, size, dtype="float32"):
        array = _aligned(size, dtype)
        self._shared[name] = (array, _as_buffer(array))
        return array


def _check(signature, arrays, details):
    """Checks that a signature reads and writes within the arrays it is given.

    LiteRT takes the caller's word for it.
    """
    wanted = {n: (a.size, str(a.dtype)) for n, (a, _) in arrays.items()}
    found = {n: (math.prod(d["shape"]), str(d["dtype"])) for n, d in details.items()}
    if wanted != found:
        name = next(n for n in {**wanted, **found} if wanted.get(n) != found.get(n))
        raise ValueError(
            f"The file's signature {signature} does not fit its metadata: {name} is "
            f"{found.get(name)} in the one and {wanted.get(name)} in the other."
        )


def _aligned(size, dtype):
    """Returns zeros (size,) whose memory LiteRT takes as it is."""
    n_bytes = size * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + 64, "uint8")
    start = -memory.ctypes.data % 64
    return memory[start : start + n_bytes].view(dtype)


def _as_buffer(array):
    from ai_edge_litert.tensor_buffer import TensorBuffer

    return TensorBuffer.create_from_host_memory(array)


def _load(path, digest, n_threads, cache_dir):
    """Returns the compiled model.

    LiteRT packs the weights into a file, whose signatures then share it. The name
    says which weights: LiteRT would take another model's file for its own.
    """
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.options import CpuOptions, Options

    folder = pathlib.Path(tempfile.mkdtemp(prefix="tf_gpt_litert_"))
    try:
        packed = folder / "weights"
        kept = None
        if cache_dir is not None:
            pathlib.Path(cache_dir).mkdir(parents=True, exist_ok=True)
            kept = pathlib.Path(cache_dir) / f"{digest}.xnnpack"
            if kept.exists():
                packed = kept
            else:  # under a name of its own until it is complete
                packed = kept.with_name(f".{kept.name}.{os.getpid()}")
        options = Options(
            cpu_options=CpuOptions(
                num_threads=n_threads, xnnpack_weight_cache_path=str(packed)
            )
        )
        model = CompiledModel.from_file(str(path), options=options)
        if kept is not None and packed != kept and packed.exists():
            os.replace(packed, kept)
        return model
    finally:
        # What is mapped stays readable; the name goes.
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _kept_back():
    """Keeps back what LiteRT writes on standard error; yields a reader of it.

    LiteRT tells of every plug-in that it looks for, and cannot be asked not to.
    """
    with tempfile.TemporaryFile() as said:

        def read():
            said.seek(0)
            return said.read()[-2000:].decode(errors="replace").strip()

        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield read
        finally:
            os.dup2(kept, 2)
            os.close(kept)
