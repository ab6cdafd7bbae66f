"""Server processes, as tests see them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.runs import ROOT

STARTING = 180.0  # seconds: machines may be busy


class Running:
    """`python -m tests.servers.NAME` with its files in `folder`."""

    def __init__(self, name: str, folder: Path, *arguments: str):
        self.folder = folder
        self._command = [sys.executable, "-m", f"tests.servers.{name}", "--folder", str(folder)]
        self._command += arguments
        self.starts = 0
        self.start()

    def start(self) -> None:
        # One device: several are for the tests of meshes, and take longer.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=environment, cwd=ROOT, stdout=log, stderr=log
            )
        self.starts += 1
        deadline = time.monotonic() + STARTING
        while not self._is_up():
            log_text = (self.folder / "log").read_text()
            assert self.process.poll() is None, log_text
            assert time.monotonic() < deadline, log_text
            time.sleep(0.02)

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            port = int((self.folder / "port").read_text())
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{(self.folder / 'port').read_text()}"

    def plan(self, *faults: dict[str, Any]) -> None:
        (self.folder / "plan.json").write_text(json.dumps(faults))

    def planned(self) -> list[dict[str, Any]]:
        """The faults that have not happened yet."""
        return json.loads((self.folder / "plan.json").read_text())

    def journal(self, path: str = "") -> list[dict[str, Any]]:
        file = self.folder / "journal.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        entries = [json.loads(line) for line in lines]
        return [entry for entry in entries if entry["path"] == path or not path]

    def forget(self) -> None:
        """Begin a new journal and plan."""
        (self.folder / "journal.jsonl").unlink(missing_ok=True)
        self.plan()

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Within this block the server is started again whenever it dies."""
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                if self.process.poll() is not None:
                    self.start()
                over.wait(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


@contextlib.contextmanager
def running(name: str, folder: Path, *arguments: str) -> Iterator[Running]:
    server = Running(name, folder, *arguments)
    server.plan()
    try:
        yield server
    finally:
        server.stop()
