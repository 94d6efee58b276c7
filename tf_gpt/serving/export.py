"""`export_saved_model`: a model as a SavedModel for TF Serving and its like."""

import json
import pathlib
import sys
import tempfile

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tf_gpt.models.pretrained import PreTrained, weights_by_path
from tf_gpt.serving import versions
from tf_gpt.serving import warmup as records
from tf_gpt.serving.signatures import Buckets, signatures_of
from tf_gpt.tokenization.fast import OpenAIGPTTokenizerFast
from tf_gpt.tokenization.graph import GraphTokenizer
from tf_gpt.tokenization.tokenizer import OpenAIGPTTokenizer

# Ours to add to: TF Serving reads only the warm-up records there.
EXTRA = "assets.extra"

# What graphs and tables take beside the weights, at most.
_MARGIN = 64 * 2**20

# Tables are made longer than the vocabulary, to a multiple of up to this many.
_MOST_SPARE_ROWS = 512

_MODEL_CONFIG = """\
# For tensorflow_model_server --model_config_file=FILE, with base_path where the
# versions are on the server.
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    # Without this the highest version is served.
    # model_version_policy {{ specific {{ versions: {version} }} }}
  }}
}}
"""


def export_saved_model(
    model,
    directory,
    tokenizer=None,
    *,
    version=None,
    overwrite=False,
    jit_compile=False,
    batch_sizes=None,
    lengths=None,
    max_new_tokens=None,
    warmup=False,
):
    """Writes a model as a SavedModel, `directory/<version>`.

    It needs TensorFlow alone to run: neither Python nor this package. The weights
    are stored once, whatever the number of signatures. All inputs have the batch
    B as their first dimension. Rows are padded on the right, and `lengths`, not
    the padding's value, says where they end: what a server's batcher pads with
    changes nothing.

    Signatures, of a language model (`OpenAIGPTLMHeadModel`, and all but the last
    one of `OpenAIGPTDoubleHeadsModel`):
        serving_default: `input_ids` int32 (B, T), `lengths` int32 (B,) -> `logits`
            float32 (B, T, V). What stands at padding means nothing.
        last_logits: the same inputs -> `logits` (B, V), of the next token.
        score: the same inputs -> `log_probs` float32 (B, T), the natural
            log-probability of each token; 0 for the first, which follows nothing,
            and at padding.
        generate: also `max_new_tokens`, `top_k`, `seed`, `eos_token_id`, int32 (B,),
            and `temperature`, `top_p`, float32 (B,): each row its own -> `output_ids`
            int32 (B, L), prompt and new tokens, and `output_lengths` int32 (B,).
            Temperature 0 takes the most probable token; `top_k` 0 keeps every
            token; `seed` -1 draws a seed; `eos_token_id` -1 ends nowhere, and a row's
            end token is among its ids. A row gets the new tokens that
            `model.generate` gives it alone with `max_new_tokens`, and, if it is
            sampled, `do_sample=True`, this `seed`, `temperature`, `top_k`, `top_p`,
            whatever is in the batch with it. Behind a row's end stands the pad
            token, as there.
            Values for inputs that are left out are the `generation_config`'s: 20 new
            tokens, greedy, without more. TF Serving fills them in for gRPC only, and
            for batches of one row or without its batcher; REST wants every input.
    Of a sequence classifier:
        serving_default: `input_ids` (B, T), `lengths` (B,) -> `logits` (B, L).
        classify: the same inputs -> `labels` string (B,), of `config.id2label`, the
            most probable one, and `probabilities` float32 (B, L); those of a
            multi-label problem do not sum to 1. A regression has `scores` (B, L)
            instead.
        classify_orders: `input_ids` int32 (B, 2, T), `lengths` (B, 2), of two
            sequences that are scored together, both orders of two texts -> as
            `classify`. Like classify_similarity it takes two rows of a compiled
            batch, and is left out where there is one.
    Of double heads:
        choose: `input_ids` int32 (B, N, T), `lengths` (B, N), of N choices, each of
            which is read at its last token -> `probabilities` float32 (B, N),
            `choice` int32 (B,).
    Of `OpenAIGPTModel`:
        serving_default: `last_hidden_state` float32 (B, T, C).
    With a tokenizer:
        tokenize: `text` string (B,) -> `input_ids` int32 (B, T), `lengths` (B,).
        detokenize: `input_ids`, `lengths` -> `text`, as `decode` does with
            `skip_special_tokens=True`.
        generate_text: `text` and the options of `generate` -> `output_text` string
            (B,), prompt and new text. An empty text starts from `bos_token_id`, if
            the model has one. One of more than 64 bytes for each of n_positions is
            refused before it is tokenized.
        classify_text: `text` -> as `classify`. With a tokenizer that has task tokens
            (`add_tokens_for(task_tokens=True)`), `[start] text [extract]`, as in
            fine-tuning; longer texts are cut at the end, as there.
        classify_entailment: `premise`, `hypothesis` string (B,), with task tokens:
            `[start] premise [delimiter] hypothesis [extract]` -> as `classify`.
        classify_similarity: `text_a`, `text_b` string (B,), with task tokens: both
            orders -> as `classify`. Of these two the one that the model was
            fine-tuned for means something. Texts are cut as in fine-tuning with
            `max_length` of n_positions, the longer one first.
    Texts of more than 1 MiB are refused.

    Rows that a request may not have (ids outside the vocabulary, a length of 0 or
    beyond T, prompt and new tokens beyond `n_positions`, options out of range)
    make the request fail with a message that says so, where `model.generate` would
    raise; the server goes on. A batch fails as a whole.

    By default the graphs hold no XLA, which TF Serving refuses unless it is started
    with `--xla_cpu_compilation_enabled` or `--xla_gpu_compilation_enabled`; that is
    checked before the version appears. With `jit_compile=True` one of these flags
    is needed, and the arithmetic is compiled for each pair of `batch_sizes` and
    `lengths`: a batch is filled up to the next of them, and larger ones are refused.
    The first request of each size waits for XLA unless there are warm-up records.

    `assets.extra` has `tf_gpt.json` (the versions of this library, TensorFlow and
    Keras, the model's class, the signatures), `config.json`, `generation_config.json`
    and `tokenizer.json` as far as there are any, and `models.config`, an example for
    `--model_config_file`.

    Args:
        model: A model of one of the four classes.
        directory: The folder that versions are numbered in; made if it does not
            exist. Nothing in it changes unless the export succeeds.
        tokenizer: `OpenAIGPTTokenizerFast`, or `OpenAIGPTTokenizer` of the flavour
            "basic", which is the same. The flavours "openai" and "transformers" call
            ftfy and spaCy, which cannot be in a graph. None leaves the signatures of
            texts out.
        version: The number, in place of the next one after those that exist.
        overwrite: Whether `version` may replace one that exists.
        jit_compile: Whether XLA compiles the arithmetic; needs the next two.
        batch_sizes, lengths: Lists of the batch sizes, and of the tokens of a
            prompt or row, to compile for.
        max_new_tokens: With `jit_compile`, the most new tokens of a request; needed
            for `generate`.
        warmup: Whether to write `tf_serving_warmup_requests`, one for each signature
            and compiled size. Needs tensorflow-serving-api.

    Returns:
        The path of the version, `pathlib.Path`.

    Raises:
        ValueError: If an argument cannot be served (a `TokenizerError` if it is the
            tokenizer), or the version exists.
        ImportError: If `warmup` has not what it needs.
        OSError: If there is no room, or the files cannot be written.
    """
    check_model(model)
    versions.check(directory, version, overwrite)
    buckets = _checked_buckets(model, jit_compile, batch_sizes, lengths, max_new_tokens)
    if warmup:
        records.check_installed()
    fast = None if tokenizer is None else _fast(tokenizer)
    if fast is not None:
        _check_vocabulary(model, fast)
    signatures = signatures_of(model, fast and GraphTokenizer(fast), fast, buckets)
    n_bytes = sum(
        variable.value.dtype.size * _count(variable) for variable in model.weights
    )
    versions.check_space(directory, n_bytes + _MARGIN)
    with versions.new_version(directory, version) as (folder, place):
        try:
            _save(model, signatures, folder)
            if buckets is None:
                check_without_xla(folder)
            _write_extra(
                folder, pathlib.Path(directory), model, fast, signatures, version
            )
            if warmup:
                path = folder / EXTRA / "tf_serving_warmup_requests"
                records.write(path, signatures, model.config.n_positions, buckets)
        except tf.errors.OpError as error:
            raise OSError(
                f"The SavedModel could not be written to {directory}: {error.message}"
            ) from error
        return place()


