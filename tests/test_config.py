import json

import pytest

from tf_gpt import OpenAIGPTConfig

RELEASED = {
    "afn": "gelu",
    "architectures": ["OpenAIGPTLMHeadModel"],
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "openai-gpt",
    "n_ctx": 512,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 512,
    "n_special": 0,
    "predict_special_tokens": True,
    "resid_pdrop": 0.1,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 40478,
}


def test_defaults_are_the_released_model():
    config = OpenAIGPTConfig()
    for name in RELEASED.keys() & vars(config).keys():
        assert getattr(config, name) == RELEASED[name]
    assert config.num_parameters() == 116_534_784


def test_other_names_of_the_sizes_read_and_write_the_same_fields():
    config = OpenAIGPTConfig(hidden_size=24, num_attention_heads=2)
    assert (config.n_embd, config.n_head) == (24, 2)
    config.num_hidden_layers = 3
    assert config.n_layer == 3
    assert config.max_position_embeddings == 512


def test_contradicting_names_of_a_size_raise():
    with pytest.raises(ValueError, match=r"hidden_size=24.*n_embd=32"):
        OpenAIGPTConfig(hidden_size=24, n_embd=32)


def test_a_released_file_keeps_its_unknown_entries(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RELEASED))
    config = OpenAIGPTConfig.from_pretrained(tmp_path)
    config.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written.items() >= RELEASED.items()
    assert OpenAIGPTConfig.from_pretrained(tmp_path / "again") == config


def test_an_entry_set_later_is_written(tmp_path):
    config = OpenAIGPTConfig()
    config.sep_token_id = 7
    config.save_pretrained(tmp_path)
    assert OpenAIGPTConfig.from_pretrained(tmp_path).sep_token_id == 7


def test_num_labels_follows_the_names_of_the_labels():
    config = OpenAIGPTConfig(id2label={"0": "no", "1": "maybe", "2": "yes"})
    assert config.num_labels == 3
    assert config.label2id == {"no": 0, "maybe": 1, "yes": 2}
    replaced = OpenAIGPTConfig.from_dict(config.to_dict(), num_labels=5)
    assert replaced.num_labels == 5


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"n_head": 5}, r"n_head=5, n_embd=768"),
        ({"n_layer": 0}, r"`n_layer`.*0"),
        ({"n_layer": "12"}, r"`n_layer`.*'12'"),
        ({"n_layer": True}, r"`n_layer`.*True"),
        ({"vocab_size": -1}, r"`vocab_size`.*-1"),
        ({"n_embd": 2**60, "n_head": 1}, r"`n_embd`"),
        ({"attn_pdrop": 1.0}, r"`attn_pdrop`.*1\.0"),
        ({"layer_norm_epsilon": 0}, r"`layer_norm_epsilon`.*0"),
        ({"initializer_range": float("nan")}, r"`initializer_range`.*nan"),
        ({"afn": "tanh"}, r"`afn`.*'tanh'"),
        ({"summary_type": "attn"}, r"`summary_type`.*'attn'"),
        ({"problem_type": "ranking"}, r"`problem_type`.*'ranking'"),
        ({"model_type": "gpt2"}, r"`model_type`.*'gpt2'"),
        ({"tie_word_embeddings": False}, r"`tie_word_embeddings`.*False"),
        ({"id2label": {"a": "x"}}, r"`id2label`"),
        ({"num_labels": 3, "id2label": {0: "a"}}, r"num_labels=3, 1 names"),
        ({"pad_token_id": -1}, r"`pad_token_id`.*-1"),
        ({"pruned_heads": {0: list(range(12))}}, r"`pruned_heads`"),
        ({"pruned_heads": {12: [0]}}, r"`pruned_heads`"),
        ({"to_dict": 1}, r"to_dict"),
    ],
    ids=str,
)
def test_impossible_values_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        OpenAIGPTConfig(**fields)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"n_layer": 1e9}', '{"n_head": 7}'])
def test_an_unusable_file_raises_with_its_path(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        OpenAIGPTConfig.from_pretrained(tmp_path)


def test_a_directory_without_a_config_raises(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        OpenAIGPTConfig.from_pretrained(tmp_path)


def test_pruned_heads_are_not_counted_as_parameters():
    fields = {"n_embd": 24, "n_head": 4, "n_layer": 2, "vocab_size": 50}
    whole = OpenAIGPTConfig(**fields)
    pruned = OpenAIGPTConfig(**fields, pruned_heads={"1": [0, 3]})
    # Of each head: kernels 24 x 6 x 3 and 6 x 24, and biases 6 x 3.
    assert whole.num_parameters() - pruned.num_parameters() == 2 * (4 * 144 + 18)
