"""`tf-gpt generate`: continues a prompt word by word, or a file of prompts."""

import sys

from tf_gpt.cli.options import add_model, hub_options

HELP = "continue a prompt, on the terminal as it is made, or a file of prompts"

# Options of `GenerationConfig` under their own names: (name, type, help).
_NUMBERS = {
    "sampling": (
        ("temperature", float, "below 1 is more careful, above 1 bolder; default: 0.8"),
        ("top_k", int, "sample among the K most probable tokens; default: all"),
        ("top_p", float, "sample among the tokens of this probability; default: 0.9"),
        ("min_p", float, "leave out tokens below this share of the most probable's"),
        ("typical_p", float, "sample among the most typical tokens of this mass"),
        ("seed", int, "fixes the sampling"),
    ),
    "search": (
        ("num_beams", int, "beam search with so many beams"),
        ("length_penalty", float, "of beams: above 0 favours longer texts; default: 1"),
        ("num_beam_groups", int, "diverse beam search in so many groups"),
        ("diversity_penalty", float, "of groups: what a token loses that others took"),
        ("penalty_alpha", float, "contrastive search with this weight, and --top-k"),
        ("prompt_lookup_num_tokens", int, "guess so many tokens from the text so far"),
        ("num_assistant_tokens", int, "guess so many tokens with --assistant-model"),
    ),
    "rules": (
        ("repetition_penalty", float, "above 1 lowers tokens that occurred"),
        ("no_repeat_ngram_size", int, "no so many tokens in a row occur twice"),
        ("min_new_tokens", int, "no end before so many tokens"),
    ),
    "stopping": (
        ("max_new_tokens", int, "most tokens to add; default: 120"),
        ("max_time", float, "seconds after which no more tokens are begun"),
    ),
}


def add_arguments(parser):
    parser.add_argument(
        "prompt", nargs="?", help='the text to continue; "-" reads it from stdin'
    )
    add_model(parser)
    groups = {name: parser.add_argument_group(name) for name in _NUMBERS}
    for group, options in _NUMBERS.items():
        for name, kind, text in options:
            flag = "--" + name.replace("_", "-")
            groups[group].add_argument(flag, type=kind, help=text)
    groups["sampling"].add_argument(
        "--greedy", action="store_true", help="take the most probable token"
    )
    groups["sampling"].add_argument(
        "--sample", action="store_true", help="sample the beams of a beam search"
    )
    groups["sampling"].add_argument(
        "--num-samples",
        type=int,
        default=1,
        help="samples, or best beams, of each prompt; default: %(default)s",
    )
    groups["search"].add_argument(
        "--early-stopping",
        choices=["yes", "no", "never"],
        help="when a beam search ends: with as many ended beams as it has; when the "
        "running ones score lower (default); when they can only score lower",
    )
    groups["search"].add_argument(
        "--assistant-model", help="a smaller model of the same vocabulary, to guess"
    )
    groups["stopping"].add_argument(
        "--stop-string",
        action="append",
        metavar="TEXT",
        help="end when the new text has it; may be given several times",
    )
    files = parser.add_argument_group("files of prompts")
    files.add_argument(
        "--prompts",
        metavar="FILE",
        help='one prompt a line; or .jsonl: strings, or objects with a "prompt"',
    )
    files.add_argument(
        "--out",
        metavar="FILE",
        help="JSON lines for the texts; a run that was stopped goes on there",
    )
    files.add_argument("--batch-size", type=int, default=8, help="default: %(default)s")
    files.add_argument(
        "--overwrite", action="store_true", help="start anew over another run's texts"
    )
    parser.add_argument(
        "--engine",
        choices=["tensorflow", "litert"],
        default="tensorflow",
        help="litert runs a file of `tf-gpt export --format litert`, which --model "
        "names, without TensorFlow; default: %(default)s",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FOLDER",
        help="of --engine litert; default: MODEL.tokenizer beside the file",
    )
    parser.add_argument(
        "--no-xla", action="store_true", help="do not compile: slower, starts sooner"
    )
    parser.add_argument(
        "--compile-cache",
        metavar="FOLDER",
        help="keep compiled functions there for the next start; default: the "
        "environment variable TF_GPT_COMPILE_CACHE",
    )


