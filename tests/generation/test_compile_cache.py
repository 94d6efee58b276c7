import os
import subprocess
import sys

import pytest

from tf_gpt.generation.compile_cache import use_compile_cache


def test_the_folder_reaches_tensorflow_through_its_flags(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=0")
    assert use_compile_cache(tmp_path / "old")
    assert use_compile_cache(tmp_path / "new")  # in its place
    flags = sys.modules["os"].environ["TF_XLA_FLAGS"].split()
    assert flags[0] == "--tf_xla_auto_jit=0"
    assert flags[1] == f"--tf_xla_persistent_cache_directory={tmp_path / 'new'}"
    assert (tmp_path / "new").is_dir()


def test_the_variable_names_the_folder_and_nothing_is_stored_without(
    tmp_path, monkeypatch
):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.delenv("TF_GPT_COMPILE_CACHE", raising=False)
    assert not use_compile_cache()
    monkeypatch.setenv("TF_GPT_COMPILE_CACHE", str(tmp_path))
    assert use_compile_cache()


def test_it_is_too_late_once_tensorflow_is_imported(tmp_path):
    import tensorflow  # noqa: F401

    with pytest.raises(RuntimeError, match=r"before TensorFlow.*cache"):
        use_compile_cache(tmp_path / "cache")


def test_the_variable_is_enough_and_a_second_process_finds_the_functions(tmp_path):
    program = (
        "import numpy as np, tf_gpt\n"
        "config = tf_gpt.OpenAIGPTConfig(vocab_size=11, n_positions=64, n_embd=8, "
        "n_layer=1, n_head=1)\n"
        "model = tf_gpt.OpenAIGPTLMHeadModel(config)\n"
        "model.generate(np.array([[1, 2]]), max_new_tokens=3)\n"
    )
    environment = {**os.environ, "TF_GPT_COMPILE_CACHE": str(tmp_path / "cache")}
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        kept.append(
            {p.name: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
        )
    assert len(kept[0]) == 1
    assert kept[0] == kept[1]  # read, not compiled and written again


def test_a_variable_that_comes_too_late_is_said(tmp_path):
    program = "import tensorflow, tf_gpt"
    environment = {**os.environ, "TF_GPT_COMPILE_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "TF_GPT_COMPILE_CACHE has no effect" in result.stderr
    assert not (tmp_path / "cache").exists()
