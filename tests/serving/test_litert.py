"""LiteRT beside the model itself: logits, ids, text; and files that are none."""

import json
import os
import resource
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")

from tf_gpt import (
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OpenAIGPTModel,
    OpenAIGPTTokenizer,
    TextStreamer,
)
from tf_gpt.generation import noise
from tf_gpt.generation.processors import Temperature, TopK, TopP, with_numbers
from tf_gpt.serving import LiteRTGenerator, export_litert, numpy_sampling
from tf_gpt.serving.litert import CHUNK

SAMPLING = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9}


def make_model(**options):
    """A small random language model whose scores differ from token to token."""
    sizes = {"vocab_size": 53, "n_positions": 216, "n_embd": 16, "n_layer": 2}
    config = OpenAIGPTConfig(
        **{**sizes, "n_head": 2, "initializer_range": 0.4, **options}
    )
    model = OpenAIGPTLMHeadModel(config)
    for i, weight in enumerate(model.weights):  # biases and gains too
        noise = keras.random.normal(weight.shape, stddev=0.1, seed=i)
        weight.assign(weight + noise)
    return model


def generated(model, *prompt, **options):
    """What TensorFlow generates; uncompiled, which gives the same ids sooner."""
    return model.generate(*prompt, jit_compile=False, **options).numpy()


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    return make_model()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    return export_litert(model, tmp_path_factory.mktemp("litert") / "model.tflite")


@pytest.fixture(scope="module")
def generator(path):
    return LiteRTGenerator(path, num_threads=1)


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(0, 53, (1, 192)).astype("int32")


