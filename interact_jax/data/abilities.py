"""What a chat template accepts and what it shows, determined once by rendering a few messages.

Templates differ. Some refuse a system message or leave it out silently; some refuse a greeting;
many do not support tools. Nothing here depends on a template's name: each one is tried.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from interact_jax.data.templates import ChatTemplate, Refusal

Row = dict[str, Any]  # a message as it is passed to templates

# Words that no template contains: where one appears in the output, the template has shown it.
SYSTEM, GREETING, RESULT, CALLED, TOOL = (
    f"zq{name}qz" for name in ("system", "greeting", "result", "called", "tool")
)
USER: Row = {"role": "user", "content": "Hi"}
REPLY: Row = {"role": "assistant", "content": "Hello."}
TOOL_SCHEMA: Row = {
    "type": "function",
    "function": {
        "name": TOOL,
        "description": "Tells.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}


def _call(arguments: Any) -> Row:
    function = {"name": CALLED, "arguments": arguments}
    call = {"id": "call00001", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _result(reply: Row) -> list[Row]:
    answer = {"role": "tool", "content": RESULT, "name": CALLED, "tool_call_id": "call00001"}
    return [USER, reply, answer, REPLY, USER]


@dataclasses.dataclass(frozen=True)
class Abilities:
    """Whether a template shows a system message, an assistant message before any other, the results
    of tools, calls of them, and the tools on offer; whether it is given the reasoning of replies
    (see `thinking`). `arguments_as_text`: whether it wants the arguments of calls as text."""

    system: bool
    greeting: bool
    results: bool
    calls: bool
    tools: bool
    reasoning: bool
    arguments_as_text: bool

    def fit(self, rows: Sequence[Row]) -> list[Row]:
        """The messages in a form that the template accepts: where necessary without the greeting,
        and with the system message put before the first user message."""
        system = [row for row in rows[:1] if row["role"] == "system"]
        turns = list(rows[len(system) :])
        if not self.greeting:
            while turns and turns[0]["role"] == "assistant":
                del turns[0]
        first_user = next((n for n, row in enumerate(turns) if row["role"] == "user"), None)
        if system and not self.system and first_user is not None:
            text = f"{system.pop()['content']}\n\n{turns[first_user]['content']}"
            turns[first_user] = {**turns[first_user], "content": text}
        return [self._adapt(row) for row in (*system, *turns)]

    def _adapt(self, row: Row) -> Row:
        if not row.get("tool_calls"):
            return row
        if not self.calls:
            return {name: value for name, value in row.items() if name != "tool_calls"}
        if not self.arguments_as_text:
            return row
        return {**row, "tool_calls": [_as_text(call) for call in row["tool_calls"]]}


def _as_text(call: Row) -> Row:
    function = call.get("function")
    if not isinstance(function, dict) or isinstance(function.get("arguments", ""), str):
        return call
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def abilities_of(template: ChatTemplate, reasoning: bool) -> Abilities:
    """The abilities of a template, found with a few renderings; `reasoning` is known already."""

    def shows(word: str, *rows: Row, tools: Sequence[Any] = ()) -> bool:
        try:
            return word in template.render(rows, tools)
        except Refusal:
            return False

    calls = shows(CALLED, *_result(_call({"at": "noon"})), tools=[TOOL_SCHEMA])
    as_text = not calls and shows(CALLED, *_result(_call('{"at": "noon"}')), tools=[TOOL_SCHEMA])
    return Abilities(
        system=shows(SYSTEM, {"role": "system", "content": SYSTEM}, USER, REPLY, USER),
        greeting=shows(GREETING, {"role": "assistant", "content": GREETING}, USER, REPLY, USER),
        results=any(shows(RESULT, *_result(reply)) for reply in (REPLY, _call({}), _call("{}"))),
        calls=calls or as_text,
        tools=shows(TOOL, USER, tools=[TOOL_SCHEMA]),
        reasoning=reasoning,
        arguments_as_text=as_text,
    )