def check_without_xla(folder):
    """Raises ValueError if a SavedModel holds what TF Serving refuses by default.

    Args:
        folder: A version's folder.
    """
    found = xla_parts(folder)
    if found:
        raise ValueError(
            "A plain export must hold no XLA, which TF Serving refuses. Found: "
            f"{', '.join(found[:5])}, {len(found)} in all."
        )


def xla_parts(folder):
    """Returns the XLA operations and must-compile functions of a SavedModel.

    Args:
        folder: A version's folder.

    Returns:
        Sorted list of names.
    """
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((pathlib.Path(folder) / "saved_model.pb").read_bytes())
    found = set()
    for meta in saved.meta_graphs:
        functions = meta.graph_def.library.function
        for function in functions:
            if function.attr["_XlaMustCompile"].b:
                found.add(function.signature.name)
        for nodes in (meta.graph_def.node, *(f.node_def for f in functions)):
            for node in nodes:
                must_compile = (
                    "_XlaMustCompile" in node.attr and node.attr["_XlaMustCompile"].b
                )
                if node.op.startswith("Xla") or must_compile:
                    found.add(f"{node.op} {node.name}")
    return sorted(found)


def check_model(model):
    """Raises ValueError if a model cannot be exported as a graph."""
    if not isinstance(model, PreTrained) or not model.built:
        raise ValueError(
            "`model` must be a built model of this library, such as "
            f"OpenAIGPTLMHeadModel(config). Received: {model!r}."
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "An export is made with Keras on TensorFlow. Received: "
            f"KERAS_BACKEND={keras.backend.backend()!r}."
        )