def test_float32_logits_are_the_models(model, generator, ids):
    expected = model(ids).logits.numpy()[0]
    np.testing.assert_allclose(generator.logits(ids), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("afn", ["gelu", "relu", "silu"])
def test_every_activation_has_its_op(afn, tmp_path, ids):
    model = make_model(afn=afn, n_positions=16, layer_norm_epsilon=1e-3)
    generator = LiteRTGenerator(export_litert(model, tmp_path / "m.tflite"))
    expected = model(ids[:, :16]).logits.numpy()[0]
    np.testing.assert_allclose(generator.logits(ids[:, :16]), expected, atol=1e-5)


def test_pruned_heads_have_smaller_caches(tmp_path, ids):
    model = make_model(n_positions=16)
    model.prune_heads({0: [1]})
    generator = LiteRTGenerator(export_litert(model, tmp_path / "m.tflite"))
    expected = model(ids[:, :16]).logits.numpy()[0]
    np.testing.assert_allclose(generator.logits(ids[:, :16]), expected, atol=1e-5)


# Below, at and above a chunk; with a rest that is read token by token, or as a
# padded chunk; across the numbers of slots.
LENGTHS = (1, 5, CHUNK, CHUNK + 1, 40, 2 * CHUNK + 3, 64, 65, 66, 190)


@pytest.mark.parametrize("n_prompt", LENGTHS)
def test_greedy_ids_are_those_of_generate(model, generator, ids, n_prompt):
    options = {"max_new_tokens": 20}
    expected = generated(model, ids[:, :n_prompt], **options)
    np.testing.assert_array_equal(
        generator.generate(ids[:, :n_prompt], **options), expected
    )


@pytest.mark.parametrize("n_prompt", LENGTHS)
def test_sampled_ids_are_those_of_generate(model, generator, ids, n_prompt):
    options = {**SAMPLING, "max_new_tokens": 20, "seed": n_prompt}
    expected = generated(model, ids[:, :n_prompt], **options)
    np.testing.assert_array_equal(
        generator.generate(ids[:, :n_prompt], **options), expected
    )


def test_ids_up_to_the_last_position_are_those_of_generate(model, generator, ids):
    expected = generated(model, ids[:, :160], max_new_tokens=56)
    got = generator.generate(ids[0, :160], max_new_tokens=56)
    np.testing.assert_array_equal(got, expected)


def test_an_end_token_ends_the_text_as_in_generate(model, generator, ids):
    made = generated(model, ids[:, :5], max_new_tokens=20)[0]
    for end in (int(made[12]), [52, int(made[9])]):
        options = {"max_new_tokens": 20, "eos_token_id": end}
        expected = generated(model, ids[:, :5], **options)
        assert expected.shape[1] < 25
        np.testing.assert_array_equal(
            generator.generate(ids[:, :5], **options), expected
        )


def test_an_empty_prompt_starts_from_the_begin_token(model, generator):
    options = {"max_new_tokens": 5, "bos_token_id": 7}
    expected = generated(model, **options)
    np.testing.assert_array_equal(generator.generate(**options), expected)


def test_defaults_are_those_of_the_exported_model(tmp_path):
    model = make_model(n_positions=32, eos_token_id=3, bos_token_id=5)
    model.generation_config = model.generation_config.updated(
        do_sample=True, temperature=1.2, max_new_tokens=9
    )
    generator = LiteRTGenerator(export_litert(model, tmp_path / "m.tflite"))
    for seed in range(4):
        np.testing.assert_array_equal(
            generator.generate(seed=seed), generated(model, seed=seed)
        )


def test_a_texts_caches_do_not_reach_the_next(generator, ids):
    first = generator.generate(ids[:, :5], max_new_tokens=10)
    generator.generate(ids[:, :190], max_new_tokens=20)
    again = generator.generate(ids[:, :5], max_new_tokens=10)
    np.testing.assert_array_equal(first, again)


def test_no_seed_gives_other_texts(generator, ids):
    texts = {
        tuple(generator.generate(ids[:, :5], max_new_tokens=20, do_sample=True)[0])
        for _ in range(4)
    }
    assert len(texts) > 1


# The choice of a token, in NumPy.


def test_noise_bits_are_those_of_the_library():
    tokens = np.arange(1000)
    for seed, step in ((0, 0), (2**31 - 1, 511), (12345, 7)):
        theirs, _ = noise.threefry2x32(
            (np.uint32([[seed]]), np.uint32([[0]])),
            (np.uint32(tokens)[None], np.uint32(step)),
        )
        ours, _ = numpy_sampling.threefry2x32((seed, 0), (tokens, step))
        np.testing.assert_array_equal(ours, np.asarray(theirs)[0])
        np.testing.assert_allclose(
            numpy_sampling.gumbel(seed, step, tokens),
            noise.gumbel(np.array([seed]), np.array([0]), step, 1000).numpy()[0],
            rtol=1e-5,
            atol=1e-6,
        )


def test_draws_are_those_of_the_librarys_processors():
    @tf.function(jit_compile=True)
    def chosen(logits, temperature, k, p, seed):
        scores = logits[None]
        for processor, numbers in (
            (Temperature(1.0), {"temperature": temperature}),
            (TopK(1), {"k": k}),
            (TopP(1.0), {"p": p}),
        ):
            scores = with_numbers(processor, numbers)(scores)
        drawn = noise.gumbel(seed[None], tf.constant([0]), seed, 300)
        return tf.argmax(scores + drawn, axis=-1)[0]

    rng = np.random.default_rng(1)
    for draw in range(300):
        logits = rng.normal(0, 3, 300).astype("float32")
        temperature, p = np.float32(rng.uniform(0.5, 2)), np.float32(rng.uniform(0, 1))
        k = int(rng.integers(1, 400))
        expected = chosen(*map(tf.constant, (logits, temperature, k, p, draw)))
        options = {"temperature": temperature, "top_k": k, "top_p": p, "seed": draw}
        got = numpy_sampling.choose(logits, draw, do_sample=True, **options)
        assert got == int(expected)


# The file.


def test_int8_and_float16_store_a_byte_or_two_a_weight(tmp_path):
    model = make_model(n_positions=32, vocab_size=4000, n_embd=64)
    n_bytes = 4 * model.count_params()
    sizes = {
        quantize: export_litert(model, tmp_path / "m.tflite", quantize).stat().st_size
        for quantize in (None, "float16", "int8")
    }
    graph = 200_000  # and what is stored for each signature
    assert n_bytes < sizes[None] < n_bytes + graph
    assert n_bytes / 2 < sizes["float16"] < n_bytes / 2 + graph
    assert n_bytes / 4 < sizes["int8"] < n_bytes / 4 + graph


def test_every_op_is_builtin_and_every_weight_stored_once(path):
    from ai_edge_litert import schema_py_generated as schema

    file = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    assert file.operatorCodes
    for code in file.operatorCodes:
        assert code.customCode is None
        assert code.builtinCode != schema.BuiltinOperator.CUSTOM
    names = [signature.signatureKey.decode() for signature in file.signatureDefs]
    assert {name.split("_")[0] for name in names} == {"step", "prefill"}
    assert len(names) == 2
    buffers = {}
    for subgraph in file.subgraphs:
        for tensor in subgraph.tensors:
            if tensor.buffer:
                buffers.setdefault(tensor.name, set()).add(tensor.buffer)
    assert all(len(used) == 1 for used in buffers.values())
    places = [(b.offset, b.size) for b in file.buffers if b.size > 500]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("quantize, near", [("float16", 0.01), ("int8", 0.2)])
def test_quantized_logits_are_near_the_models(model, ids, tmp_path, quantize, near):
    generator = LiteRTGenerator(export_litert(model, tmp_path / "m.tflite", quantize))
    expected = model(ids).logits.numpy()[0]
    error = np.sqrt(np.mean((generator.logits(ids) - expected) ** 2))
    assert 0 < error / expected.std() < near


def test_quantized_weights_lose_half_a_step_at_most():
    from tf_gpt.serving.litert_graph import quantized

    weights = np.random.default_rng(0).normal(size=(7, 33)).astype("float32")
    weights[3] = 0
    values, scales = quantized(weights)
    assert values.dtype == np.int8
    assert np.abs(values).max() == 127
    loss = np.abs(values * scales[:, None] - weights)
    assert (loss <= scales[:, None] * 0.5001).all()
    assert (values[3] == 0).all()


@pytest.mark.parametrize("quantize, most", [("float16", 1.001), ("int8", 1.03)])
def test_quantizing_mini_costs_little_perplexity(quantize, most, tmp_path):
    model = OpenAIGPTLMHeadModel.from_pretrained("mini")
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")
    text = (
        "once upon a time, there was a little girl who lived in a small house near "
        "the forest. one day she found a bird that could not fly. she took it home "
        "and gave it bread and water, and after some days the bird was well again."
    )
    ids = np.array([tokenizer(text)["input_ids"]])
    generator = LiteRTGenerator(
        export_litert(model, tmp_path / "m.tflite", quantize), tokenizer
    )
    perplexities = [
        np.exp(-log_probabilities(logits, ids[0]).mean())
        for logits in (generator.logits(ids), model(ids).logits.numpy()[0])
    ]
    assert 1 / most < perplexities[0] / perplexities[1] < most


def log_probabilities(logits, ids):
    logits = logits.astype("float64")
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logits[np.arange(len(ids) - 1), ids[1:]]


def test_weights_kept_by_litert_serve_the_next_start(path, ids, tmp_path):
    folder = tmp_path / "kept"
    first = LiteRTGenerator(path, cache_dir=folder).logits(ids[:, :9])
    (kept,) = folder.iterdir()
    before = kept.stat().st_mtime_ns
    again = LiteRTGenerator(path, cache_dir=folder).logits(ids[:, :9])
    np.testing.assert_array_equal(first, again)
    assert kept.stat().st_mtime_ns == before


def test_weights_kept_by_litert_are_not_another_models(path, ids, tmp_path):
    folder = tmp_path / "kept"
    LiteRTGenerator(path, cache_dir=folder)
    other = make_model()
    generator = LiteRTGenerator(
        export_litert(other, tmp_path / path.name), cache_dir=folder
    )
    expected = other(ids[:, :9]).logits.numpy()[0]
    np.testing.assert_allclose(generator.logits(ids[:, :9]), expected, atol=1e-5)
    assert len(list(folder.iterdir())) == 2


# Texts.


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """A small random model with the bundled vocabulary: (model, generator)."""
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")
    model = make_model(vocab_size=len(tokenizer), n_positions=48)
    path = export_litert(model, tmp_path_factory.mktemp("speaker") / "m.tflite")
    return model, LiteRTGenerator(path, tokenizer)


def test_streamed_text_is_that_of_generate(speaker):
    model, generator = speaker
    ids = generator.tokenizer("the king had a daughter")["input_ids"]
    texts = []
    for one, more in ((model, {"jit_compile": False}), (generator, {})):
        pieces = []
        streamer = TextStreamer(generator.tokenizer, pieces.append)
        streamer.put(ids)
        options = {**SAMPLING, "seed": 3, "max_new_tokens": 15}
        one.generate(np.array([ids]), streamer=streamer, **options, **more)
        assert len(pieces) > 1
        texts.append("".join(pieces))
    assert texts[0] == texts[1]
    options = {**SAMPLING, "seed": 3, "max_new_tokens": 15}
    assert generator.generate_text("the king had a daughter", **options) == texts[0]


def test_generating_imports_no_tensorflow(speaker, tmp_path):
    model, _ = speaker
    path = export_litert(model, tmp_path / "m.tflite")
    program = (
        "import sys, json\n"
        "from tf_gpt.serving import LiteRTGenerator\n"
        f"generator = LiteRTGenerator({str(path)!r}, tokenizer='mini')\n"
        "text = generator.generate_text('the king', max_new_tokens=5, do_sample=True)\n"
        "names = 'tensorflow', 'keras', 'ai_edge_litert.schema_py_generated'\n"
        "heavy = [m for m in names if m in sys.modules]\n"
        "print(json.dumps([text, heavy]))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    text, heavy = json.loads(result.stdout)
    assert text.startswith("the king")
    assert heavy == []
    # LiteRT's own messages are kept back, but for those at the process's end.
    assert [x for x in result.stderr.splitlines() if "DestroyAcc" not in x] == []


# What cannot be served.


@pytest.mark.parametrize("quantize", ["int4", "float32", 8, True])
def test_an_unknown_quantization_is_refused(model, tmp_path, quantize):
    with pytest.raises(ValueError, match=f"quantize={quantize!r}"):
        export_litert(model, tmp_path / "m.tflite", quantize)
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"\.tflite.*model\.bin"):
        export_litert(model, tmp_path / "model.bin")


def test_a_model_without_a_language_head_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="OpenAIGPTModel"):
        export_litert(OpenAIGPTModel(model.config), tmp_path / "m.tflite")


