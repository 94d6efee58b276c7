"""Compares every tokenizer with transformers' and with each other, on hard texts.

    python scripts/maintain/compare_tokenizers.py --texts 20000

Needs transformers 4.57 and the shared data. Prints one line for each pair with
the number of texts whose ids differ, and the first of them.
"""

import argparse
import importlib
import pathlib
import sys
import time
import unicodedata

ROOT = pathlib.Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tokenization")]

import hard_texts  # noqa: E402

from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast  # noqa: E402

VOCAB = hard_texts.DATA / "gpt1_vocab" / "hf"


def theirs(with_spacy):
    """Returns transformers' slow tokenizer, with or without spaCy."""
    module = importlib.import_module("transformers.models.openai.tokenization_openai")
    names = (VOCAB / "vocab.json", VOCAB / "merges.txt")
    if with_spacy:
        return module.OpenAIGPTTokenizer(*map(str, names))
    hidden = sys.modules.get("ftfy")
    sys.modules["ftfy"] = None
    try:
        return module.OpenAIGPTTokenizer(*map(str, names))
    finally:
        sys.modules.pop("ftfy")
        if hidden:
            sys.modules["ftfy"] = hidden


def compare(name, texts, ours, others):
    start = time.time()
    differing = []
    for begin in range(0, len(texts), 500):
        part = texts[begin : begin + 500]
        for text, a, b in zip(part, ours(part), others(part), strict=True):
            if list(a) != list(b):
                differing.append(text)
    print(
        f"{name:52} {len(texts):>8} texts  {len(differing):>6} differ "
        f" {time.time() - start:6.1f} s",
        flush=True,
    )
    for text in differing[:5]:
        print("   ", ascii(text)[:300])
    return differing


def one_by_one(tokenizer):
    return lambda texts: [tokenizer.encode(text) for text in texts]


def at_once(tokenizer):
    return lambda texts: tokenizer(texts)["input_ids"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--code-points", action="store_true", help="every one, too")
    parser.add_argument("--only", nargs="*", help="transformers basic fast graph")
    args = parser.parse_args()
    wanted = args.only or ["transformers", "basic", "fast", "graph"]

    natural = hard_texts.natural_texts(args.texts // 2)
    texts = natural + hard_texts.generated_texts(args.texts - len(natural))
    halves = hard_texts.generated_texts(args.texts // 10, seed=1, surrogates=True)
    print(f"{len(natural)} natural and {len(texts) - len(natural)} generated texts")

    fast = OpenAIGPTTokenizerFast.from_pretrained(VOCAB)
    basic = OpenAIGPTTokenizer.from_pretrained(VOCAB, pre_tokenizer="basic")
    if "transformers" in wanted:
        ours = OpenAIGPTTokenizer.from_pretrained(VOCAB, pre_tokenizer="transformers")
        other = one_by_one(theirs(with_spacy=True))
        compare("transformers | slow with spaCy", texts, at_once(ours), other)
        compare("transformers | the same, surrogates", halves, at_once(ours), other)
    if "basic" in wanted:
        other = one_by_one(theirs(with_spacy=False))
        compare("basic | slow without spaCy", texts, at_once(basic), other)
        compare("basic | the same, surrogates", halves, at_once(basic), other)
    if "fast" in wanted:
        from transformers import OpenAIGPTTokenizerFast as Theirs

        other = at_once(Theirs.from_pretrained(str(VOCAB)))
        compare("Fast | fast", texts, at_once(fast), other)
        if args.code_points:
            points = hard_texts.every_code_point()
            compare("Fast | fast, every code point", points, at_once(fast), other)
            differing = compare(
                "Fast | basic, every code point", points, at_once(fast), at_once(basic)
            )
            differing = {text[1] for text in differing}
            print_ranges(sorted(map(ord, differing)))
            left = [t for t in [*texts, *halves] if differing.isdisjoint(t)]
            compare(
                "Fast | basic, texts without these", left, at_once(fast), at_once(basic)
            )
    if "graph" in wanted:
        import tensorflow as tf

        from tf_gpt.tokenization.graph import GraphTokenizer

        graph = GraphTokenizer(fast)

        def in_graph(part):
            encoded = [text.encode("utf-8", "surrogatepass") for text in part]
            return graph(tf.constant(encoded)).to_list()

        compare("graph | Fast", texts, in_graph, at_once(fast))
        compare("graph | Fast, surrogates", halves, in_graph, at_once(fast))
        if args.code_points:
            points = hard_texts.every_code_point()
            compare("graph | Fast, every code point", points, in_graph, at_once(fast))


def print_ranges(points):
    """Prints the assigned code points as runs, and counts those that are not."""
    assigned = [p for p in points if unicodedata.category(chr(p)) != "Cn"]
    runs = []
    for point in assigned:
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    print(
        f"    {len(points) - len(assigned)} without a character in Unicode "
        f"{unicodedata.unidata_version}, and {len(assigned)} that have one:"
    )
    shown = [
        f"{a:04X}{'' if a == b else f'-{b:04X}'} {unicodedata.category(chr(a))}"
        for a, b in runs
    ]
    for i in range(0, len(shown), 8):
        print("    " + ", ".join(shown[i : i + 8]))


if __name__ == "__main__":
    main()
