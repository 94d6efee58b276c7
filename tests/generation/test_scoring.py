import numpy as np
import pytest


def by_hand(next_scores, row, first, i):
    """The log-probability of row[i] after row[first:i]."""
    scores = next_scores(row[first:i]).astype("float64")
    return scores[row[i]] - np.log(np.exp(scores).sum())


def test_short_rows_are_scored_whole(model, next_scores):
    rows = [[5, 17, 3, 20, 9], [41, 2], [7], list(range(1, 41))]
    out = model.score(rows)
    for row, log_probs, perplexity in zip(
        rows, out.log_probs, out.perplexities, strict=True
    ):
        expected = [by_hand(next_scores, row, 0, i) for i in range(1, len(row))]
        np.testing.assert_allclose(log_probs, expected, atol=1e-4)
        if len(row) > 1:
            assert perplexity == pytest.approx(np.exp(-np.mean(expected)), rel=1e-4)
    assert np.isnan(out.perplexities[2])
    together = np.concatenate(out.log_probs)
    assert out.perplexity == pytest.approx(np.exp(-together.mean()), rel=1e-5)


def test_long_rows_are_scored_in_windows_that_slide(model, next_scores):
    row = np.random.default_rng(0).integers(0, 53, 200).tolist()
    log_probs = model.score([row], stride=40).log_probs[0]
    assert len(log_probs) == 199
    # Windows of 96 begin at 0, 40, 80 and, to end with the row, at 104.
    for i, first in (
        (1, 0),
        (95, 0),
        (96, 40),
        (135, 40),
        (136, 80),
        (176, 104),
        (199, 104),
    ):
        expected = by_hand(next_scores, row, first, i)
        assert log_probs[i - 1] == pytest.approx(expected, abs=1e-4)


def test_texts_are_scored_through_a_tokenizer(model):
    class Words:
        def __call__(self, texts):
            return {"input_ids": [[int(word) for word in t.split()] for t in texts]}

    rows = [[5, 17, 3], list(range(40))]
    texts = [" ".join(map(str, row)) for row in rows]
    texts = model.score(texts, tokenizer=Words())
    ids = model.score(rows)
    assert texts.perplexity == ids.perplexity


@pytest.mark.parametrize(
    "rows, options, message",
    [
        ([[]], {}, "not empty.*row 0"),
        ([[1], [1, 53]], {}, r"`row 1`.*\[0, 53\).*1 to 53"),
        ([[1, 2]], {"stride": 0}, "`stride`.*Received: 0"),
        ([[1, 2]], {"stride": 96}, r"`stride`.*\[1, 96\).*Received: 96"),
        (["a text"], {}, "`tokenizer`"),
        ([], {}, "at least one"),
    ],
)
def test_bad_rows_are_named(model, rows, options, message):
    with pytest.raises(ValueError, match=message):
        model.score(rows, **options)
