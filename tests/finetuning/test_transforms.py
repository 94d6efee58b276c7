import pytest

from tf_gpt.finetuning import transforms
from tf_gpt.finetuning.transforms import SpecialIds

S, D, E = 100, 101, 102
SPECIAL = SpecialIds(start=S, delimiter=D, extract=E)
A, B = [1, 2, 3, 4, 5, 6], [11, 12, 13]


def test_sequences_are_those_of_the_paper():
    assert transforms.classification(A, SPECIAL, 20) == [S, *A, E]
    assert transforms.entailment(A, B, SPECIAL, 20) == [S, *A, D, *B, E]
    assert transforms.similarity(A, B, SPECIAL, 20) == [
        [S, *A, D, *B, E],
        [S, *B, D, *A, E],
    ]
    assert transforms.multiple_choice(A, B, [[21], [31, 32]], SPECIAL, 20) == [
        [S, *A, *B, D, 21, E],
        [S, *A, *B, D, 31, 32, E],
    ]


@pytest.mark.parametrize(
    "max_length, n_a, n_b",
    [
        (12, 6, 3),  # all of it
        (11, 5, 3),
        (9, 3, 3),  # the longer part is as short as the other
        (8, 3, 2),  # now both get shorter in turn, the second first
        (7, 2, 2),
        (6, 2, 1),
        (5, 1, 1),
    ],
)
def test_the_longer_part_is_cut_first_and_each_at_its_end(max_length, n_a, n_b):
    row = [S, *A[:n_a], D, *B[:n_b], E]
    assert transforms.entailment(A, B, SPECIAL, max_length) == row
    both = transforms.similarity(A, B, SPECIAL, max_length)
    assert both == [row, [S, *B[:n_b], D, *A[:n_a], E]]
    # The other way round the other part is the longer one.
    swapped = transforms.entailment(B, A, SPECIAL, max_length)
    assert len(swapped) == max_length
    assert sorted((swapped.index(D) - 1, max_length - swapped.index(D) - 2)) == sorted(
        (n_a, n_b)
    )


def test_a_long_text_keeps_start_and_extract():
    assert transforms.classification(A, SPECIAL, 5) == [S, 1, 2, 3, E]
    assert transforms.classification(A, SPECIAL, 3) == [S, 1, E]


@pytest.mark.parametrize(
    "max_length, n_context, n_question, n_answer",
    [
        (15, 6, 3, 3),
        (12, 3, 3, 3),
        (10, 1, 3, 3),
        (9, 1, 3, 2),  # the context keeps one token
        (8, 1, 2, 2),
        (7, 1, 2, 1),
        (6, 1, 1, 1),
    ],
)
def test_of_a_choice_the_context_is_cut_first(
    max_length, n_context, n_question, n_answer
):
    answers = [[21, 22, 23], [31]]
    first = [S, *A[:n_context], *B[:n_question], D]
    assert transforms.multiple_choice(A, B, answers, SPECIAL, max_length) == [
        [*first, *answers[0][:n_answer], E],
        [*first, 31, E],  # the same context, though this answer leaves more room
    ]


def test_a_choice_needs_no_context_or_no_question():
    expected = [[S, 1, 2, D, 21, E]]
    for context, question in ((A, []), ([], A)):
        rows = transforms.multiple_choice(context, question, [[21]], SPECIAL, 6)
        assert rows == expected


def test_blocks_hold_all_documents_one_after_the_other():
    documents = [[1, 2, 3], [], [4], [5, 6, 7, 8, 9, 10, 11]]
    assert list(transforms.pack(documents, 4)) == [
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        [9, 10, 11],
    ]
    assert list(transforms.pack(documents, 4, end_id=0)) == [
        [1, 2, 3, 0],
        [4, 0, 5, 6],
        [7, 8, 9, 10],
        [11, 0],
    ]


def test_a_last_block_that_predicts_nothing_is_left_out():
    assert list(transforms.pack([[1, 2, 3, 4, 5]], 4)) == [[1, 2, 3, 4]]


def test_packing_reads_no_further_than_it_must():
    def documents():
        yield [1, 2, 3]
        raise AssertionError("read too far")

    assert next(transforms.pack(documents(), 2)) == [1, 2]


def test_a_document_gets_the_end_token_where_it_ends():
    assert transforms.one_document([1, 2, 3], 4, end_id=0) == [1, 2, 3, 0]
    assert transforms.one_document([1, 2, 3], 3, end_id=0) == [1, 2, 3]
    assert transforms.one_document([1, 2, 3], 2) == [1, 2]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: transforms.classification(A, SPECIAL, 2), "3 in all.*max_length=2"),
        (lambda: transforms.entailment(A, B, SPECIAL, 4), "5 in all.*max_length=4"),
        (lambda: transforms.similarity(A, B, SPECIAL, 4), "5 in all.*max_length=4"),
        (
            lambda: transforms.multiple_choice(A, B, [[1]], SPECIAL, 5),
            "6 in all.*max_length=5",
        ),
        (lambda: list(transforms.pack([A], 1)), "2 or more.*block_length=1"),
        (lambda: transforms.one_document(A, 1), "2 or more.*max_length=1"),
        (lambda: transforms.classification([], SPECIAL, 9), "`text`.*one token"),
        (lambda: transforms.entailment(A, [], SPECIAL, 9), "`hypothesis`"),
        (lambda: transforms.similarity([], A, SPECIAL, 9), "`text_a`"),
        (
            lambda: transforms.multiple_choice([], [], [[1]], SPECIAL, 9),
            "`context`",
        ),
        (
            lambda: transforms.multiple_choice(A, B, [[1], []], SPECIAL, 9),
            r"`answers\[1\]`",
        ),
        (lambda: transforms.multiple_choice(A, B, [], SPECIAL, 9), "`answers`"),
    ],
)
def test_what_cannot_be_held_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_special_ids_come_from_the_tokenizer():
    class Tokenizer:
        bos_token_id, sep_token_id, cls_token_id = S, D, E

    assert transforms.special_ids(Tokenizer()) == SPECIAL
    Tokenizer.sep_token_id = None
    with pytest.raises(ValueError, match=r"add_tokens_for.*without sep_token_id"):
        transforms.special_ids(Tokenizer())
