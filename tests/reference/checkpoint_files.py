"""Checkpoint files written by the real tools: torch and transformers 4.57.

Run as a program it writes those that the plain tests keep in
`tests/checkpoints/data`:

    TF_USE_LEGACY_KERAS=1 python tests/reference/checkpoint_files.py
"""

import copy
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np

SIZES = {"vocab_size": 11, "n_positions": 8, "n_embd": 4, "n_layer": 2, "n_head": 2}
CLASSES = ("Model", "LMHeadModel", "DoubleHeadsModel", "ForSequenceClassification")

# Format -> the main file that it is read by.
MAIN_FILES = {
    "safetensors": "model.safetensors",
    "safetensors_sharded": "model.safetensors.index.json",
    "safetensors_float16": "model.safetensors",
    "safetensors_bfloat16": "model.safetensors",
    "bin_zip": "pytorch_model.bin",
    "bin_zip_sharded": "pytorch_model.bin.index.json",
    "bin_legacy": "pytorch_model.bin",
    "bin_legacy_sharded": "pytorch_model.bin.index.json",
    "tf_h5": "tf_model.h5",
    "tf_h5_sharded": "tf_model.h5.index.json",
    "tf_safetensors": "model.safetensors",
    "tf_safetensors_sharded": "model.safetensors.index.json",
    "openai": "params_shapes.json",
}

_SHARD_SIZE = "1KB"


def write_torch(folder, kind):
    """Writes a random model of a class in every format that PyTorch writes.

    Returns:
        The model, an instance of transformers' `OpenAIGPT<kind>`.
    """
    import torch
    import transformers

    torch.manual_seed(CLASSES.index(kind))
    config = transformers.OpenAIGPTConfig(**SIZES, num_labels=3)
    model = getattr(transformers, f"OpenAIGPT{kind}")(config)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains start alike
            parameter.normal_()
    model.save_pretrained(folder / "safetensors")
    model.save_pretrained(folder / "safetensors_sharded", max_shard_size=_SHARD_SIZE)
    for dtype in ("float16", "bfloat16"):
        # Saving notes the type in the config: a copy keeps the first model's clean.
        narrow = getattr(transformers, f"OpenAIGPT{kind}")(copy.deepcopy(config))
        narrow.load_state_dict(model.state_dict())
        narrow.to(getattr(torch, dtype)).save_pretrained(
            folder / f"safetensors_{dtype}"
        )
    for form in ("zip", "legacy"):
        single, sharded = folder / f"bin_{form}", folder / f"bin_{form}_sharded"
        for place in (single, sharded):
            place.mkdir()
            config.save_pretrained(place)
        save = {"_use_new_zipfile_serialization": form == "zip"}
        state = model.state_dict()
        torch.save(state, single / "pytorch_model.bin", **save)
        shard_of = {}
        entries = list(state.items())
        for number, start in enumerate(range(0, len(entries), 10), start=1):
            name = f"pytorch_model-{number:05}-of-{len(entries) // 10 + 1:05}.bin"
            part = dict(entries[start : start + 10])
            torch.save(part, sharded / name, **save)
            shard_of |= dict.fromkeys(part, name)
        index = {"metadata": {"total_size": 0}, "weight_map": shard_of}
        (sharded / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return model


def write_openai(folder, model):
    """Writes the body of a PyTorch model laid out as OpenAI's release."""
    folder.mkdir(parents=True)
    body = getattr(model, "transformer", model)
    state = {name: value.detach().numpy() for name, value in body.state_dict().items()}
    order = ["positions_embed.weight", "tokens_embed.weight"]
    for layer in range(SIZES["n_layer"]):
        order += [
            f"h.{layer}.{part}.{kind}"
            for part in (
                "attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"
            )
            for kind in ("weight", "bias")
        ]  # fmt: skip
    shapes = [
        [1, *state[name].shape] if name.split(".")[-2].startswith("c_")
        and name.endswith("weight") else list(state[name].shape)
        for name in order
    ]  # fmt: skip
    flat = np.concatenate([state[name].reshape(-1) for name in order])
    for number, piece in enumerate(np.array_split(flat, 10)):
        np.save(folder / f"params_{number}.npy", piece)
    (folder / "params_shapes.json").write_text(json.dumps(shapes))


def write_tensorflow(folders):
    """Writes what transformers' TensorFlow classes make of `bin_zip`.

    In a process of its own: they need Keras 2, which a process has only if it
    is told before TensorFlow is imported.

    Args:
        folders: Dict of class to the folder that `write_torch` wrote into.
    """
    arguments = [part for kind, folder in folders.items() for part in (kind, folder)]
    subprocess.run(
        [sys.executable, __file__, "tensorflow", *map(str, arguments)],
        check=True,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
    )


def _write_tensorflow_here(folder, kind):
    import transformers

    model = getattr(transformers, f"TFOpenAIGPT{kind}").from_pretrained(
        folder / "bin_zip", from_pt=True
    )
    for form, safe in (("tf_h5", False), ("tf_safetensors", True)):
        model.save_pretrained(folder / form, safe_serialization=safe)
        model.save_pretrained(
            folder / f"{form}_sharded",
            safe_serialization=safe,
            max_shard_size=_SHARD_SIZE,
        )


def main():
    if sys.argv[1:2] == ["tensorflow"]:
        for kind, folder in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
            _write_tensorflow_here(pathlib.Path(folder), kind)
        return
    import tempfile

    data = pathlib.Path(__file__).parents[1] / "checkpoints" / "data"
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        model = write_torch(folder, "DoubleHeadsModel")
        write_openai(folder / "openai", model)
        write_tensorflow({"DoubleHeadsModel": folder})
        shutil.rmtree(data, ignore_errors=True)
        for form, main_file in MAIN_FILES.items():
            files = [folder / form / main_file]
            if "sharded" in form:
                continue
            if form == "openai":
                files += sorted((folder / form).glob("*.npy"))
            (data / form).mkdir(parents=True)
            for file in files:
                shutil.copy(file, data / form)


if __name__ == "__main__":
    main()
