"""What glibc does with memory that a training step frees.

A step frees its temporaries, and the next one wants as much again. Memory that went
back to the system in between comes again page by page, each of which costs a fault:
up to half of the CPU time of a small model's steps. See docs/SPEED.md.
"""

import ctypes
import os
import platform
import sys

# Of <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8

# What glibc arrives at by itself, on a 64-bit machine, as large blocks are freed.
_LARGEST_MMAP_THRESHOLD = 2**25
_LARGEST_TRIM_THRESHOLD = 2 * _LARGEST_MMAP_THRESHOLD

_trim_threshold = _LARGEST_TRIM_THRESHOLD


def keep_freed_memory():
    """Lets the process keep all that is freed, for the next step.

    For programs that train and do little else: the process stays as large as it
    ever was. Does nothing once
    TensorFlow is imported (its threads then have places of their own for memory),
    where the C library is not glibc, or where the environment has settings for it.
    """
    global _trim_threshold
    if "tensorflow" in sys.modules or not _is_free(""):
        return
    _trim_threshold = 2**31 - 1
    _set(_ARENA_MAX, 1)
    _set(_MMAP_MAX, 0)
    _set(_TOP_PAD, 2**26)
    _set(_TRIM_THRESHOLD, _trim_threshold)


def restore_thresholds():
    """Undoes what the first generator of `tf.data` does to the whole process.

    TensorFlow then sets M_TRIM_THRESHOLD to 128 kB (2.21, generator_dataset_op.cc),
    which also ends glibc's own adjusting: from there on each block of more than
    128 kB goes back to the system when it is freed.
    """
    if _is_free("trim_threshold", "mmap_threshold"):
        _set(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        _set(_TRIM_THRESHOLD, _trim_threshold)


def _is_free(*names):
    """Whether there is a glibc, and the environment sets nothing of these names."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    is_set = any(name.startswith("MALLOC_") for name in os.environ)
    is_set |= any(f"glibc.malloc.{name}" in tunables for name in names)
    return platform.libc_ver()[0] == "glibc" and not is_set


def _set(parameter, value):
    ctypes.CDLL(None).mallopt(parameter, value)
