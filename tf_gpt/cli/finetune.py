"""`tf-gpt finetune`: a model for one of the paper's tasks, from files."""

from tf_gpt.cli.options import add_model, hub_options

HELP = "fine-tune a model for a task, as in the paper"

# Name on the command line -> class of tf_gpt.finetuning.tasks.
TASKS = {
    "classification": "Classification",
    "entailment": "Entailment",
    "similarity": "Similarity",
    "multiple-choice": "MultipleChoice",
    "lm": "LanguageModelling",
}
SCHEDULES = {
    "linear": "WarmupLinear",
    "cosine": "WarmupCosine",
    "constant": "WarmupConstant",
}
# What a dev set is judged by.
MONITORS = {
    "classification": "val_accuracy",
    "entailment": "val_accuracy",
    "similarity": "val_pearson",
    "multiple-choice": "val_accuracy",
    "lm": "val_loss",
}


def add_arguments(parser):
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument(
        "--train",
        required=True,
        metavar="FILE",
        help=".jsonl, .csv or .tsv with the task's fields (text, label; premise, "
        "hypothesis, label; text_a, text_b, score; context, question, choices, "
        "label), also packed as .gz; for lm plain text too",
    )
    parser.add_argument("--dev", metavar="FILE", help="the same, to judge models by")
    parser.add_argument("--out", required=True, help="folder; a run there goes on")
    add_model(parser)
    parser.add_argument(
        "--max-length", type=int, help="tokens of a sequence; default: the model's"
    )
    parser.add_argument(
        "--documents",
        choices=["lines", "paragraphs"],
        default="lines",
        help="of plain text: a document is a line (default), or what stands between "
        "empty lines",
    )
    add_training(parser)
    parser.add_argument(
        "--lm-coef",
        type=float,
        default=0.5,
        help="weight of the language model's loss beside the task's; small sets do "
        "better with 0; default: %(default)s",
    )
    transfer = parser.add_argument_group("what is transferred and trained")
    transfer.add_argument(
        "--n-transfer",
        type=int,
        metavar="N",
        help="keep the embeddings and N pre-trained blocks only; -1: nothing",
    )
    transfer.add_argument(
        "--freeze",
        type=int,
        metavar="N",
        help="keep embeddings and N blocks as they are",
    )
    transfer.add_argument(
        "--layer-decay", type=float, help="each block learns by this factor less"
    )
    transfer.add_argument(
        "--lora-rank", type=int, help="train adapters of this rank, merged at the end"
    )


