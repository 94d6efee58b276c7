import keras
import pytest

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A small random model with the vocabulary of the bundled one."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")
    tokenizer.save_pretrained(folder)
    keras.utils.set_random_seed(3)  # what can be learnt depends on the start
    config = OpenAIGPTConfig(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=8,
        n_layer=2,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=2,
        pad_token_id=1,
    )
    OpenAIGPTLMHeadModel(config).save_pretrained(folder)
    return folder
