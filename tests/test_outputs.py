import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_gpt import CausalLMOutput, TFCausalLMOutput


@pytest.fixture
def output():
    return CausalLMOutput(logits=tf.ones((2, 3)), hidden_states=(tf.zeros(2),) * 2)


def test_entries_are_keys_attributes_and_positions(output):
    assert TFCausalLMOutput is CausalLMOutput
    assert list(output) == ["logits", "hidden_states"]
    assert output.logits is output["logits"] is output[0]
    assert output[1:] == (output.hidden_states,)
    assert output.loss is None


def test_an_unknown_entry_raises(output):
    with pytest.raises(KeyError, match="logit"):
        CausalLMOutput(logit=1)
    with pytest.raises(AttributeError, match="last_hidden_state"):
        _ = output.last_hidden_state


@pytest.mark.parametrize("tree", [keras.tree, tf.nest], ids=["keras", "tf"])
def test_trees_see_the_tensors_and_give_the_class_back(output, tree):
    assert len(tree.flatten(output)) == 3
    doubled = tree.map_structure(lambda x: x * 2, output)
    assert type(doubled) is CausalLMOutput
    np.testing.assert_array_equal(doubled.logits, 2 * output.logits.numpy())
    packed = tree.pack_sequence_as(output, tree.flatten(output))
    np.testing.assert_array_equal(packed.hidden_states[1], output.hidden_states[1])


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_a_tf_function_returns_the_class(output, jit):
    returned = tf.function(lambda x: x, jit_compile=jit)(output)
    assert type(returned) is CausalLMOutput
    np.testing.assert_array_equal(returned.logits, output.logits)


def test_pickling_keeps_class_and_entries():
    output = CausalLMOutput(logits=np.ones(2))
    again = pickle.loads(pickle.dumps(output))
    assert type(again) is CausalLMOutput
    np.testing.assert_array_equal(again.logits, output.logits)
