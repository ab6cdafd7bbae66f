"""For tests of what must not need a network: connecting to anywhere but this machine fails."""

import socket

import pytest


@pytest.fixture
def no_network(monkeypatch):
    connect = socket.socket.connect

    def refuse(self, address):
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise AssertionError(f"a connection to {host}")
        return connect(self, address)

    def unknown(host, *rest, **more):
        raise AssertionError(f"the address of {host} was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
