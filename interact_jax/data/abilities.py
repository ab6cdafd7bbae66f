"""What a chat template takes, and what it shows: found by rendering a few messages once.

Templates differ. Some refuse a system message, or leave it out without a word; some refuse a
greeting; many know nothing of tools. No template is known here by its name: it is tried.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from interact_jax.data.templates import ChatTemplate, Refusal

Row = dict[str, Any]  # a message as templates are told it

# Words that no template has of its own: where one comes out, the template has shown it.
SYSTEM, GREETING, RESULT, CALLED, TOOL = (
    f"zq{name}qz" for name in ("system", "greeting", "result", "called", "tool")
)
USER: Row = {"role": "user", "content": "Hi"}
REPLY: Row = {"role": "assistant", "content": "Hello."}
OFFERED: Row = {
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


def _result(of: Row) -> list[Row]:
    answer = {"role": "tool", "content": RESULT, "name": CALLED, "tool_call_id": "call00001"}
    return [USER, of, answer, REPLY, USER]


@dataclasses.dataclass(frozen=True)
class Abilities:
    """Whether a template shows a system message, a message of the assistant before any other, the
    results of tools, the calls of them, and what could be called; whether it is told what a reply
    was reasoned by (of which `thinking` knows more). `arguments_as_text` is how it takes those of
    calls."""

    system: bool
    greeting: bool
    results: bool
    calls: bool
    tools: bool
    reasoning: bool
    arguments_as_text: bool

    def fit(self, rows: Sequence[Row]) -> list[Row]:
        """The messages as the template takes them: without a greeting, with what the system says
        put before the first message of the user, as far as it cannot be told otherwise."""
        system = [row for row in rows[:1] if row["role"] == "system"]
        turns = list(rows[len(system) :])
        if not self.greeting:
            while turns and turns[0]["role"] == "assistant":
                del turns[0]
        first = next((n for n, row in enumerate(turns) if row["role"] == "user"), None)
        if system and not self.system and first is not None:
            text = f"{system.pop()['content']}\n\n{turns[first]['content']}"
            turns[first] = {**turns[first], "content": text}
        return [self._taken(row) for row in (*system, *turns)]

    def _taken(self, row: Row) -> Row:
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
    """Of a template, which is asked a handful of questions; `reasoning` is known already."""

    def shows(word: str, *rows: Row, tools: Sequence[Any] = ()) -> bool:
        try:
            return word in template.render(rows, tools)
        except Refusal:
            return False

    calls = shows(CALLED, *_result(_call({"at": "noon"})), tools=[OFFERED])
    as_text = not calls and shows(CALLED, *_result(_call('{"at": "noon"}')), tools=[OFFERED])
    return Abilities(
        system=shows(SYSTEM, {"role": "system", "content": SYSTEM}, USER, REPLY, USER),
        greeting=shows(GREETING, {"role": "assistant", "content": GREETING}, USER, REPLY, USER),
        results=any(shows(RESULT, *_result(of)) for of in (REPLY, _call({}), _call("{}"))),
        calls=calls or as_text,
        tools=shows(TOOL, USER, tools=[OFFERED]),
        reasoning=reasoning,
        arguments_as_text=as_text,
    )
