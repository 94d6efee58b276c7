"""`tf-gpt predict`: what a fine-tuned model says of the rows of a file."""

from tf_gpt.cli.evaluate import add_finetuned, load

HELP = "predict labels or scores, a line of JSON for each row of a file"


def add_arguments(parser):
    parser.add_argument("file", help="as for `tf-gpt finetune --train`; no labels")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="JSON lines; a run there goes on"
    )
    add_finetuned(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew over another run's rows"
    )


def run(arguments):
    import tqdm

    from tf_gpt.cli.rows import RowsFile
    from tf_gpt.generation.generate import compile_function

    task, model = load(arguments)
    if task.kind == "language_modelling":
        raise ValueError(
            f"{arguments.model} is a language model: see `tf-gpt score` and "
            "`tf-gpt generate`."
        )
    dataset = task.dataset(
        arguments.file, arguments.batch_size, labelled=False, streaming=False
    )
    file = RowsFile(
        arguments.out,
        arguments.file,
        # The padding, and with it the last digits, depend on the batches.
        {"model": arguments.model, "batch_size": arguments.batch_size},
        arguments.overwrite,
    )
    predict = compile_function(
        lambda batch: _scores(task, model(batch, training=False)), False
    )
    skip, within = divmod(file.n_done, arguments.batch_size)
    with tqdm.tqdm(
        total=dataset.num_rows, initial=file.n_done, unit="row", desc=file.path.name
    ) as bar:
        for batch in dataset.batches(0, skip):
            scores = predict(batch).numpy()[within:]
            within = 0
            first = file.n_done
            file.write(
                [
                    {"index": first + i, **_answer(task, row)}
                    for i, row in enumerate(scores)
                ]
            )
            bar.update(len(scores))


def _scores(task, output):
    """Returns probabilities (B, K), or scores (B, 1)."""
    from keras import ops

    logits = output["mc_logits" if task.kind == "multiple_choice" else "logits"]
    logits = ops.cast(logits, "float32")
    if task.kind == "similarity" and not task.classes:
        return logits
    return ops.softmax(logits, axis=-1)


def _answer(task, row):
    if len(row) == 1:
        return {"score": float(row[0])}
    best = int(row.argmax())
    if task.kind == "multiple_choice":
        probabilities = [round(float(p), 6) for p in row]
        return {"label": best, "probabilities": probabilities}
    names = task.label_names
    probabilities = {
        str(name): round(float(p), 6) for name, p in zip(names, row, strict=True)
    }
    return {"label": names[best], "probabilities": probabilities}
