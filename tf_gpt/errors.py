"""The error types of the package, each also a built-in error users catch."""


class CheckpointError(ValueError):
    """A checkpoint, or a file of one, cannot be read or does not fit."""


class TokenizerError(ValueError):
    """A tokenizer's files or arguments are not usable."""
