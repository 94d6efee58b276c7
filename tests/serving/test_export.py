import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from exported import (
    alone,
    graph_nodes,
    options_of,
    random_rows,
    rows_of,
    small_model,
    small_tokenizer,
)
from tokenization.hard_texts import generated_texts

import tf_gpt
from tf_gpt import GenerationConfig, OpenAIGPTTokenizer, add_tokens_for
from tf_gpt.serving import export_saved_model
from tf_gpt.serving import versions as version_folders
from tf_gpt.serving.export import xla_parts

SAMPLED = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}


@pytest.fixture(scope="module")
def tokenizer():
    return small_tokenizer()


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def folder(model, tokenizer, tmp_path_factory):
    base = tmp_path_factory.mktemp("served") / "gpt"
    return export_saved_model(model, base, tokenizer)


@pytest.fixture(scope="module")
def loaded(folder):
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def ask(loaded):
    def ask(name, **inputs):
        tensors = {key: tf.convert_to_tensor(value) for key, value in inputs.items()}
        return {k: v.numpy() for k, v in loaded.signatures[name](**tensors).items()}

    return ask


def load(folder):
    loaded = tf.saved_model.load(str(folder))
    loaded.signatures.kept = loaded  # a SavedModel's variables live as long as it
    return loaded.signatures


def test_signatures_have_names_types_and_free_sizes(folder):
    described = tf.saved_model.load(str(folder)).signatures
    rows = {"input_ids": ("int32", 2), "lengths": ("int32", 1)}
    options = {name: (tensor.dtype.name, 1) for name, tensor in options_of(1).items()}
    text = {"text": ("string", 1)}
    expected = {
        "serving_default": (rows, {"logits": ("float32", 3)}),
        "last_logits": (rows, {"logits": ("float32", 2)}),
        "score": (rows, {"log_probs": ("float32", 2)}),
        "generate": (
            {**rows, **options},
            {"output_ids": ("int32", 2), "output_lengths": ("int32", 1)},
        ),
        "generate_text": ({**text, **options}, {"output_text": ("string", 1)}),
        "tokenize": (text, rows),
        "detokenize": (rows, text),
    }
    found = {
        name: tuple(
            {key: (spec.dtype.name, spec.shape.rank) for key, spec in specs.items()}
            for specs in (
                signature.structured_input_signature[1],
                signature.structured_outputs,
            )
        )
        for name, signature in described.items()
    }
    assert found == expected
    for signature in described.values():
        for spec in signature.structured_input_signature[1].values():
            assert all(size is None for size in spec.shape)


@pytest.mark.parametrize("lengths", [[1], [7, 2, 5], [500, 1, 30, 512]], ids=str)
def test_logits_are_the_models_whatever_the_padding(model, ask, lengths):
    ids, lengths = random_rows(lengths)
    logits = ask("serving_default", input_ids=ids, lengths=lengths)["logits"]
    last = ask("last_logits", input_ids=ids, lengths=lengths)["logits"]
    for i, n in enumerate(lengths):
        expected = model(ids[i : i + 1, :n]).logits[0].numpy()
        np.testing.assert_allclose(logits[i, :n], expected, atol=1e-5)
        np.testing.assert_allclose(last[i], expected[-1], atol=1e-5)


def test_padding_may_go_beyond_the_last_position(model, ask):
    ids, lengths = random_rows([3, 512], width=600)
    logits = ask("serving_default", input_ids=ids, lengths=lengths)["logits"]
    expected = model(ids[:1, :3]).logits[0].numpy()
    np.testing.assert_allclose(logits[0, :3], expected, atol=1e-5)


def test_scores_are_those_of_score(model, ask):
    ids, lengths = random_rows([9, 1, 40])
    log_probs = ask("score", input_ids=ids, lengths=lengths)["log_probs"]
    expected = model.score(rows_of(ids, lengths)).log_probs
    for row, values, n in zip(log_probs, expected, lengths, strict=True):
        np.testing.assert_allclose(row[1:n], values, atol=1e-5)
        assert row[0] == 0
        assert (row[n:] == 0).all()


def test_greedy_ids_are_those_of_generate(model, ask):
    ids, lengths = random_rows([5, 1, 17, 8])
    out = ask("generate", input_ids=ids, lengths=lengths, **options_of(4))
    for row, prompt in zip(
        rows_of(out["output_ids"], out["output_lengths"]),
        rows_of(ids, lengths),
        strict=True,
    ):
        assert row == alone(model, prompt, max_new_tokens=6)


