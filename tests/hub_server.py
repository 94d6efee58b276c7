"""A server that speaks the part of the Hub's interface that tf_gpt uses.

Real HTTP on the loopback: `resolve` with ETags, ranges and error codes, and
creating a repository and committing to it. It can be told to cut downloads.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading

_RESOLVE = re.compile(
    r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)"
)
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<verb>\w+)/(?P<revision>.+)")
_BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


class HubServer(http.server.ThreadingHTTPServer):
    """Repositories are `{name: {revision: {file: bytes}}}`.

    Args:
        repositories: What there is to fetch; uploads are added.
        token: If given, the token without which everything is answered by 401.
    """

    daemon_threads = True

    def __init__(self, repositories=None, token=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories or {}
        self.token = token
        self.requests = []  # "METHOD path range"
        self.cuts = {}  # file -> how many more downloads of it break off halfway
        self.silent = set()  # files whose downloads break off at once, always
        self.commits = []  # {"summary": ..., "files": {...}, "pr": bool}
        self.created = []
        self.uploaded = {}  # LFS objects by SHA-256

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            self.server_close()
            thread.join()

    def fetched(self):
        """Names of the files whose contents were sent, in order."""
        paths = [line.split()[1] for line in self.requests if line.startswith("GET")]
        return [m["file"] for path in paths if (m := _RESOLVE.fullmatch(path))]

    def handle_error(self, request, client_address):
        pass  # Cutting a connection is what some tests are about.


def commit_of(repo, revision):
    """The commit that a revision stands for."""
    return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._serve(send_body=False)

    def do_GET(self):
        self._serve(send_body=True)

    def _serve(self, send_body):
        self._note()
        if self._refused():
            return
        path = self.path.partition("?")[0]
        match = _RESOLVE.fullmatch(path)
        about = _API.fullmatch(path)
        if about and about["repo"] in self.server.repositories:
            # huggingface_hub 0.34 asks for this before it uploads.
            self._json({"id": about["repo"], "xetEnabled": False, "siblings": []})
            return
        if path == "/api/whoami-v2":
            self._json({"name": "me", "type": "user", "auth": {}})
            return
        if match is None:
            self._json({"error": "not here"}, 404)
            return
        repository = self.server.repositories.get(match["repo"])
        if repository is None:
            # The Hub does not tell strangers what is private and what is not.
            self._json({"error": "Repository not found"}, 401, "RepoNotFound")
            return
        by_commit = {commit_of(match["repo"], name): name for name in repository}
        revision = by_commit.get(match["revision"], match["revision"])
        if revision not in repository:
            self._json({"error": "Revision not found"}, 404, "RevisionNotFound")
            return
        content = repository[revision].get(match["file"])
        commit = commit_of(match["repo"], revision)
        if content is None:
            self._json({"error": "Entry not found"}, 404, "EntryNotFound", commit)
            return
        self._file(match["file"], content, commit, send_body)

    def _file(self, name, content, commit, send_body):
        start, stop = 0, len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
            stop = min(stop, int(wanted[2]) + 1) if wanted[2] else stop
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header(
                "Content-Range", f"bytes {start}-{stop - 1}/{len(content)}"
            )
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if not send_body:
            return
        n_cuts = self.server.cuts.get(name, 0)
        if n_cuts:
            self.server.cuts[name] -= 1
            stop = (start + stop) // 2
        elif name in self.server.silent:
            stop = start
        self.wfile.write(content[start:stop])
        self.wfile.flush()
        if n_cuts or name in self.server.silent:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_POST(self):
        self._note()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused():
            return
        path = self.path.partition("?")[0]
        match = _API.fullmatch(path)
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match and match["verb"] == "preupload":
            self._preupload(json.loads(body))
        elif match and match["verb"] == "commit":
            self._commit(match["repo"], match["revision"], body)
        elif _BATCH.fullmatch(path):
            self._batch(json.loads(body))
        else:
            self._json({"error": f"not here: {path}"}, 404)

    def do_PUT(self):
        self._note()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.uploaded[self.path.rpartition("/")[2]] = content
        self._json({})

    def _create(self, wanted):
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        # The second since huggingface_hub 2.
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.created.append({"repo": repo, "private": private})
        if repo in self.server.repositories:
            self._json({"error": "You already created this", "url": repo}, 409)
            return
        self.server.repositories[repo] = {"main": {}}
        self._json({"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})

    def _preupload(self, wanted):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs"
                if file["path"].endswith(".safetensors")
                else "regular",
                "shouldIgnore": False,
            }
            for file in wanted["files"]
        ]
        self._json({"files": files})

    def _batch(self, wanted):
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {
                    "upload": {"href": f"{self.server.url}/upload/{item['oid']}"}
                },
            }
            for item in wanted["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo, revision, body):
        if repo not in self.server.repositories:
            self._json({"error": "Repository not found"}, 404, "RepoNotFound")
            return
        commit = {"files": {}, "pr": "create_pr=1" in self.path, "revision": revision}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                commit["summary"] = value["summary"]
            elif entry["key"] == "file":
                commit["files"][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                commit["files"][value["path"]] = self.server.uploaded[value["oid"]]
        self.server.commits.append(commit)
        if not commit["pr"]:
            branch = self.server.repositories[repo].setdefault(revision, {})
            branch |= commit["files"]
        self._json(
            {
                "success": True,
                "commitUrl": f"{self.server.url}/{repo}/commit/{'0' * 40}",
                "commitOid": "0" * 40,
                "pullRequestUrl": f"{self.server.url}/{repo}/discussions/1"
                if commit["pr"]
                else None,
            }
        )

    def _note(self):
        wanted = self.headers.get("Range", "-")
        self.server.requests.append(f"{self.command} {self.path} {wanted}")

    def _refused(self):
        given = self.headers.get("Authorization")
        if self.server.token is None or given == f"Bearer {self.server.token}":
            return False
        self._json({"error": "Invalid username or password."}, 401)
        return True

    def _json(self, value, status=200, code=None, commit=None):
        content = json.dumps(value).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", value["error"])
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
