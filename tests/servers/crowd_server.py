"""A chat endpoint that plays all of ALOE's roles, at once and without a model.

What it says depends on the request alone, and differs between requests. A file "silent" in its
folder makes the journal hold a line without the request's body: for many requests.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from tests.servers import serving
from tests.servers.chat_server import Parrot, letter_of

WORDS = [
    a + b
    for a in ("am", "bar", "co", "fen", "hel", "ju", "mor")
    for b in ("da", "ley", "ni", "ro", "sil", "tan")
]


class Crowd(Parrot):
    def answer(self, method: str, path: str, body: dict[str, Any], handler: Any) -> Any:
        value = super().answer(method, path, body, handler)
        if path != "/health":
            value["choices"][0]["message"]["content"] = said(body)
        return value

    def note(self, **entry: Any) -> None:
        if (self.folder / "silent").exists():
            entry = {"path": entry["path"], "status": entry["status"]}
        super().note(**entry)


def said(body: dict[str, Any]) -> str:
    """The answer of the role that the system message describes."""
    system, asked = body["messages"][0]["content"], body["messages"][-1]["content"]
    content = json.dumps([body["messages"], body.get("seed")]).encode()
    draw = random.Random(hashlib.blake2b(content).digest())
    words = " ".join(draw.choices(WORDS, k=3))
    if system.startswith("You play a person"):
        return f"*nods* I saw {words}."
    if system.startswith("You read a chat"):
        return "Nothing yet." if asked.count("Person: ") == 1 else f"They see {words}."
    if system.startswith("You are an assistant"):
        told = "and I thought of you" if "has shown" in system else "so"
        return f"It was {words}, {told}."
    if system.startswith("You invent people"):
        return "\n".join(f"{n}. {' '.join(draw.sample(WORDS, 6))}" for n in range(1, 21))
    return letter_of(asked) or str(draw.randint(1, 5))


if __name__ == "__main__":
    folder = serving.parser().parse_args().folder
    serving.run(folder, lambda: Crowd(folder))
