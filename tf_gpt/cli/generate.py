"""`tf-gpt generate`: continues a prompt, word by word."""

import sys

from tf_gpt.cli.options import add_model, hub_options

HELP = "continue a prompt, on the terminal as it is made"


def add_arguments(parser):
    parser.add_argument("prompt", help='the text to continue; "-" reads it from stdin')
    add_model(parser)
    parser.add_argument(
        "--max-new-tokens", type=int, default=120, help="default: %(default)s"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.8,
        help="below 1 is more careful, above 1 bolder; default: %(default)s",
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=0,
        help="sample among the K most probable tokens; 0 for all (default)",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.9,
        help="sample among the tokens that make up this probability; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--greedy", action="store_true", help="take the most probable token"
    )
    parser.add_argument("--seed", type=int, help="fixes the sampling")
    parser.add_argument(
        "--num-samples", type=int, default=1, help="default: %(default)s"
    )


def run(arguments):
    if arguments.num_samples < 1:
        raise ValueError(
            f"--num-samples must be at least 1. Received: {arguments.num_samples}."
        )
    if arguments.greedy and arguments.num_samples > 1:
        raise ValueError("--greedy has one answer: it excludes --num-samples.")
    options = _generation_options(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt

    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer
    from tf_gpt.generation.streamers import TextStreamer

    hub = hub_options(arguments)
    model = OpenAIGPTLMHeadModel.from_pretrained(arguments.model, **hub)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model, **hub)
    ids = tokenizer(prompt, return_tensors="np")["input_ids"].reshape(1, -1)
    for number in range(arguments.num_samples):
        if arguments.num_samples > 1:
            print(f"--- sample {number + 1} ---")
        if options["do_sample"] and arguments.seed is not None:
            options["seed"] = arguments.seed + number
        streamer = TextStreamer(tokenizer, _write)
        # The prompt goes the same way, so that the text joins up with it.
        streamer.put(ids[0])
        model.generate(ids, streamer=streamer, **options)
        print()


def _generation_options(arguments):
    """Returns the options of `generate`, checked before anything is loaded."""
    from tf_gpt.generation.config import GenerationConfig

    options = {
        "max_new_tokens": arguments.max_new_tokens,
        "do_sample": not arguments.greedy,
    }
    if not arguments.greedy:
        options["temperature"] = arguments.temperature
        options["top_k"] = arguments.top_k
        options["top_p"] = arguments.top_p
        options["seed"] = arguments.seed
    GenerationConfig(**options)
    return options


def _write(text):
    print(text, end="", flush=True)
