"""Buckets for tests: objects in memory under gs://, and a server of Google Cloud Storage."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from interact_jax import store

BUCKET = "bucket"
OBJECT = re.compile(r"/b/([^/]+)/o/([^/?]+)")  # in the address of an object
OBJECTS = re.compile(r"/b/([^/]+)/o\b")
NAME = re.compile(rb'"name": ?"([^"]+)"')  # in an upload


class InMemory(MemoryFileSystem):
    """fsspec's files in memory, without directories, as in a bucket: for what Orbax, which goes to
    the server by itself, does not write."""

    protocol = "gs"
    store: dict[str, Any] = {}  # noqa: RUF012  of all instances, as in the class above
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(str(path).removeprefix("gs://"))


@contextlib.contextmanager
def in_memory() -> Iterator[Any]:
    """gs://, in memory; the file system."""
    before = _registry.get("gs")
    InMemory.store.clear()
    InMemory.pseudo_dirs[:] = [""]
    fsspec.register_implementation("gs", InMemory, clobber=True)
    store._bucket.cache_clear()
    try:
        yield fsspec.filesystem("gs")
    finally:
        store._bucket.cache_clear()
        _registry.pop("gs")
        if before is not None:
            _registry["gs"] = before


@dataclasses.dataclass
class Served:
    """A server of Google Cloud Storage with one bucket."""

    environment: dict[str, str]  # what its clients look at
    refusing: threading.Event  # it takes nothing while this is set


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """A server on the loopback address."""
    for library in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(library, reason="pip install -e '.[test-buckets]'")
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.server import RequestHandler, create_server

    refusing = threading.Event()

    class Handler(RequestHandler):
        """As Google's servers do, and the emulator does not, it says of which generation an object
        is, and writes one only over that of the generation that is asked for."""

        generation: str | None = None

        def do_GET(self) -> None:
            if "alt=media" in self.path:
                self.generation = self._generation(*OBJECT.search(self.path).groups())
            super().do_GET()

        def end_headers(self) -> None:
            if self.generation is not None:
                self.send_header("x-goog-generation", self.generation)
            super().end_headers()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.rfile = io.BytesIO(body)
            query = parse_qs(urlsplit(self.path).query)
            name = query.get("name") or [
                found[1].decode() for found in [NAME.search(body)] if found
            ]
            expected = query.get("ifGenerationMatch")
            bucket = OBJECTS.search(self.path)
            if refusing.is_set():
                self._refuse(403)
            elif expected and (self._generation(bucket[1], name[0]) or "0") != expected[0]:
                self._refuse(412)
            else:
                super().do_POST()

        def _generation(self, bucket: str, name: str) -> str | None:
            try:
                return str(self.storage.get_file_obj(bucket, unquote(name))["generation"])
            except NotFound:
                return None

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    httpd = server._api._httpd
    httpd.RequestHandlerClass = functools.partial(Handler, server._storage)
    httpd.handle_error = lambda *_: None  # a client that was killed, or has seen enough
    try:
        yield Served(
            {
                store.EMULATOR: f"http://127.0.0.1:{httpd.server_port}",
                # It would ask Google what kind of bucket this is.
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            },
            refusing,
        )
    finally:
        server.stop()


def fetch(address: str, folder: Path) -> Path:
    """A copy of all objects below an address, in a directory."""
    files = store.of(address)
    home = store.place(address)
    for name in files.names(home):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with files.open(home / name) as file:
            (folder / name).write_bytes(file.read())
    return folder
