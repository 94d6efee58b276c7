"""`tf-gpt`: one subcommand a file; errors in one line.

A file `NAME.py` of this folder is the subcommand `NAME` and has a `HELP` line,
`add_arguments(parser)` and `run(arguments)`. What it needs of the library it
imports in `run`, so that `--help` answers at once.
"""

import argparse
import importlib
import os
import sys

COMMANDS = (
    "generate",
    "score",
    "finetune",
    "evaluate",
    "predict",
    "pretrain",
    "info",
    "convert",
    "export",
    "tokenize",
)


def build_parser():
    """Returns the parser with every subcommand."""
    from tf_gpt import __version__

    parser = argparse.ArgumentParser(
        prog="tf-gpt", description="OpenAI GPT (GPT-1) for TensorFlow and Keras 3."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )
    for name in COMMANDS:
        module = importlib.import_module(f"tf_gpt.cli.{name}")
        subparser = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser


def main(arguments=None):
    """Runs a command line.

    Returns:
        The exit code: 0, 1 after an error of the input or of a file, 130 after
        Ctrl-C. A command line that cannot be understood exits with 2.
    """
    # TensorFlow says much at its start that is of no use to a reader of text.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ntf-gpt: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        print(f"tf-gpt: error: {message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
