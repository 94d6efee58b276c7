"""Small vocabularies, and both tokenizers on each."""

import pytest
from hard_texts import DATA
from small_vocabularies import MERGES, PIECES, TEXT, write_vocabulary

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast

CLASSES = [OpenAIGPTTokenizer, OpenAIGPTTokenizerFast]


@pytest.fixture(scope="session")
def toy_dir(tmp_path_factory):
    vocab = {piece: index for index, piece in enumerate(PIECES.split())}
    return write_vocabulary(tmp_path_factory.mktemp("toy"), vocab, MERGES)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, toy_dir):
    """A directory with about 300 pieces, and nothing but vocab.json and merges.txt."""
    toy = OpenAIGPTTokenizer.from_pretrained(toy_dir, pre_tokenizer="openai")
    tokenizer = toy.train_new_from_iterator(TEXT.split("\n\n"), 300)
    directory = tmp_path_factory.mktemp("trained")
    tokenizer.save_vocabulary(directory)
    return directory


@pytest.fixture(scope="session")
def released():
    """The directory with OpenAI's vocabulary."""
    directory = DATA / "gpt1_vocab" / "hf"
    if not directory.is_dir():
        pytest.skip("no shared data: OpenAI's vocabulary is not here")
    return directory


@pytest.fixture(params=CLASSES, ids=["slow", "fast"])
def cls(request):
    return request.param


@pytest.fixture
def tokenizer(cls, trained):
    """Either tokenizer, with a pad token."""
    return cls.from_pretrained(trained, pad_token="<pad>")
