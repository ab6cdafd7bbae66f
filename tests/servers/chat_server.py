"""A chat endpoint that speaks OpenAI's and Anthropic's protocols and repeats what it is told.

Asked which of two answers is better, it names the longer one; asked for a grade, it counts letters.
It checks what the services check:
the key, the fields they require, and that no field is unknown.
"""

from __future__ import annotations

import re
from typing import Any

from tests.servers import serving
from tests.servers.serving import Refused, Service

KEY = "key-of-the-tests"
MODEL = "parrot"
OPENAI = "/v1/chat/completions"
ANTHROPIC = "/v1/messages"
REQUIRED = {OPENAI: {"model", "messages"}, ANTHROPIC: {"model", "messages", "max_tokens"}}
KNOWN = {
    OPENAI: {"max_tokens", "temperature", "top_p", "stop", "seed", "chat_template_kwargs"},
    ANTHROPIC: {"system", "temperature", "top_p", "top_k", "stop_sequences"},
}


class Parrot(Service):
    def answer(self, method: str, path: str, body: dict[str, Any], handler: Any) -> Any:
        if path == "/health":
            return {}
        if path not in REQUIRED:
            raise Refused(404, f"no such page: {path}")
        key = handler.headers.get("x-api-key") if path == ANTHROPIC else None
        key = key or (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
        if key != KEY:
            raise Refused(401, "incorrect API key")
        if not REQUIRED[path] <= set(body) <= REQUIRED[path] | KNOWN[path]:
            raise Refused(400, f"fields {sorted(body)}")
        if body["model"] != MODEL:
            raise Refused(404, f"no model {body['model']}")
        if body["messages"][-1]["content"] == "too long":
            raise Refused(400, "the prompt is too long")
        return _openai(body) if path == OPENAI else _anthropic(body)


def _said(body: dict[str, Any]) -> tuple[str, int]:
    texts = [message["content"] for message in body["messages"]]
    said = letter_of(texts[-1]) or grade_of(texts) or f"You said: {texts[-1]}"
    return said, sum(len(text.split()) for text in texts)


def letter_of(text: str) -> str:
    """A or B, the longer of the two answers in a judge's prompt; C if they are as long as each
    other; "" where there are none."""
    answers = [
        re.search(f"=== answer {name} ===\n(.*?)\n=== end", text, re.DOTALL) for name in "AB"
    ]
    if not all(answers):
        return ""
    a, b = (len(answer[1]) for answer in answers if answer)
    return "C" if a == b else "A" if a > b else "B"


def grade_of(texts: list[str]) -> str:
    """A grade of the answer in a judge's prompt, 1 to 5; where the persona is one who mumbles,
    something else. "" where none is asked for."""
    answer = re.search("=== answer ===\n(.*?)\n=== end of answer", texts[-1], re.DOTALL)
    if not answer:
        return ""
    return "hm" if "mumbles" in texts[0] else str(1 + len(answer[1]) % 5)


def _openai(body: dict[str, Any]) -> dict[str, Any]:
    text, read = _said(body)
    message = {"role": "assistant", "content": text}
    written = len(text.split())
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        },
    }


def _anthropic(body: dict[str, Any]) -> dict[str, Any]:
    text, read = _said(body)
    return {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": read, "output_tokens": len(text.split())},
    }


if __name__ == "__main__":
    folder = serving.parser().parse_args().folder
    serving.run(folder, lambda: Parrot(folder))
