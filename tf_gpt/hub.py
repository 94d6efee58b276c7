"""Where a model's files are: a directory, a bundled preset, or the Hub.

`huggingface_hub` is imported when a repository is first asked for.
"""

import importlib.resources
import json
import pathlib
import re

from tf_gpt.errors import HubError

# Of OpenAI's release: the list of the weights' shapes, in their order.
OPENAI_SHAPES = "params_shapes.json"

# Main files of a checkpoint, best first. Of a sharded one this is the index;
# of OpenAI's it is the list of shapes.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "tf_model.h5.index.json",
    OPENAI_SHAPES,
)

# OpenAI cut its weights into this many files, in no relation to the tensors.
OPENAI_FILES = tuple(f"params_{number}.npy" for number in range(10))

# How often a download that broke off is taken up again.
_ATTEMPTS = 5

_NAME = r"\w[\w.\-]*"
_REPOSITORY = re.compile(f"{_NAME}/{_NAME}", re.ASCII)


def list_presets() -> list[str]:
    """Returns the names of the bundled models."""
    folder = _presets_folder()
    if not folder.is_dir():
        return []
    return sorted(
        entry.name for entry in folder.iterdir() if (entry / "config.json").is_file()
    )


def resolve_files(
    name,
    wanted,
    *,
    revision=None,
    subfolder=None,
    cache_dir=None,
    local_files_only=False,
    token=None,
    force_download=False,
) -> dict[str, pathlib.Path]:
    """Finds files of a model, fetching from the Hub only what is asked for.

    Args:
        name: A directory, the name of a bundled preset, or a Hub repository as
            "owner/name"; looked for in this order.
        wanted: Names of the files.
        revision: Branch, tag or commit of a repository; its main branch if None.
        subfolder: Folder of the directory or repository to look in.
        cache_dir: Where fetched files are kept; the Hub's own place if None.
        local_files_only: Whether to use only what was fetched before.
        token: Access token of the Hub; the stored one, if any, if None.
        force_download: Whether to fetch again what was fetched before.

    Returns:
        File name -> local path, without the files that do not exist.

    Raises:
        HubError: If there is no such directory, preset or repository, the Hub
            refuses, or it cannot be reached and the files are not known from
            before. Also if a file name or `subfolder` climbs out of its folder.
        ValueError: If an option cannot apply: a `revision` of a local
            directory; `force_download` with `local_files_only`.
    """
    for file_name in wanted:
        _check_inside(file_name)
    if subfolder:
        _check_inside(subfolder)
    folder = _local_folder(name)
    if folder is not None:
        if revision is not None:
            raise ValueError(
                "`revision` is for Hub repositories only. "
                f"Received: revision={revision!r} for the directory {folder}."
            )
        if subfolder:
            folder = folder / subfolder
            if not folder.is_dir():
                raise HubError(f"There is no directory {folder}.")
        return {
            file_name: folder / file_name
            for file_name in wanted
            if (folder / file_name).is_file()
        }
    if force_download and local_files_only:
        raise ValueError("`force_download` and `local_files_only` exclude each other.")
    found = {}
    for file_name in wanted:
        path = _fetch(
            name,
            file_name,
            revision=revision,
            subfolder=subfolder or None,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            force_download=force_download,
        )
        if path is not None:
            found[file_name] = path
    return found


def resolve_weights(name, **options) -> pathlib.Path:
    """Finds a model's weights and returns their main file.

    The first of `WEIGHT_FILES` that exists is taken, and what it needs beside
    it (shards, OpenAI's parts) is fetched with it; nothing else is.

    Args:
        name: As for `resolve_files`.
        **options: The keyword options of `resolve_files`.

    Raises:
        HubError: As for `resolve_files`, or if there are no weights, or an
            index names a file that is missing or outside its folder.
    """
    for main in WEIGHT_FILES:
        path = resolve_files(name, [main], **options).get(main)
        if path is None:
            continue
        parts = _parts(path)
        missing = set(parts) - resolve_files(name, parts, **options).keys()
        if missing:
            raise HubError(
                f"{str(name)!r}: {main} needs files that are missing: "
                f"{', '.join(sorted(missing))}."
            )
        return path
    raise HubError(
        f"{str(name)!r} holds no weights. Looked for: {', '.join(WEIGHT_FILES)}."
    )


