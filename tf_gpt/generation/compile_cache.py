"""Keeping what XLA compiled for the next process."""

import os
import pathlib
import sys

# Names the folder; `import tf_gpt` looks at it.
VARIABLE = "TF_GPT_COMPILE_CACHE"


def use_compile_cache(directory=None):
    """Stores compiled functions in a folder and reads them from there.

    The first call of `generate` is then quicker from the second process on: it
    still traces the function, but XLA does not compile it again. The folder may
    be deleted at any time. Entries hold for one version of TensorFlow and one
    kind of processor; others are ignored.

    Args:
        directory: Folder, made if it does not exist; that of the environment
            variable TF_GPT_COMPILE_CACHE if None. Without either, nothing is
            stored.

    Returns:
        Whether a folder is used.

    Raises:
        RuntimeError: If TensorFlow is imported already: it reads its flags once.
    """
    directory = directory or os.environ.get(VARIABLE)
    if not directory:
        return False
    if "tensorflow" in sys.modules:
        raise RuntimeError(
            "use_compile_cache must be called before TensorFlow is imported. "
            f"Received: directory={str(directory)!r}, afterwards."
        )
    flag = "--tf_xla_persistent_cache_directory="
    directory = pathlib.Path(directory).expanduser().absolute()
    directory.mkdir(parents=True, exist_ok=True)
    flags = os.environ.get("TF_XLA_FLAGS", "").split()
    flags = [other for other in flags if not other.startswith(flag)]
    os.environ["TF_XLA_FLAGS"] = " ".join([*flags, f"{flag}{directory}"])
    return True
