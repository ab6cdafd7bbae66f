"""Small conversation logs for tests: records in the native form, and files of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import zstandard

from interact_jax.data.conversations import read_conversations

ROUNDS = 10  # of a conversation of ALOE


def write(directory: Path, name: str, data: bytes | str | list) -> str:
    """Write bytes, text, or a list of records as JSON lines; packed where the name says so."""
    if isinstance(data, list):
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in data)
    if isinstance(data, str):
        data = data.encode()
    if name.endswith(".gz"):
        data = gzip.compress(data)
    if name.endswith(".zst"):
        data = zstandard.compress(data)
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def chat(identity: str, *texts: str) -> dict:
    """A native record in which user and assistant take turns."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"id": identity, "messages": turns}


def good(identity: str) -> dict:
    return chat(identity, "Hi", "Hello!", f"Thanks from {identity}")


def ids(path: str, **options: str) -> list[str]:
    return [conversation.id for conversation in read_conversations(path, **options)[0]]


def native(*pairs: tuple, **more: object) -> bytes:
    """A native line; a pair is (role, content) or (role, content, further keys)."""
    said = [{"role": p[0], "content": p[1], **(p[2] if len(p) > 2 else {})} for p in pairs]
    return json.dumps({"id": "bad", "messages": said, **more}).encode()


def aloe_round(number: int, chosen: str) -> dict:
    """As ALOE's program writes it."""
    replies = {"preferred": f"Better {number}.", "rejected": f"Worse {number}."}
    inferred = {"inferred_profile": "a nurse", "inferred_personality": "Terse."}
    return {"user": f"Question {number}?", "assistant": replies, "chosen": chosen, **inferred}


def aloe_record(**more: object) -> dict:
    """Ten rounds, of which every third goes on with the rejected reply. Profile and personality
    are lines of the files that ALOE keeps them in."""
    rounds = [
        aloe_round(n, "rejected" if n % 3 == 0 else "preferred") for n in range(1, ROUNDS + 1)
    ]
    persona = {"profile": '"She says \\"hm\\"."\n', "personality": '"Terse; kind."\n'}
    return {**persona, "conversations": rounds, **more}
