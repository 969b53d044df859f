"""A stand-in for the Hugging Face hub: the endpoints that a push and a pull of a model use, on the loopback device."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories by name: a list of commits, each a dictionary of files. Revisions are main and numbers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.branches: dict[tuple[str, str], int] = {}
        self.requests: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.refused: dict[str, int] = {}  # the status of a commit, by repository
        self.sizes: dict[str, int | None] = {}  # stated instead of the true ones
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name: str, revision: str) -> int | None:
        """The number of a revision's commit, which its 40 digits spell; None if there is none."""
        count = len(self.commits.get(name, ()))
        if (name, revision) in self.branches:
            return self.branches[name, revision]
        number = int(revision) if len(revision) == 40 and revision.isdecimal() else count - 1
        return number if count and (revision == "main" or revision.isdecimal()) and number < count else None


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), content_type="application/json")

    def missing(self, code: str) -> None:
        self.answer(404, x_error_code=code)

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        parts = path.split("/")
        api = parts[:2] == ["api", "models"]
        if api:
            parts = parts[2:]
        name, rest = "/".join(parts[:2]), parts[2:]
        if name not in self.server.commits:
            return self.missing("RepoNotFound")
        about = {"id": name, "modelId": name, "private": self.server.private.get(name, False)}
        if api and not self.server.commits[name]:
            return self.json(about | {"sha": "f" * 40, "siblings": []})
        number = self.server.commit(name, rest[1] if len(rest) > 1 else "main")
        if number is None:
            return self.missing("RevisionNotFound")
        files = self.server.commits[name][number]
        if api:
            stated = self.server.sizes
            listed = [{"rfilename": file, "size": stated.get(file, len(files[file]))} for file in files]
            return self.json(about | {"sha": f"{number:040d}", "siblings": listed})
        content = files.get("/".join(rest[2:]))
        if content is None:
            return self.missing("EntryNotFound")
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.answer(200, content, etag=etag, x_repo_commit=f"{number:040d}")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.server.uploads[self.path.rpartition("/")[2]] = self.body()
        self.answer(200)

    def do_POST(self) -> None:
        body, path = self.body(), urlsplit(self.path).path.strip("/")
        self.server.requests.append(f"POST {path}")
        if path == "api/repos/create":
            value = json.loads(body)
            name = "/".join(filter(None, (value.get("organization"), value["name"])))
            if name not in self.server.commits:
                self.server.private[name] = value.get("visibility") == "private" or bool(value.get("private"))
            self.server.commits.setdefault(name, [])
            return self.json({"url": f"{self.server.url}/{name}"})
        if path == "api/validate-yaml":  # the head of a model card
            return self.json({"errors": [], "warnings": []})
        parts = path.split("/")
        if parts[-1] == "batch":  # large files
            objects = [
                o | {"actions": {"upload": {"href": f"{self.server.url}/upload/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.json({"transfer": "basic", "objects": objects})
        name, action, revision = "/".join(parts[2:4]), parts[4], unquote(parts[5])
        if action == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": f, "uploadMode": "lfs" if f.endswith(".safetensors") else "regular", "shouldIgnore": False}
                for f in files
            ]
            return self.json({"files": modes})
        if name in self.server.refused:
            return self.answer(self.server.refused[name], b'{"error": "the quota is used up"}')
        commits = self.server.commits[name]
        if action == "branch":
            self.server.branches[name, revision] = len(commits) - 1
            return self.json({})
        new = dict(commits[-1]) if commits else {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                new[value["path"]] = self.server.uploads[value["oid"]]
            elif entry["key"] == "deletedFile":
                del new[value["path"]]
        commits.append(new)
        oid = f"{len(commits) - 1:040d}"
        if revision != "main":
            self.server.branches[name, revision] = len(commits) - 1
        self.json({"commitUrl": f"{self.server.url}/{name}/commit/{oid}", "commitOid": oid, "success": True})


@contextmanager
def serving() -> Iterator[Hub]:
    """A running hub."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