def _checked_buckets(model, jit_compile, batch_sizes, lengths, max_new_tokens):
    """Returns the `Buckets`, None without `jit_compile`."""
    given = {
        "batch_sizes": batch_sizes,
        "lengths": lengths,
        "max_new_tokens": max_new_tokens,
    }
    if not jit_compile:
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` has no effect without jit_compile=True. "
                    f"Received: {value!r}."
                )
        return None
    for name in ("batch_sizes", "lengths"):
        sizes = given[name]
        are_sizes = isinstance(sizes, (list, tuple)) and sizes
        if not are_sizes or not all(_is_size(size) for size in sizes):
            raise ValueError(
                f"`{name}` must be a list of positive integers, to compile for. "
                f"Received: {sizes!r}."
            )
    limit = model.config.n_positions
    if max(lengths) > limit:
        raise ValueError(
            f"`lengths` must be at most n_positions={limit}. Received: {lengths!r}."
        )
    if hasattr(model, "generate"):
        if not _is_size(max_new_tokens) or max_new_tokens >= limit:
            raise ValueError(
                "`max_new_tokens` must be a positive integer below "
                f"n_positions={limit}, to compile `generate` for. "
                f"Received: {max_new_tokens!r}."
            )
    elif max_new_tokens is not None:
        raise ValueError(
            f"`max_new_tokens` has no effect: {type(model).__name__} does not "
            f"generate. Received: {max_new_tokens!r}."
        )
    return Buckets(
        tuple(sorted(set(batch_sizes))), tuple(sorted(set(lengths))), max_new_tokens
    )


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _fast(tokenizer):
    """Returns the `OpenAIGPTTokenizerFast` that a tokenizer equals.

    Raises:
        ValueError: If it equals none.
    """
    if isinstance(tokenizer, OpenAIGPTTokenizerFast):
        return tokenizer
    if not isinstance(tokenizer, OpenAIGPTTokenizer):
        raise ValueError(
            "`tokenizer` must be an OpenAIGPTTokenizerFast. "
            f"Received: {type(tokenizer).__name__}."
        )
    if tokenizer.pre_tokenizer != "basic":
        raise ValueError(
            f"The flavour {tokenizer.pre_tokenizer!r} splits words by ftfy and spaCy, "
            "which cannot be in a graph. OpenAIGPTTokenizerFast.from_pretrained(...) "
            "of the same files has the flavour 'basic', which can: words are split at "
            "spaces and around each punctuation mark (as \"don't\" into don ' t, not "
            "do n't), accents are removed, and other ids come of such words. Or leave "
            "`tokenizer` out, and send ids. Received: "
            f"pre_tokenizer={tokenizer.pre_tokenizer!r}."
        )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return OpenAIGPTTokenizerFast.from_pretrained(folder)


def _check_vocabulary(model, tokenizer):
    n_rows, n_tokens = model.config.vocab_size, len(tokenizer)
    if not 0 <= n_rows - n_tokens < _MOST_SPARE_ROWS:
        raise ValueError(
            "`tokenizer` must have the model's vocabulary: its tokens, and no more "
            f"than {_MOST_SPARE_ROWS - 1} rows of the table to spare. Received: "
            f"{n_tokens} tokens for a vocab_size of {n_rows}."
        )


def _count(variable):
    return int(tf.size(variable.value))


def _save(model, signatures, folder):
    """Writes the SavedModel itself."""
    holder = tf.Module()
    # Only the variables: the model would be stored with all of them once more.
    holder.weights = {
        path: variable.value for path, variable in weights_by_path(model).items()
    }
    traced = {name: signature.traced() for name, signature in signatures.items()}
    tf.saved_model.save(holder, str(folder), signatures=traced)


def _write_extra(folder, directory, model, tokenizer, signatures, version):
    extra = folder / EXTRA
    extra.mkdir(exist_ok=True)
    about = {
        "tf_gpt": sys.modules["tf_gpt"].__version__,  # imports point down
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "model": type(model).__name__,
        "tokenization": None if tokenizer is None else tokenizer.pre_tokenizer,
        "signatures": sorted(signatures),
    }
    files = {
        "tf_gpt.json": json.dumps(about, indent=2) + "\n",
        "config.json": json.dumps(model.config.to_dict(), indent=2, sort_keys=True)
        + "\n",
        "models.config": _MODEL_CONFIG.format(
            name=directory.absolute().name, version=1 if version is None else version
        ),
    }
    for name, text in files.items():
        (extra / name).write_text(text, encoding="utf-8")
    if hasattr(model, "generation_config"):
        model.generation_config.save_pretrained(extra)
    if tokenizer is not None:
        tokenizer.backend_tokenizer.save(str(extra / "tokenizer.json"))
