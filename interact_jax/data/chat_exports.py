"""What people export of their chats: every path through the messages is a dialogue.

ChatGPT       conversations.json: `mapping`, nodes by id with `parent` and `children`
Open WebUI    `chat` with `history`: messages by id with `parentId` and `childrenIds`

A reply that was asked for again and a message that was edited have siblings. What no one sees
(instructions, calls of tools and their results, reasoning) is left out, counted, and what follows
goes on where it was.
"""

from __future__ import annotations

import collections
import dataclasses
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from interact_jax.data.dialogues import Outcome
from interact_jax.data.message_trees import Tree
from interact_jax.data.messages import Fault, faults_at, find_name, require, require_object
from interact_jax.data.records import Loss, Note, Record

TEXTS = ("text", "multimodal_text")  # the kinds of ChatGPT's contents that are what people read
HOLDER = ""  # a node without a message of its own, which holds the first ones


def is_chatgpt(record: Mapping[str, Any]) -> bool:
    """Whether it looks like a conversation of ChatGPT's export."""
    return isinstance(record.get("mapping"), dict)


def is_open_webui(record: Mapping[str, Any]) -> bool:
    """Whether it looks like a chat of Open WebUI's export."""
    chat = record.get("chat")
    return isinstance(chat, dict) and isinstance(chat.get("history"), dict)


def chatgpt(record: Record, repair: str) -> Iterator[Outcome]:
    """A conversation of ChatGPT's data export."""
    value = record.value
    nodes = require(value, "mapping", dict)
    name = find_name(value, "conversation_id", "id") or record.name
    meta = {"model": value.get("default_model_slug"), "time": value.get("create_time")}
    export = _Export(record, nodes, "mapping", _chatgpt_message, "parent", "children")
    yield from export.paths(name, "", meta, repair)


def open_webui(record: Record, repair: str) -> Iterator[Outcome]:
    """A chat of Open WebUI's export."""
    value = record.value
    chat = require(value, "chat", dict)
    with faults_at("chat"):
        history = require(chat, "history", dict)
    with faults_at("chat.history"):
        nodes = require(history, "messages", dict)
    name = find_name(value, "id") or record.name
    user, meta = find_name(value, "user_id"), {"time": value.get("created_at")}
    place, keys = "chat.history.messages", ("parentId", "childrenIds")
    export = _Export(record, nodes, place, _open_webui_message, *keys)
    yield from export.paths(name, user, meta, repair)


def _chatgpt_message(node: Mapping[str, Any]) -> dict[str, Any] | str:
    """As `turns` reads messages; or what it is, where nobody reads it."""
    message = node.get("message")
    if message is None:
        return HOLDER
    author, content = (require(require_object(message), key, dict) for key in ("author", "content"))
    role, kind = require(author, "role", str), content.get("content_type")
    metadata = message.get("metadata")
    if role == "tool":
        return "result of a tool"
    if role == "assistant" and message.get("recipient") not in (None, "all"):
        return "call of a tool"
    if isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation"):
        return f"hidden message of the {role}"
    if kind not in TEXTS:
        return f"message of kind {reprlib.repr(kind)}"
    parts = require(content, "parts", list)
    if role == "system" and not any(parts):
        return HOLDER
    return {"role": role, "content": [_chatgpt_part(part) for part in parts]}


def _chatgpt_part(part: Any) -> Any:
    is_other = isinstance(part, dict) and "content_type" in part
    return {**part, "type": part["content_type"]} if is_other else part


def _open_webui_message(node: Mapping[str, Any]) -> dict[str, Any] | str:
    return {"role": require(node, "role", str), "content": node.get("content")}


@dataclasses.dataclass
class _Export:
    """Nodes by id, which lie at `place` in a record, and under which keys they name their `parent`
    and `children`; `message_of` says what a node shows."""

    record: Record
    nodes: Mapping[str, Any]
    place: str
    message_of: Callable[[Mapping[str, Any]], dict[str, Any] | str]
    parent: str
    children: str
    left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    seen: set[str] = dataclasses.field(default_factory=set)
    losses: list[Loss] = dataclasses.field(default_factory=list)

    def paths(
        self, name: str, user: str, meta: Mapping[str, Any], repair: str
    ) -> Iterator[Outcome]:
        """The dialogues, and what was left out of them."""
        known = {key: value for key, value in meta.items() if isinstance(value, str | int | float)}
        first = [key for key, node in self.nodes.items() if self._parent_of(node) not in self.nodes]
        tree = Tree(name, lambda node: self._shown(self._children_of(node.name)), repair, user)
        yield from tree.paths(self._shown(first), known)
        yield from self.losses
        for what, times in self.left_out.items():
            yield Note(f"{what} left out", self.record.where, "of an export", times=times)
        if lost := len(self.nodes) - len(self.seen):
            detail = f"{self.place}: {lost} of {len(self.nodes)} nodes follow no first message"
            yield Loss("parent not found", self.record.where, detail)

    def _shown(self, keys: list[str]) -> list[Record]:
        """These messages, and in place of those that are left out what follows them."""
        shown, pending = [], keys[::-1]
        while pending:
            key = pending.pop()
            if key in self.seen:
                self._lose("message reached twice", key, "it follows two messages, or itself")
                continue
            self.seen.add(key)
            try:
                if key not in self.nodes:
                    raise Fault("missing key", f"no message {key!r}")
                message = self.message_of(require_object(self.nodes[key]))
            except Fault as fault:
                self._lose(fault.reason, key, f"{fault.detail}; it falls with all below it")
                continue
            if isinstance(message, dict):
                value = {**message, "message_id": key}
                shown.append(dataclasses.replace(self.record, value=value, name=key))
                continue
            if message != HOLDER:
                self.left_out[message] += 1
            pending += reversed(self._children_of(key))
        return shown

    def _children_of(self, key: str) -> list[str]:
        children = self.nodes[key].get(self.children) or []
        if not isinstance(children, list) or not all(isinstance(child, str) for child in children):
            self._lose("wrong type", key, f"{self.children!r} is no list of ids")
            return []
        return children

    def _parent_of(self, node: Any) -> Any:
        parent = node.get(self.parent) if isinstance(node, dict) else None
        return parent if isinstance(parent, str) else None

    def _lose(self, reason: str, key: str, detail: str) -> None:
        place = f"{self.place}[{reprlib.repr(key)}]"
        self.losses.append(Loss(reason, self.record.where, f"{place}: {detail}"))
