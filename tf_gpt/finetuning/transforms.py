"""The paper's task inputs: lists of token ids with special tokens between.

    classification   [start] text [extract]
    entailment       [start] premise [delimiter] hypothesis [extract]
    similarity       [start] a [delimiter] b [extract], and b before a
    multiple choice  [start] context question [delimiter] answer [extract],
                     for each answer

Pure functions on ids. What is too long is cut at the ends of its parts, the
longer part first; the special tokens always stay.

Source: Radford et al. 2018, section 3.3 and figure 1.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """The ids of the three special tokens.

    Args:
        start: Of the token in front of every sequence.
        delimiter: Of the token between two parts.
        extract: Of the last token, whose hidden state the task's head reads.
    """

    start: int
    delimiter: int
    extract: int


def special_ids(tokenizer):
    """Returns the `SpecialIds` of a tokenizer: its bos, sep and cls tokens.

    Raises:
        ValueError: If it lacks one: see `tf_gpt.add_tokens_for`.
    """
    names = ("bos_token_id", "sep_token_id", "cls_token_id")
    ids = [getattr(tokenizer, name) for name in names]
    missing = [name for name, i in zip(names, ids, strict=True) if i is None]
    if missing:
        raise ValueError(
            "The tokenizer must have start, delimiter and extract tokens: "
            "`add_tokens_for(tokenizer, model, task_tokens=True)` adds them. "
            f"Received: a tokenizer without {', '.join(missing)}."
        )
    return SpecialIds(*ids)


def classification(text, special, max_length):
    """Returns `[start] text [extract]`.

    Args:
        text: List of ids, at least one.
        special: `SpecialIds`.
        max_length: The most ids of the result, 3 or more.

    Raises:
        ValueError: If a part is empty or `max_length` is too small for the
            special tokens and one token of each part; so do all others here.
    """
    _check_parts(text=text)
    _check_length(max_length, 3)
    return [special.start, *text[: max_length - 2], special.extract]


def entailment(premise, hypothesis, special, max_length):
    """Returns `[start] premise [delimiter] hypothesis [extract]`.

    Args:
        premise, hypothesis: Lists of ids, at least one each.
        special, max_length: See `classification`; 5 or more.
    """
    _check_parts(premise=premise, hypothesis=hypothesis)
    _check_length(max_length, 5)
    return _pair(premise, hypothesis, special, max_length)


def similarity(text_a, text_b, special, max_length):
    """Returns both orders of two texts, which have no natural one.

    Args:
        text_a, text_b: Lists of ids, at least one each.
        special, max_length: See `classification`; 5 or more.

    Returns:
        `[[start] a [delimiter] b [extract], [start] b [delimiter] a [extract]]`.
    """
    _check_parts(text_a=text_a, text_b=text_b)
    _check_length(max_length, 5)
    # Cut once, so that both orders hold the same tokens.
    n_a, n_b = _shares(len(text_a), len(text_b), max_length - 3)
    parts = text_a[:n_a], text_b[:n_b]
    return [_join(*parts, special), _join(*parts[::-1], special)]


def multiple_choice(context, question, answers, special, max_length):
    """Returns `[start] context question [delimiter] answer [extract]` of each answer.

    The context is cut first, down to one token; only then the longer of the
    question and the longest answer. All sequences have the same context and
    question, so that answers differ in nothing else.

    Args:
        context, question: Lists of ids, one of which may be empty.
        answers: List of lists of ids, at least one each.
        special, max_length: See `classification`; 5 or more, and 6 if neither
            context nor question is empty.

    Returns:
        List of one list of ids for each answer.
    """
    if not answers:
        raise ValueError("`answers` must have at least one. Received: [].")
    _check_parts(context=context or question)
    _check_parts(**{f"answers[{i}]": answer for i, answer in enumerate(answers)})
    _check_length(max_length, 6 if context and question else 5)
    room = max_length - 3
    longest = max(map(len, answers))
    n_context = min(
        len(context), max(room - len(question) - longest, 1 if context else 0)
    )
    n_question, n_answer = _shares(len(question), longest, room - n_context)
    first = [*context[:n_context], *question[:n_question]]
    return [_join(first, answer[:n_answer], special) for answer in answers]


def pack(documents, block_length, end_id=None):
    """Yields blocks of ids, filled with one document after the other.

    Args:
        documents: Iterable of lists of ids.
        block_length: Ids of a block, 2 or more.
        end_id: An id to put after each document, or None.

    Yields:
        Lists of `block_length` ids; the last may be shorter, and is left out if
        it has one id, which predicts nothing.
    """
    _check_predicts("block_length", block_length)
    block = []
    for ids in documents:
        block += ids
        if end_id is not None and ids:
            block.append(end_id)
        whole = len(block) - len(block) % block_length
        for at in range(0, whole, block_length):
            yield block[at : at + block_length]
        block = block[whole:]
    if len(block) > 1:
        yield block


def one_document(ids, max_length, end_id=None):
    """Returns a document as one sequence, with the end token where it ends.

    Args:
        ids: List of ids.
        max_length: The most ids of the result, 2 or more.
        end_id: The end token's id, or None. A document that is cut does not
            end there, and does not get it.
    """
    _check_parts(text=ids)
    _check_predicts("max_length", max_length)
    if end_id is not None:
        ids = [*ids, end_id]
    return list(ids[:max_length])


def _pair(first, second, special, max_length):
    n_first, n_second = _shares(len(first), len(second), max_length - 3)
    return _join(first[:n_first], second[:n_second], special)


def _join(first, second, special):
    return [special.start, *first, special.delimiter, *second, special.extract]


def _shares(n_first, n_second, room):
    """Returns how much of two parts stays: the longer is cut down to the other."""
    half = room - room // 2  # of an odd room the first part gets the larger half
    n_first = min(n_first, max(room - n_second, half))
    return n_first, min(n_second, room - n_first)


def _check_parts(**parts):
    for name, part in parts.items():
        if not len(part):
            raise ValueError(f"`{name}` must have at least one token. Received: none.")


def _check_length(max_length, shortest):
    if max_length < shortest:
        raise ValueError(
            "`max_length` must hold the special tokens and one token of each part, "
            f"{shortest} in all. Received: max_length={max_length}."
        )


def _check_predicts(name, length):
    if length < 2:
        raise ValueError(
            f"`{name}` must be 2 or more: one token predicts the next. "
            f"Received: {name}={length}."
        )
