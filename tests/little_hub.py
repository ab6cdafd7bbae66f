"""The few requests of the Hugging Face hub with which its client lists and reads a data set,
answered from a directory on this machine."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "ann/talks"
COMMIT = "0" * 40


@contextlib.contextmanager
def serve(directory: Path, token: str = ""):
    """The address of a hub with one data set, NAME; whoever reads it needs `token`, if given."""
    handler = type("Handler", (_Handler,), {"directory": directory, "token": token})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    directory: Path
    token: str

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self._answer(b'{"error": "Repository Not Found"}', 401)
        elif path == f"/api/datasets/{NAME}" or path.startswith(f"/api/datasets/{NAME}/revision"):
            self._answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode())
        elif found := re.fullmatch(rf"/api/datasets/{NAME}/tree/[^/]+/?(.*)", path):
            below = self.directory / found[1]
            deep = "recursive=true" in self.path.lower()
            names = sorted(below.rglob("*") if deep else below.glob("*"))
            self._answer(json.dumps([self._entry(name) for name in names]).encode())
        elif found := re.fullmatch(rf"/datasets/{NAME}/resolve/[^/]+/(.+)", path):
            self._file(self.directory / found[1])
        else:
            self._answer(b'{"error": "not found"}', 404)

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not re.fullmatch(rf"/api/datasets/{NAME}/paths-info/[^/]+", urlsplit(self.path).path):
            return self._answer(b'{"error": "not found"}', 404)
        names = (self.directory / name for name in json.loads(body)["paths"])
        self._answer(json.dumps([self._entry(name) for name in names if name.exists()]).encode())

    def _entry(self, name: Path) -> dict:
        path = str(name.relative_to(self.directory))
        if name.is_dir():
            return {"type": "directory", "oid": COMMIT, "size": 0, "path": path}
        data = name.read_bytes()
        oid = hashlib.sha1(data).hexdigest()
        return {"type": "file", "oid": oid, "size": len(data), "path": path}

    def _file(self, name: Path):
        data = name.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return self._answer(data)
        start, stop = int(found[1]), int(found[2] or len(data) - 1) + 1
        place = {"Content-Range": f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"}
        self._answer(data[start:stop], 206, place)

    def _answer(self, data: bytes, status: int = 200, more: dict | None = None):
        self.send_response(status)
        headers = {"Content-Length": str(len(data)), "X-Repo-Commit": COMMIT, **(more or {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""