def test_a_model_that_was_never_built_is_refused(tmp_path):
    empty = OpenAIGPTLMHeadModel.__new__(OpenAIGPTLMHeadModel)
    with pytest.raises(ValueError, match="must be built"):
        export_litert(empty, tmp_path / "m.tflite")


def test_a_models_options_that_litert_cannot_follow_are_refused(tmp_path):
    model = make_model(n_positions=16)
    model.generation_config = model.generation_config.updated(repetition_penalty=1.2)
    with pytest.raises(ValueError, match=r"repetition_penalty=1\.2"):
        export_litert(model, tmp_path / "m.tflite")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"repetition_penalty": 1.1}, "repetition_penalty=1.1"),
        ({"temperature": 0.5}, "do_sample"),
        ({"seed": 1}, "do_sample"),
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0"),
        ({"do_sample": True, "temperature": "hot"}, "hot"),
        ({"do_sample": True, "top_p": 1.5}, "top_p=1.5"),
        ({"do_sample": True, "top_k": -1}, "top_k=-1"),
        ({"do_sample": True, "seed": -1}, "seed=-1"),
        ({"do_sample": True, "seed": [1, 2]}, "seed"),
        ({"do_sample": 1}, "do_sample"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 212}, "n_positions=216"),
        ({"max_length": 3}, "max_length=3"),
        ({"eos_token_id": 53}, "eos_token_id"),
    ],
    ids=str,
)
def test_bad_options_are_refused(generator, ids, options, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(ids[:, :5], **options)


@pytest.mark.parametrize(
    "prompt, message",
    [
        ([[1, 2], [3, 4]], r"\(2, 2\)"),
        ([0.5, 1.5], "float64"),
        ([1, 53], "from 1 to 53"),
        ([-1], "from -1"),
        ([1] * 217, "Received: 217"),
        ([], "bos_token_id"),
        (None, "bos_token_id"),
    ],
    ids=["two", "floats", "above", "below", "long", "empty", "none"],
)
def test_bad_prompts_are_refused(generator, prompt, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(prompt, max_new_tokens=1)


def test_a_tokenizer_of_another_vocabulary_is_refused(path):
    with pytest.raises(ValueError, match=r"53 tokens\. Received: 8192"):
        LiteRTGenerator(path, tokenizer="mini")


def test_texts_need_a_tokenizer(generator):
    with pytest.raises(ValueError, match="tokenizer=None"):
        generator.generate_text("hello", max_new_tokens=1)


@pytest.mark.parametrize("num_threads", [0, -1, 1.5, True])
def test_bad_numbers_of_threads_are_refused(path, num_threads):
    with pytest.raises(ValueError, match=f"num_threads.*{num_threads}"):
        LiteRTGenerator(path, num_threads=num_threads)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.tflite"):
        LiteRTGenerator(tmp_path / "nothing.tflite")


@pytest.mark.parametrize("content", [b"", b"TFL3", b"no model" * 100], ids=len)
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "m.tflite").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.tflite is no LiteRT model"):
        LiteRTGenerator(tmp_path / "m.tflite")


def test_a_damaged_file_never_reaches_litert(path, tmp_path):
    """LiteRT ends the process on some of these."""
    whole = path.read_bytes()
    graph_bytes = whole.index(b'"graph_bytes": ') + 15
    graph_bytes = int(whole[graph_bytes:].split(b",")[0])
    rng = np.random.default_rng(0)
    damaged = [whole[: len(whole) // n] for n in (2, 3, 50)] + [whole + b"more"]
    for place in [*rng.integers(8, graph_bytes, 150), *range(8, 40)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        damaged.append(bytes(changed))
    bad = tmp_path / "bad.tflite"
    for content in damaged:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.tflite"):
            LiteRTGenerator(bad)


def test_a_file_of_another_version_is_refused(model, tmp_path, monkeypatch):
    from tf_gpt.serving import litert

    monkeypatch.setattr(litert, "FORMAT_VERSION", 99)
    path = export_litert(model, tmp_path / "m.tflite")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format version 99"):
        LiteRTGenerator(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vocab_size": 7}, "logits"),
        ({"n_heads": [2, 1]}, "keys_1"),
        ({"head_size": -8}, "metadata lacks"),
        ({"n_positions": 10**6}, "metadata lacks"),
        ({"n_heads": [2**30, 2]}, "metadata lacks"),
        ({"n_heads": "many"}, "metadata lacks"),
    ],
    ids=str,
)
def test_a_file_that_contradicts_itself_is_refused(
    model, tmp_path, monkeypatch, change, message
):
    """The arrays that LiteRT writes to have the metadata's sizes."""
    from tf_gpt.serving import litert_graph

    write = litert_graph.Graph.write

    def write_changed(graph, stream, metadata):
        sizes = {**metadata["sizes"], **change}
        write(graph, stream, {**metadata, "sizes": sizes})

    monkeypatch.setattr(litert_graph.Graph, "write", write_changed)
    path = export_litert(model, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=message):
        LiteRTGenerator(path).generate([1], max_new_tokens=1)


def test_a_file_of_another_program_is_refused(tmp_path):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, builder = schema.ModelT(), flatbuffers.Builder(100)
    model.subgraphs, model.buffers, model.operatorCodes = [], [], []
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "m.tflite").write_bytes(bytes(builder.Output()))
    with pytest.raises(ValueError, match="not written by"):
        LiteRTGenerator(tmp_path / "m.tflite")


def test_a_full_disk_leaves_nothing_behind(model, path, tmp_path):
    out = tmp_path / "m.tflite"
    out.write_bytes(b"what was there")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, before[1]))
    try:
        with pytest.raises(OSError):
            export_litert(model, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == ["m.tflite"]
    assert out.read_bytes() == b"what was there"
