"""Logs of a few conversations, and filters that are easy to see through."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator

from interact_jax.prepare.filtering import Changed, Dropped, Notes, Outcome
from interact_jax.prepare.job import Settings
from interact_jax.prepare.pipeline import prepare
from interact_jax.prepare.splits import parse_splits
from interact_jax.schema import Conversation, InputError


@dataclasses.dataclass(frozen=True)
class Talkative:
    """Drops conversations with fewer messages."""

    least: int = 3
    name: str = "talkative"

    def __call__(self, conversation: Conversation) -> Outcome:
        number = len(conversation.messages)
        if number < self.least:
            return Dropped("few messages", f"{number}, expected {self.least}")
        return conversation


@dataclasses.dataclass(frozen=True)
class Quiet:
    """Writes small letters."""

    name: str = "quiet"

    def __call__(self, conversation: Conversation) -> Outcome:
        messages = tuple(
            dataclasses.replace(m, content=m.content.lower()) for m in conversation.messages
        )
        changed = sum(a != b for a, b in zip(messages, conversation.messages, strict=True))
        if not changed:
            return conversation
        return Changed(dataclasses.replace(conversation, messages=messages), {"capitals": changed})


@dataclasses.dataclass(frozen=True)
class Once:
    """Drops what begins as an earlier conversation does."""

    name: str = "once"
    width: int = 8

    def note(self, conversation: Conversation) -> bytes:
        first = conversation.messages[0].content
        return hashlib.blake2b(first.encode(), digest_size=self.width).digest()

    def decide(self, notes: Notes) -> Iterator[tuple[int, Dropped]]:
        seen: set[bytes] = set()
        for place, note in enumerate(bytes(note) for block in notes for note in block):
            if note in seen:
                yield place, Dropped("seen", note.hex())
            seen.add(note)


@dataclasses.dataclass(frozen=True)
class Waiting(Once):
    """Decides as `Once` does, but not before a file is gone."""

    name: str = "waiting"
    file: str = ""

    def decide(self, notes: Notes) -> Iterator[tuple[int, Dropped]]:
        (notes.scratch / "half").write_bytes(b"half")
        while os.path.exists(self.file):
            time.sleep(0.01)
        yield from super().decide(notes)


FILTERS = {"talkative": Talkative, "quiet": Quiet, "once": Once}


def parse_filter(text):
    if text.startswith("waiting:"):
        return Waiting(file=text.partition(":")[2])
    if text not in FILTERS:
        raise InputError(f"--filter {text}: there is no such filter.")
    return FILTERS[text]()


def talk(number, turns=2, user=None, opening=None, **more):
    """A record of the native format."""
    said = [opening or f"Question {number}?"]
    for turn in range(turns):
        said += [f"Answer {number}.{turn} {'x' * (number % 50)}", f"And {number}.{turn}?"]
    roles = [("user", "assistant")[at % 2] for at in range(len(said))]
    messages = [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]
    return {"id": f"t{number}", "user": user or f"u{number // 3}", "messages": messages, **more}


def write_logs(folder, files=3, each=40, copies=True):
    """Files of conversations, of which some are short, some copies, and some ids are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in range(files):
        lines = []
        for at in range(each):
            number = file * each + at
            record = talk(number, turns=number % 4)
            if copies and number % 10 == 9:
                record = {**talk(number - 7), "id": f"t{at}"}
            lines.append(json.dumps(record))
        (folder / f"log-{file}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


SPLITS = parse_splits("train=0.8,test=0.2")


def settings_of(logs, *filters, **more):
    given = {"part_bytes": 6000, "splits": SPLITS, "filters": filters, **more}
    return Settings(str(logs), **given)


def prepared(logs, out, *filters, share=None, processes=1, about=None, tokenizer="", **more):
    """Prepare logs with the filters of these names, in this process."""
    settings = settings_of(logs, *filters, **more)
    found = [parse_filter(text) for text in filters]
    return prepare(
        settings,
        found,
        out,
        share=share,
        processes=processes,
        about=about,
        tokenizer=tokenizer,
    )


def content(folder):
    """All files below a folder, by name."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
