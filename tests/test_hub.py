"""Against a real HTTP server on the loopback; nothing leaves the machine."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hub_server import HubServer, commit_of
from huggingface_hub import constants, file_download
from safetensors.numpy import save

from tf_gpt import hub
from tf_gpt.errors import HubError

REPO = "someone/gpt"
CONFIG = b'{"model_type": "openai-gpt"}'
WEIGHTS = save({"a": np.arange(50_000, dtype="float32")})


@pytest.fixture
def files():
    return {"config.json": CONFIG, "model.safetensors": WEIGHTS, "README.md": b"# x"}


def point_to(url, monkeypatch):
    """Does what `HF_ENDPOINT` does, which is read once a process."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):
        monkeypatch.setattr(
            module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
        )


@pytest.fixture
def server(files, monkeypatch):
    with HubServer({REPO: {"main": files}}).running() as server:
        point_to(server.url, monkeypatch)
        # Uploads by the documented protocol, not by the one of the Hub's new store.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # So that there is something to continue from after half a small file.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield server


@pytest.fixture
def options(tmp_path):
    return {"cache_dir": tmp_path / "cache", "token": False}


def test_a_directory_gives_the_files_that_exist(tmp_path):
    (tmp_path / "config.json").write_bytes(CONFIG)
    found = hub.resolve_files(tmp_path, ["config.json", "vocab.json"])
    assert found == {"config.json": tmp_path / "config.json"}
    assert hub.resolve_files(str(tmp_path), ["config.json"]) == found


def test_a_subfolder_of_a_directory_is_looked_in(tmp_path):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "config.json").write_bytes(CONFIG)
    found = hub.resolve_files(tmp_path, ["config.json"], subfolder="step")
    assert found == {"config.json": tmp_path / "step" / "config.json"}
    with pytest.raises(HubError, match=r"no directory .*other"):
        hub.resolve_files(tmp_path, ["config.json"], subfolder="other")


