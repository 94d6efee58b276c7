import threading
import time

import numpy as np
import pytest
from test_generate import PROMPTS, Letters, padded

from tf_gpt.generation.streamers import TextIteratorStreamer


def test_a_stop_string_ends_a_row_where_it_is_complete(model):
    batch = padded("left")
    width = batch["input_ids"].shape[1]
    free = model.generate(batch, max_new_tokens=15, jit_compile=False).numpy()
    stopped = model.generate(
        batch,
        max_new_tokens=15,
        stop_strings=["yx y", "x x"],
        tokenizer=Letters(),
        pad_token_id=0,
        jit_compile=False,
    ).numpy()
    ends = []
    for row, free_row in zip(stopped[:, width:], free[:, width:], strict=True):
        texts = [Letters().decode(free_row[: i + 1]) for i in range(15)]
        stops = [i for i, text in enumerate(texts) if "yx y" in text or "x x" in text]
        ends.append(stops[0] + 1 if stops else 15)
        assert row[: ends[-1]].tolist() == free_row[: ends[-1]].tolist()
        assert not row[ends[-1] :].any()
    assert stopped.shape[1] == width + max(ends)
    assert min(ends) < 15


@pytest.mark.parametrize("extra", [{}, {"prompt_lookup_num_tokens": 3}], ids=str)
def test_a_criterion_sees_every_prefix_and_ends_the_row(model, extra):
    seen = []

    def five_new(ids, n_prompt):
        seen.append((ids.tolist(), n_prompt))
        return len(ids) - n_prompt == 5

    prompt = PROMPTS[0]
    ids = model.generate(
        np.array([prompt]),
        max_new_tokens=15,
        stopping_criteria=[five_new],
        jit_compile=False,
        **extra,
    ).numpy()[0]
    free = model.generate(np.array([prompt]), max_new_tokens=15).numpy()[0]
    assert ids.tolist() == free[:8].tolist()
    assert seen == [(free[: 3 + i].tolist(), 3) for i in range(1, 6)]


def test_criteria_and_end_tokens_meet(model, greedy_by_hand):
    free = greedy_by_hand(PROMPTS[0], 15)
    eos = [free[6]]
    expected = greedy_by_hand(PROMPTS[0], 15, eos)
    ids = model.generate(
        np.array([PROMPTS[0]]),
        max_new_tokens=15,
        eos_token_id=eos,
        stopping_criteria=[lambda ids, n_prompt: len(ids) >= 17],
        jit_compile=False,
    )
    assert ids.numpy()[0].tolist() == PROMPTS[0] + expected


def test_no_token_is_begun_after_max_time(model):
    ids = model.generate(
        np.array([PROMPTS[0]]), max_new_tokens=40, max_time=1e-6, jit_compile=False
    )
    assert ids.shape[1] == 3 + 1


def test_an_iterator_gives_the_pieces_to_another_thread(model):
    streamer = TextIteratorStreamer(Letters(), timeout=120)
    prompt = np.array([PROMPTS[2]])
    options = {"max_new_tokens": 25, "streamer": streamer}
    thread = threading.Thread(target=model.generate, args=(prompt,), kwargs=options)
    thread.start()
    pieces = list(streamer)
    thread.join()
    ids = model.generate(prompt, max_new_tokens=25).numpy()[0, 7:]
    assert "".join(pieces) == Letters().decode(ids)


def test_an_iterator_that_waits_too_long_says_so():
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        next(TextIteratorStreamer(Letters(), timeout=0.01))
    assert time.monotonic() - start < 30
