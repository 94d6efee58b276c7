"""Loading over a model's variables needs one more copy of the largest tensor."""

import json
import math
import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from tf_gpt.checkpoints import names

SHAPES = {
    "positions_embed/embeddings": (8, 1024),
    "tokens_embed/embeddings": (40_000, 1024),  # 164 MB
    "attn/c_attn/kernel": (1024, 3072),
    "attn/c_attn/bias": (3072,),
    "attn/c_proj/kernel": (1024, 1024),
    "mlp/c_fc/kernel": (1024, 4096),
    "mlp/c_fc/bias": (4096,),
    "mlp/c_proj/kernel": (4096, 1024),
}
LARGEST = 4 * 40_000 * 1024

PROGRAM = """
import sys
import keras
import numpy as np
from tf_gpt.checkpoints.convert import load_weights
from tf_gpt.checkpoints.readers import open_checkpoint

def status(field):
    with open("/proc/self/status") as stream:
        line = next(line for line in stream if line.startswith(field))
    return 1024 * int(line.split()[1])

_, path, shapes = sys.argv
variables = {
    name: keras.Variable(np.ones(shape, "float32"))
    for name, shape in eval(shapes).items()
}
for variable in variables.values():
    variable.assign_add(keras.ops.ones_like(variable))
before = status("VmRSS")
with open("/proc/self/clear_refs", "w") as stream:
    stream.write("5")
load_weights(variables, path)
print(status("VmHWM") - before)
"""


def shape_of(path):
    local = path.split("/", 1)[1] if path.startswith("h_") else path
    return SHAPES.get(local, (1024,))


def write(folder, form):
    paths = names.openai_paths(1)
    values = {
        path: np.full(shape_of(path), 0.5, "float16" if "16" in form else "float32")
        for path in paths
    }
    if form == "h5":
        with h5py.File(folder / "tf_model.h5", "w") as archive:
            for path, array in values.items():
                archive[path.replace("h_0", "h_._0") + ":0"] = array
        return folder / "tf_model.h5"
    if form == "openai":
        flat = np.concatenate([array.reshape(-1) for array in values.values()])
        for number, piece in enumerate(np.array_split(flat, 10)):
            np.save(folder / f"params_{number}.npy", piece)
        shapes = json.dumps([shape_of(path) for path in paths])
        (folder / "params_shapes.json").write_text(shapes)
        return folder / "params_shapes.json"
    tensors = {names.to_pytorch(path, False): array for path, array in values.items()}
    tensors["lm_head.weight"] = tensors["tokens_embed.weight"].copy()
    save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("form", ["float32", "float16", "h5", "openai"])
def test_loading_needs_one_copy_of_the_largest_tensor(tmp_path, form):
    file = write(tmp_path, form)
    shapes = {path: shape_of(path) for path in names.openai_paths(1)}
    assert max(map(math.prod, shapes.values())) * 4 == LARGEST
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), repr(shapes)],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    n_bytes = int(done.stdout)
    # What the allocator keeps for itself of smaller tensors comes on top.
    assert n_bytes < 1.5 * LARGEST, n_bytes / LARGEST
