"""Vocabularies that are small enough to read."""

import json
import pathlib

# The pieces and merges of the classic test of this tokenizer.
PIECES = (
    "l o w e r s t i d n w</w> r</w> t</w> lo low er</w> low</w> lowest</w> newer</w> "
    "wider</w> <unk>"
)
MERGES = [("l", "o"), ("lo", "w"), ("e", "r</w>")]

# What the larger one is trained on: contractions, abbreviations, lines.
TEXT = """
Once upon a time there was a king who had three sons. "The eldest," said Mr. Brown,
"doesn't know what fear is." They went to the U.S. at 5 p.m. on a cold day, and didn't
come back until the next morning, when Mrs. Brown was waiting for them at the door.
He said: I'm sure it's the best of all possible worlds; we'll see what she'd do...
The little girl looked at the big brown dog, and the dog looked at the little girl.
"Whose dog is it, then?" -- "The kings' dog!" she cried; the dogs' house (a big one).
"""


def write_vocabulary(directory, vocab, merges):
    """Writes vocab.json and merges.txt as others write them, and nothing else."""
    directory = pathlib.Path(directory)
    (directory / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return directory