def test_a_preset_is_found_by_name(tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    monkeypatch.setattr(hub, "_presets_folder", lambda: tmp_path)
    assert hub.list_presets() == ["tiny"]
    found = hub.resolve_files("tiny", ["config.json", "vocab.json"])
    assert found == {"config.json": folder / "config.json"}


@pytest.mark.parametrize(
    "name", ["nothing", "./nothing", "/no/such/place", "a/b/c", "", "a b/c", "../..x"]
)
def test_an_unknown_name_is_refused_with_the_presets(name, monkeypatch):
    monkeypatch.setattr(hub, "list_presets", lambda: ["mini", "tiny"])
    with pytest.raises(HubError, match="mini, tiny") as error:
        hub.resolve_files(name, ["config.json"])
    assert repr(name) in str(error.value)


def test_a_file_is_not_taken_for_a_model(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(HubError, match="is a file"):
        hub.resolve_files(tmp_path / "x", ["config.json"])


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a//b", "..", "a\\..\\b", "C:x"]
)
def test_files_outside_the_folder_are_refused(tmp_path, name):
    with pytest.raises(HubError, match="must lie inside"):
        hub.resolve_files(tmp_path, [name])
    with pytest.raises(HubError, match="must lie inside"):
        hub.resolve_files(tmp_path, ["config.json"], subfolder=name)


def test_options_that_cannot_apply_are_refused(tmp_path):
    with pytest.raises(ValueError, match="revision='v1'"):
        hub.resolve_files(tmp_path, ["config.json"], revision="v1")
    with pytest.raises(ValueError, match="exclude each other"):
        hub.resolve_files(REPO, [], force_download=True, local_files_only=True)


def test_only_the_files_wanted_are_fetched(server, options):
    found = hub.resolve_files(REPO, ["config.json", "vocab.json"], **options)
    assert list(found) == ["config.json"]
    assert found["config.json"].read_bytes() == CONFIG
    assert server.fetched() == ["config.json"]


def test_what_was_fetched_is_used_offline(server, options):
    wanted = ["config.json", "vocab.json", "model.safetensors"]
    online = hub.resolve_files(REPO, wanted, **options)
    server.requests.clear()
    assert hub.resolve_files(REPO, wanted, local_files_only=True, **options) == online
    assert hub.resolve_weights(REPO, local_files_only=True, **options).is_file()
    assert server.requests == []


def test_what_was_fetched_is_used_when_the_hub_is_down(server, options, monkeypatch):
    wanted = ["config.json", "vocab.json"]
    online = hub.resolve_files(REPO, wanted, **options)
    point_to("http://127.0.0.1:9", monkeypatch)
    assert hub.resolve_files(REPO, wanted, **options) == online
    # Whether there is such a file nobody knows: not the same as "there is none".
    with pytest.raises(HubError, match=r"merges\.txt .*not in the cache"):
        hub.resolve_files(REPO, ["merges.txt"], **options)


def test_offline_without_anything_fetched_is_refused(server, options):
    with pytest.raises(HubError, match="nothing of such a Hub repository in the cache"):
        hub.resolve_files(REPO, ["config.json"], local_files_only=True, **options)
    assert server.requests == []


def test_force_download_fetches_again(server, options):
    hub.resolve_files(REPO, ["config.json"], **options)
    hub.resolve_files(REPO, ["config.json"], **options)
    assert server.fetched() == ["config.json"]
    hub.resolve_files(REPO, ["config.json"], force_download=True, **options)
    assert server.fetched() == ["config.json"] * 2


def test_a_revision_and_a_subfolder_are_asked_for(server, options):
    server.repositories[REPO]["v1"] = {"old/config.json": b"{}"}
    for revision in ("v1", commit_of(REPO, "v1")):
        found = hub.resolve_files(
            REPO, ["config.json"], revision=revision, subfolder="old", **options
        )
        assert found["config.json"].read_bytes() == b"{}"
    with pytest.raises(HubError, match="no revision 'v2'"):
        hub.resolve_files(REPO, ["config.json"], revision="v2", **options)


def test_an_unknown_repository_is_named(server, options):
    with pytest.raises(HubError, match=r"'someone/else'.*no Hub repository"):
        hub.resolve_files("someone/else", ["config.json"], **options)


def test_a_token_is_sent_and_its_lack_reported(server, options):
    server.token = "hf_secret"
    with pytest.raises(HubError, match=REPO) as error:
        hub.resolve_files(REPO, ["config.json"], **options)
    assert "hf_secret" not in str(error.value)
    options["token"] = "hf_secret"
    assert hub.resolve_files(REPO, ["config.json"], **options)


@pytest.mark.parametrize("n_cuts", [1, 3])
def test_a_download_cut_midway_continues_where_it_stopped(server, options, n_cuts):
    server.cuts["model.safetensors"] = n_cuts
    found = hub.resolve_files(REPO, ["model.safetensors"], **options)
    assert found["model.safetensors"].read_bytes() == WEIGHTS
    ranges = [line.split()[2] for line in server.requests if line.startswith("GET")]
    assert len(ranges) == n_cuts + 1
    assert ranges[0] == "-"
    assert all(r.startswith("bytes=") and r != "bytes=0-" for r in ranges[1:])


def test_a_download_that_is_always_cut_is_given_up(server, options):
    server.silent.add("model.safetensors")
    with pytest.raises(HubError, match=r"model\.safetensors .*someone/gpt"):
        hub.resolve_files(REPO, ["model.safetensors"], **options)


@pytest.mark.parametrize("place", ["directory", "hub"])
@pytest.mark.parametrize(
    "present, main",
    [
        (
            ["model.safetensors", "pytorch_model.bin", "tf_model.h5"],
            "model.safetensors",
        ),
        (["pytorch_model.bin", "tf_model.h5"], "pytorch_model.bin"),
        (["tf_model.h5"], "tf_model.h5"),
        (["params_shapes.json", *hub.OPENAI_FILES], "params_shapes.json"),
    ],
)
def test_the_best_weights_are_chosen_and_nothing_else_fetched(
    server, options, tmp_path, place, present, main
):
    content = {name: name.encode() for name in present}
    if place == "hub":
        server.repositories[REPO]["main"] = content
        path = hub.resolve_weights(REPO, **options)
        expected = present if main == "params_shapes.json" else [main]
        assert server.fetched() == expected
    else:
        for name, data in content.items():
            (tmp_path / name).write_bytes(data)
        path = hub.resolve_weights(tmp_path)
    assert path.name == main


def sharded(*names):
    index = {"weight_map": {str(i): name for i, name in enumerate(names)}}
    return {"model.safetensors.index.json": json.dumps(index).encode()}


def test_shards_are_fetched_with_their_index(server, options):
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    content = {name: name.encode() for name in names}
    server.repositories[REPO]["main"] = sharded(*names, names[0]) | content
    path = hub.resolve_weights(REPO, **options)
    assert path.name == "model.safetensors.index.json"
    assert all((path.parent / name).is_file() for name in names)
    assert server.fetched() == [path.name, *names]


def test_a_missing_shard_is_named(server, options):
    server.repositories[REPO]["main"] = sharded("model-00001-of-00001.safetensors")
    with pytest.raises(HubError, match="missing: model-00001-of-00001"):
        hub.resolve_weights(REPO, **options)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "..\\x"])