def test_a_batch_of_equal_lengths_is_answered_as_generate_does(model, ask):
    ids, lengths = random_rows([6, 6, 6])
    # An end token that comes up in one row and not at once in all.
    made = model.generate(ids, max_new_tokens=9).numpy()
    eos = int(made[0, 8])
    options = options_of(3, max_new_tokens=9, eos_token_id=eos)
    out = ask("generate", input_ids=ids, lengths=lengths, **options)
    expected = model.generate(
        ids, max_new_tokens=9, eos_token_id=eos, pad_token_id=1
    ).numpy()
    assert (expected != made).any()
    np.testing.assert_array_equal(out["output_ids"], expected)


def test_sampled_ids_are_those_of_generate_with_the_seed(model, ask):
    ids, lengths = random_rows([4] * 6)
    seeds = [3, 4, 3, 2**31 - 1, 0, 9]
    options = options_of(6, seed=seeds, max_new_tokens=12, **SAMPLED)
    out = ask("generate", input_ids=ids, lengths=lengths, **options)
    expected = model.generate(
        ids, max_new_tokens=12, do_sample=True, seed=seeds, **SAMPLED
    )
    np.testing.assert_array_equal(out["output_ids"], expected)
    assert len({tuple(row[4:]) for row in out["output_ids"].tolist()}) == 6


def test_every_row_has_options_of_its_own(model, ask):
    ids, lengths = random_rows([5, 9, 1, 30, 12, 3])
    prompts = rows_of(ids, lengths)
    eos = alone(model, prompts[4], max_new_tokens=8)[-4]
    rows = [
        {"max_new_tokens": 3},
        {"max_new_tokens": 11, "temperature": 0.7, "seed": 5},
        {"max_new_tokens": 1, "temperature": 1.5, "top_k": 1, "seed": 5},
        {"max_new_tokens": 7, "temperature": 1.0, "top_p": 0.3, "seed": 8},
        {"max_new_tokens": 8, "eos_token_id": eos},
        {"max_new_tokens": 9, "temperature": 2.0, "top_k": 7, "top_p": 0.5, "seed": 1},
    ]
    columns = {
        name: [row.get(name, options_of(1)[name].numpy()[0]) for row in rows]
        for name in options_of(1)
    }
    out = ask("generate", input_ids=ids, lengths=lengths, **options_of(6, **columns))
    answers = rows_of(out["output_ids"], out["output_lengths"])
    for prompt, row, answer in zip(prompts, rows, answers, strict=True):
        if "temperature" in row:
            row = {"top_k": 0, **row, "do_sample": True}
        assert answer == alone(model, prompt, **row)
    assert answers[4][-1] == eos
    assert len(answers[4]) < 12 + 8
    padding = [
        row[n:] for row, n in zip(out["output_ids"], out["output_lengths"], strict=True)
    ]
    assert set(np.concatenate(padding).tolist()) == {1}


def test_one_entry_stands_for_every_row(ask):
    ids, lengths = random_rows([4, 6, 5])
    one = ask(
        "generate", input_ids=ids, lengths=lengths, **options_of(1, seed=3, **SAMPLED)
    )
    three = ask(
        "generate", input_ids=ids, lengths=lengths, **options_of(3, seed=3, **SAMPLED)
    )
    np.testing.assert_array_equal(one["output_ids"], three["output_ids"])


def test_seed_minus_one_draws_a_seed(ask):
    ids, lengths = random_rows([4])
    options = options_of(1, seed=-1, max_new_tokens=20, temperature=3.0)
    made = {
        tuple(
            ask("generate", input_ids=ids, lengths=lengths, **options)["output_ids"][0]
        )
        for _ in range(3)
    }
    assert len(made) == 3


def test_a_prompt_and_its_new_tokens_may_fill_all_positions(model, ask):
    ids, lengths = random_rows([500, 2])
    options = options_of(2, max_new_tokens=[12, 510])
    out = ask("generate", input_ids=ids, lengths=lengths, **options)
    assert out["output_lengths"].tolist() == [512, 512]
    expected = alone(model, ids[1, :2], max_new_tokens=510)
    assert out["output_ids"][1].tolist() == expected


def short_texts(n):
    texts = [text[:60] for text in generated_texts(n, seed=4)]
    return [text if text.strip() else f"{text} a" for text in texts]


@pytest.mark.slow
def test_500_texts_are_continued_as_outside(model, tokenizer, ask):
    texts = [text for text in short_texts(560) if tokenizer(text)["input_ids"]][:500]
    assert len(texts) == 500
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    options = options_of(500, max_new_tokens=5)
    made = ask("generate_text", text=np.array(encoded, object), **options)
    batch = tokenizer(texts, padding=True, return_tensors="np")
    ids = model.generate(**batch, max_new_tokens=5).numpy()
    # Rows are padded on the right: what is new comes after that.
    rows = [
        [*row[: len(row) - 5][mask == 1].tolist(), *row[-5:].tolist()]
        for row, mask in zip(ids, batch["attention_mask"], strict=True)
    ]
    expected = tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert [text.decode() for text in made["output_text"]] == expected