def upload_folder(
    repo_id,
    folder,
    *,
    commit_message=None,
    private=None,
    token=None,
    create_pr=False,
    revision=None,
) -> str:
    """Uploads a folder to a Hub repository, made first if it does not exist.

    Args:
        repo_id: Repository as "owner/name", or "name" for one of the token's owner.
        folder: Folder whose files are uploaded.
        commit_message: Message of the commit; names the package if None.
        private: Whether a repository made now is private; the owner's default
            if None.
        token: Access token with write permission; the stored one if None.
        create_pr: Whether to open a pull request instead of committing.
        revision: Branch to commit to; the main branch if None.

    Returns:
        The address of the commit or pull request.

    Raises:
        HubError: If the name is no repository's, or the Hub refuses or cannot
            be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    if not re.fullmatch(f"({_NAME}/)?{_NAME}", str(repo_id), re.ASCII):
        raise HubError(
            '`repo_id` must be a repository as "owner/name" or "name". '
            f"Received: {repo_id!r}."
        )
    api = huggingface_hub.HfApi(token=token, library_name="tf_gpt")
    try:
        if "/" not in repo_id:
            repo_id = f"{api.whoami()['name']}/{repo_id}"
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=str(folder),
            commit_message=commit_message or "Upload with tf_gpt",
            create_pr=create_pr,
            revision=revision,
        )
    except (OSError, ValueError, errors.HTTPError) as error:
        raise HubError(
            f"Uploading to {repo_id!r} failed: {_first_line(error)}"
        ) from error
    return str(commit.pr_url if create_pr else commit.commit_url)


def _presets_folder():
    return pathlib.Path(str(importlib.resources.files("tf_gpt") / "presets"))


def _local_folder(name):
    """Returns the folder of a directory or preset, None for a repository."""
    path = pathlib.Path(name)
    if name != "" and path.is_dir():  # Path("") is the current directory
        return path
    if path.is_file():
        raise HubError(
            f"{str(name)!r} is a file. Give the directory that holds the model."
        )
    if str(name) in list_presets():
        return _presets_folder() / str(name)
    if isinstance(name, str) and _REPOSITORY.fullmatch(name):
        return None
    presets = ", ".join(list_presets()) or "none"
    raise HubError(
        f"No model {str(name)!r}: no directory of that name, no bundled preset "
        f'(there are: {presets}), and no Hub repository, which is called "owner/name", '
        'for example "openai-community/openai-gpt".'
    )


def _check_inside(file_name):
    parts = str(file_name).replace("\\", "/").split("/")
    if "" in parts or ".." in parts or ":" in str(file_name) or "\0" in str(file_name):
        raise HubError(
            "A file of a model must lie inside its folder. "
            f"Received: {str(file_name)!r:.200}."
        )


def _parts(main):
    """Returns the names of the files that a main weight file needs beside it."""
    if main.name == "params_shapes.json":
        return list(OPENAI_FILES)
    if not main.name.endswith(".index.json"):
        return []
    try:
        shard_of = json.loads(main.read_bytes())["weight_map"]
        names = sorted(set(shard_of.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HubError(f"{main} is no index of a sharded checkpoint.") from None
    for name in names:
        if "/" in str(name):
            raise HubError(
                f"{main}: an index must name files in its own folder. "
                f"Received: {name!r:.200}."
            )
        _check_inside(name)
    return names


def _fetch(repo_id, file_name, *, local_files_only, **options):
    """Returns the local path of a repository's file, None if it has no such file."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    local_files_only = local_files_only or constants.HF_HUB_OFFLINE
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return pathlib.Path(
                huggingface_hub.hf_hub_download(
                    repo_id,
                    file_name,
                    local_files_only=local_files_only,
                    library_name="tf_gpt",
                    **options,
                )
            )
        except errors.LocalEntryNotFoundError as error:
            if _is_known_missing(repo_id, file_name, **options):
                return None
            if local_files_only:
                _check_cached(repo_id, options["cache_dir"])
                return None
            raise HubError(
                f"{file_name} of {repo_id!r} is not in the cache, and the Hub did "
                f"not give it: {_first_line(error.__cause__ or error)}"
            ) from error
        except errors.GatedRepoError as error:
            raise HubError(
                f"Access to the Hub repository {repo_id!r} is restricted: "
                f"{_first_line(error)}"
            ) from error
        except errors.RepositoryNotFoundError as error:
            presets = ", ".join(list_presets()) or "none"
            raise HubError(
                f"No model {repo_id!r}: no directory of that name, no bundled preset "
                f"(there are: {presets}), and no Hub repository that this token may "
                "read."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise HubError(
                f"The Hub repository {repo_id!r} has no revision "
                f"{options['revision']!r}."
            ) from error
        except errors.EntryNotFoundError:
            return None
        except (OSError, ValueError, errors.HTTPError) as error:
            # A download that broke off continues where it stopped.
            if attempt == _ATTEMPTS or _is_final(error):
                raise HubError(
                    f"Fetching {file_name} of {repo_id!r} failed: {_first_line(error)}"
                ) from error
    raise AssertionError("unreachable")


def _is_known_missing(
    repo_id, file_name, *, revision, subfolder, cache_dir, **_unused
) -> bool:
    """Whether the Hub said, when it was last reached, that there is no such file."""
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(
        repo_id,
        f"{subfolder}/{file_name}" if subfolder else file_name,
        cache_dir=cache_dir,
        revision=revision,
    )
    return cached is huggingface_hub._CACHED_NO_EXIST


def _check_cached(repo_id, cache_dir):
    from huggingface_hub import constants, file_download

    folder = pathlib.Path(cache_dir or constants.HF_HUB_CACHE)
    folder /= file_download.repo_folder_name(repo_id=repo_id, repo_type="model")
    if not (folder / "snapshots").is_dir():
        raise HubError(
            f"No model {repo_id!r}: no directory of that name, and nothing of such a "
            f"Hub repository in the cache {folder.parent}. (Offline: the Hub was not "
            "asked.)"
        )


def _is_final(error) -> bool:
    """Whether asking again is useless: the Hub has answered, or never will."""
    answered = getattr(error, "response", None) is not None
    return answered or isinstance(error, ValueError)


def _first_line(error) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
