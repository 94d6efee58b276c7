"""Times every tokenizer beside transformers', bare `tokenizers` and OpenAI's procedure.

    python scripts/maintain/benchmark_tokenizers.py

Needs the shared data; transformers 4.57 for its rows. Every tokenizer takes the
same natural texts, in turn, several times; the table has the first pass (nothing
remembered) and the median of the later ones.
"""

import argparse
import itertools
import pathlib
import re
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tokenization")]

import hard_texts  # noqa: E402

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast  # noqa: E402
from tf_gpt.tokenization import files, pretokenizers  # noqa: E402

VOCAB = hard_texts.DATA / "gpt1_vocab" / "hf"


class OpenAIProcedure:
    """The authors' steps, one text at a time, with a memory of words and no other."""

    def __init__(self):
        import ftfy
        from spacy.lang.en import English

        self.fix_text, self.spacy = ftfy.fix_text, English().tokenizer
        self.vocab = files.read_json(VOCAB / "vocab.json")
        merges = files.read_merges(VOCAB / "merges.txt")
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.cache = {}

    def __call__(self, texts):
        return [self.encode(text) for text in texts]

    def encode(self, text):
        ids = []
        for token in self.spacy(pretokenizers.standardize(self.fix_text(text))):
            word = "\n" if token.is_space else token.text.lower()
            if word not in self.cache:
                self.cache[word] = [self.vocab.get(p, 0) for p in self.bpe(word)]
            ids += self.cache[word]
        return ids

    def bpe(self, word):
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pairs = set(itertools.pairwise(pieces))
            best = min(pairs, key=lambda pair: self.ranks.get(pair, float("inf")))
            if best not in self.ranks:
                break
            joined, i = [], 0
            while i < len(pieces):
                if tuple(pieces[i : i + 2]) == best:
                    joined.append("".join(best))
                    i += 2
                else:
                    joined.append(pieces[i])
                    i += 1
            pieces = joined
        return pieces


def contestants(with_graph):
    """Returns name -> function of a list of texts."""
    flavours = {
        flavour: OpenAIGPTTokenizer.from_pretrained(VOCAB, pre_tokenizer=flavour)
        for flavour in pretokenizers.FLAVOURS
    }
    fast = OpenAIGPTTokenizerFast.from_pretrained(VOCAB)
    bare = fast.backend_tokenizer
    runs = {
        "ours: openai": flavours["openai"],
        "ours: transformers": flavours["transformers"],
        "ours: basic": flavours["basic"],
        "ours: Fast": fast,
        "bare tokenizers": lambda texts: [e.ids for e in bare.encode_batch(texts)],
        "bare tokenizers, no offsets": lambda texts: [
            e.ids for e in bare.encode_batch_fast(texts)
        ],
        "OpenAI's procedure": OpenAIProcedure(),
    }
    if with_graph:
        import tensorflow as tf

        from tf_gpt.tokenization.graph import GraphTokenizer

        graph = GraphTokenizer(fast)
        tensors = {}

        def in_graph(texts):
            key = texts[0]
            if key not in tensors:  # the texts of a dataset are tensors already
                tensors[key] = tf.constant(texts)
            return graph(tensors[key])

        graph(tf.constant(["warm up"]))
        runs["ours: graph"] = in_graph
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    try:
        from compare_tokenizers import theirs
        from transformers import OpenAIGPTTokenizerFast as TheirFast
    except ImportError:
        print("(no transformers here: its rows are left out)")
        return runs
    runs["transformers: slow, spaCy"] = theirs(with_spacy=True)
    runs["transformers: slow, no spaCy"] = theirs(with_spacy=False)
    runs["transformers: fast"] = TheirFast.from_pretrained(str(VOCAB))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--batch", type=int, nargs="*", default=[100, 4000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-graph", action="store_true")
    args = parser.parse_args()

    texts = [t for t in hard_texts.natural_texts(10**9) if re.search(r"\w", t)]
    texts = texts[: args.texts]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} texts, {megabytes:.2f} MB")
    for size in args.batch:
        batches = [texts[i : i + size] for i in range(0, len(texts), size)]
        runs = contestants(not args.no_graph)
        seconds = {name: [] for name in runs}
        for _ in range(args.repeat + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                for batch in batches:
                    run(batch)
                seconds[name].append(time.perf_counter() - start)
        print(f"\nbatches of {size}")
        print(f"{'':30}{'first MB/s':>12}{'MB/s':>8}{'texts/s':>10}{'x bare':>8}")
        bare = statistics.median(seconds["bare tokenizers"][1:])
        for name, (first, *later) in seconds.items():
            median = statistics.median(later)
            print(
                f"{name:30}{megabytes / first:12.2f}{megabytes / median:8.2f}"
                f"{len(texts) / median:10.0f}{bare / median:8.2f}"
            )


if __name__ == "__main__":
    main()
