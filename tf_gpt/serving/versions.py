"""Version folders, as TF Serving looks for them: whole from the moment they appear.

A server polls its base folder and loads the highest number that it finds there.
So a version is written beside, under a name that is no number, and renamed.
"""

import contextlib
import errno
import os
import pathlib
import secrets
import shutil

# The largest number that TF Serving reads.
_LARGEST = 2**63 - 1


def check(directory, version, overwrite):
    """Checks where a version is to go, before anything is written.

    Args:
        directory: The base folder; need not exist.
        version: Its number, or None for the next free one.
        overwrite: Whether it may take the place of one that exists.

    Raises:
        ValueError: If `directory` is a file or a version itself, `version` is no
            number, or it exists and `overwrite` is False.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"`directory` must be a folder. Received a file: {directory}.")
    if (directory / "saved_model.pb").exists():
        raise ValueError(
            "`directory` must be the folder that versions are numbered in. Received "
            f"one that is a SavedModel itself: {directory}."
        )
    if version is None:
        if overwrite:
            raise ValueError("`overwrite` needs `version`. Received: version=None.")
        return
    is_number = isinstance(version, int) and not isinstance(version, bool)
    if not is_number or not 0 <= version <= _LARGEST:
        raise ValueError(
            f"`version` must be an integer of at least 0. Received: {version!r}."
        )
    if (directory / str(version)).exists() and not overwrite:
        raise ValueError(
            f"Version {version} exists in {directory}; pass overwrite=True to replace "
            "it, or leave out `version` for the next free number."
        )


def check_space(directory, n_bytes):
    """Raises OSError unless so many bytes are free where a folder is, or will be."""
    place = pathlib.Path(directory).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise OSError(
            errno.ENOSPC,
            f"The export takes about {n_bytes / 1e6:,.0f} MB, and "
            f"{free / 1e6:,.0f} MB are free",
            str(directory),
        )


@contextlib.contextmanager
def new_version(directory, version=None):
    """Makes a folder to write a version into, which appears at the end, or never.

    Args:
        directory: The base folder, made if it does not exist.
        version: Its number, which replaces one that exists; None for the next
            free one.

    Yields:
        `(folder, place)`: the path to write to, and a function that moves it to
        its number and returns the path there. Not called, nothing stays.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    folder = directory / f".new-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder, lambda: _place(folder, directory, version)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(folder, directory, version):
    if version is not None:
        return _replace(folder, directory / str(version))
    while True:
        path = directory / str(_next_number(directory))
        try:
            # Fails where another process has just taken the number.
            os.rename(folder, path)
            return path
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise


def _next_number(directory):
    numbers = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
    return max(numbers, default=0) + 1


def _replace(folder, path):
    if not path.exists():
        os.rename(folder, path)
        return path
    # Folders cannot be exchanged at one stroke: for an instant there is neither.
    old = path.with_name(f".old-{secrets.token_hex(8)}")
    os.rename(path, old)
    try:
        os.rename(folder, path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old) if old.is_dir() else old.unlink()
    return path