def test_an_index_that_names_a_file_outside_is_refused(server, options, name):
    server.repositories[REPO]["main"] = sharded(name)
    with pytest.raises(HubError, match="folder"):
        hub.resolve_weights(REPO, **options)
    assert server.fetched() == ["model.safetensors.index.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"weight_map": 3}', b"[" * 10**5])
def test_an_index_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(HubError, match="no index"):
        hub.resolve_weights(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path, server, options):
    server.repositories[REPO]["main"] = {"config.json": CONFIG}
    for name, given in ((tmp_path, {}), (REPO, options)):
        with pytest.raises(HubError, match=r"holds no weights.*model\.safetensors"):
            hub.resolve_weights(name, **given)


@pytest.fixture
def folder(tmp_path, files):
    folder = tmp_path / "saved"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_is_uploaded_to_a_new_repository(server, folder, files, tmp_path):
    url = hub.upload_folder(
        "me/new", folder, commit_message="First", private=True, token="hf_x"
    )
    assert server.created == [{"repo": "me/new", "private": True}]
    assert server.repositories["me/new"]["main"] == files
    assert server.commits[0]["summary"] == "First"
    assert url.startswith(f"{server.url}/me/new/commit/")
    path = hub.resolve_weights("me/new", cache_dir=tmp_path / "cache", token="hf_x")
    assert path.read_bytes() == WEIGHTS


def test_a_pull_request_leaves_the_branch_alone(server, folder):
    before = dict(server.repositories[REPO]["main"])
    (folder / "README.md").write_bytes(b"# changed")
    url = hub.upload_folder(REPO, folder, create_pr=True, token="hf_x")
    assert server.commits[0]["pr"]
    assert server.repositories[REPO]["main"] == before
    assert url == f"{server.url}/{REPO}/discussions/1"


def test_uploading_without_the_right_token_is_refused(server, folder):
    server.token = "hf_right"
    with pytest.raises(HubError, match="Uploading to 'me/new' failed") as error:
        hub.upload_folder("me/new", folder, token="hf_wrong")
    assert "hf_wrong" not in str(error.value)
    assert server.commits == []


def test_a_name_alone_belongs_to_the_owner_of_the_token(server, folder, files):
    url = hub.upload_folder("new", folder, token="hf_x")
    assert server.repositories["me/new"]["main"] == files
    assert "/me/new/" in url


@pytest.mark.parametrize("repo_id", ["../new", "a/b/c", "", "a/b c"])
def test_uploading_to_no_repository_name_is_refused(folder, repo_id):
    with pytest.raises(HubError, match="`repo_id` must be"):
        hub.upload_folder(repo_id, folder)


def test_the_endpoint_and_offline_variables_are_heeded(server, tmp_path):
    program = (
        "from tf_gpt import hub\n"
        f"print(hub.resolve_weights({REPO!r}, token=False).read_bytes().hex())"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for offline in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=pathlib.Path(hub.__file__).parents[1],
            env={**environment, "HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == WEIGHTS.hex(), done.stderr
        n_requests = len(server.requests)
    assert len(server.requests) == n_requests
