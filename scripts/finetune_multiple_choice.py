"""Fine-tunes GPT to choose the right one of several answers.

    python finetune_multiple_choice.py --train train.jsonl --dev dev.jsonl --out out

A program to copy and change; it needs nothing but tf_gpt. The defaults are the
paper's: Radford et al. 2018, section 4.1. Every answer is a sequence of its own, so
a row of N answers takes N times the memory: `--accumulate 4 --batch-size 8` makes
the paper's 32 rows in four parts, and `--rematerialise` keeps less for the backward
pass.
"""

import argparse

import keras

from tf_gpt import OpenAIGPTTokenizer
from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear
from tf_gpt.finetuning.tasks import MultipleChoice, load_task

DEFAULT = "default: %(default)s"
ROWS = """files of rows: .jsonl, .csv or .tsv, also packed as .gz. A row is
  {"context": "the sun was hot", "question": "what melted?",
   "choices": ["the ice", "the stone"], "label": 0}
on one line; `label` is the index of the right choice. Context or question may be
missing; all rows have equally many choices."""


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Fine-tune GPT to choose the right answer.",
        epilog=ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", required=True, metavar="FILE", help="rows to learn from")
    add("--dev", required=True, metavar="FILE", help="rows to judge every epoch by")
    add("--out", required=True, metavar="FOLDER", help="where the model goes")
    add("--model", default="mini", help=f"folder, preset or Hub repository; {DEFAULT}")
    add("--max-length", type=int, help="most tokens with one answer")
    add("--epochs", type=int, default=3, help=DEFAULT)
    add("--batch-size", type=int, default=32, help=f"rows of a step; {DEFAULT}")
    add("--accumulate", type=int, help="steps whose gradients make one update")
    add("--rematerialise", action="store_true", help="less memory, a third more time")
    add("--learning-rate", type=float, default=6.25e-5, help=DEFAULT)
    add("--warmup", type=float, default=0.002, help=f"share of the updates; {DEFAULT}")
    add("--dropout", type=float, default=0.1, help=DEFAULT)
    add("--lm-coef", type=float, default=0.5, help=f"of the auxiliary task; {DEFAULT}")
    add("--dtype", default="float32", help='or "mixed_bfloat16", ...')
    add("--xla", action="store_true", help="compile: faster steps, a slower start")
    add("--seed", type=int, default=42, help=DEFAULT)
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse(argv)
    keras.utils.set_random_seed(arguments.seed)

    # `[start] context question [delimiter] answer [extract]` for each answer; a
    # linear layer scores the extract tokens. Batches are (B, answers, T).
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model)
    task = MultipleChoice(
        tokenizer, max_length=arguments.max_length, lm_coef=arguments.lm_coef
    )
    task.scan(arguments.train)
    train = task.dataset(
        arguments.train,
        arguments.batch_size,
        shuffle_seed=arguments.seed,
        streaming=False,  # the schedule needs the number of steps
    )
    dev = task.dataset(arguments.dev, arguments.batch_size)
    print(f"{train.num_rows} rows of {task.num_choices}; {train.truncated} were cut")

    model = task.load_model(
        arguments.model,
        dtype=arguments.dtype,
        embd_pdrop=arguments.dropout,
        attn_pdrop=arguments.dropout,
        resid_pdrop=arguments.dropout,
        summary_first_dropout=arguments.dropout,  # before the score
    )
    if arguments.rematerialise:
        model.gradient_checkpointing_enable()
    # OpenAIAdam asks its schedule by updates, not by steps.
    n_updates = arguments.epochs * train.steps_per_epoch // (arguments.accumulate or 1)
    schedule = WarmupLinear(arguments.learning_rate, n_updates, arguments.warmup)
    optimizer = OpenAIAdam(schedule, gradient_accumulation_steps=arguments.accumulate)
    # A list of metrics is about the choice; for the language model's scores too it
    # would be a dict: {"mc_logits": ["accuracy"], "logits": [Perplexity()]}.
    model.compile(optimizer, metrics=["accuracy"], jit_compile=arguments.xla)
    history = model.fit(
        train.as_tf_data(),
        epochs=arguments.epochs,
        validation_data=dev.as_tf_data(),
        shuffle=False,  # `train` has its own order in every epoch
    )

    model.save_pretrained(arguments.out)
    task.save(arguments.out)
    rows = [example for example, _ in task.read(arguments.dev)][:3]
    for row, index in zip(rows, predict(arguments.out, rows), strict=True):
        print(f"{row['choices'][index]!r} is chosen of {row['choices']}")
    return history


def predict(folder, rows):
    """Returns the index of each row's answer, by a model that `main` has saved."""
    task = load_task(folder)
    model = task.load_model(folder)
    answers = []
    for batch in task.dataset(rows, labelled=False).batches():
        answers += model.predict_on_batch(batch)["mc_logits"].argmax(-1).tolist()
    return answers


if __name__ == "__main__":
    main()
