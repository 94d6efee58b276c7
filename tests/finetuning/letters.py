"""A tokenizer whose ids can be told by hand, and a small model for it."""

import string

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

LETTERS = string.ascii_lowercase
# A word of one letter is one piece, a = 1 to z = 26; in longer words the letters
# but the last are a = 27 to z = 52.
VOCAB = {
    piece: i
    for i, piece in enumerate(["<unk>", *(f"{x}</w>" for x in LETTERS), *LETTERS])
}
PAD, START, DELIMITER, EXTRACT = 53, 54, 55, 56


def letters(cls=OpenAIGPTTokenizer, **options):
    """Returns a tokenizer; tasks add the four tokens above, in this order."""
    if not cls.is_fast:
        options = {"pre_tokenizer": "basic", **options}
    return cls(vocab=VOCAB, merges=[], **options)


def ids_of(text):
    """Returns the ids of one-letter words, by hand."""
    return [LETTERS.index(word) + 1 for word in text.split()]


def save_small_model(directory):
    """Writes a random pre-trained model of 24 positions."""
    import keras

    keras.utils.set_random_seed(3)
    model = OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(
            vocab_size=len(VOCAB),
            n_positions=24,
            n_embd=16,
            n_layer=1,
            n_head=2,
            initializer_range=0.2,
        )
    )
    model.save_pretrained(directory)
    return directory