def test_tokenize_and_detokenize_are_the_tokenizers(tokenizer, ask):
    texts = generated_texts(60, seed=2)
    out = ask("tokenize", text=np.array([t.encode() for t in texts], object))
    rows = tokenizer(texts)["input_ids"]
    assert rows_of(out["input_ids"], out["lengths"]) == rows
    back = ask("detokenize", **out)["text"]
    expected = tokenizer.batch_decode(rows, skip_special_tokens=True)
    assert [text.decode() for text in back] == expected


def test_a_text_may_have_64_bytes_for_each_position(ask):
    limit = 64 * 512
    longest = "the king".rjust(limit).encode()
    made = ask("generate_text", text=np.array([longest], object), **options_of(1))
    short = ask("generate_text", text=np.array([b"the king"], object), **options_of(1))
    assert made["output_text"] == short["output_text"]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"64 bytes.*{limit + 1}"):
        ask("generate_text", text=np.array([longest + b"s"], object), **options_of(1))


@pytest.mark.slow
def test_an_empty_text_starts_from_the_start_token(tokenizer, tmp_path):
    model = small_model(bos_token_id=2)
    signatures = load(export_saved_model(model, tmp_path, tokenizer))
    out = signatures["generate_text"](
        text=tf.constant(["", "the king"]), **options_of(2)
    )
    ids = alone(model, [2], max_new_tokens=6)
    expected = tokenizer.decode(ids, skip_special_tokens=True)
    assert out["output_text"].numpy()[0].decode() == expected


@pytest.mark.parametrize(
    "name, inputs, message",
    [
        ("serving_default", {"ids": [[1, 8192]], "lengths": [2]}, "[0, 8192)"),
        ("serving_default", {"ids": [[1, -1]], "lengths": [2]}, "`input_ids`"),
        ("score", {"ids": [[1, 2]], "lengths": [3]}, "`lengths` must be at least 1"),
        ("last_logits", {"ids": [[1], [2]], "lengths": [1, 0]}, "`lengths`"),
        ("serving_default", {"ids": [[1], [2]], "lengths": [1]}, "one entry for each"),
        ("serving_default", {"ids": [[1] * 513], "lengths": [513]}, "n_positions=512"),
        ("generate", {"max_new_tokens": 0}, "`max_new_tokens` must be at least 1"),
        ("generate", {"max_new_tokens": 511}, "fit into n_positions=512"),
        ("generate", {"max_new_tokens": 2**31 - 1}, "fit into n_positions=512"),
        ("generate", {"temperature": -0.5}, "`temperature`"),
        ("generate", {"temperature": float("nan")}, "`temperature`"),
        ("generate", {"temperature": float("inf")}, "`temperature`"),
        ("generate", {"top_k": -1}, "`top_k`"),
        ("generate", {"top_p": 0.0}, "`top_p`"),
        ("generate", {"top_p": 1.5}, "`top_p`"),
        ("generate", {"seed": -2}, "`seed`"),
        ("generate", {"eos_token_id": 8192}, "`eos_token_id`"),
        ("generate", {"lengths": [0]}, "`lengths`"),
        ("generate_text", {"text": [""]}, "`lengths`"),
        ("generate_text", {"text": ["the " * 600]}, "n_positions=512"),
        ("detokenize", {"ids": [[1, 2]], "lengths": [3]}, "[0, T]"),
    ],
    ids=str,
)
def test_a_bad_request_fails_with_its_reason_and_the_next_is_served(
    ask, name, inputs, message
):
    inputs = dict(inputs)
    good = {
        "input_ids": np.array(inputs.pop("ids", [[1, 2]]), "int32"),
        "lengths": np.array(inputs.pop("lengths", [2]), "int32"),
    }
    if name == "generate_text":
        good = {"text": np.array(inputs.pop("text"), object)}
    if name.startswith("generate"):
        good |= options_of(1, **inputs)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        ask(name, **good)
    assert message in str(caught.value)
    ids, lengths = random_rows([2])
    assert ask("last_logits", input_ids=ids, lengths=lengths)["logits"].shape == (
        1,
        8192,
    )


def test_options_of_another_size_are_refused(ask):
    ids, lengths = random_rows([2, 3, 4])
    options = options_of(3) | {"seed": tf.constant([1, 2])}
    with pytest.raises(tf.errors.InvalidArgumentError, match="`seed` must have one"):
        ask("generate", input_ids=ids, lengths=lengths, **options)


