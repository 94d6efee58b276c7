"""`tf-gpt generate --engine litert`: continues a prompt without TensorFlow."""

import atexit
import os
import pathlib
import sys

# What LiteRT can do of the command's options, by the parser's names.
_SUPPORTED = {
    "prompt",
    "model",
    "engine",
    "tokenizer",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "greedy",
    "num_samples",
    "max_new_tokens",
}


def run_litert(arguments):
    _check(arguments)
    options = _options(arguments)
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt

    from tf_gpt.generation.streamers import TextStreamer
    from tf_gpt.serving import LiteRTGenerator

    path = pathlib.Path(arguments.model)
    beside = path.with_suffix(".tokenizer")
    if arguments.tokenizer is None and not beside.is_dir():
        raise ValueError(
            f"There is no tokenizer beside {path}: pass --tokenizer, or put its "
            f"files into {beside}."
        )
    generator = LiteRTGenerator(path, tokenizer=arguments.tokenizer or beside)
    atexit.register(_silence)
    ids = generator.tokenizer(prompt)["input_ids"]
    for number in range(arguments.num_samples):
        if arguments.num_samples > 1:
            print(f"--- sample {number + 1} ---")
        if arguments.seed is not None:
            options["seed"] = arguments.seed + number
        streamer = TextStreamer(generator.tokenizer, _write)
        # The prompt goes the same way, so that the text joins up with it.
        streamer.put(ids)
        generator.generate(ids, streamer=streamer, **options)
        print()


def _check(arguments):
    from tf_gpt.cli.generate import add_arguments
    from tf_gpt.cli.options import default_arguments

    defaults = default_arguments(add_arguments)
    for name, value in vars(arguments).items():
        if name in defaults and name not in _SUPPORTED and value != defaults[name]:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"--engine litert cannot do {flag}. Received: {value!r}.")
    if pathlib.Path(arguments.model).suffix != ".tflite":
        raise ValueError(
            '--engine litert needs --model FILE.tflite, written by "tf-gpt export '
            f'--format litert". Received: {arguments.model!r}.'
        )
    if arguments.prompt is None:
        raise ValueError("Pass a prompt.")
    if arguments.num_samples < 1:
        raise ValueError(
            f"--num-samples must be at least 1. Received: {arguments.num_samples}."
        )
    if arguments.greedy:
        if arguments.num_samples > 1:
            raise ValueError("With --greedy there is one answer: no --num-samples.")
        for name in ("temperature", "top_k", "top_p", "seed"):
            if getattr(arguments, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} has no effect with --greedy.")


def _options(arguments):
    options = {"max_new_tokens": 120, "do_sample": not arguments.greedy}
    if not arguments.greedy:
        options |= {"temperature": 0.8, "top_p": 0.9, "top_k": 0}
    for name in ("max_new_tokens", "temperature", "top_k", "top_p"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    return options


def _silence():
    """Keeps LiteRT from telling, as the process ends, what it takes down."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _write(text):
    print(text, end="", flush=True)
