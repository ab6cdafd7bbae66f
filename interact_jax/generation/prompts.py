"""Prompts on disk: JSON Lines with `{"messages": [...]}` or `{"prompt": "..."}` on each line."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import reprlib
import shlex
from pathlib import Path
from typing import Any

from interact_jax.data.chat import ChatFormat
from interact_jax.data.dialogues import read_dialogue, tools_of
from interact_jax.data.fitting import NO_TOOLS, Counts, fit, is_plain
from interact_jax.data.messages import Fault, keys_of, require_object
from interact_jax.data.records import Loss, Record, read_records
from interact_jax.data.thinking import PLAIN
from interact_jax.places import STANDARD, input_name
from interact_jax.schema import Conversation, InputError, Message

EXPECTED = (
    'expected {"messages": [{"role": "user", "content": "..."}]}, ending in a user message, or '
    '{"prompt": "..."}'
)
ANSWERABLE = ("user", "tool")  # roles that the last message may have


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A line of a prompts file: what to answer, the original line and its place; notes on what was
    mended or is not used."""

    messages: tuple[Message, ...]
    line: dict[str, Any]
    source: str  # "prompts.jsonl:17"
    tools: tuple[Any, ...] = ()
    notes: tuple[str, ...] = ()


def read_prompts(path: str | Path, command: str = "") -> list[Prompt]:
    """Read JSON Lines or a JSON list, plain or gzip, or "-"; empty lines are skipped.

    Messages are read and mended like those of conversations. `command` reads prompts from standard
    input: it is named where `path` is no file but may be what to ask. Raises InputError, with file
    and line, for anything that is not a prompt.
    """
    name = input_name(path)
    if name and str(path) != STANDARD and not os.path.exists(path):
        message = (
            f"{name}: no such file. Prompts are read from a file, or from - (standard input): "
            f"{EXPECTED} on every line."
        )
        if command and not _names_a_file(name):
            asked = shlex.quote(json.dumps({"prompt": name}, ensure_ascii=False))
            message += f" If this is what to ask: printf '%s\\n' {asked} | {command}"
        raise InputError(message)
    prompts = []
    for item in read_records(str(path), name):
        if isinstance(item, Loss):
            if item.reason == "empty file":
                raise InputError(f"{name}: no prompts in it; {EXPECTED} on every line.")
            if item.reason == "unreadable file":
                raise InputError(f"{item}. Check the path.")
            raise InputError(f"{item}; {EXPECTED}.")
        try:
            prompts.append(prompt_of(item))
        except Fault as fault:
            raise InputError(f"{item.where}: {fault.reason}: {fault.detail}; {EXPECTED}.") from None
    return prompts


def _names_a_file(name: str) -> bool:
    """Whether a text looks like the name of a file: one word, with a suffix or a folder."""
    return len(name.split()) == 1 and bool(os.path.dirname(name) or Path(name).suffix)


def prompt_of(record: Record) -> Prompt:
    """The prompt of a record. Raises Fault."""
    line = require_object(record.value)
    if ("messages" in line) == ("prompt" in line):
        detail = f"exactly one of 'messages' and 'prompt', found {keys_of(line)}"
        raise Fault("not one prompt", detail)
    key = "messages" if "messages" in line else "prompt"
    is_text = key == "prompt" and not isinstance(line[key], list)
    turns = [{"role": "user", "content": line[key]}] if is_text else None
    dialogue = read_dialogue(record, key, "join", turns=turns)
    if dialogue.losses:
        raise Fault(dialogue.losses[0].reason, dialogue.losses[0].detail)
    repairs = [note for note in dialogue.notes if not note.unused]
    last = 0 if is_text else len(line[key]) - 1
    if dialogue.restarts or not dialogue.messages or dialogue.ends[-1] != last:
        reasons = "; ".join(f"{note.reason}: {note.detail}" for note in repairs[:3])
        raise Fault("no prompt", reasons or f"{key!r} is {reprlib.repr(line[key])}")
    if (role := dialogue.messages[-1].role) not in ANSWERABLE:
        raise Fault("nothing to answer", f"the last message is of role {role!r}")
    notes = tuple(note.reason for note in dialogue.notes)
    return Prompt(dialogue.messages, line, record.where, tools_of(line), notes)


def fit_prompt(prompt: Prompt, chat: ChatFormat) -> Prompt:
    """The prompt in a form that the chat template can show. Raises InputError if its messages would
    change."""
    conversation = Conversation("", prompt.messages, source=prompt.source, tools=prompt.tools)
    if is_plain(conversation):
        return prompt
    counts: Counts = collections.Counter()
    fitted = fit(conversation, chat.abilities, "join", counts)
    if fitted is None or fitted.messages != conversation.messages:
        raise InputError(f"{prompt.source}: {NO_TOOLS}. Take another model, or leave it out.")
    return dataclasses.replace(prompt, tools=fitted.tools, notes=(*prompt.notes, *counts))


def encode_prompt(prompt: Prompt, chat: ChatFormat, context: int, kind: str = PLAIN) -> list[int]:
    """The ids of a prompt. Raises InputError where no reply fits behind it in a model's context."""
    try:
        ids = chat.prompt(prompt.messages, tools=prompt.tools, kind=kind)
    except InputError as error:
        raise InputError(f"{prompt.source}: {error}") from error
    if len(ids) >= context:
        raise InputError(
            f"{prompt.source}: the prompt is {len(ids)} tokens long, which leaves no room for a "
            f"reply in the model's context of {context}. Shorten it or leave it out."
        )
    return ids


def count_repairs(prompts: list[Prompt]) -> dict[str, int]:
    """In how many prompts something was mended or not used, by reason."""
    return dict(collections.Counter(note for prompt in prompts for note in set(prompt.notes)))
