import pytest

from tf_gpt.checkpoints import names


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize(
    "name, path",
    [
        ("tokens_embed.weight", "tokens_embed/embeddings"),
        ("h.0.attn.c_attn.weight", "h_0/attn/c_attn/kernel"),
        ("h.11.ln_2.bias", "h_11/ln_2/beta"),
        ("h.3.attn.bias", None),
        ("position_ids", None),
    ],
)
def test_pytorch_entries_have_our_paths(prefix, name, path):
    assert names.from_pytorch(prefix + name) == path
    if path:
        assert names.to_pytorch(path, prefix=bool(prefix)) == prefix + name


@pytest.mark.parametrize("name, path", names.HEADS.items())
@pytest.mark.parametrize("prefix", [True, False])
def test_heads_never_carry_the_prefix(name, path, prefix):
    assert names.from_pytorch(name) == path
    assert names.to_pytorch(path, prefix) == name
    assert names.is_head(path)


def test_the_tied_head_is_skipped():
    assert names.from_pytorch("lm_head.weight") is None


@pytest.mark.parametrize(
    "name",
    ["wte.weight", "h.0.ln_3.bias", "h.x.ln_1.bias", "h.0.tokens_embed.weight", "h.0.",
     "ln_1.bias", "h.٣.ln_1.bias", "", "transformer.transformer.tokens_embed.weight"],
)  # fmt: skip
def test_unknown_pytorch_entries_have_none(name):
    with pytest.raises(KeyError):
        names.from_pytorch(name)


@pytest.mark.parametrize("path", ["wte/embeddings", "h_0/ln_3/beta", "score/bias", ""])
def test_unknown_paths_have_no_entry(path):
    with pytest.raises(KeyError):
        names.to_pytorch(path, prefix=True)


@pytest.mark.parametrize(
    "prefix",
    [
        "transformer/",
        "transformer/tf_open_aigptlm_head_model/transformer/",
        "tf_open_aigpt_model_3/transformer/",
    ],
)
@pytest.mark.parametrize(
    "name, path",
    [
        ("tokens_embed/weight:0", "tokens_embed/embeddings"),
        ("positions_embed/embeddings:0", "positions_embed/embeddings"),
        ("h_._0/attn/c_attn/weight:0", "h_0/attn/c_attn/kernel"),
        ("h_._0/attn/c_attn/bias:0", "h_0/attn/c_attn/bias"),
        ("h_._11/mlp/c_proj/weight:0", "h_11/mlp/c_proj/kernel"),
        ("h_._1/ln_1/gamma:0", "h_1/ln_1/gamma"),
    ],
)
def test_tensorflow_entries_have_our_paths(prefix, name, path):
    assert names.from_tensorflow(prefix + name) == path


@pytest.mark.parametrize(
    "name, path",
    [
        ("score/tf_open_aigpt_for_sequence_classification/score/kernel:0",
         "score/kernel"),
        ("multiple_choice_head/tf_open_aigpt_double_heads_model/multiple_choice_head/"
         "summary/kernel:0", "multiple_choice_head/summary/kernel"),
        ("multiple_choice_head/summary/bias:0", "multiple_choice_head/summary/bias"),
    ],
)  # fmt: skip
def test_tensorflow_heads_have_our_paths(name, path):
    assert names.from_tensorflow(name) == path


@pytest.mark.parametrize(
    "name",
    ["transformer/wte/weight:0", "transformer/h_._0/attn/bias:0", "score/bias:0",
     "h_0/ln_1/beta:0", ""],
)  # fmt: skip
def test_unknown_tensorflow_entries_have_none(name):
    with pytest.raises(KeyError):
        names.from_tensorflow(name)


def test_openai_order_has_positions_first_and_every_weight_once():
    paths = names.openai_paths(2)
    assert paths[:4] == [
        "positions_embed/embeddings",
        "tokens_embed/embeddings",
        "h_0/attn/c_attn/kernel",
        "h_0/attn/c_attn/bias",
    ]
    assert paths[2 + 12 + 4] == "h_1/ln_1/gamma"
    assert len(set(paths)) == len(paths) == 2 + 2 * 12
