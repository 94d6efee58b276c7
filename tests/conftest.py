"""Shared by all tests: small models, and where the real data is."""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest

# Tracing makes objects by the million, and few of them are garbage: looking for it as
# often as Python does takes a twentieth of the time.
gc.set_threshold(200_000, 20, 100)

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data():
    """The folder of real data beside the checkout; skips where there is none."""
    if not DATA.is_dir():
        pytest.skip(f"the real data is not here: {DATA}")
    return DATA


@pytest.fixture
def tiny_config():
    """A config small enough for every test, with every size different."""
    from tf_gpt import OpenAIGPTConfig

    return OpenAIGPTConfig(
        vocab_size=101,
        n_positions=40,
        n_embd=24,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
    )
