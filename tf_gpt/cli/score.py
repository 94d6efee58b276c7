"""`tf-gpt score`: how probable a model finds texts."""

from tf_gpt.cli.options import add_model, hub_options

HELP = "print the perplexity of the texts of a file"

# Texts that are scored together, between two steps of the bar.
_GROUP = 32


def add_arguments(parser):
    parser.add_argument(
        "file", help='one text a line; or .jsonl: strings, or objects with a "text"'
    )
    add_model(parser)
    parser.add_argument(
        "--whole",
        action="store_true",
        help="the file is one text, whose lines follow each other",
    )
    parser.add_argument(
        "--stride",
        type=int,
        help="tokens that the window moves along a text longer than the model's "
        "positions; default: half of them",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="JSON lines with each token's log-probability; a run that was stopped "
        "goes on there",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew over another run's rows"
    )


def run(arguments):
    from tf_gpt.cli.rows import RowsFile, read_texts

    if arguments.overwrite and arguments.out is None:
        raise ValueError("--overwrite belongs to --out.")
    texts = [text for text, _ in read_texts(arguments.file, "text")]
    if arguments.whole:
        if arguments.file.endswith(".jsonl"):
            raise ValueError("--whole is for plain text. Received: a .jsonl file.")
        texts = ["\n".join(texts)]

    from tf_gpt import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

    hub = hub_options(arguments)
    model = OpenAIGPTLMHeadModel.from_pretrained(arguments.model, **hub)
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model, **hub)
    rows = tokenizer(texts, verbose=False)["input_ids"]
    file = None
    if arguments.out is not None:
        settings = {
            "model": arguments.model,
            "whole": arguments.whole,
            "stride": arguments.stride,
        }
        file = RowsFile(arguments.out, arguments.file, settings, arguments.overwrite)
    total, n_scored = _score(model, tokenizer, rows, arguments.stride, file)
    _report(len(rows), total, n_scored)


def _score(model, tokenizer, rows, stride, file):
    """Returns the sum of the log-probabilities, and of how many tokens."""
    import tqdm

    total, n_scored = _scored_before(file) if file else (0.0, 0)
    done = file.n_done if file else 0
    with tqdm.tqdm(total=len(rows), initial=done, unit="text") as bar:
        for first in range(done, len(rows), _GROUP):
            group = rows[first : first + _GROUP]
            log_probs = _log_probs(model, group, stride)
            total += sum(float(values.sum(dtype="float64")) for values in log_probs)
            n_scored += sum(len(values) for values in log_probs)
            if file:
                file.write(
                    [
                        {
                            "index": first + i,
                            "tokens": tokenizer.convert_ids_to_tokens(row),
                            "log_probs": [round(float(v), 6) for v in values],
                        }
                        for i, (row, values) in enumerate(
                            zip(group, log_probs, strict=True)
                        )
                    ]
                )
            bar.update(len(group))
    return total, n_scored


def _log_probs(model, rows, stride):
    """Returns the log-probabilities of each row; an empty row has none."""
    import numpy as np

    scored = iter(())
    if any(rows):
        scored = iter(model.score([row for row in rows if row], stride).log_probs)
    return [next(scored) if row else np.zeros(0, "float32") for row in rows]


def _scored_before(file):
    import json

    total, n_scored = 0.0, 0
    with open(file.path, encoding="utf-8") as lines:
        for line in lines:
            log_probs = json.loads(line)["log_probs"]
            total += sum(log_probs)
            n_scored += len(log_probs)
    return total, n_scored


def _report(n_texts, total, n_scored):
    import math

    if not n_scored:
        raise ValueError(
            "A text's first token has no probability, and no text has a second."
        )
    mean = total / n_scored
    print(f"texts            {n_texts:,}")
    print(f"tokens scored    {n_scored:,}")
    print(f"log-probability  {mean:.4f} a token")
    print(f"perplexity       {math.exp(-mean):.3f}")
