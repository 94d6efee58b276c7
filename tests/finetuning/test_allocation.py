import os
import platform
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
    ),
]

# Prints the faults of writing a freed block of some megabytes anew.
COUNT = """
import resource
import numpy as np

def faults(megabytes):
    for i in range(20):
        if i == 10:
            start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.full(megabytes * 2**17, 1.0)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start) // 10
"""
GENERATOR = """
import tensorflow as tf
spec = tf.TensorSpec(())
list(tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=spec))
"""
DATASET = """
from tf_gpt import OpenAIGPTTokenizer
from tf_gpt.finetuning.tasks import LanguageModelling
task = LanguageModelling(OpenAIGPTTokenizer.from_pretrained("mini"), max_length=16)
dataset = task.dataset([{"text": "once upon a time"}] * 4, 2).as_tf_data()
assert list(dataset)
"""
KEEP = """
from tf_gpt.finetuning.allocation import keep_freed_memory
keep_freed_memory()
"""


def faults_after(program, megabytes, **environment):
    """Runs a program in a process of its own; returns the faults for a block."""
    settings = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}{COUNT}print(faults({megabytes}))"],
        env=settings | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_tensorflows_generators_still_give_freed_memory_back():
    # If not, `restore_thresholds` has nothing left to do. A block has 512 pages.
    assert faults_after(GENERATOR, 2) > 400


def test_our_data_sets_do_not_give_freed_memory_back():
    assert faults_after(DATASET, 2) < 50
    large_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert faults_after(DATASET, 2, **large_pages) < 50


def test_all_freed_memory_is_kept():
    assert faults_after("", 50) > 20  # above what glibc ever keeps by itself
    assert faults_after(KEEP, 50) < 10
    assert faults_after(KEEP + DATASET, 50) < 10


def test_what_the_environment_says_holds():
    assert faults_after(KEEP, 2, MALLOC_MMAP_THRESHOLD_="100000") > 100
    threshold = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=100000"}
    assert faults_after(KEEP, 2, **threshold) > 100
    assert faults_after(DATASET, 2, **threshold) > 100
