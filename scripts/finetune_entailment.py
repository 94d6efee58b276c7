"""Fine-tunes GPT to tell whether a hypothesis follows from a premise.

    python finetune_entailment.py --train train.jsonl --dev dev.jsonl --out out

A program to copy and change; it needs nothing but tf_gpt. The defaults are the
paper's: Radford et al. 2018, section 4.1. `--n-transfer` is what figure 2 (left)
varies: how many of the pre-trained blocks are kept.
"""

import argparse

import keras
import numpy as np

from tf_gpt import OpenAIGPTTokenizer
from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear
from tf_gpt.finetuning.tasks import Entailment, load_task
from tf_gpt.finetuning.transfer import transfer_layers

DEFAULT = "default: %(default)s"
ROWS = """files of rows: .jsonl, .csv or .tsv, also packed as .gz. A row is
  {"premise": "two dogs run", "hypothesis": "animals move", "label": "entailment"}
The labels of --train are all there are, such as entailment, neutral and
contradiction."""


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Fine-tune GPT to tell whether a hypothesis follows.",
        epilog=ROWS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", required=True, metavar="FILE", help="rows to learn from")
    add("--dev", required=True, metavar="FILE", help="rows to judge every epoch by")
    add("--out", required=True, metavar="FOLDER", help="where the model goes")
    add("--model", default="mini", help=f"folder, preset or Hub repository; {DEFAULT}")
    add("--n-transfer", type=int, metavar="N", help="keep N pre-trained blocks only")
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

    # `[start] premise [delimiter] hypothesis [extract]`; the longer is cut first.
    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model)
    task = Entailment(
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
    print(f"{train.num_rows} pairs, of which {train.truncated} were cut")

    model = task.load_model(
        arguments.model,
        dtype=arguments.dtype,
        embd_pdrop=arguments.dropout,
        attn_pdrop=arguments.dropout,
        resid_pdrop=arguments.dropout,
        summary_first_dropout=arguments.dropout,  # before the classifier
    )
    if arguments.n_transfer is not None:
        transfer_layers(model, arguments.n_transfer, seed=arguments.seed)
    n_steps = arguments.epochs * train.steps_per_epoch
    schedule = WarmupLinear(arguments.learning_rate, n_steps, arguments.warmup)
    model.compile(OpenAIAdam(schedule), metrics=["accuracy"], jit_compile=arguments.xla)
    history = model.fit(
        train.as_tf_data(),
        epochs=arguments.epochs,
        validation_data=dev.as_tf_data(),
        shuffle=False,  # `train` has its own order in every epoch
    )

    model.save_pretrained(arguments.out)
    task.save(arguments.out)
    print_recalls(arguments.out, arguments.dev)
    return history


def print_recalls(folder, source):
    """Prints how much of each label a saved model finds again."""
    task = load_task(folder)
    model = task.load_model(folder)
    rows = [example for example, _ in task.read(source)]
    asked = task.dataset(rows, labelled=False)
    logits = model.predict(asked.as_tf_data(), verbose=0)["logits"]  # (B, K)
    found = np.array(task.label_names)[logits.argmax(-1)]
    wanted = np.array([row["label"] for row in rows])
    for name in task.label_names:
        of_name = wanted == name
        right = int((found[of_name] == name).sum())
        print(f"{name}: {right} of {int(of_name.sum())} found")


if __name__ == "__main__":
    main()
