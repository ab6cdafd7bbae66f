"""JSON over HTTP, by the standard library: every fault is a `Failed` that says what to do next."""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from collections.abc import Mapping
from typing import Any

from interact_jax.endpoints.retrying import Failed, refusal
from interact_jax.schema import InputError

SHOWN = 300  # characters of a server's answer in a message
CONNECTION_TIMEOUT = 10.0  # seconds


class JsonServer:
    """A server that takes and gives JSON objects; can be used from many threads.

    Every request has a connection of its own: one that is kept could lead to a server that has
    been started again since, and would fail for no other reason.
    """

    def __init__(self, url: str, key: str = "", timeout: float = 600.0):
        """`timeout`: seconds of silence until a request counts as failed. `key`: a bearer token.

        Raises InputError for an address that is none.
        """
        check_url(url)
        parts = urllib.parse.urlsplit(url)
        self.url, self.timeout = url.rstrip("/"), timeout
        self._prefix = parts.path.rstrip("/")
        self._host, self._port, self._secure = parts.hostname, parts.port, parts.scheme == "https"
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def get(self, path: str) -> dict[str, Any]:
        return self._exchange("GET", path, None, CONNECTION_TIMEOUT)

    def post(
        self, path: str, body: Mapping[str, Any], timeout: float | None = None
    ) -> dict[str, Any]:
        """The answer to a request; {} for an empty one. Raises Failed."""
        return self._exchange("POST", path, json.dumps(body).encode(), timeout or self.timeout)

    def _exchange(
        self, method: str, path: str, body: bytes | None, timeout: float
    ) -> dict[str, Any]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host or "", self._port, timeout=CONNECTION_TIMEOUT)
        place = f"{method} {self.url}{path}"
        try:
            connection.connect()
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            connection.request(method, self._prefix + path, body, self._headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = f"{place}: {type(error).__name__}: {error}".rstrip(": ")
            raise Failed(reason, again=True) from error
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            text = content.decode(errors="replace").strip()
            reason = f"{place}: {response.status} {response.reason}: {text[:SHOWN]}".rstrip(": ")
            raise refusal(response.status, dict(response.getheaders()), reason)
        return _read(content, place)


def _read(content: bytes, place: str) -> dict[str, Any]:
    if not content.strip():
        return {}
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        shown = content[:SHOWN].decode(errors="replace")
        raise Failed(f"{place}: no JSON ({error}): {shown}", again=True) from error
    if not isinstance(value, dict):
        raise Failed(f"{place}: expected an object, got {type(value).__name__}", again=True)
    return value


def check_url(url: str) -> None:
    """Raise InputError for anything but `http://HOST[:PORT][/PATH]` or `https://...`

    That includes one with a name or password in it: addresses stand in results."""
    try:
        parts = urllib.parse.urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        host = parts.hostname if fits and parts.username is not None else ""
    except ValueError:  # a port that is no number
        fits, host = False, ""
    if host:
        raise InputError(
            f"{host}: an address with a name or password in it; expected one without, and the key "
            "in the environment."
        )
    if not fits or not url.isascii() or any(c.isspace() for c in url):
        raise InputError(f"{url!r}: expected the address of a server: http://127.0.0.1:8000")


def key_from(variable: str) -> str:
    """The key in an environment variable, so that none is ever on a command line or in a file.

    "" names no variable: the server wants no key. Raises InputError where it is not set.
    """
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise InputError(f"{variable}: not set in the environment; expected the server's API key.")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"{variable}: holds characters that no API key has.")
    return key
