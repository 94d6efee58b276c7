"""Fine-tunes GPT to tell the class of a text.

    python finetune_classification.py --train train.jsonl --dev dev.jsonl --out out

A program to copy and change; it needs nothing but tf_gpt. The defaults are the
paper's: Radford et al. 2018, section 4.1.
"""

import argparse

import keras

from tf_gpt import OpenAIGPTTokenizer
from tf_gpt.finetuning.metrics import F1, Matthews
from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear
from tf_gpt.finetuning.tasks import Classification, load_task

DEFAULT = "default: %(default)s"
ROWS = """files of rows: .jsonl, .csv or .tsv, also packed as .gz. A row is
  {"text": "how do i say hello in french", "label": "translate"}
The labels of --train are all there are; they are texts or integers."""


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Fine-tune GPT to tell the class of a text.",
        epilog=ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", required=True, metavar="FILE", help="rows to learn from")
    add("--dev", required=True, metavar="FILE", help="rows to judge every epoch by")
    add("--test", metavar="FILE", help="rows to evaluate on at the end")
    add("--out", required=True, metavar="FOLDER", help="where the model goes")
    add("--model", default="mini", help=f"folder, preset or Hub repository; {DEFAULT}")
    add(
        "--max-length", type=int, help="most tokens of a text; default: the tokenizer's"
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

    # The task makes `[start] text [extract]` of a text, and knows the labels.
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model)
    task = Classification(
        tokenizer, max_length=arguments.max_length, lm_coef=arguments.lm_coef
    )
    n_texts = task.scan(arguments.train)
    print(f"{n_texts} texts of {len(task.label_names)} classes")
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
        summary_first_dropout=arguments.dropout,  # before the classifier
    )
    n_steps = arguments.epochs * train.steps_per_epoch
    schedule = WarmupLinear(arguments.learning_rate, n_steps, arguments.warmup)
    metrics = ["accuracy"]
    if len(task.label_names) == 2:
        metrics += [F1(), Matthews()]  # of class 1, the last label in the alphabet
    model.compile(OpenAIAdam(schedule), metrics=metrics, jit_compile=arguments.xla)
    history = model.fit(
        train.as_tf_data(),
        epochs=arguments.epochs,
        validation_data=dev.as_tf_data(),
        shuffle=False,  # `train` has its own order in every epoch
    )

    model.save_pretrained(arguments.out)
    task.save(arguments.out)
    if arguments.test is not None:
        test = task.dataset(arguments.test, arguments.batch_size)
        values = model.evaluate(test.as_tf_data(), return_dict=True, verbose=0)
        print("test:", ", ".join(f"{k} {v:.4f}" for k, v in values.items()))
    texts = [example["text"] for example, _ in task.read(arguments.dev)][:3]
    for text, label in zip(texts, predict(arguments.out, texts), strict=True):
        print(f"{label!r} is predicted for {text!r}")
    return history


def predict(folder, texts):
    """Returns the label of each text, by a model that `main` has saved."""
    task = load_task(folder)
    model = task.load_model(folder)
    asked = task.dataset(texts, labelled=False)
    logits = model.predict(asked.as_tf_data(), verbose=0)["logits"]  # (B, K)
    return [task.label_names[i] for i in logits.argmax(-1)]


if __name__ == "__main__":
    main()
