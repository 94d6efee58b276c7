"""Log-probabilities: of given texts, and of the tokens that `generate` chose."""

import numpy as np
from keras import ops

from tf_gpt.generation.generate import PROMPT_BUCKETS, bucket, compile_function
from tf_gpt.generation.prompts import check
from tf_gpt.outputs import ModelOutput

# Windows that go through the model together.
BATCH_SIZE = 4


class ScoreOutput(ModelOutput):
    """Output of `score`.

    Entries:
        log_probs: List of a float32 NumPy array (n - 1,) for each row of n
            tokens: the natural log-probability of each token after the first.
        perplexities: Float64 NumPy (B,), of each row; NaN for rows of one token.
        perplexity: Float, of all scored tokens together.
    """

    log_probs: object
    perplexities: object
    perplexity: object


def score(decoder, rows, stride=None, tokenizer=None):
    """Scores texts, or token sequences, of any length.

    Args:
        decoder: See `generate.Decoder`.
        rows: List of lists of token ids, none empty; or of strings.
        stride: How far the window of `n_positions` tokens moves along a longer
            row; half of it if None. A token is scored in the first window that
            has it: with at least `n_positions - stride` tokens before it, as far
            as there are any.
        tokenizer: What strings are encoded by.

    Returns:
        `ScoreOutput`.

    Raises:
        ValueError: If a row is empty or has ids outside the vocabulary, or
            `stride` is not in [1, n_positions).
    """
    width = decoder.n_positions
    stride = width // 2 if stride is None else stride
    if (
        isinstance(stride, bool)
        or not isinstance(stride, int)
        or not 1 <= stride < width
    ):
        raise ValueError(
            f"`stride` must be an integer in [1, {width}). Received: {stride!r}."
        )
    if not len(rows):
        raise ValueError("`rows` must have at least one row. Received: none.")
    if isinstance(rows[0], str):
        if tokenizer is None:
            raise ValueError("Texts need `tokenizer`. Received: tokenizer=None.")
        rows = tokenizer(list(rows))["input_ids"]
    rows = [_check_row(decoder, row, i) for i, row in enumerate(rows)]
    log_probs = [np.zeros(len(row) - 1, "float32") for row in rows]
    windows = [
        (i, first, begin)
        for i, row in enumerate(rows)
        for first, begin in _windows(len(row), width, stride)
    ]
    # Windows of like length share a batch.
    windows.sort(key=lambda w: min(len(rows[w[0]]) - w[1], width))
    for at in range(0, len(windows), BATCH_SIZE):
        group = windows[at : at + BATCH_SIZE]
        parts = [rows[i][first : first + width] for i, first, _ in group]
        scored = _log_probs(decoder, parts)
        for (i, first, begin), part, values in zip(group, parts, scored, strict=True):
            end = first + len(part)
            log_probs[i][begin - 1 : end - 1] = values[
                begin - first - 1 : len(part) - 1
            ]
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.array([values.sum(dtype="float64") for values in log_probs])
        counts = np.array([len(values) for values in log_probs])
        perplexities = np.exp(-sums / counts)
        perplexity = float(np.exp(-sums.sum() / counts.sum()))
    return ScoreOutput(
        log_probs=log_probs, perplexities=perplexities, perplexity=perplexity
    )


def compute_transition_scores(
    sequences, scores, beam_indices=None, normalize_logits=False
):
    """Returns the score that each new token had when it was chosen.

    Args:
        sequences: Int (B, T + N), as `generate` returned them.
        scores: Its tuple of N scores.
        beam_indices: Its `beam_indices`, of a beam search.
        normalize_logits: Whether the scores are made log-probabilities first.

    Returns:
        Float32 NumPy (B, N); 0 beyond the end of a beam.

    Source: transformers 4.57, GenerationMixin.compute_transition_scores.
    """
    sequences = np.asarray(ops.convert_to_numpy(sequences))
    scores = [np.asarray(ops.convert_to_numpy(step), "float32") for step in scores]
    n_rows = len(sequences)
    if beam_indices is None:
        rows = np.tile(np.arange(n_rows)[:, None], (1, len(scores)))
    else:
        rows = np.asarray(ops.convert_to_numpy(beam_indices))
    n_new = rows.shape[1]
    new = sequences[:, sequences.shape[1] - n_new :]
    chosen = np.zeros((n_rows, n_new), "float32")
    for i in range(n_new):
        step = scores[i]
        if normalize_logits:
            shifted = step - step.max(axis=-1, keepdims=True)
            step = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        is_known = rows[:, i] >= 0
        chosen[is_known, i] = step[rows[is_known, i], new[is_known, i]]
    return chosen


def _windows(length, width, stride):
    """Yields `(first, begin)`: a window's first token, and the first it scores."""
    first, begin = 0, 1
    while begin < length:
        yield first, begin
        begin = first + width
        first += stride
        # The last window ends with the row, and has all the context it can.
        first = max(0, min(first, length - width))


def _check_row(decoder, row, i):
    row = np.asarray(row)
    if row.ndim != 1 or not row.size:
        raise ValueError(
            f"Each row to score must be a list of token ids, not empty. Received "
            f"shape {row.shape} in row {i}."
        )
    # The checks of a prompt, but for its length.
    for at in range(0, len(row), decoder.n_positions):
        check(decoder, row[None, at : at + decoder.n_positions], name=f"row {i}")
    return row.astype("int32")


def _log_probs(decoder, parts):
    """Returns float32 (B, W - 1): what each token but the first had."""
    width = bucket(max(map(len, parts)), PROMPT_BUCKETS)
    ids = np.zeros((BATCH_SIZE if len(parts) > 1 else 1, width), "int32")
    for row, part in enumerate(parts):
        ids[row, : len(part)] = part  # padding on the right changes nothing
    key = ("score", ids.shape)
    if key not in decoder.compiled:

        def run(ids):
            n_rows = ids.shape[0]
            logits, _ = decoder.decode(
                ids,
                decoder.make_caches(n_rows, width),
                index=0,
                position_ids=ops.minimum(
                    ops.arange(width)[None], decoder.n_positions - 1
                )
                + ops.zeros((n_rows, 1), "int32"),
                attention_mask=ops.ones((n_rows, width), "int32"),
                last_only=False,
            )
            log_probs = ops.log_softmax(logits[:, :-1], axis=-1)
            chosen = ops.take_along_axis(log_probs, ids[:, 1:, None], axis=-1)
            return chosen[:, :, 0]

        decoder.compiled[key] = compile_function(run, True)
    result = decoder.compiled[key](ops.convert_to_tensor(ids))
    return ops.convert_to_numpy(result)[: len(parts)]
