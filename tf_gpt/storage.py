"""Files that are whole or not there."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def replaced_file(file, mode="wb"):
    """Yields a stream to a temporary file that takes the name when complete.

    Raises:
        OSError: If writing fails; the message says that the earlier file stays.
    """
    file = pathlib.Path(file)
    temporary = file.with_name(f".{file.name}.tmp")
    encoding = None if "b" in mode else "utf-8"
    try:
        with open(temporary, mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
        _sync_folder(file.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            kept = (
                "the earlier one is as it was" if file.exists() else "it is not there"
            )
            raise OSError(
                error.errno, f"Not written ({error.strerror}), {kept}", str(file)
            ) from error
        raise


def _sync_folder(folder):
    """Has the disk keep the names in a folder."""
    # Else the new name may be lost with the power, though the data are there.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