def test_weights_are_stored_once(model, folder):
    stored = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    shapes = stored.get_variable_to_shape_map()
    shapes = [s for name, s in shapes.items() if name != "_CHECKPOINTABLE_OBJECT_GRAPH"]
    n_stored = sum(int(np.prod(shape)) for shape in shapes)
    assert n_stored == model.count_params()
    size = (folder / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert size < 4 * model.count_params() + 100_000
    kernels = {
        tuple(variable.shape) for variable in model.weights if len(variable.shape) == 2
    }
    for node, _ in graph_nodes(folder):
        if node is not None and node.op == "Const":
            shape = node.attr["value"].tensor.tensor_shape
            assert tuple(dim.size for dim in shape.dim) not in kernels, node.name


def test_a_plain_export_holds_no_xla(folder):
    assert xla_parts(folder) == []
    ops = set()
    for node, function in graph_nodes(folder):
        if function is not None:
            assert not function.attr["_XlaMustCompile"].b
            continue
        assert not node.attr["_XlaMustCompile"].b
        ops.add(node.op)
    assert {"While", "BatchMatMulV2", "UnicodeDecode"} <= ops
    assert not [op for op in ops if "xla" in op.lower()]
    assert "PyFunc" not in " ".join(ops)


def test_xla_in_a_plain_export_is_found_and_nothing_appears(
    model, tmp_path, monkeypatch
):
    plain = type(model.transformer).logits

    @tf.function(jit_compile=True)
    def compiled(x):
        return x + 1.0

    def logits(self, hidden):
        return compiled(plain(self, hidden))

    monkeypatch.setattr(type(model.transformer), "logits", logits)
    with pytest.raises(ValueError, match="must hold no XLA"):
        export_saved_model(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_defaults_are_stored_for_the_server(folder):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["generate"]
    defaults = {
        name: tf.make_ndarray(value).tolist()
        for name, value in signature.defaults.items()
    }
    assert defaults == {
        "max_new_tokens": [20],
        "temperature": [0.0],
        "top_k": [0],
        "top_p": [1.0],
        "seed": [-1],
        "eos_token_id": [-1],
    }


def stored_defaults(folder):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((folder / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["generate"]
    return {n: tf.make_ndarray(v).item() for n, v in signature.defaults.items()}


def test_defaults_are_those_of_the_generation_config(tmp_path):
    model = small_model(n_layer=1)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.5, top_k=9, max_new_tokens=4, eos_token_id=3
    )
    assert stored_defaults(export_saved_model(model, tmp_path)) == {
        "max_new_tokens": 4,
        "temperature": 0.5,
        "top_k": 9,
        "top_p": 1.0,
        "seed": -1,
        "eos_token_id": 3,
    }


def test_assets_say_what_it_is(model, folder):
    extra = folder / "assets.extra"
    about = json.loads((extra / "tf_gpt.json").read_text())
    assert about["tf_gpt"] == tf_gpt.__version__
    assert about["model"] == "OpenAIGPTLMHeadModel"
    assert about["tokenization"] == "basic"
    config = tf_gpt.OpenAIGPTConfig.from_dict(
        json.loads((extra / "config.json").read_text())
    )
    assert config.to_dict() == model.config.to_dict()
    assert 'name: "gpt"' in (extra / "models.config").read_text()


def test_the_model_config_is_one_of_tf_serving(folder):
    text_format = pytest.importorskip("google.protobuf.text_format")
    config_pb2 = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2"
    )
    text = (folder / "assets.extra" / "models.config").read_text()
    config = text_format.Parse(text, config_pb2.ModelServerConfig())
    assert config.model_config_list.config[0].base_path == "/models/gpt"


def test_saved_model_cli_reads_it(folder):
    shown = subprocess.run(
        [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show"]
        + ["--dir", str(folder), "--tag_set", "serve", "--signature_def", "generate"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for line in (
        "inputs['input_ids'] tensor_info:",
        "inputs['max_new_tokens'] tensor_info:",
        "outputs['output_ids'] tensor_info:",
        "shape: (-1, -1)",
    ):
        assert line in shown


@pytest.mark.slow
def test_it_runs_where_there_is_no_tf_gpt(model, folder):
    program = textwrap.dedent(
        """
        import sys
        sys.modules["tf_gpt"] = None  # any import of it fails
        import tensorflow as tf
        try:
            import tf_gpt
        except ImportError:
            pass
        else:
            raise SystemExit("tf_gpt is there")
        loaded = tf.saved_model.load(sys.argv[1])
        c = tf.constant
        made = loaded.signatures["generate"](
            input_ids=c([[3, 4, 5]]), lengths=c([3]), max_new_tokens=c([6]),
            temperature=c([0.8]), top_k=c([40]), top_p=c([0.9]), seed=c([11]),
            eos_token_id=c([-1]),
        )
        print(made["output_ids"].numpy()[0].tolist())
        """
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program, str(folder)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    expected = alone(
        model, [3, 4, 5], max_new_tokens=6, do_sample=True, seed=11, **SAMPLED
    )
    assert json.loads(result.stdout) == expected


# Versions.


@pytest.fixture(scope="module")
def tiny():
    return small_model("OpenAIGPTModel", n_layer=1, n_positions=8, vocab_size=11)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_versions_are_numbered_and_never_overwritten_by_chance(tiny, tmp_path):
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").mkdir()
    assert export_saved_model(tiny, tmp_path) == tmp_path / "8"
    assert export_saved_model(tiny, tmp_path, version=3) == tmp_path / "3"
    before = (tmp_path / "3" / "saved_model.pb").stat().st_mtime_ns
    with pytest.raises(ValueError, match="Version 3 exists"):
        export_saved_model(tiny, tmp_path, version=3)
    assert (tmp_path / "3" / "saved_model.pb").stat().st_mtime_ns == before
    assert names(tmp_path) == ["3", "7", "8", "notes"]
    (tmp_path / "3" / "left").touch()
    assert export_saved_model(tiny, tmp_path, version=3, overwrite=True)
    assert not (tmp_path / "3" / "left").exists()
    assert names(tmp_path) == ["3", "7", "8", "notes"]


def test_a_number_taken_meanwhile_is_passed_over(tmp_path):
    with version_folders.new_version(tmp_path) as (folder, place):
        (folder / "a").touch()
        real = version_folders._next_number
        taken = []

        def late(directory):
            number = real(directory)
            if not taken:  # another process is quicker
                taken.append(number)
                (directory / str(number) / "theirs").mkdir(parents=True)
            return number

        version_folders._next_number = late
        try:
            assert place() == tmp_path / "2"
        finally:
            version_folders._next_number = real
    assert names(tmp_path) == ["1", "2"]
    assert names(tmp_path / "1") == ["theirs"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"version": -1}, "`version` must be an integer"),
        ({"version": "1"}, "`version` must be an integer"),
        ({"version": True}, "`version` must be an integer"),
        ({"version": 2**63}, "`version` must be an integer"),
        ({"overwrite": True}, "`overwrite` needs `version`"),
        ({"lengths": [4]}, "`lengths` has no effect without jit_compile"),
        ({"jit_compile": True}, "`batch_sizes` must be a list"),
        ({"jit_compile": True, "batch_sizes": [1]}, "`lengths` must be a list"),
        ({"jit_compile": True, "batch_sizes": [0], "lengths": [4]}, "positive"),
        ({"jit_compile": True, "batch_sizes": [1], "lengths": [9]}, "n_positions=8"),
        (
            {"jit_compile": True, "batch_sizes": [1], "lengths": [4]}
            | {"max_new_tokens": 3},
            "`max_new_tokens` has no effect",
        ),
    ],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_written(
    tiny, tmp_path, options, message
):
    with pytest.raises(ValueError) as caught:
        export_saved_model(tiny, tmp_path / "new", **options)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_none_is_refused(tiny, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Received a file"):
        export_saved_model(tiny, tmp_path / "file")
    version = export_saved_model(tiny, tmp_path / "base")
    with pytest.raises(ValueError, match="a SavedModel itself"):
        export_saved_model(tiny, version)


@pytest.mark.parametrize("value", ["gpt", None, tf_gpt.OpenAIGPTModel], ids=str)
def test_what_is_no_model_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match="`model` must be a built model"):
        export_saved_model(value, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_never_called_is_exported(tmp_path):
    model = small_model("OpenAIGPTModel", n_layer=1, n_positions=8, vocab_size=11)
    signatures = load(export_saved_model(model, tmp_path))
    ids = np.array([[1, 2, 3]], "int32")
    out = signatures["serving_default"](
        input_ids=tf.constant(ids), lengths=tf.constant([3])
    )
    np.testing.assert_allclose(
        out["last_hidden_state"], model(ids).last_hidden_state, atol=1e-5
    )


@pytest.mark.parametrize("vocab_size", [8191, 9000])
def test_a_vocabulary_that_is_not_the_models_is_refused(
    tokenizer, vocab_size, tmp_path
):
    with pytest.raises(ValueError, match=f"vocab_size of {vocab_size}"):
        export_saved_model(small_model(vocab_size=vocab_size), tmp_path, tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_words_split_by_spacy_are_refused_and_told_what_can_be(model, tmp_path):
    openai = OpenAIGPTTokenizer.from_pretrained("mini", pre_tokenizer="openai")
    with pytest.raises(ValueError, match=r"ftfy and spaCy.*OpenAIGPTTokenizerFast"):
        export_saved_model(model, tmp_path, openai)
    with pytest.raises(ValueError, match="Received: str"):
        export_saved_model(model, tmp_path, "mini")
    assert list(tmp_path.iterdir()) == []


def test_the_basic_flavour_is_the_fast_tokenizer(tiny, tokenizer, tmp_path):
    basic = OpenAIGPTTokenizer.from_pretrained("mini", pre_tokenizer="basic")
    model = small_model("OpenAIGPTModel", n_layer=1)
    signatures = load(export_saved_model(model, tmp_path, basic))
    texts = ["Don't panic, Zoë!", "<eos> once"]
    out = signatures["tokenize"](text=tf.constant(texts))
    assert rows_of(out["input_ids"], out["lengths"]) == basic(texts)["input_ids"]


@pytest.mark.parametrize(
    "config, message",
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"repetition_penalty": 1.2}, "repetition_penalty=1.2"),
        ({"eos_token_id": [3, 4]}, "one `eos_token_id`"),
        ({"eos_token_id": 9999}, "vocabulary size"),
    ],
    ids=str,
)
def test_generation_that_no_request_can_ask_for_is_refused(config, message, tmp_path):
    model = small_model(n_layer=1)
    model.generation_config = GenerationConfig(**config)
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_writing(tiny, tmp_path, monkeypatch):
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})()
    )
    with pytest.raises(OSError, match="MB are free"):
        export_saved_model(tiny, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    assert usage.f_bavail > 0


def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path):
    # A limit on the size of a file makes writing fail as a full disk does.
    program = textwrap.dedent(
        """
        import resource, signal, sys
        sys.path.insert(0, sys.argv[2])
        import exported
        from tf_gpt.serving import export_saved_model
        model = exported.small_model(n_layer=1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            export_saved_model(model, sys.argv[1])
        except OSError as error:
            print("OSError", error)
        """
    )
    here = os.path.dirname(__file__)
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), here],
        capture_output=True,
        text=True,
    )
    assert "OSError" in result.stdout, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_writing_leaves_the_old_version(tiny, tmp_path, monkeypatch):
    path = export_saved_model(tiny, tmp_path, version=1)
    (path / "mark").touch()

    def broken(holder, folder, signatures):
        with open(os.path.join(folder, "half"), "w"):
            raise KeyboardInterrupt

    monkeypatch.setattr(tf.saved_model, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        export_saved_model(tiny, tmp_path, version=1, overwrite=True)
    assert names(tmp_path) == ["1"]
    assert (path / "mark").exists()


# Other models.


def test_a_body_gives_hidden_states(tmp_path):
    model = small_model("OpenAIGPTModel")
    signatures = load(export_saved_model(model, tmp_path))
    assert set(signatures) == {"serving_default"}
    ids, lengths = random_rows([6, 2])
    out = signatures["serving_default"](
        input_ids=tf.constant(ids), lengths=tf.constant(lengths)
    )["last_hidden_state"]
    for i, n in enumerate(lengths):
        expected = model(ids[i : i + 1, :n]).last_hidden_state[0]
        np.testing.assert_allclose(out[i, :n], expected, atol=1e-5)


@pytest.fixture(scope="module")
def task_tokenizer():
    tokenizer = small_tokenizer()
    tokenizer.bos_token = None
    add_tokens_for(tokenizer, task_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def classifier(task_tokenizer, tmp_path_factory):
    model = small_model(
        "OpenAIGPTForSequenceClassification",
        vocab_size=len(task_tokenizer),
        id2label={0: "bad", 1: "good", 2: "naïve"},
        n_positions=40,
    )
    base = tmp_path_factory.mktemp("classifier")
    return model, load(export_saved_model(model, base, task_tokenizer))


def test_classes_are_the_models(classifier):
    model, signatures = classifier
    ids, lengths = random_rows([9, 3, 40, 1, 17])
    tensors = {"input_ids": tf.constant(ids), "lengths": tf.constant(lengths)}
    out = signatures["classify"](**tensors)
    logits = signatures["serving_default"](**tensors)["logits"]
    for i, n in enumerate(lengths):
        expected = model(ids[i : i + 1, :n]).logits.numpy()[0]
        np.testing.assert_allclose(logits[i], expected, atol=1e-5)
        probabilities = np.exp(expected) / np.exp(expected).sum()
        np.testing.assert_allclose(out["probabilities"][i], probabilities, atol=1e-5)
        label = model.config.id2label[int(expected.argmax())]
        assert out["labels"].numpy()[i].decode() == label


def test_texts_are_classified_as_in_fine_tuning(classifier, task_tokenizer):
    from tf_gpt.finetuning.tasks import Classification

    model, signatures = classifier
    texts = ["The king had three sons.", "no", "a long one " * 40]
    task = Classification(task_tokenizer, max_length=40)
    out = signatures["classify_text"](text=tf.constant(texts))
    for i, text in enumerate(texts):
        row = task.encode({"text": text}, labelled=False).sequences[0]
        logits = model(row[None]).logits.numpy()[0]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(out["probabilities"][i], probabilities, atol=1e-5)


PAIRS = [
    ("The king had three sons.", "He had children."),
    ("no", "a long one " * 40),
    ("a long one " * 40, "no"),
    ("a long one " * 40, "and another " * 40),
]


@pytest.mark.parametrize("kind", ["entailment", "similarity"])
def test_pairs_of_texts_are_classified_as_in_fine_tuning(
    kind, classifier, task_tokenizer
):
    from tf_gpt.finetuning.tasks import Entailment, Similarity

    model, signatures = classifier
    task = {
        "entailment": Entailment(task_tokenizer, max_length=40),
        "similarity": Similarity(task_tokenizer, max_length=40),
    }[kind]
    columns = dict(zip(task.text_fields, zip(*PAIRS, strict=True), strict=True))
    out = signatures[f"classify_{kind}"](
        **{name: tf.constant(texts) for name, texts in columns.items()}
    )
    for i, pair in enumerate(PAIRS):
        example = dict(zip(task.text_fields, pair, strict=True))
        rows = np.array(task.encode(example, labelled=False).sequences)
        rows = rows[0] if kind == "entailment" else rows
        logits = model(rows[None]).logits.numpy()[0]
        probabilities = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(out["probabilities"][i], probabilities, atol=1e-5)
        assert (
            out["labels"].numpy()[i].decode()
            == (model.config.id2label[int(logits.argmax())])
        )


def test_both_orders_are_scored_together_as_the_model_does(classifier):
    model, signatures = classifier
    ids, lengths = random_rows([9, 3, 40, 1, 17, 17])
    ids, lengths = ids.reshape(3, 2, -1), lengths.reshape(3, 2)
    out = signatures["classify_orders"](
        input_ids=tf.constant(ids), lengths=tf.constant(lengths)
    )
    mask = np.arange(ids.shape[2]) < lengths[..., None]
    logits = model(np.where(mask, ids, 0), attention_mask=mask.astype("int32")).logits
    expected = tf.nn.softmax(logits).numpy()
    np.testing.assert_allclose(out["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize(
    "premise, hypothesis, message",
    [
        (["a", "b"], ["c"], "as many entries"),
        (["a"], [" "], "at least one token each"),
        (["a"], ["b" * (2**20 + 1)], "`hypothesis` must have at most 1048576 bytes"),
    ],
    ids=["numbers", "empty", "long"],
)
def test_pairs_that_are_none_are_refused(classifier, premise, hypothesis, message):
    _, signatures = classifier
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["classify_entailment"](
            premise=tf.constant(premise), hypothesis=tf.constant(hypothesis)
        )


@pytest.mark.parametrize("name", ["tokenize", "classify_text"])
def test_a_text_of_more_than_a_mebibyte_is_refused(classifier, name):
    _, signatures = classifier
    longest = "a " * 2**19
    signatures[name](text=tf.constant([longest]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="1048576 bytes"):
        signatures[name](text=tf.constant([longest + "a"]))


@pytest.mark.slow
@pytest.mark.parametrize("batch_sizes", [[1], [1, 4]])
def test_a_compiled_pair_takes_two_rows_of_the_batch(
    batch_sizes, task_tokenizer, tmp_path
):
    pytest.importorskip("tensorflow_serving", reason="no tensorflow-serving-api")
    model = small_model(
        "OpenAIGPTForSequenceClassification",
        vocab_size=len(task_tokenizer),
        n_positions=40,
        n_layer=1,
    )
    folder = export_saved_model(
        model,
        tmp_path,
        task_tokenizer,
        jit_compile=True,
        batch_sizes=batch_sizes,
        lengths=[40],
        warmup=True,
    )
    signatures = load(folder)
    of_two = {"classify_orders", "classify_similarity"}
    assert of_two & set(signatures) == (of_two if batch_sizes[-1] > 1 else set())
    records = tf.data.TFRecordDataset(
        str(folder / "assets.extra" / "tf_serving_warmup_requests")
    )
    for record in records:  # as the server runs them
        run_record(signatures, record.numpy())


def run_record(signatures, record):
    from tensorflow_serving.apis import prediction_log_pb2

    request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
    inputs = {k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()}
    signatures[request.model_spec.signature_name](**inputs)


@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_other_problems_have_scores_of_their_kind(problem, tmp_path):
    n_labels = 1 if problem == "regression" else 3
    model = small_model(
        "OpenAIGPTForSequenceClassification", problem_type=problem, num_labels=n_labels
    )
    signatures = load(export_saved_model(model, tmp_path))
    ids, lengths = random_rows([5, 5])
    out = signatures["classify"](
        input_ids=tf.constant(ids), lengths=tf.constant(lengths)
    )
    orders = signatures["classify_orders"](
        input_ids=tf.constant(ids[None]), lengths=tf.constant(lengths[None])
    )
    for got, logits in (
        (out, model(ids).logits.numpy()),
        (orders, model(ids[None]).logits.numpy()),
    ):
        if problem == "regression":
            np.testing.assert_allclose(got["scores"], logits, atol=1e-5)
        else:
            expected = 1 / (1 + np.exp(-logits))
            np.testing.assert_allclose(got["probabilities"], expected, atol=1e-5)


@pytest.fixture(scope="module")
def double(tmp_path_factory):
    model = small_model("OpenAIGPTDoubleHeadsModel", n_positions=64)
    return model, load(export_saved_model(model, tmp_path_factory.mktemp("double")))


def test_choices_are_the_models(double):
    model, signatures = double
    assert set(signatures) == {"serving_default", "last_logits", "score", "choose"}
    ids, flat = random_rows([5, 9, 2, 30, 1, 7])
    ids, lengths = ids.reshape(2, 3, -1), flat.reshape(2, 3)
    out = signatures["choose"](input_ids=tf.constant(ids), lengths=tf.constant(lengths))
    clean = np.where(ids < model.config.vocab_size, ids, 0)
    scores = model(clean, mc_token_ids=lengths - 1).mc_logits.numpy()
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(out["probabilities"], expected, atol=1e-5)
    np.testing.assert_array_equal(out["choice"], expected.argmax(axis=1))


def test_choices_of_another_shape_are_refused(double):
    _, signatures = double
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\(B, N\)"):
        signatures["choose"](
            input_ids=tf.ones([2, 3, 4], tf.int32), lengths=tf.ones([2, 2], tf.int32)
        )


def test_a_head_that_reads_padding_is_refused(tmp_path):
    model = small_model("OpenAIGPTDoubleHeadsModel", summary_type="last")
    with pytest.raises(ValueError, match="summary_type='last'"):
        export_saved_model(model, tmp_path)


# Compiled, and warm-up.


@pytest.fixture(scope="module")
def compiled(tokenizer, tmp_path_factory):
    model = small_model(n_layer=1, n_positions=64)
    path = export_saved_model(
        model,
        tmp_path_factory.mktemp("compiled"),
        tokenizer,
        jit_compile=True,
        batch_sizes=[4, 1],
        lengths=[8, 32],
        max_new_tokens=10,
    )
    return model, path, load(path)


@pytest.mark.slow
def test_a_compiled_export_gives_the_same(compiled):
    model, path, signatures = compiled
    assert xla_parts(path)
    ids, lengths = random_rows([3, 20, 1], width=40)
    tensors = {"input_ids": tf.constant(ids), "lengths": tf.constant(lengths)}
    options = options_of(
        3,
        max_new_tokens=[4, 10, 7],
        temperature=[0.0, 0.9, 0.0],
        seed=[0, 3, 0],
    )
    out = signatures["generate"](**tensors, **options)
    answers = rows_of(out["output_ids"], out["output_lengths"])
    prompts = rows_of(ids, lengths)
    assert answers[0] == alone(model, prompts[0], max_new_tokens=4)
    assert answers[2] == alone(model, prompts[2], max_new_tokens=7)
    assert answers[1] == alone(
        model,
        prompts[1],
        max_new_tokens=10,
        do_sample=True,
        temperature=0.9,
        seed=3,
        top_k=0,
    )
    logits = signatures["serving_default"](**tensors)["logits"]
    assert logits.shape == (3, 40, 8192)
    for i, n in enumerate(lengths):
        expected = model(ids[i : i + 1, :n]).logits[0]
        np.testing.assert_allclose(logits[i, :n], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lengths, n_new, message",
    [
        ([3] * 5, 4, "at most 4 rows"),
        ([33], 4, "at most 32 tokens a row"),
        ([3], 11, "at most 10 new tokens"),
    ],
)
def test_a_compiled_export_refuses_what_is_larger(compiled, lengths, n_new, message):
    *_, signatures = compiled
    ids, lengths = random_rows(lengths)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["generate"](
            input_ids=tf.constant(ids),
            lengths=tf.constant(lengths),
            **options_of(len(ids), max_new_tokens=n_new),
        )


@pytest.mark.slow
def test_warm_up_records_are_requests_that_are_served(model, tokenizer, tmp_path):
    log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = export_saved_model(model, tmp_path, tokenizer, warmup=True)
    signatures = load(path)
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    seen = set()
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        request = log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {
            name: tf.constant(tf.make_ndarray(value))
            for name, value in request.inputs.items()
        }
        signatures[request.model_spec.signature_name](**inputs)
        seen.add(request.model_spec.signature_name)
    assert seen == set(signatures)


def test_warm_up_without_tf_servings_messages_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match="pip install tensorflow-serving-api"):
        export_saved_model(tiny, tmp_path / "new", warmup=True)
    assert list(tmp_path.iterdir()) == []
