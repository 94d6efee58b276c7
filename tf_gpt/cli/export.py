"""`tf-gpt export`: a model in the form that another program runs."""

from tf_gpt.cli.options import add_model, hub_options

HELP = "export a model to be served, or run on a device"


def add_arguments(parser):
    add_model(parser, positional=True)
    parser.add_argument("--format", choices=sorted(_FORMATS), required=True)
    parser.add_argument("--out", required=True, help="where to")
    litert = parser.add_argument_group("litert")
    litert.add_argument(
        "--quantize",
        choices=["float16", "int8"],
        help="store the weights smaller; default: float32",
    )
    saved = parser.add_argument_group(
        "saved_model", "for TF Serving: OUT gets a folder for each version"
    )
    saved.add_argument(
        "--version", type=int, help="its number; default: the next free one"
    )
    saved.add_argument(
        "--overwrite", action="store_true", help="replace a --version that exists"
    )
    saved.add_argument(
        "--no-text", action="store_true", help="leave out the signatures of texts"
    )
    saved.add_argument(
        "--xla",
        action="store_true",
        help="compile, for the next three; the server then needs "
        "--xla_cpu_compilation_enabled or --xla_gpu_compilation_enabled",
    )
    for name, text in (
        ("batch-sizes", "batch sizes to compile for, such as 1,8"),
        ("lengths", "numbers of prompt tokens to compile for, such as 32,128,384"),
    ):
        saved.add_argument(f"--{name}", type=_integers, metavar="N,N", help=text)
    saved.add_argument(
        "--max-new-tokens", type=int, help="the most new tokens to compile for"
    )
    saved.add_argument(
        "--warmup",
        action="store_true",
        help="add warm-up requests; needs tensorflow-serving-api",
    )


# Options of one format: (format, what argparse calls it).
_OWN = (
    ("litert", "quantize"),
    *(
        ("saved_model", name)
        for name in (
            "version",
            "overwrite",
            "no_text",
            "xla",
            "batch_sizes",
            "lengths",
            "max_new_tokens",
            "warmup",
        )
    ),
)


def run(arguments):
    for owner, name in _OWN:
        value = getattr(arguments, name)
        if owner != arguments.format and value not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} belongs to --format {owner}.")
    _FORMATS[arguments.format](arguments)


def _integers(text):
    return [int(number) for number in text.split(",")]


def _export_saved_model(arguments):
    """Writes OUT/VERSION, with the signatures of texts if there is a vocabulary."""
    from tf_gpt.serving import export_saved_model, versions

    # Before a model is loaded.
    versions.check(arguments.out, arguments.version, arguments.overwrite)
    hub = hub_options(arguments)
    tokenizer = None if arguments.no_text else _graph_tokenizer(arguments.model, hub)
    model = _load_model(arguments.model, hub)
    path = export_saved_model(
        model,
        arguments.out,
        tokenizer,
        version=arguments.version,
        overwrite=arguments.overwrite,
        jit_compile=arguments.xla,
        batch_sizes=arguments.batch_sizes,
        lengths=arguments.lengths,
        max_new_tokens=arguments.max_new_tokens,
        warmup=arguments.warmup,
    )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{path}: {type(model).__name__}, {size / 1e6:.1f} MB")


def _graph_tokenizer(name, hub):
    """Returns the tokenizer that can be in a graph, and says if it is another one."""
    import logging
    import sys

    from tf_gpt import OpenAIGPTTokenizer, OpenAIGPTTokenizerFast
    from tf_gpt.hub import resolve_files

    if not resolve_files(name, ["vocab.json", "tokenizer.json"], **hub):
        return None
    flavour = OpenAIGPTTokenizer.from_pretrained(name, **hub).pre_tokenizer
    if flavour != "basic":
        print(
            f"{name} splits words as {flavour!r}, which no graph can. The signatures "
            "of texts split them as 'basic' (around each punctuation mark, without "
            "accents): other ids come of such words. --no-text leaves them out.",
            file=sys.stderr,
        )
    logger = logging.getLogger("tf_gpt.tokenization.fast")
    logger.disabled, was = True, logger.disabled  # it would say the same again
    try:
        return OpenAIGPTTokenizerFast.from_pretrained(name, **hub)
    finally:
        logger.disabled = was


def _export_litert(arguments):
    """Writes FILE.tflite, and its tokenizer into FILE.tokenizer beside it."""
    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer
    from tf_gpt.serving import export_litert

    out = _file(arguments.out, ".tflite")
    hub = hub_options(arguments)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model, **hub)
    model = OpenAIGPTLMHeadModel.from_pretrained(arguments.model, **hub)
    export_litert(model, out, quantize=arguments.quantize)
    tokenizer.save_pretrained(out.with_suffix(".tokenizer"))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    print(out.with_suffix(".tokenizer"))


def _export_onnx(arguments):
    """Writes FILE.onnx: logits of given rows."""
    from tf_gpt.serving import export_onnx

    out = _file(arguments.out, ".onnx")
    model = _load_model(arguments.model, hub_options(arguments))
    export_onnx(model, out)
    print(f"{out}: {type(model).__name__}, {out.stat().st_size / 1e6:.1f} MB")


def _file(name, suffix):
    """Returns the path of a file to write, checked before a model is loaded."""
    import pathlib

    path = pathlib.Path(name)
    if path.suffix != suffix:
        raise ValueError(f'--out must end in "{suffix}". Received: {name!r}.')
    return path


def _load_model(name, hub):
    """Returns a model of the class that was saved."""
    import tf_gpt
    from tf_gpt.cli.convert import CLASSES, find_config

    config, head = find_config(name, hub)
    return getattr(tf_gpt, CLASSES[head]).from_pretrained(name, config=config, **hub)


# One function a format.
_FORMATS = {
    "litert": _export_litert,
    "onnx": _export_onnx,
    "saved_model": _export_saved_model,
}
