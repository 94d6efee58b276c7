"""The program that continues prompts: its texts are those of `model.generate`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import SCRIPTS

PROMPTS = ["the king", "once upon a time there was", "a fox", "the sea"]


@pytest.fixture(scope="module")
def alone(small):
    """Continues one prompt, unpadded and uncompiled."""
    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

    tokenizer = OpenAIGPTTokenizer.from_pretrained(small)
    model = OpenAIGPTLMHeadModel.from_pretrained(small)

    def alone(prompt, **options):
        ids = np.array([tokenizer(prompt)["input_ids"]])
        made = model.generate(ids, max_new_tokens=6, jit_compile=False, **options)
        new = np.asarray(made)[:, ids.shape[1] :]
        return tokenizer.batch_decode(new, skip_special_tokens=True)

    return alone


@pytest.mark.parametrize(
    "given, options",
    [
        (["--strategy", "greedy"], {}),
        (
            ["--strategy", "sample", "--seed", "7", "--top-p", "0.8", "--top-k", "50"]
            + ["--repetition-penalty", "1.5"],
            {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "top_k": 50}
            | {"repetition_penalty": 1.5},
        ),
        (
            ["--strategy", "beams", "--num-beams", "3", "--num-return-sequences", "2"],
            {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 1.0},
        ),
        (["--strategy", "contrastive"], {"penalty_alpha": 0.6, "top_k": 4}),
        (["--strategy", "lookup"], {}),  # the ids of greedy decoding
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_each_strategy_gives_the_texts_of_generate(
    small, script, alone, tmp_path, given, options
):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "texts.jsonl"
    prompts.write_text("\n\n".join(PROMPTS[1:]) + "\n")
    command = [PROMPTS[0], "--prompts", str(prompts), "--out", str(out)]
    command += ["--model", small, "--max-new-tokens", "6", "--batch-size", "2"]
    script("run_generation")["main"]([*command, *given])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == PROMPTS
    for i in (1, 2):  # one of each batch
        seed = {"seed": 7 + i} if "--seed" in given else {}
        assert rows[i]["texts"] == alone(PROMPTS[i], **options, **seed)


@pytest.mark.slow
def test_it_runs_as_a_user_types_it(small, alone, tmp_path):
    command = [sys.executable, str(SCRIPTS / "run_generation.py"), "the king"]
    whole = alone("the king")[0]
    stop = whole.split()[2]
    options = ["--model", small, "--max-new-tokens", "6", "--stop-string", stop]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (text,) = json.loads(done.stdout)["texts"]
    assert whole.startswith(text)
    assert text.endswith(stop)
    assert text != whole


def test_without_a_prompt_it_says_so(script):
    with pytest.raises(SystemExit, match="give a prompt"):
        script("run_generation")["main"]([])
    with pytest.raises(SystemExit, match="2"):
        script("run_generation")["main"](["a", "--strategy", "guess"])
