"""One sequence in LiteRT: the compiled file, and the caches that it reads."""

import contextlib
import math
import os
import pathlib
import shutil
import tempfile

import numpy as np

MASKED_SCORE = -1e9  # of a slot that is empty

# A prompt's last tokens are read one by one if they are at most so many: a padded
# chunk takes longer.
FEW = 3

# The caches grow by so many slots at a time: what attention costs goes by the slots,
# and every growth takes some milliseconds.
SLOTS = 32


class Runtime:
    """One sequence in LiteRT: the compiled signatures and the caches.

    The caches are NumPy arrays that LiteRT reads in place; their number of slots
    is the smallest multiple of `SLOTS` that holds the tokens so far.

    Args:
        path, metadata: The file, and what `litert_file.read_metadata` says of it.
        n_threads: Threads to compute with.
        cache_dir: Where to keep the packed weights, or None.
    """

    def __init__(self, path, metadata, n_threads, cache_dir):
        self._sizes = metadata["sizes"]
        self._chunk = metadata["chunk"]
        with _kept_back() as said:
            try:
                self._model = _load(
                    path, metadata["weights_sha256"], n_threads, cache_dir
                )
                self._make_arrays()
                # LiteRT makes the last of its own with the first call, and talks.
                self.step(0)
            except RuntimeError as error:
                raise ValueError(
                    f"LiteRT cannot load {path}: {error}. {said()}"
                ) from error
        self.reset()

    def _make_arrays(self):
        """Makes what LiteRT reads and writes: name -> (array, its buffer)."""
        self._fixed = {"logits": _with_buffer(_aligned(self._sizes["vocab_size"]))}
        most = -(-self._sizes["n_positions"] // SLOTS) * SLOTS
        # The arrays that go by the slots lie at the beginning of memory for the most
        # slots, which the machine hands out as it is written to.
        self._memory = {"mask": _aligned(most)}
        for n_tokens in (1, self._chunk):
            for name in ("ids", "positions"):
                array = _aligned(n_tokens, "int32")
                self._fixed[f"{name}_{n_tokens}"] = _with_buffer(array)
            for name, n_head in self._heads.items():
                array = _aligned(n_head * n_tokens * self._size)
                self._fixed[f"new_{name}_{n_tokens}"] = _with_buffer(array)
            self._memory[f"places_{n_tokens}"] = _aligned(n_tokens * most)
        for name, n_head in self._heads.items():
            self._memory[name] = _aligned(n_head * most * self._size)
        self._most = most
        self._n_slots = self.n_tokens = 0
        self._by_slots, self._caches = {}, {}
        self._set_slots(SLOTS)
        for signature, n_tokens in (("step", 1), ("prefill", self._chunk)):
            self._check(signature, n_tokens)

    def reset(self):
        """Forgets the tokens so far."""
        self.n_tokens = 0
        self._set_slots(SLOTS)

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
        return self._fixed["logits"][0]

    @property
    def _size(self):
        return self._sizes["head_size"]

    @property
    def _heads(self):
        """The heads of each cache, by its name."""
        return {
            f"{kind}_{i}": n
            for i, n in enumerate(self._sizes["n_heads"])
            for kind in ("keys", "values")
        }

    def _run(self, tokens, n_tokens, signature):
        start, end = self.n_tokens, self.n_tokens + len(tokens)
        if end > self._n_slots:
            self._set_slots(-(-end // SLOTS) * SLOTS)
        inputs, outputs = self._arrays(n_tokens)
        inputs["ids"][0][:] = 0
        inputs["ids"][0][: len(tokens)] = tokens
        # The padding of a chunk may stand behind the last position.
        positions = np.arange(start, start + n_tokens)
        np.minimum(
            positions,
            self._sizes["n_positions"] - 1,
            out=inputs["positions"][0],
            casting="unsafe",
        )
        inputs["mask"][0][start:end] = 0
        places = inputs["places"][0].reshape(n_tokens, self._n_slots)
        places.fill(0)
        places[range(len(tokens)), range(start, end)] = 1
        self._invoke(signature, inputs, outputs)
        for name, n_head in self._heads.items():
            new = outputs[f"new_{name}"][0].reshape(n_head, n_tokens, self._size)
            self._caches[name][:, start:end] = new[:, : len(tokens)]
        self.n_tokens = end

    def _invoke(self, signature, inputs, outputs):
        model = self._model
        if signature not in self._resized:
            index = model.get_signature_index(signature)
            names = model.get_signature_by_index(index)["inputs"]
            for place, name in enumerate(names):
                if name not in ("ids", "positions"):
                    model.resize_input_tensor(place, [inputs[name][0].size], index)
            self._resized.add(signature)
        buffers = (
            {name: buffer for name, (_, buffer) in arrays.items()}
            for arrays in (inputs, outputs)
        )
        model.run_by_name(signature, *buffers)

    def _check(self, signature, n_tokens):
        """Checks that a signature reads and writes within the arrays it is given.

        LiteRT takes the caller's word for it. Until an input is resized the file
        says its size for `SLOTS` slots.
        """
        inputs, outputs = self._arrays(n_tokens)
        wanted = {
            n: (a.size, str(a.dtype)) for n, (a, _) in {**inputs, **outputs}.items()
        }
        details = {
            **self._model.get_input_tensor_details(signature),
            **self._model.get_output_tensor_details(signature),
        }
        found = {
            n: (math.prod(d["shape"]), str(d["dtype"])) for n, d in details.items()
        }
        for name in {**wanted, **found}:
            if wanted.get(name) != found.get(name):
                raise ValueError(
                    f"The file's signature {signature} does not fit its metadata: "
                    f"{name} is {found.get(name)} in the one and {wanted.get(name)} in "
                    "the other."
                )

    def _arrays(self, n_tokens):
        """Returns a signature's inputs and outputs: name -> (array, its buffer)."""
        inputs = {n: self._fixed[f"{n}_{n_tokens}"] for n in ("ids", "positions")}
        inputs["mask"] = self._by_slots["mask"]
        inputs["places"] = self._by_slots[f"places_{n_tokens}"]
        outputs = {"logits": self._fixed["logits"]} if n_tokens == 1 else {}
        for name in self._heads:
            inputs[name] = self._by_slots[name]
            outputs[f"new_{name}"] = self._fixed[f"new_{name}_{n_tokens}"]
        return inputs, outputs

    def _set_slots(self, n_slots):
        """Gives the caches so many slots, with the tokens so far and then zeros."""
        n_tokens = self.n_tokens
        if n_slots != self._n_slots:
            self._resized = set()
            for name, memory in self._memory.items():
                array = memory[: len(memory) // self._most * n_slots]
                self._by_slots[name] = _with_buffer(array)
            for name, n_head in self._heads.items():
                array, _ = self._by_slots[name]
                cache = array.reshape(n_head, n_slots, self._size)
                if n_tokens:
                    cache[:, :n_tokens] = self._caches[name][:, :n_tokens].copy()
                self._caches[name] = cache
            self._n_slots = n_slots
        for cache in self._caches.values():
            cache[:, n_tokens:] = 0
        mask, _ = self._by_slots["mask"]
        mask[:n_tokens] = 0
        mask[n_tokens:] = MASKED_SCORE


def _aligned(size, dtype="float32"):
    """Returns zeros (size,) whose memory LiteRT takes as it is."""
    n_bytes = size * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + 64, "uint8")
    start = -memory.ctypes.data % 64
    return memory[start : start + n_bytes].view(dtype)


def _with_buffer(array):
    """Returns an array, and LiteRT's view of it."""
    from ai_edge_litert.tensor_buffer import TensorBuffer

    return array, TensorBuffer.create_from_host_memory(array)


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
