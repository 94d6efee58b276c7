"""The program that fine-tunes a language model on plain text."""

import math

import numpy as np
import pytest

TEXT = "the king had a red fox .\n\nthe fox had a green sea .\n"


@pytest.mark.slow
def test_a_text_is_learnt_saved_and_continued(small, script, tmp_path, capsys):
    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

    for name, n in (("train.txt", 40), ("dev.txt", 3)):
        (tmp_path / name).write_text(TEXT * n)
    out = tmp_path / "out"
    options = ["--train", str(tmp_path / "train.txt"), "--model", small]
    options += ["--dev", str(tmp_path / "dev.txt"), "--out", str(out)]
    options += ["--max-length", "16", "--batch-size", "8", "--epochs", "4"]
    options += ["--learning-rate", "0.02", "--dropout", "0", "--prompt", "the king"]
    history = script("run_clm")["main"](options).history
    printed = capsys.readouterr().out.splitlines()
    assert history["loss"][-1] < history["loss"][0]
    before, after = (
        float(word.strip(","))
        for line in printed
        if line.startswith("perplexity of dev")
        for word in line.split()
        if word.strip(",").replace(".", "").isdigit()
    )
    assert after < before
    assert after == pytest.approx(math.exp(history["val_loss"][-1]), abs=0.01)
    assert printed[-1].startswith("the king")
    assert len(printed[-1].split()) > 3

    # The same loss by hand: all windows of 16 tokens, as one batch.
    tokenizer = OpenAIGPTTokenizer.from_pretrained(out)
    model = OpenAIGPTLMHeadModel.from_pretrained(out)
    ids = []
    for line in (TEXT * 3).splitlines():
        if line:
            ids += [*tokenizer(line)["input_ids"], tokenizer.eos_token_id]
    windows = [ids[i : i + 16] for i in range(0, len(ids), 16)]
    log_probs = np.concatenate(
        model.score([w for w in windows if len(w) > 1]).log_probs
    )
    log_probs = log_probs[np.isfinite(log_probs)]
    assert -log_probs.mean() == pytest.approx(history["val_loss"][-1], rel=1e-3)
