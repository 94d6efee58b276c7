import json

import keras
import numpy as np
import pytest
from checkpoint_variables import HEADS, C, P, V, assert_equal, make_variables

from tf_gpt.checkpoints.convert import export_weights, load_weights, unset_values
from tf_gpt.checkpoints.writers import save_safetensors
from tf_gpt.errors import CheckpointError


@pytest.mark.parametrize("limit", ["5GB", 700])
@pytest.mark.parametrize("kind", HEADS)
def test_what_is_saved_loads_equal(tmp_path, kind, limit):
    saved = make_variables(kind, seed=1)
    files = save_safetensors(
        export_weights(saved, prefix=kind != "body"), tmp_path, max_shard_size=limit
    )
    loaded = make_variables(kind)
    report = load_weights(loaded, files[0])
    assert_equal(loaded, saved)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())
    if limit == 700:
        index = json.loads(files[0].read_text())
        assert set(index["weight_map"].values()) == {f.name for f in files[1:]}


def save(variables, folder, prefix=True):
    return save_safetensors(export_weights(variables, prefix), folder)[0]


def test_a_body_loads_into_a_model_with_a_fresh_head(tmp_path):
    body = make_variables("body", seed=1)
    classifier = make_variables("classifier", seed=2)
    head = classifier["score/kernel"].numpy().copy()
    with pytest.warns(UserWarning, match=r"untrained: score/kernel"):
        report = load_weights(classifier, save(body, tmp_path, prefix=False))
    assert report.missing == ("score/kernel",)
    assert report.unexpected == ()
    np.testing.assert_array_equal(classifier.pop("score/kernel").numpy(), head)
    assert_equal(classifier, body)


def test_a_model_with_a_head_loads_into_a_body(tmp_path):
    double = make_variables("double", seed=1)
    body = make_variables("body")
    with pytest.warns(UserWarning, match=r"no use for the head multiple_choice_head"):
        report = load_weights(body, save(double, tmp_path))
    assert report.missing == ()
    assert report.unexpected == (
        "multiple_choice_head.summary.weight",
        "multiple_choice_head.summary.bias",
    )
    assert_equal(body, {path: double[path] for path in body})


def test_missing_and_unknown_entries_are_refused_in_one_message(tmp_path):
    tensors = dict(export_weights(make_variables("body", seed=1), prefix=False))
    del tensors["h.1.ln_2.bias"]
    tensors["h.2.ln_2.bias"] = np.zeros(C, "float32")
    variables = make_variables("body")
    with pytest.raises(CheckpointError) as error:
        load_weights(variables, save_safetensors(tensors, tmp_path)[0])
    assert "h_1/ln_2/beta" in str(error.value)
    assert "h.2.ln_2.bias" in str(error.value)
    assert not any(variable.numpy().any() for variable in variables.values())


def test_gpt2_is_refused_by_name(tmp_path):
    tensors = {"wte.weight": np.zeros((V, C), "float32")}
    with pytest.raises(CheckpointError, match=r"Is this GPT-2\?"):
        load_weights(make_variables(), save_safetensors(tensors, tmp_path)[0])


def test_a_shape_that_differs_is_refused_or_reported(tmp_path):
    file = save(make_variables("classifier", seed=1), tmp_path)
    model = make_variables("classifier", seed=2)
    kernel = np.ones((C, 5), "float32")
    model["score/kernel"] = keras.Variable(kernel)
    with pytest.raises(CheckpointError, match=r"score.weight \(3, 4\) for \(5, 4\)"):
        load_weights(model, file)
    with pytest.warns(UserWarning, match=r"untrained: score\.weight"):
        report = load_weights(model, file, ignore_mismatched_sizes=True)
    assert report.mismatched == (("score.weight", (3, C), (5, C)),)
    np.testing.assert_array_equal(model["score/kernel"].numpy(), kernel)


@pytest.mark.parametrize("same", [True, False])
def test_a_stored_head_must_equal_the_token_table(tmp_path, same):
    tensors = dict(export_weights(make_variables("body", seed=1)))
    head = np.array(tensors["transformer.tokens_embed.weight"])
    tensors["lm_head.weight"] = head if same else head + 1
    file = save_safetensors(tensors, tmp_path)[0]
    if same:
        assert load_weights(make_variables("body"), file).unexpected == ()
    else:
        with pytest.raises(CheckpointError, match=r"`lm_head\.weight` must equal"):
            load_weights(make_variables("body"), file)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_before_any_changes(tmp_path, bad):
    saved = make_variables("body", seed=1)
    values = saved["h_1/ln_2/beta"].numpy().copy()
    values[2] = bad
    saved["h_1/ln_2/beta"].assign(values)
    model = make_variables("body")
    with pytest.raises(CheckpointError, match=r"1 NaN or infinite .*'h.1.ln_2.bias'"):
        load_weights(model, save(saved, tmp_path, prefix=False))
    assert not any(variable.numpy().any() for variable in model.values())


def test_large_finite_weights_are_not_taken_for_infinite(tmp_path):
    saved = make_variables("body", seed=1)
    saved["h_0/ln_1/beta"].assign(np.full(C, 3e38, "float32"))
    model = make_variables("body")
    load_weights(model, save(saved, tmp_path, prefix=False))
    assert_equal(model, saved)


def test_old_causal_mask_buffers_are_skipped(tmp_path):
    saved = make_variables("body", seed=1)
    tensors = dict(export_weights(saved, prefix=False))
    tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, P, P), "float32"))
    model = make_variables("body")
    assert load_weights(model, save_safetensors(tensors, tmp_path)[0]).unexpected == ()
    assert_equal(model, saved)


def test_a_weight_under_two_names_is_refused(tmp_path):
    tensors = dict(export_weights(make_variables("body", seed=1), prefix=False))
    tensors["transformer.h.0.ln_1.bias"] = np.zeros(C, "float32")
    with pytest.raises(CheckpointError, match="one weight twice"):
        load_weights(make_variables(), save_safetensors(tensors, tmp_path)[0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_unset_variables_are_zeros_that_can_be_loaded(tmp_path, dtype):
    saved = make_variables("body", seed=1)
    unset = {
        path: keras.Variable(unset_values, shape=variable.shape, dtype=dtype)
        for path, variable in saved.items()
    }
    assert not any(np.asarray(v.numpy(), "float32").any() for v in unset.values())
    load_weights(unset, save(saved, tmp_path, prefix=False))
    for path, variable in unset.items():
        assert variable.dtype == dtype
        expected = keras.ops.cast(saved[path], dtype)
        np.testing.assert_array_equal(variable.numpy(), np.asarray(expected))


def test_loaded_variables_can_be_trained_and_share_no_memory(tmp_path):
    saved = make_variables("body", seed=1)
    file = save(saved, tmp_path, prefix=False)
    first, second = make_variables("body"), make_variables("body")
    load_weights(first, file)
    load_weights(second, file)
    for variable in first.values():
        variable.assign_add(keras.ops.ones_like(variable))
    assert_equal(second, saved)
    for path, variable in first.items():
        np.testing.assert_array_equal(variable.numpy(), saved[path].numpy() + 1)