def run(arguments):
    if arguments.engine == "litert":
        from tf_gpt.cli.generate_litert import run_litert

        return run_litert(arguments)
    if arguments.tokenizer:
        raise ValueError("--tokenizer belongs to --engine litert.")
    options = _generation_options(arguments)
    _check(arguments, options)
    prompts = None
    if arguments.prompts is not None:
        from tf_gpt.cli.rows import read_texts

        prompts = read_texts(arguments.prompts, "prompt")
    elif arguments.prompt == "-":
        arguments.prompt = sys.stdin.read()
    if arguments.compile_cache:
        from tf_gpt.generation.compile_cache import use_compile_cache

        use_compile_cache(arguments.compile_cache)

    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

    hub = hub_options(arguments)
    model = OpenAIGPTLMHeadModel.from_pretrained(arguments.model, **hub)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model, **hub)
    with_model = {"jit_compile": not arguments.no_xla}
    if arguments.assistant_model is not None:
        with_model["assistant_model"] = OpenAIGPTLMHeadModel.from_pretrained(
            arguments.assistant_model
        )
    if arguments.stop_string:
        with_model["tokenizer"] = tokenizer
    if prompts is None:
        _continue_here(arguments, model, tokenizer, {**with_model, **options})
    else:
        _continue_file(arguments, prompts, model, tokenizer, with_model, options)


def _generation_options(arguments):
    """Returns the options of `generate`, checked before anything is loaded."""
    from tf_gpt.generation.config import GenerationConfig

    given = {
        name: getattr(arguments, name)
        for options in _NUMBERS.values()
        for name, *_ in options
        if getattr(arguments, name) is not None
    }
    if arguments.early_stopping:
        stops = {"yes": True, "no": False, "never": "never"}
        given["early_stopping"] = stops[arguments.early_stopping]
    if arguments.stop_string:
        given["stop_strings"] = arguments.stop_string
    searches = given.get("num_beams", 1) > 1 or "penalty_alpha" in given
    sampled = not arguments.greedy and (not searches or arguments.sample)
    options = {"max_new_tokens": 120, "do_sample": sampled}
    if sampled:
        options |= {"temperature": 0.8, "top_p": 0.9, "top_k": 0}
    if arguments.num_samples > 1 and (arguments.prompts or searches):
        options["num_return_sequences"] = arguments.num_samples
    options |= given
    # What has no effect beside the others raises; all but the end tokens, which
    # are the model's, is known here.
    GenerationConfig(eos_token_id=0).updated(**options)
    return options


def _check(arguments, options):
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise ValueError("Pass a prompt, or a file of them with --prompts.")
    for name in ("num_samples", "batch_size"):
        value = getattr(arguments, name)
        if value < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be at least 1. Received: {value}.")
    has_one_answer = not options["do_sample"] and options.get("num_beams", 1) == 1
    if has_one_answer and arguments.num_samples > 1:
        raise ValueError(
            "Without sampling or beams there is one answer: leave out --num-samples."
        )
    if arguments.greedy and arguments.sample:
        raise ValueError("--greedy and --sample exclude each other.")
    if arguments.num_assistant_tokens and not arguments.assistant_model:
        raise ValueError("--num-assistant-tokens needs --assistant-model.")
    if arguments.prompts is not None and arguments.out is None:
        raise ValueError("--prompts needs --out, a file for the texts.")
    if arguments.prompts is None and (arguments.out or arguments.overwrite):
        raise ValueError("--out and --overwrite belong to --prompts.")
    if arguments.prompts is not None and arguments.max_time is not None:
        raise ValueError("--max-time would cut some of the prompts' texts: leave it.")


