"""A substitute for the hub on 127.0.0.1: the endpoints that downloads use, serving folders of this machine.

>>> with Hub({"owner/name": folder}) as hub:
...     subprocess.run([...], env=hub.environment())
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

API = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([0-9a-f]{40})")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)")
LARGE = (".safetensors", ".bin", ".ckpt")  # what the hub stores in Git LFS


class Hub:
    """Serves each repository's folder at every commit; `asked` lists (file, first byte, bytes sent) in order.

    With ``stalls`` = (file name, count) the hub sends that many bytes of the file and then nothing, until `release`.
    """

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        self.repositories = dict(repositories)
        self.asked: list[tuple[str, int, int]] = []
        self.stalls: tuple[str, int] | None = None
        self.stalled, self._released = threading.Event(), threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """The environment variables with which a process uses this as the hub."""
        return {**os.environ, "HF_ENDPOINT": self.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def release(self) -> None:
        self.stalls = None
        self._released.set()

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def listing(self, repository: str) -> list[dict[str, Any]]:
        folder = self.repositories[repository]
        return [entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]

    def send(self, handler: BaseHTTPRequestHandler, name: str, path: Path, start: int) -> None:
        data = path.read_bytes()[start:]
        if self.stalls and self.stalls[0] == name:
            data = data[: self.stalls[1]]
            handler.wfile.write(data)
            handler.wfile.flush()
            self.asked.append((name, start, len(data)))
            self.stalled.set()
            self._released.wait(60)
            return
        self.asked.append((name, start, len(data)))
        handler.wfile.write(data)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: a killed client is no fault."""


def reach(patch: pytest.MonkeyPatch, hub: Hub) -> None:
    """Let this process use ``hub`` as the hub."""
    from huggingface_hub import constants

    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False}.items():
        patch.setattr(constants, name, value)


def entry(folder: Path, path: Path) -> dict[str, Any]:
    """A file as the hub's API lists it."""
    data = path.read_bytes()
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()
    told: dict[str, Any] = {"rfilename": path.relative_to(folder).as_posix(), "size": len(data), "blobId": blob}
    if path.name.endswith(LARGE):
        told["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return told


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if (found := API.fullmatch(path)) and found[1] in hub.repositories:
                told = {"id": found[1], "modelId": found[1], "sha": found[2], "siblings": hub.listing(found[1])}
                self._answer(200, json.dumps(told).encode())
            elif (found := FILE.fullmatch(path)) and found[1] in hub.repositories:
                self._file(found[3], hub.repositories[found[1]] / found[3])
            else:
                self._answer(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

        def _file(self, name: str, path: Path) -> None:
            size = path.stat().st_size
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Length", str(size - start))
            self.send_header("Accept-Ranges", "bytes")
            if "Range" in self.headers:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            hub.send(self, name, path, start)

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