def add_training(parser, epochs=3, batch_size=32, learning_rate=6.25e-5):
    """Adds what `finetune` and `pretrain` share."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--epochs", type=int, default=epochs, help="default: %(default)s"
    )
    group.add_argument(
        "--batch-size", type=int, default=batch_size, help="default: %(default)s"
    )
    group.add_argument(
        "--learning-rate",
        type=float,
        default=learning_rate,
        help="default: %(default)s",
    )
    group.add_argument(
        "--schedule", choices=SCHEDULES, default="linear", help="default: %(default)s"
    )
    group.add_argument(
        "--warmup",
        type=float,
        default=0.002,
        help="share of the steps in which the rate rises; default: %(default)s",
    )
    group.add_argument(
        "--weight-decay", type=float, default=0.01, help="default: %(default)s"
    )
    group.add_argument(
        "--accumulate", type=int, help="batches whose gradients make one update"
    )
    group.add_argument(
        "--dtype",
        help='policy of the model, such as "mixed_bfloat16"; default: float32',
    )
    group.add_argument("--seed", type=int, default=42, help="default: %(default)s")
    group.add_argument(
        "--patience", type=int, help="stop after so many epochs that do not improve"
    )
    group.add_argument(
        "--save-every", type=int, default=100, help="steps between checkpoints"
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="write event files too"
    )
    group.add_argument(
        "--xla", action="store_true", help="compile the step by XLA: starts later"
    )


def run(arguments):
    _check(arguments)
    from tf_gpt.finetuning.allocation import keep_freed_memory

    if not arguments.xla:  # with which the peak was half as high again
        keep_freed_memory()
    import keras

    import tf_gpt
    from tf_gpt.checkpoints.readers import read_config
    from tf_gpt.finetuning import tasks
    from tf_gpt.finetuning.lora import add_lora
    from tf_gpt.finetuning.optimizers import layer_decay
    from tf_gpt.finetuning.transfer import freeze, transfer_layers

    hub = hub_options(arguments)
    tokenizer = tf_gpt.OpenAIGPTTokenizer.from_pretrained(arguments.model, **hub)
    max_length = arguments.max_length
    if max_length is None:
        max_length = read_config(arguments.model, **hub).n_positions
    options = {"max_length": max_length}
    if arguments.task == "lm":
        options["documents"] = arguments.documents
    else:
        options["lm_coef"] = arguments.lm_coef
    task = getattr(tasks, TASKS[arguments.task])(tokenizer, **options)
    task.scan(arguments.train)
    keras.utils.set_random_seed(arguments.seed)
    model = task.load_model(arguments.model, dtype=arguments.dtype, **hub)
    if arguments.n_transfer is not None:
        transfer_layers(model, arguments.n_transfer, seed=arguments.seed)
    if arguments.lora_rank is not None:
        add_lora(model, arguments.lora_rank)
    if arguments.freeze is not None:
        freeze(model, arguments.freeze)
    multipliers = None
    if arguments.layer_decay is not None:
        multipliers = layer_decay(model, arguments.layer_decay)
    train(arguments, task, model, MONITORS[arguments.task], multipliers)


def train(arguments, task, model, monitor, multipliers=None):
    """Compiles and trains a model; prints what came of it.

    Args:
        arguments: With `train`, `dev`, `out` and those of `add_training`.
        task: See `tf_gpt.finetuning.tasks`.
        model: Its model.
        monitor: What a model is judged by.
        multipliers: See `OpenAIAdam`.
    """
    from tf_gpt.finetuning import optimizers, runs

    dataset = task.dataset(
        arguments.train, arguments.batch_size, shuffle_seed=arguments.seed
    )
    dev = None
    if arguments.dev is not None:
        dev = task.dataset(arguments.dev, arguments.batch_size)
    schedule = getattr(optimizers, SCHEDULES[arguments.schedule])(
        arguments.learning_rate, _n_updates(arguments, dataset), arguments.warmup
    )
    more = {}
    if arguments.accumulate is not None:
        more["gradient_accumulation_steps"] = arguments.accumulate
    model.compile(
        optimizer=optimizers.OpenAIAdam(
            schedule,
            weight_decay=arguments.weight_decay,
            multipliers=multipliers,
            **more,
        ),
        metrics=metrics_of(task),
        jit_compile=arguments.xla,
    )
    runs.train(
        model,
        dataset,
        arguments.out,
        epochs=arguments.epochs,
        dev=dev,
        save_every=arguments.save_every,
        monitor=monitor,
        patience=arguments.patience,
        tensorboard=arguments.tensorboard,
        settings=_settings(arguments),
    )
    _finish(arguments, task)


def metrics_of(task):
    """Returns the paper's metrics of a task."""
    from tf_gpt.finetuning import metrics

    if task.kind == "similarity" and not task.classes:
        return [metrics.Pearson()]
    if task.kind == "language_modelling":
        return [metrics.Perplexity()]
    return ["accuracy"]


def _check(arguments):
    if arguments.task == "lm" and arguments.lm_coef != 0.5:
        raise ValueError("--lm-coef belongs to the other tasks. Received: --task lm.")
    if arguments.task != "lm" and arguments.documents != "lines":
        raise ValueError(f"--documents belongs to lm. Received: {arguments.task}.")
    if arguments.lora_rank is not None and arguments.freeze is not None:
        raise ValueError("--lora-rank trains no block itself: leave out --freeze.")
    if arguments.patience is not None and arguments.dev is None:
        raise ValueError("--patience needs --dev.")


def _n_updates(arguments, dataset):
    steps = dataset.steps_per_epoch
    if steps is None:
        raise ValueError(
            f"{arguments.train} is too large to count its batches, which the schedule "
            "needs: split it, or use the functions of tf_gpt.finetuning."
        )
    return max(1, steps * arguments.epochs // (arguments.accumulate or 1))


def _settings(arguments):
    """Returns what identifies a run: all options that change its weights."""
    import hashlib
    import pathlib

    free = {"run", "command", "out", "tensorboard", "save_every", "local_files_only"}
    settings = {k: v for k, v in vars(arguments).items() if k not in free}
    for name in ("train", "dev"):
        if settings[name] is not None:
            content = pathlib.Path(settings[name]).read_bytes()
            settings[name] = hashlib.sha256(content).hexdigest()
    return settings


def _finish(arguments, task):
    import json
    import pathlib

    out = pathlib.Path(arguments.out)
    for folder in ("best", "final"):
        if (out / folder).is_dir():
            task.save(out / folder)
    report = json.loads((out / "report.json").read_text("utf-8"))
    last = {name: values[-1] for name, values in report["history"].items() if values}
    for name, value in last.items():
        print(f"{name:<16}  {value:.4f}" if value is not None else f"{name:<16}  -")
    best = "best" if (out / "best").is_dir() else "final"
    print(f"model             {out / best}")
    print(f"report            {out / 'report.json'}")
