"""The programs of scripts/, and a small model that they can train."""

import json
import pathlib
import runpy

import keras
import numpy as np
import pytest

from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
COLOURS = ("red", "green")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The folder of a small random model with the vocabulary of the bundled one."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini")
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    keras.utils.set_random_seed(3)  # what can be learnt depends on the start
    config = OpenAIGPTConfig(
        vocab_size=len(tokenizer),
        n_positions=64,
        n_embd=8,
        n_layer=1,
        n_head=2,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
    )
    OpenAIGPTLMHeadModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def script():
    """Returns the names that a program defines, by the program's name."""
    return lambda name: runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name=name)


@pytest.fixture(scope="session")
def write():
    """Writes rows as JSON lines."""

    def write(path, rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture(scope="session")
def examples():
    """Makes rows of a task that a small model can learn."""

    def examples(task, n, seed=0):
        random = np.random.default_rng(seed)
        rows = []
        for i in range(n):
            words = " ".join(random.choice(["fox", "king", "sea"], 2))
            colour = COLOURS[i % 2]
            rows.append(
                {
                    "classification": {"text": f"{words} {colour}", "label": colour},
                    "entailment": {
                        "premise": words,
                        "hypothesis": colour,
                        "label": ("no", "yes")[i % 2],
                    },
                    "similarity": {
                        "text_a": f"{words} {colour}",
                        "text_b": colour,
                        "score": i % 2 * 2,
                    },
                    "multiple_choice": {
                        "context": words,
                        "question": "colour",
                        "choices": list(COLOURS[:: 1 - 2 * (i % 2)]),
                        "label": i % 2,
                    },
                }[task]
            )
        return rows

    return examples
