"""Server processes, as tests see them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.compiling import flags_of_one_device
from tests.runs import ROOT

STARTING = 900.0  # seconds: machines may be busy


class Running:
    """`python -m tests.servers.NAME` with its files in `folder`."""

    def __init__(self, name: str, folder: Path, *arguments: str):
        self.folder, self.starts = folder, 0
        command = [sys.executable, "-m", f"tests.servers.{name}", "--folder", str(folder)]
        # One device: several are for the tests of meshes, and take longer.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags_of_one_device()}
        self._log = (folder / "log").open("ab")
        self._launcher = subprocess.Popen(
            [*command, *arguments],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.start()

    def start(self) -> None:
        assert self._launcher.stdin is not None
        self._launcher.stdin.write("start\n")
        self._launcher.stdin.flush()
        self.starts += 1
        deadline = time.monotonic() + STARTING
        while not self._is_up():
            log = (self.folder / "log").read_text()
            assert self._launcher.poll() is None and time.monotonic() < deadline, log
            time.sleep(0.02)

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            port = int((self.folder / "port").read_text())
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def stop(self) -> None:
        self._launcher.kill()
        os.kill(int((self.folder / "process").read_text()), signal.SIGKILL)
        self._launcher.communicate()
        self._log.close()

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
    def kept_alive(self, deaths: int) -> Iterator[None]:
        """Within this block the server dies so many times, and is started again each time."""
        assert self._launcher.stdout is not None
        ended = self._launcher.stdout

        def watch() -> None:
            for _ in range(deaths):
                ended.readline()
                self.start()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        yield
        watcher.join(STARTING)
        assert not watcher.is_alive()


@contextlib.contextmanager
def running(name: str, folder: Path, *arguments: str) -> Iterator[Running]:
    server = Running(name, folder, *arguments)
    server.plan()
    try:
        yield server
    finally:
        server.stop()
