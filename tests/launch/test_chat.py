"""launch/chat.py as a program: with a script at a pipe, and with a person at a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios

import pytest

from launch import chat
from tests.runs import ROOT, outcome, overrides, read_lines, tiny

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

PROGRAM = ROOT / "launch/chat.py"
KEPT = {"data.max_length": 256, "data.special_tokens": "keep"}
LONG = 3000  # tokens that a reply would have
PROMPT = "\x1b[1m> \x1b[0m"
SILENCE = 300  # seconds after which a program that says nothing has failed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny(directory, max_position_embeddings=4096)
    return directory


def command(model, log, *flags):
    settings = overrides(KEPT)
    return [sys.executable, PROGRAM, "--model", model, "--log", log, *flags, *settings]


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.slow
def test_a_script_at_a_pipe(model, tmp_path):
    """Replies and answers are standard output, remarks are not; a mistake ends it with its line."""
    log = tmp_path / "chat.jsonl"
    lines = "Hi\nShorter.\n/learn\n/lern\nnot read\n"
    ended = subprocess.run(
        command(model, log, "--max-new-tokens", "6"),
        input=lines.encode(),
        env=environment(),
        capture_output=True,
        check=False,
    )
    out, remarks = ended.stdout.decode(), ended.stderr.decode()
    assert ended.returncode == 2, remarks
    assert "error: standard input:4: /lern: there is no such command. Did you mean /learn?" in (
        remarks.replace("\n", " ")
    )
    messages = read_lines(log)[0]["messages"]
    assert [m["content"] for m in messages[::2]] == ["Hi", "Shorter."]
    assert "learned: 1 step on 1 interaction; loss " in out
    assert "a context of 4,096 tokens" in remarks and "> " not in out and "\x1b" not in out


class Person:
    """A program at a pseudo-terminal of 80 columns; `seen` is all that it has shown."""

    def __init__(self, arguments, **more):
        self._own, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

        def begin():
            os.login_tty(theirs)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where tests run in background

        self.process = subprocess.Popen(
            arguments,
            preexec_fn=begin,
            env=environment(TERM="xterm-256color", **more),
        )
        os.close(theirs)
        self.seen, self._read = "", 0

    def types(self, text):
        os.write(self._own, text.encode())

    def waits_for(self, text):
        """What was shown up to `text`, since it was last waited for."""
        while (found := self.seen.find(text, self._read)) < 0:
            self._receive(text)
        between = self.seen[self._read : found]
        self._read = found + len(text)
        return between

    def interrupts_until(self, text):
        """Ctrl-C, again where nothing follows: Python does not see one that comes after readline
        has shown the prompt and before it waits for a key."""
        self.types("\x03")
        while not select.select([self._own], [], [], 10)[0]:
            self.types("\x03")
        self.waits_for(text)

    def waits_for_some(self, characters):
        """Until so many more were shown."""
        while len(self.seen) < self._read + characters:
            self._receive(f"{characters} characters")

    def _receive(self, wanted):
        ready, _, _ = select.select([self._own], [], [], SILENCE)
        assert ready, f"no {wanted!r} in {self.seen[self._read :]!r}"
        try:
            piece = os.read(self._own, 1 << 16)
        except OSError:  # the other end is closed
            piece = b""
        assert piece, f"ended without {wanted!r}: {self.seen[self._read :]!r}"
        self.seen += piece.decode(errors="replace")

    def status(self):
        with contextlib.suppress(OSError):
            while os.read(self._own, 1 << 16):
                pass
        return self.process.wait(SILENCE)

    def leaves(self):
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@pytest.fixture
def person(model, tmp_path):
    """At temperature 0 a random model hardly ends by itself."""
    flags = ("--temperature", "0", "--max-new-tokens", str(LONG))
    person = Person(command(model, tmp_path / "chat.jsonl", *flags))
    yield person
    person.leaves()


def test_a_person_at_a_terminal(person, tmp_path):
    """Ctrl-C ends the reply, which is kept as far as it came, and nothing else: the next message is
    answered. At the prompt it says how to leave; what was learned is not lost without a word."""
    person.waits_for("/help")
    person.waits_for(PROMPT)
    for n, message in enumerate(("Hi", "Shorter, please."), start=1):
        person.types(f"{message}\n")
        person.waits_for(f"{message}\r\n")
        person.waits_for_some(40)  # of a reply that streams, and what readline says before it
        person.types("\x03")
        person.waits_for(PROMPT)
        reply = read_lines(tmp_path / "chat.jsonl")[0]["messages"][-1]
        ids = reply["token_ids"]
        assert 0 < len(ids) == len(reply["logps"]) == len(reply["sampling_logps"]) < LONG
        assert len(read_lines(tmp_path / "chat.jsonl")[0]["messages"]) == 2 * n
    person.interrupts_until("/quit or Ctrl-D leaves")
    person.types("/signal\n")
    assert "48;" in person.waits_for("red: less likely")  # a background
    person.types("/learn\n")
    person.waits_for("learned: 1 step on 1 interaction")
    person.waits_for(PROMPT)
    person.types("\x04")
    person.waits_for("1 step learned and not saved")
    person.waits_for(PROMPT)
    person.types("\x04")
    assert person.status() == 0


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--log", "-"], "--log -: it is written anew after every reply"),
        (["--config.model.path=pocket"], "the model of a chat is given with --model"),
        (["--config.skip.signal=1"], "a chat learns from every interaction"),
        (["--temperature", "-1"], "temperature=-1.0: expected 0 (greedy)"),
        (["--config.data.max_length=5000"], "data.max_length"),
        (["--config.data.thinkng=keep"], "Did you mean data.thinking"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_before_the_weights_are_read(flags, said, capsys):
    status, message = outcome(chat.main, ["--model", "pocket", *flags], capsys)
    assert status == 2 and said in message, message
    assert "loading" not in message
