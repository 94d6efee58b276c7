import sys

import pytest

from tf_gpt.generation.compile_cache import use_compile_cache


def test_the_folder_reaches_tensorflow_through_its_flags(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=0")
    assert use_compile_cache(tmp_path / "new")
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
