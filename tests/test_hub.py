"""An export goes to the hub whole, with its card and nothing else, or is refused in one sentence.

The hub is a server on this machine that speaks as much of it as an upload needs.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from interact_jax import card, hub
from interact_jax.models import hf
from interact_jax.schema import InputError
from launch import export
from tests.runs import outcome

TOKEN = "hf_right"


class Hub(BaseHTTPRequestHandler):
    """Files of one repository, {path: bytes}, in `server.files`; requests in `server.asked`."""

    def do_GET(self):
        self._answered("GET")

    def do_POST(self):
        self._answered("POST")

    def log_message(self, *_):
        pass

    def _answered(self, method):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.server.asked.append((method, path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid credentials"})
        if path == "/api/whoami-v2":
            return self._send(200, {"name": "team", "type": "user", "orgs": []})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            url = f"http://127.0.0.1:{self.server.server_port}/team/mine"
            return self._send(200, {"url": url, "name": "team/mine"})
        if path.startswith("/api/models/team/mine/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "0"}
                for name, data in self.server.files.items()
            ]
            return self._send(200, tree)
        if path == "/api/models/team/mine/preupload/main":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._send(200, {"files": modes})
        if path == "/api/models/team/mine/commit/main":
            return self._commit(body)
        if path == "/api/models/team/mine":
            siblings = [{"rfilename": name} for name in self.server.files]
            return self._send(200, {"id": "team/mine", "sha": "1" * 40, "siblings": siblings})
        return self._send(404, {"error": f"not spoken here: {path}"})

    def _commit(self, body):
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                value = line["value"]
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.server.files[line["value"]["path"]]
        url = f"http://127.0.0.1:{self.server.server_port}/team/mine/commit/{'1' * 40}"
        self._send(200, {"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})

    def _send(self, status, answer):
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):
            self.wfile.write(data)


@pytest.fixture
def server(monkeypatch):
    """The hub that this process knows."""
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    serving.files, serving.asked, serving.created = {}, [], []
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{serving.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def exported(tmp_path):
    """A directory that looks like an export, with files of somebody else's in it."""
    names = ("config.json", "tokenizer.json", "model.safetensors", card.NAME)
    out = tmp_path / "export"
    (out / "chat_templates").mkdir(parents=True)
    for name in (*names, "chat_templates/tool.jinja", "notes.txt", ".env", "sub/private.json"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(f"of {name}\n")
    return out


def ours(out):
    """What an upload has to bring."""
    names = ["config.json", "tokenizer.json", "model.safetensors", card.NAME]
    return {name: (out / name).read_bytes() for name in [*names, "chat_templates/tool.jinja"]}


@pytest.mark.parametrize("private", [False, True])
def test_an_export_and_its_card_are_there_afterwards(private, server, exported):
    server.files |= {"model-00001-of-00002.safetensors": b"old", "figure.png": b"theirs"}
    assert hub.push(exported, "mine", private) == f"{constants.ENDPOINT}/team/mine"
    assert server.files == {**ours(exported), "figure.png": b"theirs"}
    (created,) = server.created
    assert created["name"] == "mine"
    assert (created.get("visibility") == "private" or created.get("private") is True) == private


def test_weights_under_the_same_name_are_replaced(server, exported):
    hub.push(exported, "team/mine")
    (exported / "model.safetensors").write_bytes(b"new")
    hub.push(exported, "team/mine")
    assert server.files == ours(exported)


def refused(out, name="team/mine"):
    with pytest.raises(InputError) as found:
        hub.push(out, name)
    said = str(found.value)
    assert said.startswith(f"--push-to-hub {name}: ") and "\n" not in said
    assert f"The export is complete in {out}; once that is fixed" in said
    return said


def test_without_a_token_nothing_is_asked(server, exported, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "there is no token. `hf auth login`, or set HF_TOKEN" in refused(exported)
    assert server.asked == []


def test_a_token_that_is_refused_sends_nothing(server, exported, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "did not take it (" in refused(exported) and server.files == {}
    assert server.asked == [("GET", "/api/whoami-v2")]


def test_a_hub_that_does_not_answer_is_named(server, exported, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 did not take it (" in refused(exported)


def test_a_hub_that_breaks_off_is_named(server, exported, monkeypatch):
    monkeypatch.setattr(Hub, "_commit", lambda self, body: self._send(400, {"error": "no room"}))
    assert "did not take it (no room)" in refused(exported)


@pytest.mark.parametrize("name", ["a/b/c", "", "-a", "a b"])
def test_a_name_that_is_none_is_refused_before_the_export(name, tmp_path, capsys):
    given = ["--checkpoint", str(tmp_path), "--out", str(tmp_path / "out"), f"--push-to-hub={name}"]
    status, said = outcome(export.main, given, capsys)
    assert status == 2 and f"error: --push-to-hub {name}: expected NAME or OWNER/NAME" in said


def test_what_belongs_to_an_export_is_known(exported):
    assert "chat_templates/*" in hf.files_of(exported)
    assert not {"notes.txt", ".env", "sub/*"} & set(hf.files_of(exported))
