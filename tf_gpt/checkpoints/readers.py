"""Opens a checkpoint of any format: its entries, described and not yet read.

No renaming happens here: the names are those of the files. Nothing in a
checkpoint is ever executed.
"""

import dataclasses
import json
import pathlib

from tf_gpt import hub
from tf_gpt.checkpoints.h5_file import open_h5
from tf_gpt.checkpoints.openai_file import open_openai, openai_sizes, piece_files
from tf_gpt.checkpoints.safetensors_file import open_safetensors
from tf_gpt.checkpoints.stored import StoredTensor
from tf_gpt.checkpoints.torch_file import open_torch
from tf_gpt.config import OpenAIGPTConfig
from tf_gpt.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The entries of a checkpoint, over all its files.

    Args:
        layout: Whose names and shapes the entries have: "pytorch",
            "tensorflow" (transformers' TensorFlow classes) or "openai".
        files: The files read: an index first, then what it names.
        tensors: The entries by name; each is read when asked for.
    """

    layout: str
    files: tuple[pathlib.Path, ...]
    tensors: dict[str, StoredTensor]


def read_config(name, overrides=None, **hub_options) -> OpenAIGPTConfig:
    """Returns a model's config, from OpenAI's release too, which has none.

    Args:
        name, hub_options: As for `tf_gpt.hub.resolve_files`.
        overrides: Dict of fields in place of those of the files.

    Raises:
        HubError: If there is no such model.
        ValueError: As `OpenAIGPTConfig.from_pretrained`.
        CheckpointError: If the shapes of OpenAI's release are damaged.
    """
    shapes = hub.OPENAI_SHAPES
    files = hub.resolve_files(name, ["config.json", shapes], **hub_options)
    if "config.json" in files or shapes not in files:
        return OpenAIGPTConfig.from_pretrained(name, overrides=overrides, **hub_options)
    return OpenAIGPTConfig.from_dict(openai_sizes(files[shapes]), **(overrides or {}))


def open_checkpoint(file) -> Checkpoint:
    """Opens a checkpoint by its main file.

    Args:
        file: The weight file; the index of a sharded one, whose shards lie
            beside it; or OpenAI's `params_shapes.json`, with its pieces.

    Raises:
        CheckpointError: If the file is of no known format, damaged, or an
            index names a file that is missing or outside its folder.
    """
    file = pathlib.Path(file)
    if not file.is_file():
        raise CheckpointError(f"There is no checkpoint file {file}.")
    if file.name.endswith(".index.json"):
        return _open_sharded(file)
    return _open_single(file)


def _open_single(file):
    layout, tensors = _read_entries(file)
    files = (file, *piece_files(file)) if layout == "openai" else (file,)
    return Checkpoint(layout, files, tensors)


def _read_entries(file):
    """Returns `(layout, tensors)` of one file, by its name."""
    if file.suffix == ".safetensors":
        tensors, metadata = open_safetensors(file)
        layout = "tensorflow" if metadata.get("format") == "tf" else "pytorch"
        return layout, tensors
    if file.suffix in (".bin", ".pt", ".pth"):
        return "pytorch", open_torch(file)
    if file.suffix in (".h5", ".hdf5"):
        return "tensorflow", open_h5(file)
    if file.name == "params_shapes.json":
        return "openai", open_openai(file)
    raise CheckpointError(
        "A checkpoint's main file must end in .safetensors, .bin, .h5 or .index.json, "
        f"or be `params_shapes.json`. Received: {file}."
    )


def _open_sharded(index):
    shard_of = read_index(index)
    layouts = set()
    tensors = {}
    files = [index]
    for name in sorted(set(shard_of.values())):
        shard = index.parent / name
        if not shard.is_file():
            raise CheckpointError(f"{index} names the shard {name}, which is missing.")
        if shard.suffix == ".json":
            raise CheckpointError(f"{index} must name weight files. Received: {name}.")
        layout, entries = _read_entries(shard)
        listed = {entry for entry, place in shard_of.items() if place == name}
        if layout == "tensorflow":
            # Its indexes name the class first; its files do not.
            listed = {
                entry if entry in entries else entry.partition("/")[2]
                for entry in listed
            }
        if listed != entries.keys():
            raise CheckpointError(
                f"{index} and its shard {name} must list the same entries. "
                f"Received: only in the index {sorted(listed - entries.keys())[:5]}, "
                f"only in the shard {sorted(entries.keys() - listed)[:5]}."
            )
        layouts.add(layout)
        if twice := sorted(tensors.keys() & entries.keys()):
            raise CheckpointError(
                f"The shards of {index} hold one entry twice: {twice[0]!r:.200}."
            )
        tensors |= entries
        files.append(shard)
    if len(layouts) != 1:
        raise CheckpointError(
            f"The shards of {index} must all be of one layout. "
            f"Received: {sorted(layouts)}."
        )
    return Checkpoint(layouts.pop(), tuple(files), tensors)


def read_index(index) -> dict[str, str]:
    """Reads the index of a sharded checkpoint: entry name -> file name.

    Raises:
        CheckpointError: If it is no index, or names a file outside its folder.
    """
    index = pathlib.Path(index)
    try:
        content = json.loads(index.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} cannot be read: {error}.") from error
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(
            f"{index}: an index must have a `weight_map` of entry and file names."
        )
    for name in shard_of.values():
        if not isinstance(name, str) or not is_plain_name(name):
            raise CheckpointError(
                f"{index}: an index must name files in its own folder. "
                f"Received: {name!r:.200}."
            )
    return shard_of


def is_plain_name(name: str) -> bool:
    """Whether a name from a checkpoint is a file name and not a path."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\:\0")
