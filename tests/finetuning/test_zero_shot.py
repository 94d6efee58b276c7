import keras
import numpy as np
import pytest
from letters import VOCAB, letters

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel
from tf_gpt.finetuning import zero_shot


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    config = OpenAIGPTConfig(
        vocab_size=len(VOCAB),
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,
    )
    return OpenAIGPTLMHeadModel(config)


@pytest.fixture(scope="module")
def log_probs(model):
    """Log-probabilities of each token but the first, by one plain pass."""

    def of(ids):
        logits = np.array(model(np.array([ids], "int32")).logits[0], "float64")
        totals = np.log(np.exp(logits).sum(-1))
        return np.array([logits[i, t] - totals[i] for i, t in enumerate(ids[1:])])

    return of


@pytest.fixture(scope="module")
def tokenizer():
    return letters()


def encode(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_acceptability_is_the_mean_log_probability(model, tokenizer, log_probs):
    texts = ["a b c d", "the king", "z a"]
    scores = zero_shot.acceptability(model, tokenizer, texts)
    expected = [log_probs(encode(tokenizer, text)).mean() for text in texts]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(size=60) + labels, 1)  # some are equal
    threshold, correlation = zero_shot.choose_threshold(scores, labels)

    def matthews(cut):
        return np.corrcoef(scores > cut, labels)[0, 1]

    assert correlation == pytest.approx(matthews(threshold))
    values = np.unique(scores)
    cuts = (values[1:] + values[:-1]) / 2
    assert correlation == pytest.approx(max(map(matthews, cuts)))
    assert zero_shot.choose_threshold([0.0, 1.0], [0, 1]) == (0.5, 1.0)


def test_sentiment_compares_two_words_after_very(model, tokenizer, log_probs):
    texts = ["a b c", "x"]
    scores = zero_shot.sentiment(model, tokenizer, texts)
    assert scores.shape == (2, 2)
    np.testing.assert_allclose(np.exp(scores).sum(-1), 1)
    for text, row in zip(texts, scores, strict=True):
        start = encode(tokenizer, f"{text} very")
        sums = []
        for word in ("negative", "positive"):
            ids = encode(tokenizer, word)
            sums.append(log_probs(start + ids)[-len(ids) :].sum())
        expected = sums - np.log(np.exp(sums).sum())
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_words_of_one_token_are_compared_where_they_follow(model, tokenizer):
    scores = zero_shot.sentiment(
        model, tokenizer, ["a b"], words=["x", "y", "z"], cue=""
    )
    logits = np.array(model(np.array([[1, 2]])).logits[0, -1], "float64")
    three = logits[[24, 25, 26]]
    expected = three - np.log(np.exp(three).sum())
    np.testing.assert_allclose(scores[0], expected, atol=1e-4)


def test_a_choice_is_the_mean_of_its_own_tokens(model, tokenizer, log_probs):
    contexts = ["a b c", "d"]
    choices = [["e", "f g h"], ["a", "b c", "d e f"]]
    scores = zero_shot.multiple_choice(model, tokenizer, contexts, choices)
    assert [len(row) for row in scores] == [2, 3]
    for context, own, row in zip(contexts, choices, scores, strict=True):
        start = encode(tokenizer, context)
        expected = []
        for choice in own:
            ids = encode(tokenizer, choice)
            expected.append(log_probs(start + ids)[-len(ids) :].mean())
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_a_context_longer_than_the_model_keeps_its_end(model, tokenizer, log_probs):
    context = " ".join("abcdefghij" * 7)
    [scores] = zero_shot.multiple_choice(model, tokenizer, [context], [["k l", "m"]])
    for choice, score in zip(("k l", "m"), scores, strict=True):
        ids = encode(tokenizer, choice)
        window = (encode(tokenizer, context) + ids)[-32:]
        expected = log_probs(window)[-len(ids) :].mean()
        assert score == pytest.approx(expected, abs=1e-4)


def test_a_referent_is_judged_by_what_follows(model, tokenizer, log_probs):
    scores = zero_shot.coreference(
        model, tokenizer, ["a b", ""], [["c", "d e"], ["f", "g"]], ["h i", "j"]
    )
    for start, rest, score in (
        ("a b c", "h i", scores[0][0]),
        ("a b d e", "h i", scores[0][1]),
        ("f", "j", scores[1][0]),
        ("g", "j", scores[1][1]),
    ):
        ids = encode(tokenizer, rest)
        expected = log_probs(encode(tokenizer, start) + ids)[-len(ids) :].mean()
        assert score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda z, *m: z.acceptability(*m, ["a b", "c"]),
            r"two tokens.*'c', texts\[1\]",
        ),
        (lambda z, *m: z.acceptability(*m, "a b"), "`texts` must be a list.*'a b'"),
        (lambda z, *m: z.acceptability(*m, []), r"`texts`.*\[\]"),
        (lambda z, *m: z.sentiment(*m, ["a", " "]), "`texts`.*' ', the one at 1"),
        (lambda z, *m: z.sentiment(*m, ["a"], words=[]), "`words`"),
        (lambda z, *m: z.multiple_choice(*m, ["a"], []), "Received: 1 and 0"),
        (lambda z, *m: z.multiple_choice(*m, ["a"], [[]]), r"`choices\[0\]`"),
        (lambda z, *m: z.coreference(*m, ["a"], [["b"]], []), "1, 1 and 0"),
        (lambda z, *m: z.choose_threshold([0.0], [0, 1]), r"\(1,\) and \(2,\)"),
        (lambda z, *m: z.choose_threshold([0.0, np.nan], [0, 1]), "finite"),
        (lambda z, *m: z.choose_threshold([0.0, 1.0], [1, 1]), r"0 and 1.*\[1\]"),
        (lambda z, *m: z.choose_threshold([0.5, 0.5], [0, 1]), r"differ.*2 times 0\.5"),
    ],
)
def test_what_cannot_be_scored_is_named(model, tokenizer, call, message):
    with pytest.raises(ValueError, match=message):
        call(zero_shot, model, tokenizer)
