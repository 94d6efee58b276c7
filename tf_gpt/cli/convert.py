"""`tf-gpt convert`: a checkpoint of any format into one of this library's."""

import pathlib

from tf_gpt.cli.options import add_hub, hub_options

HELP = "convert a checkpoint of any format"

# What goes along with the weights into a folder: file there -> names it may have
# in the source, best first. OpenAI's two are the same files under other names.
_COMPANIONS = {
    "vocab.json": ("vocab.json", "encoder_bpe_40000.json"),
    "merges.txt": ("merges.txt", "vocab_40000.bpe"),
    "tokenizer.json": ("tokenizer.json",),
    "tokenizer_config.json": ("tokenizer_config.json",),
    "special_tokens_map.json": ("special_tokens_map.json",),
    "added_tokens.json": ("added_tokens.json",),
    "generation_config.json": ("generation_config.json",),
}

CLASSES = {
    "none": "OpenAIGPTModel",
    "lm": "OpenAIGPTLMHeadModel",
    "double": "OpenAIGPTDoubleHeadsModel",
    "classifier": "OpenAIGPTForSequenceClassification",
}

# The model is only told apart from another by float32 rounding.
_LARGEST_DIFFERENCE = 1e-4
_CHECKED_SHAPE = (2, 16)


def add_arguments(parser):
    parser.add_argument(
        "source",
        help="a directory, preset or Hub repository with weights as PyTorch "
        "safetensors or .bin, TensorFlow .h5 or safetensors, or OpenAI's .npy",
    )
    parser.add_argument(
        "out",
        help="where to: NAME.keras, NAME.weights.h5, or a folder for PyTorch "
        "safetensors with config and vocabulary",
    )
    parser.add_argument(
        "--head",
        choices=["auto", *CLASSES],
        default="auto",
        help="which model; auto goes by the config and the weights (default)",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="what safetensors store the weights as; default: as they are",
    )
    parser.add_argument(
        "--max-shard-size", default="5GB", help="of safetensors; default: %(default)s"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="run the source and the result, and print the largest difference",
    )
    add_hub(parser)


def run(arguments):
    out = pathlib.Path(arguments.out)
    _check_out(out, arguments)
    hub = hub_options(arguments)

    import tf_gpt

    config, head = find_config(arguments.source, hub)
    cls = getattr(tf_gpt, CLASSES[head if arguments.head == "auto" else arguments.head])
    model = cls.from_pretrained(arguments.source, config=config, **hub)
    written = _write(model, out, arguments)
    if out.suffix not in (".keras", ".h5"):
        written += _copy_companions(arguments.source, out, hub)
    for file in written:
        print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if arguments.check:
        _check(model, _reload(model, out), arguments.dtype)


def _check_out(out, arguments):
    """Refuses what cannot be written, before anything is read."""
    from tf_gpt.checkpoints.writers import parse_size

    parse_size(arguments.max_shard_size)
    is_file = out.suffix in (".keras", ".h5")
    if out.suffix == ".h5" and not out.name.endswith(".weights.h5"):
        raise ValueError(
            f"An HDF5 file of weights must be called NAME.weights.h5. Received: {out}."
        )
    if is_file and out.is_dir():
        raise ValueError(f"{out} is a folder.")
    if not is_file and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; the weights and config need a folder.")
    if is_file and arguments.dtype:
        raise ValueError("--dtype is for safetensors only: OUT must be a folder.")


def find_config(source, hub):
    """Returns the config, and which of `CLASSES` the source was saved from."""
    from tf_gpt.checkpoints.convert import describe
    from tf_gpt.checkpoints.readers import read_config
    from tf_gpt.hub import resolve_weights

    weights = resolve_weights(source, **hub)
    config = read_config(source, **hub)
    for name in config.to_dict().get("architectures") or ():
        for head, known in CLASSES.items():
            if str(name).removeprefix("TF") == known:
                return config, head
    paths = describe(weights).shapes
    if any(path.startswith("multiple_choice_head/") for path in paths):
        return config, "double"
    return config, "classifier" if "score/kernel" in paths else "lm"


def _write(model, out, arguments):
    """Writes the model under its final name when it is complete."""
    import os

    if out.suffix not in (".keras", ".h5"):
        model.save_pretrained(
            out, max_shard_size=arguments.max_shard_size, dtype=arguments.dtype
        )
        return [*sorted(out.glob("model*.safetensors*")), out / "config.json"]
    out.parent.mkdir(parents=True, exist_ok=True)
    ending = ".keras" if out.suffix == ".keras" else ".weights.h5"
    temporary = out.with_name(f".{out.name}.{os.getpid()}{ending}")
    try:
        if ending == ".keras":
            model.save(temporary)
        else:
            model.save_weights(temporary)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    return [out]


def _copy_companions(source, out, hub):
    import shutil

    from tf_gpt.hub import resolve_files

    copied = []
    for name, candidates in _COMPANIONS.items():
        found = resolve_files(source, candidates, **hub)
        best = next((found[key] for key in candidates if key in found), None)
        if best is None or best.resolve() == (out / name).resolve():
            continue
        shutil.copyfile(best, out / name)
        copied.append(out / name)
    return copied


def _reload(model, out):
    import keras

    if out.suffix == ".keras":
        return keras.saving.load_model(out)
    if out.suffix == ".h5":
        fresh = type(model).from_config(model.get_config())
        fresh.load_weights(out)
        return fresh
    return type(model).from_pretrained(out)


def _check(model, converted, dtype):
    """Prints how far the scores of both models are apart, at most."""
    import numpy as np

    config = model.config
    rng = np.random.default_rng(0)
    shape = (_CHECKED_SHAPE[0], min(_CHECKED_SHAPE[1], config.n_positions))
    ids = rng.integers(0, config.vocab_size, shape)
    first, second = (np.asarray(one(ids)[0], "float32") for one in (model, converted))
    difference = float(np.abs(first - second).max())
    print(f"largest logit difference: {difference:.3g}")
    narrow = dtype in ("float16", "bfloat16")
    if not difference <= _LARGEST_DIFFERENCE and not narrow:
        raise ValueError(
            f"The converted model differs by {difference:.3g}, more than "
            f"{_LARGEST_DIFFERENCE:g}."
        )
