"""Prompts on disk: JSON Lines with `{"messages": [...]}` or `{"prompt": "..."}` a line."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from interact_jax.data.records import GZIP_MAGIC
from interact_jax.places import input_name, reading
from interact_jax.schema import ROLES, InputError, Message

EXPECTED = (
    'expected {"messages": [{"role": "user", "content": "..."}]}, ending in a user message, or '
    '{"prompt": "..."}'
)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A line of a prompts file: what to answer, the line as it was, and where it stands."""

    messages: tuple[Message, ...]
    line: dict[str, Any]
    source: str  # "prompts.jsonl:17"


def read_prompts(path: str | Path) -> list[Prompt]:
    """Read a JSON Lines file, plain or gzip, or "-"; empty lines are skipped.

    Raises InputError, with file and line, for anything that is not a prompt.
    """
    name = input_name(path)
    try:
        with reading(path) as file:
            raw = file.read()
        if raw.startswith(GZIP_MAGIC) or name.endswith(".gz"):
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{name}: cannot be read as JSON Lines in UTF-8 ({error}).") from error
    # Not splitlines(): that also breaks at characters which JSON allows inside a text.
    prompts = [
        _read_line(line, f"{name}:{number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not prompts:
        raise InputError(f"{name}: no prompts in it; {EXPECTED} on every line.")
    return prompts


def _read_line(text: str, source: str) -> Prompt:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: not JSON ({error}); {EXPECTED}.") from error
    if not isinstance(line, dict) or ("messages" in line) == ("prompt" in line):
        given = sorted(line) if isinstance(line, dict) else type(line).__name__
        raise InputError(
            f"{source}: needs exactly one of 'messages' and 'prompt', given {given}; {EXPECTED}."
        )
    try:
        json.dumps(line, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{source}: holds half a character (a lone surrogate such as \\ud83d), which is no "
            "text. Repair the line where it was written."
        ) from error
    rows = line.get("messages", [{"role": "user", "content": line.get("prompt")}])
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{source}: 'messages' is {rows!r}; {EXPECTED}.")
    messages = tuple(_message(row, f"{source}: message {i}") for i, row in enumerate(rows))
    if messages[-1].role != "user":
        raise InputError(
            f"{source}: the last message is of role {messages[-1].role!r}; {EXPECTED}."
        )
    if any(message.role == "system" for message in messages[1:]):
        raise InputError(f"{source}: a system message may only come first.")
    return Prompt(messages, line, source)


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, dict):
        raise InputError(f"{where} is {row!r}; {EXPECTED}.")
    role, content = row.get("role"), row.get("content")
    if role not in ROLES:
        raise InputError(f"{where}: role {role!r} is not known. Roles: {', '.join(ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: content is {content!r}; expected a text.")
    return Message(role, content)
