"""A headless Chromium, driven over pipes: pages as people meet them, without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
SPECIAL = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}


class Browser:
    """One page. `width` is that of the window, in pixels; `downloads` is where saved files go."""

    def __init__(self, page: Path, profile: Path, downloads: Path, width: int = 1000):
        assert CHROMIUM is not None
        commands, self._send = os.pipe()
        self._receive, replies = os.pipe()
        # The browser reads from descriptor 3 and writes to 4.
        script = f'exec "$@" 3<&{commands} 4>&{replies}'
        own = (f"--user-data-dir={profile}", f"--window-size={width},900")
        self._process = subprocess.Popen(
            ["bash", "-c", script, "-", CHROMIUM, *FLAGS, *own, "about:blank"],
            pass_fds=(commands, replies),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(replies)
        self._number, self._rest, self._session = 0, b"", ""
        self._events: list[dict[str, Any]] = []  # that nobody has waited for yet
        self.requests: list[str] = []  # addresses that the page asked for
        self.problems: list[str] = []  # exceptions, and what the page's policy refused
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(downloads),
            eventsEnabled=True,
        )
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command of the DevTools protocol."""
        self._number += 1
        command: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._send, json.dumps(command).encode() + b"\0")
        while (message := self._next()).get("id") != self._number:
            self._notice(message)
        assert "error" not in message, message
        found = message["result"]
        assert isinstance(found, dict)
        return found

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._receive, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _notice(self, message: dict[str, Any]) -> None:
        self._events.append(message)
        told = message.get("params", {})
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif message["method"] == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(told["exceptionDetails"]))
        elif message["method"] == "Log.entryAdded":
            self.problems.append(told["entry"]["text"])

    def wait(self, event: str, **wanted: Any) -> None:
        """Wait until the browser tells of an event with these parameters."""
        while True:
            while self._events:
                told = self._events.pop(0)
                if told["method"] == event and wanted.items() <= told["params"].items():
                    return
            message = self._next()
            assert "method" in message, message
            self._notice(message)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """The text that is shown of an element."""
        found = self.value(f"document.querySelector({json.dumps(selector)}).innerText")
        assert isinstance(found, str)
        return found

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = SPECIAL.get(key) or ord(key)
        typed = {"text": key} if len(key) == 1 else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **typed
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def reload(self) -> None:
        self._events.clear()
        self.call("Page.reload")
        self.wait("Page.loadEventFired")

    def save(self, button: str) -> None:
        """Click on what saves a file, and wait until that is on disk."""
        self.value(f"document.querySelector({json.dumps(button)}).click()")
        self.wait("Browser.downloadProgress", state="completed")

    def close(self) -> None:
        self._session = ""
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._send)
        os.close(self._receive)
