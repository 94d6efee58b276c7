"""Arguments that several subcommands share."""


def add_model(parser, positional=False):
    """Adds which model to use, and where of the Hub to look for it."""
    text = 'a directory, a bundled preset ("mini"), or a Hub repository'
    if positional:
        parser.add_argument("model", nargs="?", default="mini", help=text)
    else:
        parser.add_argument("--model", default="mini", help=f"{text}; default: mini")
    add_hub(parser)


def add_hub(parser):
    """Adds the options of fetching from the Hub."""
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--subfolder", help="folder inside the model's")
    parser.add_argument(
        "--local-files-only", action="store_true", help="fetch nothing from the Hub"
    )


def hub_options(arguments):
    """Returns the keyword options that `add_model` stands for."""
    return {
        "revision": arguments.revision,
        "subfolder": arguments.subfolder,
        "local_files_only": arguments.local_files_only,
    }


def default_arguments(add_arguments):
    """Returns a dict of what a subcommand's arguments are if none is given."""
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return {action.dest: action.default for action in parser._actions}
