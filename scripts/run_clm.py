"""Fine-tunes GPT as a language model on plain text, and lets it write.

    python run_clm.py --train stories.txt --dev more.txt --out out

A program to copy and change; it needs nothing but tf_gpt. The rows of a batch are
windows of `--max-length` tokens, cut from one document after the other.
"""

import argparse
import math

import keras

from tf_gpt import OpenAIGPTTokenizer
from tf_gpt.finetuning.optimizers import OpenAIAdam, WarmupLinear
from tf_gpt.finetuning.tasks import LanguageModelling

DEFAULT = "default: %(default)s"
FILES = """files of text: .txt, a document a line (or see --documents); or .jsonl with
rows {"text": "once upon a time"}; also packed as .gz, .xz or .bz2."""


def parse(argv):
    parser = argparse.ArgumentParser(
        description="Fine-tune GPT as a language model on plain text.",
        epilog=FILES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--train", required=True, metavar="FILE", help="text to learn from")
    add("--dev", required=True, metavar="FILE", help="text to judge every epoch by")
    add("--out", required=True, metavar="FOLDER", help="where the model goes")
    add("--model", default="mini", help=f"folder, preset or Hub repository; {DEFAULT}")
    add("--documents", choices=["lines", "paragraphs"], default="lines", help=DEFAULT)
    add("--max-length", type=int, help="tokens of a window; default: the tokenizer's")
    add("--epochs", type=int, default=3, help=DEFAULT)
    add("--batch-size", type=int, default=32, help=f"of windows; {DEFAULT}")
    add("--learning-rate", type=float, default=6.25e-5, help=DEFAULT)
    add("--warmup", type=float, default=0.002, help=f"share of the steps; {DEFAULT}")
    add("--dropout", type=float, default=0.1, help=DEFAULT)
    add("--dtype", default="float32", help='or "mixed_bfloat16", ...')
    add("--xla", action="store_true", help="compile: faster steps, a slower start")
    add("--seed", type=int, default=42, help=DEFAULT)
    add("--prompt", default="once upon a time", help="for a sample at the end")
    return parser.parse_args(argv)


def main(argv=None):
    arguments = parse(argv)
    keras.utils.set_random_seed(arguments.seed)

    tokenizer = OpenAIGPTTokenizer.from_pretrained(arguments.model)
    task = LanguageModelling(
        tokenizer, documents=arguments.documents, max_length=arguments.max_length
    )
    train = task.dataset(
        arguments.train,
        arguments.batch_size,
        shuffle_seed=arguments.seed,
        streaming=False,  # the schedule needs the number of steps
    )
    dev = task.dataset(arguments.dev, arguments.batch_size)
    print(f"{train.num_rows} windows of {task.max_length} tokens")

    model = task.load_model(
        arguments.model,
        dtype=arguments.dtype,
        embd_pdrop=arguments.dropout,
        attn_pdrop=arguments.dropout,
        resid_pdrop=arguments.dropout,
    )
    n_steps = arguments.epochs * train.steps_per_epoch
    schedule = WarmupLinear(arguments.learning_rate, n_steps, arguments.warmup)
    # Without metrics: the loss never makes the scores of all words, a metric would.
    model.compile(OpenAIAdam(schedule), jit_compile=arguments.xla)
    before = model.evaluate(dev.as_tf_data(), verbose=0)
    history = model.fit(
        train.as_tf_data(),
        epochs=arguments.epochs,
        validation_data=dev.as_tf_data(),
        shuffle=False,  # `train` has its own order in every epoch
    )
    after = history.history["val_loss"][-1]
    print(f"perplexity of dev: {math.exp(before):.2f}, now {math.exp(after):.2f}")

    model.save_pretrained(arguments.out)
    task.save(arguments.out)  # the tokenizer too
    prompt = tokenizer([arguments.prompt], return_tensors="np")
    ids = model.generate(
        **prompt, max_new_tokens=40, do_sample=True, top_p=0.9, seed=arguments.seed
    )
    print(tokenizer.decode(ids[0], skip_special_tokens=True))
    return history


if __name__ == "__main__":
    main()