def _continue_here(arguments, model, tokenizer, options):
    """Writes a prompt and what follows on standard output, as it is made."""
    from tf_gpt.generation.streamers import TextStreamer

    ids = tokenizer(arguments.prompt, return_tensors="np")["input_ids"].reshape(1, -1)
    if options.get("num_beams", 1) > 1:
        rows = model.generate(ids, **options).numpy()
        for number, row in enumerate(rows):
            _write_header(arguments, number)
            print(tokenizer.decode(row, skip_special_tokens=True))
        return
    for number in range(arguments.num_samples):
        _write_header(arguments, number)
        if options["do_sample"] and arguments.seed is not None:
            options["seed"] = arguments.seed + number
        streamer = TextStreamer(tokenizer, _write)
        # The prompt goes the same way, so that the text joins up with it.
        streamer.put(ids[0])
        model.generate(ids, streamer=streamer, **options)
        print()


def _write_header(arguments, number):
    if arguments.num_samples > 1:
        print(f"--- sample {number + 1} ---")


def _write(text):
    print(text, end="", flush=True)


def _continue_file(arguments, prompts, model, tokenizer, with_model, options):
    """Writes a line of JSON for each prompt, batch by batch."""
    import secrets

    import tqdm

    from tf_gpt.cli.rows import RowsFile

    rows = _rows_of_ids(prompts, model, tokenizer, options)
    settings = {"model": arguments.model, "assistant": arguments.assistant_model}
    if options["do_sample"]:
        options.setdefault("seed", None)
    file = RowsFile(
        arguments.out, arguments.prompts, {**settings, **options}, arguments.overwrite
    )
    # A seed that was drawn is kept, so that a run goes on as it began.
    seed = options.pop("seed", None)
    if options["do_sample"]:
        seed = file.settings["seed"]
        if seed is None:
            seed = file.keep("seed", secrets.randbelow(2**31))
    with tqdm.tqdm(
        total=len(rows), initial=file.n_done, unit="prompt", desc=file.path.name
    ) as bar:
        while file.n_done < len(rows):
            first = file.n_done
            numbers = range(first, min(first + arguments.batch_size, len(rows)))
            if seed is not None:
                options["seed"] = [(seed + number) % 2**31 for number in numbers]
            made = _batch(
                model, [rows[i] for i in numbers], arguments, with_model, options
            )
            texts = tokenizer.batch_decode(made, skip_special_tokens=True)
            n = len(texts) // len(numbers)
            file.write(
                [
                    {
                        "index": i,
                        "prompt": prompts[i][0],
                        "texts": texts[k * n : k * n + n],
                    }
                    for k, i in enumerate(numbers)
                ]
            )
            bar.update(len(numbers))


def _rows_of_ids(prompts, model, tokenizer, options):
    """Returns each prompt's ids, none empty, all with room for the new tokens."""
    rows = tokenizer([text for text, _ in prompts])["input_ids"]
    n_new, limit = options["max_new_tokens"], model.config.n_positions
    bos = model.generation_config.bos_token_id
    for row, (_, where) in zip(rows, prompts, strict=True):
        if not row and bos is None:
            raise ValueError(
                f"{where}: an empty prompt, and the model has no token to begin with "
                "(`bos_token_id`)."
            )
        if len(row) + n_new > limit:
            raise ValueError(
                f"{where}: prompt and new tokens must fit into "
                f"n_positions={limit}. Received: {len(row)} and {n_new}."
            )
    return [row or [bos] for row in rows]


def _batch(model, rows, arguments, with_model, options):
    """Returns the new tokens of each prompt, NumPy (B x samples, N)."""
    import numpy as np

    n_rows = len(rows)
    # A short last batch is filled up: another batch size would compile anew.
    rows = rows + [rows[-1]] * (arguments.batch_size - n_rows)
    if "seed" in options:
        seeds = options["seed"]
        options = {**options, "seed": seeds + [seeds[-1]] * (len(rows) - n_rows)}
    width = max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), "int32")
    for i, row in enumerate(rows):
        ids[i, width - len(row) :], mask[i, width - len(row) :] = row, 1
    made = model.generate(ids, mask, **with_model, **options).numpy()[:, width:]
    return made[: n_rows * (len(made) // len(rows))]
