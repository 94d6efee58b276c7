"""Continues prompts with GPT: the strategies of generation and their main options.

    python run_generation.py "once upon a time" "the king" --strategy sample --seed 1
    python run_generation.py --prompts prompts.txt --out texts.jsonl --strategy beams

A program to copy and change; it needs nothing but tf_gpt.
"""

import argparse
import contextlib
import json
import sys

from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

DEFAULT = "default: %(default)s"


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Continue prompts with GPT.",
        epilog="Each answer is a line of JSON: the prompt, and its texts.",
    )
    add = parser.add_argument
    add("prompt", nargs="*", help="texts to continue")
    add("--prompts", metavar="FILE", help="more of them, one a line")
    add("--out", metavar="FILE", help="where the lines of JSON go; default: stdout")
    add("--model", default="mini", help=f"folder, preset or Hub repository; {DEFAULT}")
    add("--batch-size", type=int, default=8, help=DEFAULT)
    add("--max-new-tokens", type=int, default=40, help=DEFAULT)
    add("--num-return-sequences", type=int, default=1, help="for each prompt")
    add("--repetition-penalty", type=float, default=1.0, help=DEFAULT)
    add("--no-repeat-ngram-size", type=int, default=0, help=DEFAULT)
    add("--stop-string", action="append", help="a text ends where it has this")
    choices = ["greedy", "sample", "beams", "contrastive", "lookup"]
    add("--strategy", choices=choices, default="greedy", help=DEFAULT)
    add("--temperature", type=float, default=0.8, help=f"of samples; {DEFAULT}")
    add("--top-p", type=float, default=0.9, help=f"of samples; {DEFAULT}")
    add("--top-k", type=int, help="of samples (default: all) and contrastive (4)")
    add("--seed", type=int, default=0, help=f"of the first prompt's samples; {DEFAULT}")
    add("--num-beams", type=int, default=4, help=f"of beams; {DEFAULT}")
    add("--length-penalty", type=float, default=1.0, help=f"of beams; {DEFAULT}")
    add("--penalty-alpha", type=float, default=0.6, help=f"of contrastive; {DEFAULT}")
    add("--lookup-tokens", type=int, default=8, help=f"guesses of lookup; {DEFAULT}")
    return parser.parse_args(argv)


def strategy_options(arguments):
    """Returns what `generate` needs for the strategy; it refuses idle options."""
    return {
        # The most probable token.
        "greedy": {},
        # A token by its probability, among the probable ones.
        "sample": {
            "do_sample": True,
            "temperature": arguments.temperature,
            "top_p": arguments.top_p,
            "top_k": arguments.top_k or 0,
        },
        # The most probable text that a search of this width finds.
        "beams": {
            "num_beams": arguments.num_beams,
            "length_penalty": arguments.length_penalty,
        },
        # A probable token whose hidden state is unlike those before.
        "contrastive": {
            "penalty_alpha": arguments.penalty_alpha,
            "top_k": arguments.top_k or 4,
        },
        # The greedy tokens, of which those that the text repeats come faster.
        "lookup": {"prompt_lookup_num_tokens": arguments.lookup_tokens},
    }[arguments.strategy]


def main(argv=None):
    arguments = parse(argv)
    prompts = list(arguments.prompt)
    if arguments.prompts is not None:
        with open(arguments.prompts, encoding="utf-8") as file:
            prompts += [line.strip() for line in file if line.strip()]
    if not prompts:
        raise SystemExit("run_generation.py: error: give a prompt, or --prompts FILE")

    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model)
    model = OpenAIGPTLMHeadModel.from_pretrained(arguments.model)
    options = {
        "max_new_tokens": arguments.max_new_tokens,
        "num_return_sequences": arguments.num_return_sequences,
        "repetition_penalty": arguments.repetition_penalty,
        "no_repeat_ngram_size": arguments.no_repeat_ngram_size,
        **strategy_options(arguments),
    }
    if arguments.stop_string:
        options |= {"stop_strings": arguments.stop_string, "tokenizer": tokenizer}

    n = arguments.num_return_sequences
    with open_out(arguments.out) as out:
        for first in range(0, len(prompts), arguments.batch_size):
            part = prompts[first : first + arguments.batch_size]
            if arguments.strategy == "sample":
                # One for each prompt: its text is the same in any batch.
                options["seed"] = [arguments.seed + first + i for i in range(len(part))]
            batch = tokenizer(part, padding=True, return_tensors="np")
            ids = model.generate(**batch, **options)  # (B * n, T + new)
            new = ids[:, batch["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            for i, prompt in enumerate(part):
                row = {"prompt": prompt, "texts": texts[i * n : i * n + n]}
                print(json.dumps(row, ensure_ascii=False), file=out, flush=True)


def open_out(path):
    if path is None:
        return contextlib.nullcontext(sys.stdout)
    return open(path, "w", encoding="utf-8")


if __name__ == "__main__":
    main()
