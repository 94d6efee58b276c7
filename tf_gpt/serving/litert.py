"""GPT on LiteRT: one .tflite file, and the generator that drives it.

The file has a signature of one token and one of a chunk of `CHUNK` tokens, over one
copy of the weights. They read the caches, of any number of slots, and return the new
keys and values alone: the generator writes these into its own arrays, which LiteRT
reads where they lie. `LiteRTGenerator` needs NumPy and
`ai_edge_litert` (`pip install tf-gpt[litert]`), and imports no TensorFlow.
"""

import os
import pathlib
import random
import re

import numpy as np

from tf_gpt.serving.litert_file import read_metadata
from tf_gpt.serving.litert_runtime import Runtime
from tf_gpt.storage import replaced_file

FORMAT_VERSION = 2
QUANTIZATIONS = (None, "float16", "int8")

# Tokens that a prompt is read by at a time; the last chunk of a prompt is padded.
CHUNK = 32

# Options of `generate`, with the defaults of `GenerationConfig`.
OPTIONS = {
    "max_new_tokens": None,
    "max_length": 20,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "seed": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,  # of no effect on one row, but models have it
}
_OF_SAMPLING = ("temperature", "top_p", "top_k", "seed")


def export_litert(model, path, quantize=None):
    """Writes a language model as one LiteRT file.

    Args:
        model: `OpenAIGPTLMHeadModel`.
        path: File to write, ending in ".tflite". It appears under this name when
            it is complete; a file of this name is replaced.
        quantize: None for float32 weights. "float16" halves the file, and
            computes in float32. "int8" quarters it: a scale for each output of
            a product, activations rounded to int8 as they come, sums exact; the
            fastest. The token table is stored once, for the lookup and for the
            head.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: If `quantize` or the ending is another, the model is none with
            a language-model head, was not built, or its `generation_config` has
            options that `LiteRTGenerator` cannot follow.
        ImportError: If `ai_edge_litert` is not installed.
        OSError: If the file cannot be written; then nothing is left of it.
    """
    path = pathlib.Path(path)
    if quantize not in QUANTIZATIONS:
        raise ValueError(
            '`quantize` must be None, "float16" or "int8". '
            f"Received: quantize={quantize!r}."
        )
    if path.suffix != ".tflite":
        raise ValueError(f'`path` must end in ".tflite". Received: {str(path)!r}.')
    _check_model(model)
    defaults = _generation_defaults(model.generation_config)
    _check_installed()
    from tf_gpt.serving import litert_graph

    sizes = _sizes(model)
    graph = litert_graph.Graph()
    decoder = litert_graph.Decoder(graph, _weights(model), sizes, quantize)
    decoder.add_signature("step", 1, with_logits=True)
    decoder.add_signature("prefill", CHUNK, with_logits=False)
    metadata = {
        "format_version": FORMAT_VERSION,
        "quantize": quantize,
        "chunk": CHUNK,
        "sizes": sizes,
        "generation": defaults,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as stream:
        graph.write(stream, metadata)
    return path


class LiteRTGenerator:
    """Generates with a file of `export_litert`, without TensorFlow.

    Args:
        path: The .tflite file.
        tokenizer: A tokenizer, or where to load one from: a folder or a preset.
            None if ids are all that is wanted.
        num_threads: Threads that LiteRT computes with; as many as the machine
            has cores if None.
        cache_dir: Folder in which LiteRT keeps the weights as its kernels read
            them, a file of about the model's size, so that the next start is
            quicker and takes less memory. None for a temporary one.

    Attributes:
        vocab_size, n_positions, quantize: As exported.

    Raises:
        ValueError: If it is no such file, damaged, or of another version; if the
            tokenizer's vocabulary is not the model's.
        ImportError: If `ai_edge_litert` is not installed.
    """

    def __init__(self, path, tokenizer=None, num_threads=None, cache_dir=None):
        if num_threads is not None and (
            type(num_threads) is not int or num_threads < 1
        ):
            raise ValueError(
                "`num_threads` must be an integer of at least 1, or None. "
                f"Received: {num_threads!r}."
            )
        _check_installed()
        metadata = _read_metadata(path)
        sizes = metadata["sizes"]
        self.vocab_size, self.n_positions = sizes["vocab_size"], sizes["n_positions"]
        self.quantize = metadata["quantize"]
        self.tokenizer = _tokenizer(tokenizer, self.vocab_size)
        self._defaults = {**OPTIONS, **metadata["generation"]}
        self._runtime = Runtime(
            path, metadata, num_threads or os.cpu_count(), cache_dir
        )

    def generate(self, input_ids=None, *, streamer=None, **options):
        """Continues a prompt, as `OpenAIGPTLMHeadModel.generate` does.

        Args:
            input_ids: Int (T,) or (1, T); None or empty for `bos_token_id`.
            streamer: See `tf_gpt.generation.streamers`.
            **options: `max_new_tokens`, `max_length`, `do_sample`, `temperature`,
                `top_k`, `top_p`, `seed`, `bos_token_id`, `eos_token_id`; by
                default the exported model's. A seed gives the tokens that it
                gives in TensorFlow.

        Returns:
            Int32 (1, T + N): the prompt and N new tokens.

        Raises:
            ValueError: If an option is unknown here, out of range, or without
                effect; if the prompt is none, or too long.
        """
        options = self._checked(options)
        ids = self._prompt(input_ids, options["bos_token_id"])
        n_new = self._n_new(len(ids), options)
        seed = options["seed"]
        options["seed"] = (
            random.SystemRandom().randrange(2**31) if seed is None else seed
        )
        new = []
        for token in self._tokens(ids, n_new, options):
            new.append(token)
            if streamer is not None:
                streamer.put(np.array([token], "int32"))
        if streamer is not None:
            streamer.end()
        return np.concatenate([ids, np.array(new, "int32")])[None]

    def generate_text(self, text, **options):
        """Continues a text; returns it with what follows, decoded."""
        ids = self._needed_tokenizer()(text)["input_ids"]
        ids = self.generate(ids, **options)
        return self.tokenizer.decode(ids[0].tolist(), skip_special_tokens=True)

    def logits(self, input_ids):
        """Returns the scores after each token, float32 (T, V).

        Read one token after the other: meant for measuring.
        """
        ids = self._prompt(input_ids, None)
        self._runtime.reset()
        return np.stack([self._runtime.step(int(token)).copy() for token in ids])

    def _tokens(self, ids, n_new, options):
        """Yields the new tokens, one by one."""
        from tf_gpt.serving.numpy_sampling import choose

        rules = {
            name: options[name]
            for name in ("do_sample", "temperature", "top_k", "top_p", "seed")
        }
        ends = _listed(options["eos_token_id"])
        self._runtime.reset()
        self._runtime.read(ids[:-1])
        newest = int(ids[-1])
        for step in range(n_new):
            newest = choose(self._runtime.step(newest), step, **rules)
            yield newest
            if newest in ends:
                return

    def _checked(self, given):
        """Returns all options, those given among them checked."""
        for name, value in given.items():
            if name not in OPTIONS:
                raise ValueError(
                    f"LiteRT generation has no option `{name}`; it has "
                    f"{', '.join(sorted(OPTIONS))}. Received: {name}={value!r}."
                )
        options = {**self._defaults, **given}
        _check_options(options, self.vocab_size)
        if not options["do_sample"]:
            for name in _OF_SAMPLING:
                if given.get(name) not in (None, OPTIONS[name]):
                    raise ValueError(
                        f"`{name}` has no effect without do_sample=True. Received: "
                        f"{name}={given[name]!r}."
                    )
        return options

    def _prompt(self, input_ids, bos_token_id):
        ids = np.asarray([] if input_ids is None else input_ids)
        if ids.ndim == 2 and len(ids) == 1:
            ids = ids[0]
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ValueError(
                "`input_ids` must be integers of shape (T,) or (1, T): one prompt. "
                f"Received: {ids.dtype} {ids.shape}."
            )
        if not ids.size:
            if bos_token_id is None:
                raise ValueError(
                    "An empty prompt starts from `bos_token_id`, and there is none. "
                    "Pass bos_token_id=, or a prompt."
                )
            ids = np.array([bos_token_id])
        if ids.min() < 0 or ids.max() >= self.vocab_size:
            raise ValueError(
                f"`input_ids` must be in [0, {self.vocab_size}). Received values from "
                f"{ids.min()} to {ids.max()}."
            )
        if len(ids) > self.n_positions:
            raise ValueError(
                f"A prompt may have at most n_positions={self.n_positions} tokens. "
                f"Received: {len(ids)}."
            )
        return ids.astype("int32")

    def _n_new(self, n_prompt, options):
        n_new = options["max_new_tokens"]
        if n_new is None:
            n_new = options["max_length"] - n_prompt
            if n_new < 1:
                raise ValueError(
                    "`max_length` counts the prompt and must leave room after it; or "
                    f"pass max_new_tokens. Received: max_length="
                    f"{options['max_length']}, a prompt of {n_prompt} tokens."
                )
        if n_prompt + n_new > self.n_positions:
            raise ValueError(
                "Prompt and new tokens must fit into "
                f"n_positions={self.n_positions}. Received: a prompt of {n_prompt} "
                f"tokens and {n_new} new ones."
            )
        return n_new

    def _needed_tokenizer(self):
        if self.tokenizer is None:
            raise ValueError(
                "Texts need a tokenizer: LiteRTGenerator(path, tokenizer=...). "
                "Received: tokenizer=None."
            )
        return self.tokenizer


def _read_metadata(path):
    """Returns the file's metadata, checked."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}.")
    metadata = read_metadata(path)
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has the format version {metadata.get('format_version')!r}; this "
            f"library reads {FORMAT_VERSION}. Export the model again."
        )
    if not _is_complete(metadata, path.stat().st_size):
        raise ValueError(
            f"{path} is damaged: its metadata lacks entries, or has sizes that no such "
            "file can have."
        )
    return metadata


def _is_complete(metadata, n_bytes):
    """Returns whether the entries are there, and sizes those of so large a file."""

    def is_size(value):
        return type(value) is int and 0 < value < 2**31

    def are_sizes(values):
        return isinstance(values, list) and values and all(map(is_size, values))

    sizes, defaults = metadata.get("sizes"), metadata.get("generation")
    if not isinstance(sizes, dict) or not isinstance(defaults, dict):
        return False
    names = ("vocab_size", "n_positions", "n_embd", "head_size")
    return (
        all(is_size(sizes.get(name)) for name in names)
        and sizes["n_embd"] * (sizes["vocab_size"] + sizes["n_positions"]) <= n_bytes
        and are_sizes(sizes.get("n_heads"))
        and max(sizes["n_heads"]) * sizes["head_size"] <= sizes["n_embd"]
        and len(sizes["n_heads"]) * sizes["n_embd"] <= n_bytes
        and metadata.get("chunk") == CHUNK
        and set(defaults) <= set(OPTIONS)
        and re.fullmatch("[0-9a-f]{64}", str(metadata.get("weights_sha256")))
        is not None
    )


def _tokenizer(tokenizer, vocab_size):
    if tokenizer is None:
        return None
    if isinstance(tokenizer, (str, os.PathLike)):
        from tf_gpt.tokenization.tokenizer import OpenAIGPTTokenizer

        tokenizer = OpenAIGPTTokenizer.from_pretrained(tokenizer)
    if len(tokenizer) != vocab_size:
        raise ValueError(
            f"`tokenizer` must have the model's vocabulary, {vocab_size} tokens. "
            f"Received: {len(tokenizer)}."
        )
    return tokenizer


def _check_installed():
    import importlib.util

    if importlib.util.find_spec("ai_edge_litert") is None:
        raise ImportError(
            "LiteRT needs the package `ai-edge-litert`: pip install 'tf-gpt[litert]'."
        )


def _check_model(model):
    from tf_gpt.models.lm_head import OpenAIGPTLMHeadModel

    if not isinstance(model, OpenAIGPTLMHeadModel):
        raise ValueError(
            "`model` must be an OpenAIGPTLMHeadModel. "
            f"Received: {type(model).__name__}."
        )
    body = getattr(model, "transformer", None)
    if body is None or not body.built:
        raise ValueError(
            "`model` must be built: it has no weights yet. Received: "
            f"{type(model).__name__} without weights."
        )


def _generation_defaults(config):
    """Returns the options of a `GenerationConfig` that differ from the defaults."""
    values = config.to_dict()
    for name, value in values.items():
        if name not in OPTIONS:
            raise ValueError(
                f"The model's `generation_config` has {name}={value!r}, which LiteRT "
                "generation cannot follow. Set model.generation_config without it."
            )
    return values


def _sizes(model):
    config, blocks = model.config, model.transformer.blocks
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.n_positions,
        "n_embd": config.n_embd,
        "n_heads": [block.n_head for block in blocks],
        "head_size": config.n_embd // config.n_head,
        "afn": config.afn,
        "layer_norm_epsilon": config.layer_norm_epsilon,
    }


def _weights(model):
    """Returns a function from a weight's path to it, float32."""
    from tf_gpt.models.pretrained import merged_weights

    weights = merged_weights(model)
    return lambda path: np.asarray(weights[path], "float32")


def _check_options(options, vocab_size):
    for name in ("max_new_tokens", "max_length"):
        value = options[name]
        if value is not None and (not _is_integer(value) or value < 1):
            raise ValueError(
                f"`{name}` must be an integer of at least 1. Received: {value!r}."
            )
    if type(options["do_sample"]) is not bool:
        raise ValueError(
            f"`do_sample` must be True or False. Received: {options['do_sample']!r}."
        )
    top_k, seed = options["top_k"], options["seed"]
    if top_k is not None and (not _is_integer(top_k) or top_k < 0):
        raise ValueError(
            f"`top_k` must be an integer of at least 0. Received: top_k={top_k!r}."
        )
    temperature = options["temperature"]
    if not _is_number(temperature) or not 0 < temperature < np.inf:
        raise ValueError(
            "`temperature` must be a positive number; use do_sample=False for the "
            f"most probable token. Received: temperature={temperature!r}."
        )
    if not _is_number(options["top_p"]) or not 0 < options["top_p"] <= 1:
        raise ValueError(
            f"`top_p` must be in (0, 1]. Received: top_p={options['top_p']!r}."
        )
    if seed is not None and (not _is_integer(seed) or not 0 <= seed < 2**31):
        raise ValueError(
            f"`seed` must be an integer in [0, 2**31). Received: seed={seed!r}."
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for token in _listed(options[name]):
            if not _is_integer(token) or not 0 <= token < vocab_size:
                raise ValueError(
                    f"`{name}` must be in [0, {vocab_size}). "
                    f"Received: {options[name]!r}."
                )


def _is_integer(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _listed(value):
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
