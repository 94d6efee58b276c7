"""The paper's heuristics that solve tasks with the language model alone.

Each scores texts with a pre-trained `OpenAIGPTLMHeadModel`; nothing is trained.
Scores are natural logarithms of probabilities.

Source: Radford et al. 2018, section 5, "Zero-shot Behaviors".
"""

import numpy as np

# "restrict the language model's output distribution to only the words"
SENTIMENT_WORDS = ("negative", "positive")
SENTIMENT_CUE = "very"


def acceptability(model, tokenizer, texts):
    """Returns the mean log-probability of each text's tokens (CoLA).

    Args:
        model: `OpenAIGPTLMHeadModel`.
        tokenizer: Its tokenizer.
        texts: List of N str, of two tokens or more: the first is given, the
            others are scored.

    Returns:
        Float64 NumPy (N,). The paper calls those above a threshold acceptable:
        see `choose_threshold`.

    Raises:
        ValueError: If there are no texts or one is too short.
    """
    rows = _ids(tokenizer, "texts", texts)
    for i, row in enumerate(rows):
        if len(row) < 2:
            raise ValueError(
                "Each text must have two tokens or more. "
                f"Received: {texts[i]!r}, texts[{i}]."
            )
    return _means(model.score(rows).log_probs)


def choose_threshold(scores, labels):
    """Returns the threshold above which scores fit labels best.

    Args:
        scores: Float (N,), as from `acceptability`.
        labels: (N,) of 1 or True where the score should be above, else 0.

    Returns:
        `(threshold, correlation)`: halfway between two neighbouring scores, and
        the Matthews correlation, CoLA's measure, of `scores > threshold` with
        `labels`.

    Raises:
        ValueError: If the lengths differ, a score is not finite, labels are
            not of two kinds, or all scores are one.
    """
    scores, labels = np.asarray(scores, "float64"), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            "`scores` and `labels` must be of one length. "
            f"Received: shapes {scores.shape} and {labels.shape}."
        )
    if not np.isfinite(scores).all():
        raise ValueError("`scores` must be finite. Received: NaN or infinity.")
    kinds = np.unique(labels)
    if kinds.tolist() != [0, 1]:
        raise ValueError(f"`labels` must be 0 and 1. Received: {kinds.tolist()}.")
    order = np.argsort(scores)
    ordered, good = scores[order], labels[order].astype("float64")
    cuts = np.flatnonzero(ordered[1:] > ordered[:-1]) + 1  # how many are below
    if not len(cuts):
        raise ValueError(
            f"`scores` must differ. Received: {len(scores)} times {scores[0]}."
        )
    n, n_good = len(good), good.sum()
    false_negatives = np.cumsum(good)[cuts - 1]
    true_positives = n_good - false_negatives
    n_above = n - cuts
    # Pearson's correlation of two binary variables.
    correlations = (true_positives * n - n_above * n_good) / np.sqrt(
        n_above * (n - n_above) * n_good * (n - n_good)
    )
    best = int(np.argmax(correlations))
    threshold = ordered[cuts[best] - 1 : cuts[best] + 1].mean()
    return float(threshold), float(correlations[best])


def sentiment(model, tokenizer, texts, words=SENTIMENT_WORDS, cue=SENTIMENT_CUE):
    """Returns which of some words follows each text and "very" (SST-2).

    Args:
        model, tokenizer: See `acceptability`.
        texts: List of N str.
        words: List of L str, the answers.
        cue: What is appended to each text before them; "" for nothing.

    Returns:
        Float64 NumPy (N, L): the log-probabilities of the words, of these alone:
        they sum to 1. `argmax(-1)` is the prediction, by default 1 for positive.
        A word of several tokens has the product of their probabilities.

    Raises:
        ValueError: If a list is empty, or a text or word has no token.
    """
    prompts = _ids(tokenizer, "texts", texts)
    answers = _ids(tokenizer, "words", words)
    cue_ids = _ids(tokenizer, "cue", [cue])[0] if cue else []
    rows = [prompt + cue_ids for prompt in prompts]
    pairs = [(row, answer) for row in rows for answer in answers]
    sums = [values.sum(dtype="float64") for values in _continuations(model, pairs)]
    scores = np.reshape(sums, (len(rows), len(answers)))
    scores -= scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def multiple_choice(model, tokenizer, contexts, choices):
    """Returns the mean log-probability of each answer's tokens (RACE).

    Args:
        model, tokenizer: See `acceptability`.
        contexts: List of N str: the document and the question.
        choices: List of N lists of str, the answers; of any lengths.

    Returns:
        List of N float64 NumPy (number of answers,). `argmax` is the prediction.

    Raises:
        ValueError: If the lengths differ, a list is empty or a text has no
            token.
    """
    if len(contexts) != len(choices):
        raise ValueError(
            "`contexts` and `choices` must be of one length. "
            f"Received: {len(contexts)} and {len(choices)}."
        )
    prompts = _ids(tokenizer, "contexts", contexts)
    answers = [
        _ids(tokenizer, f"choices[{i}]", list(own)) for i, own in enumerate(choices)
    ]
    pairs = [
        (prompt, answer)
        for prompt, own in zip(prompts, answers, strict=True)
        for answer in own
    ]
    means = _means(_continuations(model, pairs))
    ends = np.cumsum([len(own) for own in answers])
    return np.split(means, ends[:-1])


def coreference(model, tokenizer, befores, referents, rests):
    """Returns how well sentences go on after each referent of a pronoun (DPRD).

    The pronoun is replaced by each of the referents, and the rest of the
    sentence is scored.

    Args:
        model, tokenizer: See `acceptability`.
        befores: List of N str: the sentences up to the pronoun; may be "".
        referents: List of N lists of str.
        rests: List of N str: what follows the pronoun.

    Returns:
        List of N float64 NumPy (number of referents,): the mean log-probability
        of the rest's tokens. `argmax` is the prediction.

    Raises:
        ValueError: As `multiple_choice`.
    """
    if not len(befores) == len(referents) == len(rests):
        raise ValueError(
            "`befores`, `referents` and `rests` must be of one length. "
            f"Received: {len(befores)}, {len(referents)} and {len(rests)}."
        )
    pairs = []
    endings = _ids(tokenizer, "rests", rests)
    for i, (before, own) in enumerate(zip(befores, referents, strict=True)):
        texts = [f"{before} {referent}".strip() for referent in own]
        prompts = _ids(tokenizer, f"referents[{i}]", texts)
        pairs += [(prompt, endings[i]) for prompt in prompts]
    means = _means(_continuations(model, pairs))
    return np.split(means, np.cumsum([len(own) for own in referents])[:-1])


def _continuations(model, pairs):
    """Returns the log-probabilities of each second's tokens after the first's."""
    scored = model.score([prompt + answer for prompt, answer in pairs]).log_probs
    return [
        values[-len(answer) :]
        for values, (_, answer) in zip(scored, pairs, strict=True)
    ]


def _means(log_probs):
    return np.array([values.mean(dtype="float64") for values in log_probs])


def _ids(tokenizer, name, texts):
    """Returns the ids of a list of texts, none of them without a token."""
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"`{name}` must be a list of texts. Received: {texts!r}.")
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    for i, row in enumerate(rows):
        if not row:
            raise ValueError(
                f"`{name}` must be texts with a token. Received: {texts[i]!r}, "
                f"the one at {i}."
            )
    return rows
