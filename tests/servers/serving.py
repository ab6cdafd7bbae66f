"""What the servers share: HTTP, a plan of faults, and a journal of what was answered.

Both are files in the server's folder, so that they outlive the process:

    plan.json        [{"at": "/generate", "nth": 3, "do": "die"}, ...]: each happens once
    journal.jsonl    a line for every request that was answered in full
    port, process    where it listens, also when it is started again; its number
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SILENCE = 30  # seconds of a server that hangs: longer than any client in the tests waits


class Refused(Exception):
    """What a server answers to a bad request."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Faults:
    """The faults of the plan, each taken out of the file before it happens."""

    def __init__(self, folder: Path):
        self._plan, self._lock = folder / "plan.json", threading.Lock()

    def due(self, path: str) -> dict[str, Any]:
        with self._lock:
            plan = json.loads(self._plan.read_text()) if self._plan.exists() else []
            for fault in plan:
                if fault["at"] == path:
                    fault["nth"] = fault.get("nth", 1) - 1
                    break
            else:
                return {}
            ready = fault["nth"] <= 0
            if ready:
                plan.remove(fault)
            partial = self._plan.with_suffix(".partial")
            partial.write_text(json.dumps(plan))
            os.replace(partial, self._plan)
            return fault if ready else {}


class Service:
    """A server's content: subclasses answer."""

    def __init__(self, folder: Path):
        self.folder, self.faults = folder, Faults(folder)
        self._lock = threading.Lock()

    def answer(self, method: str, path: str, body: dict[str, Any], handler: Any) -> Any:
        raise NotImplementedError

    def hold(self) -> None:
        """Keep a request that has come in until something has changed."""
        raise NotImplementedError

    def note(self, **entry: Any) -> None:
        with self._lock, (self.folder / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"process": os.getpid(), **entry}) + "\n")


ANSWERING = threading.Lock()
"""Held while a request is answered and noted, so that no death comes between the two."""


def die() -> None:
    with ANSWERING:
        os.kill(os.getpid(), signal.SIGKILL)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.loads(content or b"{}"))

    def _answer(self, body: dict[str, Any]) -> None:
        path = self.path.partition("?")[0]
        fault = self.service.faults.due(path)
        what = fault.get("do", "")
        if what == "die":
            die()
        elif what == "hold":
            self.service.hold()
        elif what == "hang":
            time.sleep(SILENCE)
        elif what == "drop":
            self._close()
            return
        elif what == "status":
            self._send(fault["status"], json.dumps(fault.get("body", {})), fault.get("headers", {}))
            return
        elif what == "garbage":
            self._send(200, fault.get("text", '{"choices": [{"mess'))
            return
        try:
            value, status = self.service.answer(self.command, self.path, body, self), 200
        except Refused as refused:
            value, status = {"error": {"message": str(refused)}}, refused.status
        if what == "die answering":
            die()
        text = json.dumps(value)
        if what == "half":
            self._send(status, text, upto=len(text) // 2)
            self._close()
            return
        with ANSWERING:  # noted first: whoever has the answer finds it in the journal
            self.service.note(path=path, status=status, body=body, headers=dict(self.headers))
            self._send(status, text)

    def _send(self, status: int, text: str, headers: Any = None, upto: int | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:upto])

    def _close(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *given: Any) -> None:
        """Nothing: the journal has it."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    return parser


def run(folder: Path, make: Callable[[], Service]) -> None:
    """Start a server process for every line of standard input, and say when it has ended.

    This process has imported what the servers need, which takes them seconds, and does nothing
    else: a server that was killed is back at once.
    """
    for _ in sys.stdin:
        if not (child := os.fork()):
            (folder / "process").write_text(str(os.getpid()))
            serve(make())
        os.waitpid(child, 0)
        print("ended", flush=True)


def serve(service: Service) -> None:
    port = service.folder / "port"
    known = int(port.read_text()) if port.exists() else 0
    server = Server(("127.0.0.1", known), type("Bound", (Handler,), {"service": service}))
    partial = port.with_suffix(".partial")
    partial.write_text(str(server.server_address[1]))
    os.replace(partial, port)
    server.serve_forever()
