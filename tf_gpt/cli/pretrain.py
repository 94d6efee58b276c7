"""`tf-gpt pretrain`: a vocabulary and a language model, from nothing but text."""

from tf_gpt.cli.finetune import add_training

HELP = "train a vocabulary and a language model from scratch"


def add_arguments(parser):
    parser.add_argument(
        "--train",
        required=True,
        metavar="FILE",
        help="UTF-8 text, plain or as .gz, .xz or .bz2, or .jsonl with a text field",
    )
    parser.add_argument("--dev", metavar="FILE", help="the same, to judge models by")
    parser.add_argument("--out", required=True, help="folder; a run there goes on")
    parser.add_argument(
        "--documents",
        choices=["lines", "paragraphs"],
        default="lines",
        help="of plain text: a document is a line (default), or what stands between "
        "empty lines",
    )
    sizes = parser.add_argument_group("sizes")
    for name, value, text in (
        ("vocab-size", 8192, "entries of the vocabulary"),
        ("n-positions", 256, "tokens of a window"),
        ("n-embd", 256, "hidden size"),
        ("n-layer", 6, "blocks"),
        ("n-head", 4, "attention heads of a block"),
    ):
        sizes.add_argument(
            f"--{name}", type=int, default=value, help=f"{text}; default: {value}"
        )
    sizes.add_argument(
        "--initializer-range",
        type=float,
        help="standard deviation of the initial weights; default: the paper's 0.02, "
        "scaled to the hidden size",
    )
    add_training(parser, epochs=1, batch_size=8, learning_rate=2.5e-4)
    # The paper warms up for 2,000 of its updates, and goes down by a cosine.
    parser.set_defaults(schedule="cosine", warmup=0.02)


def run(arguments):
    import pathlib

    from tf_gpt.finetuning.allocation import keep_freed_memory

    keep_freed_memory()
    import keras

    from tf_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel
    from tf_gpt.cli.finetune import train
    from tf_gpt.finetuning.tasks import LanguageModelling

    out = pathlib.Path(arguments.out)
    is_begun = (out / "run.json").is_file()
    if not is_begun and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out must be new, empty or a run's. Received: {out}.")
    initializer_range = arguments.initializer_range
    if initializer_range is None:
        # A variance that keeps the embeddings' length, whatever the width.
        initializer_range = 0.02 * (768 / arguments.n_embd) ** 0.5
    config = OpenAIGPTConfig(
        vocab_size=arguments.vocab_size,
        n_positions=arguments.n_positions,
        n_embd=arguments.n_embd,
        n_layer=arguments.n_layer,
        n_head=arguments.n_head,
        initializer_range=initializer_range,
    )
    # Beside the run's folder, which holds nothing but a run.
    tokenizer = _tokenizer(arguments, out.with_name(f"{out.name}-tokenizer"), is_begun)
    task = LanguageModelling(
        tokenizer, documents=arguments.documents, max_length=arguments.n_positions
    )
    task.scan(arguments.train)
    for name in ("pad", "bos", "eos"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    config.vocab_size = len(tokenizer)
    keras.utils.set_random_seed(arguments.seed)
    model = OpenAIGPTLMHeadModel(config, dtype=arguments.dtype)
    train(arguments, task, model, "val_loss")


def _tokenizer(arguments, folder, is_begun):
    """Returns the run's tokenizer: a new one, kept in `folder` for when it goes on."""
    from tf_gpt import OpenAIGPTTokenizer
    from tf_gpt.finetuning.readers import read_examples

    if is_begun:
        return OpenAIGPTTokenizer.from_pretrained(folder)
    examples = read_examples(arguments.train, ("text",), documents=arguments.documents)
    # `mini` gives the way of splitting words and the special tokens.
    tokenizer = OpenAIGPTTokenizer.from_pretrained("mini").train_new_from_iterator(
        (example["text"] for example, _ in examples),
        arguments.vocab_size,
        show_progress=True,
    )
    tokenizer.model_max_length = arguments.n_positions
    tokenizer.save_pretrained(folder)
    return tokenizer
