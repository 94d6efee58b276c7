"""Fine-tunes GPT to tell how alike two texts are.

    python finetune_similarity.py --train train.jsonl --dev dev.jsonl --out out

A program to copy and change; it needs nothing but tf_gpt. The defaults are the
paper's: Radford et al. 2018, section 4.1. Scores are learnt by regression and
judged by Pearson's correlation (STS-B); with `--classes` the rows have labels, and
the F1 counts (MRPC, QQP).
"""

import argparse

import keras

from tf_gpt import OpenAIGPTTokenizer
from tf_gpt.finetuning.metrics import F1, Pearson
from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear
from tf_gpt.finetuning.tasks import Similarity, load_task

DEFAULT = "default: %(default)s"
ROWS = """files of rows: .jsonl, .csv or .tsv, also packed as .gz. A row is
  {"text_a": "a plane takes off", "text_b": "a plane departs", "score": 4.5}
or, with --classes,
  {"text_a": "a plane takes off", "text_b": "a plane departs", "label": 1}"""


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Fine-tune GPT to tell how alike two texts are.",
        epilog=ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", required=True, metavar="FILE", help="rows to learn from")
    add("--dev", required=True, metavar="FILE", help="rows to judge every epoch by")
    add("--out", required=True, metavar="FOLDER", help="where the model goes")
    add("--classes", action="store_true", help="two labels, not scores")
    add("--model", default="mini", help=f"folder, preset or Hub repository; {DEFAULT}")
    add(
        "--max-length", type=int, help="most tokens of a pair; default: the tokenizer's"
    )
    add("--epochs", type=int, default=3, help=DEFAULT)
    add("--batch-size", type=int, default=32, help=DEFAULT)
    add("--learning-rate", type=float, default=6.25e-5, help=DEFAULT)
    add("--warmup", type=float, default=0.002, help=f"share of the steps; {DEFAULT}")
    add("--dropout", type=float, default=0.1, help=DEFAULT)
    add("--lm-coef", type=float, default=0.5, help=f"of the auxiliary task; {DEFAULT}")
    add("--dtype", default="float32", help='or "mixed_bfloat16", ...')
    add("--xla", action="store_true", help="compile: faster steps, a slower start")
    add("--seed", type=int, default=42, help=DEFAULT)
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse(argv)
    keras.utils.set_random_seed(arguments.seed)

    # Two texts have no order, so the model reads both: `[start] a [delimiter] b
    # [extract]` and `[start] b [delimiter] a [extract]`. Batches are (B, 2, T).
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model)
    task = Similarity(
        tokenizer,
        classes=arguments.classes,
        max_length=arguments.max_length,
        lm_coef=arguments.lm_coef,
    )
    task.scan(arguments.train)
    train = task.dataset(
        arguments.train,
        arguments.batch_size,
        shuffle_seed=arguments.seed,
        streaming=False,  # the schedule needs the number of steps
    )
    dev = task.dataset(arguments.dev, arguments.batch_size)

    model = task.load_model(
        arguments.model,
        dtype=arguments.dtype,
        embd_pdrop=arguments.dropout,
        attn_pdrop=arguments.dropout,
        resid_pdrop=arguments.dropout,
        summary_first_dropout=arguments.dropout,  # before the last layer
    )
    n_steps = arguments.epochs * train.steps_per_epoch
    schedule = WarmupLinear(arguments.learning_rate, n_steps, arguments.warmup)
    metrics = ["accuracy", F1()] if arguments.classes else [Pearson(), "mse"]
    model.compile(OpenAIAdam(schedule), metrics=metrics, jit_compile=arguments.xla)
    history = model.fit(
        train.as_tf_data(),
        epochs=arguments.epochs,
        validation_data=dev.as_tf_data(),
        shuffle=False,  # `train` has its own order in every epoch
    )

    model.save_pretrained(arguments.out)
    task.save(arguments.out)
    pairs = [(e["text_a"], e["text_b"]) for e, _ in task.read(arguments.dev)][:3]
    for (a, b), answer in zip(pairs, predict(arguments.out, pairs), strict=True):
        print(f"{answer} is predicted for {a!r} and {b!r}")
    return history


def predict(folder, pairs):
    """Returns the score, or label, of each pair, by a model that `main` has saved."""
    task = load_task(folder)
    model = task.load_model(folder)
    asked = task.dataset(pairs, labelled=False)
    logits = model.predict(asked.as_tf_data(), verbose=0)["logits"]  # (B, 1 or K)
    if task.classes:
        return [task.label_names[i] for i in logits.argmax(-1)]
    return [round(float(score), 2) for score in logits[:, 0]]


if __name__ == "__main__":
    main()
