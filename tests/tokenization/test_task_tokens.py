import types

import pytest

from tf_gpt.errors import TokenizerError
from tf_gpt.tokenization.task_tokens import add_tokens_for


class Model:
    """All that `add_tokens_for` knows of a model."""

    def __init__(self, vocab_size):
        self.config = types.SimpleNamespace(vocab_size=vocab_size)
        self.generation_config = types.SimpleNamespace(pad_token_id=None)

    def resize_token_embeddings(self, n):
        self.config.vocab_size = n


def test_tokenizer_model_and_configs_grow_together(cls, toy_dir):
    tokenizer = cls.from_pretrained(toy_dir)
    model = Model(len(tokenizer))
    assert add_tokens_for(tokenizer, model) == 1
    assert tokenizer.pad_token == "<pad>"
    assert model.config.vocab_size == len(tokenizer) == 22
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 21
    assert add_tokens_for(tokenizer, model) == 0
    assert add_tokens_for(tokenizer, model, task_tokens=True) == 3
    assert tokenizer.convert_ids_to_tokens([22, 23, 24]) == [
        "_start_",
        "_delimiter_",
        "_classify_",
    ]
    assert (tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id) == (
        22,
        23,
        24,
    )
    assert model.config.vocab_size == 25
    assert model.config.bos_token_id == 22
    assert tokenizer("low _start_", padding=True)["input_ids"] == [13, 10, 22]


def test_a_larger_table_stays_and_no_model_is_needed(cls, toy_dir):
    tokenizer = cls.from_pretrained(toy_dir)
    model = Model(64)
    add_tokens_for(tokenizer, model, pad_token="<fill>")
    assert model.config.vocab_size == 64
    assert tokenizer.pad_token == "<fill>"
    assert add_tokens_for(cls.from_pretrained(toy_dir)) == 1
    with pytest.raises(TokenizerError, match="Received: int"):
        add_tokens_for(tokenizer, 5)
