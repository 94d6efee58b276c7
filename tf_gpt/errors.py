"""The error types of the package, each also a built-in error users catch."""


class CheckpointError(ValueError):
    """A checkpoint, or a file of one, cannot be read or does not fit."""


class HubError(OSError):
    """A model's files cannot be found, fetched or uploaded."""


class TokenizerError(ValueError):
    """A tokenizer's files or arguments are not usable."""
