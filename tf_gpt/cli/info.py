"""`tf-gpt info`: what a model is, without building it."""

from tf_gpt.cli.options import add_model, hub_options

HELP = "print what a model is: sizes, parameters, vocabulary, files"


def add_arguments(parser):
    add_model(parser, positional=True)


def run(arguments):
    from tf_gpt import hub
    from tf_gpt.checkpoints.readers import open_checkpoint, read_config

    options = hub_options(arguments)
    config = read_config(arguments.model, **options)
    weights = hub.resolve_weights(arguments.model, **options)
    checkpoint = open_checkpoint(weights)
    rows = [("model", arguments.model)]
    rows += [
        (name, getattr(config, name))
        for name in ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size", "afn")
    ]
    rows.append(("parameters", f"{config.num_parameters():,}"))
    rows += _checkpoint_rows(checkpoint, weights)
    rows += _vocabulary_rows(arguments.model, options)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _checkpoint_rows(checkpoint, weights):
    size = sum(path.stat().st_size for path in checkpoint.files)
    dtypes = sorted({tensor.dtype for tensor in checkpoint.tensors.values()})
    names = [path.name for path in checkpoint.files]
    return [
        ("folder", weights.parent),
        ("weights", f"{', '.join(names)} ({size / 1e6:.1f} MB)"),
        ("layout", f"{checkpoint.layout}, {len(checkpoint.tensors)} tensors"),
        ("stored as", ", ".join(dtypes)),
    ]


def _vocabulary_rows(name, options):
    import json

    from tf_gpt import hub

    files = hub.resolve_files(name, ["vocab.json", "tokenizer_config.json"], **options)
    if "vocab.json" not in files:
        return [("vocabulary", "none beside the weights")]
    vocabulary = json.loads(files["vocab.json"].read_text(encoding="utf-8"))
    rows = [("vocabulary", f"vocab.json, {len(vocabulary):,} entries")]
    if "tokenizer_config.json" in files:
        saved = json.loads(files["tokenizer_config.json"].read_text(encoding="utf-8"))
        rows.append(("words split by", saved.get("pre_tokenizer", "not recorded")))
    return rows
