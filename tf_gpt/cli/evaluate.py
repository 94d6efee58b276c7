"""`tf-gpt evaluate`: a fine-tuned model on a labelled file."""

from tf_gpt.cli.options import hub_options

HELP = "measure a fine-tuned model on a labelled file"


def add_arguments(parser):
    parser.add_argument("file", help="as for `tf-gpt finetune --train`")
    add_finetuned(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def add_finetuned(parser):
    """Adds which fine-tuned model to use."""
    from tf_gpt.cli.options import add_hub

    parser.add_argument(
        "--model", required=True, help="folder that `tf-gpt finetune` wrote"
    )
    add_hub(parser)
    parser.add_argument(
        "--batch-size", type=int, default=32, help="default: %(default)s"
    )


def load(arguments):
    """Returns `(task, model)` of a fine-tuned model's folder."""
    from tf_gpt.finetuning.tasks import load_task

    hub = hub_options(arguments)
    task = load_task(arguments.model, **hub)
    return task, task.load_model(arguments.model, **hub)


def run(arguments):
    import json

    from tf_gpt.cli.finetune import metrics_of

    task, model = load(arguments)
    dataset = task.dataset(arguments.file, arguments.batch_size)
    model.compile(metrics=metrics_of(task) + _more_metrics(task))
    values = model.evaluate(dataset.as_tf_data(), return_dict=True, verbose=0)
    values = {"rows": dataset.num_rows, **{k: float(v) for k, v in values.items()}}
    if arguments.json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        print(
            f"{name:<12}  {value:,}" if name == "rows" else f"{name:<12}  {value:.4f}"
        )


def _more_metrics(task):
    """Returns the metrics that the paper has for some sets of classes."""
    from tf_gpt.finetuning import metrics

    if task.kind in ("classification", "entailment") and len(task.label_names) == 2:
        return [metrics.F1(), metrics.Matthews()]
    if task.kind == "similarity" and task.classes:
        return [metrics.F1("binary" if len(task.label_names) == 2 else "macro")]
    return []
