"""The same dialogues in every format of conversations, and what may be lost of a damaged file."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zstandard

from interact_jax.data.conversations import ReadReport, read_conversations
from interact_jax.data.recipes import RECIPES
from interact_jax.schema import Conversation, InputError
from tests.faults import mutations
from tests.runs import TALKS

Talk = Sequence[str]
BETTER = "Certainly: that is as you say."
SIDES = ("preferred", "rejected")


class Silent(Exception):
    """Something sound did not come through, and nothing tells of it."""


def turns(talk: Talk, names: tuple[str, str], role: str, text: str) -> list[dict[str, Any]]:
    return [{role: names[i % 2], text: said} for i, said in enumerate(talk)]


def messages(talk: Talk) -> list[dict[str, Any]]:
    return turns(talk, ("user", "assistant"), "role", "content")


def native(n: int, talk: Talk) -> list[Any]:
    """With all that a message can carry: what a sampler produced, weights, preferences, another
    reply."""
    said = messages(talk)
    said[1] |= {"token_ids": [5, 6, 7, 2], "logps": [-0.5, -1, -2.25, -1e-3]} if n % 2 else {}
    said[1] |= {"weight": 0.5} if n % 3 else {}
    said[1] |= {"alternative": "No.", "preferred": n % 2 == 0} if n % 3 == 1 else {}
    pair = {"index": 1, "chosen": BETTER, "rejected": {"content": talk[1], "token_ids": [9, 2]}}
    more = {"preferences": [pair], "user": f"u{n % 2}", "language": "en"} if n % 2 else {}
    return [{"id": f"t{n}", "messages": said, **more}]


def openai(n: int, talk: Talk) -> list[Any]:
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages(talk)]
    return [{"messages": parts if n % 2 else messages(talk)}]


def tools(n: int, talk: Talk) -> list[Any]:
    """An assistant that calls a tool before it replies: no text, then what the tool found."""
    said = messages(talk)
    call = {"name": "search", "arguments": json.dumps({"query": talk[0]})}
    calls = [{"id": f"call{n}", "type": "function", "function": call}]
    found = {"role": "tool", "tool_call_id": f"call{n}", "content": f"Found {n}."}
    asked = {"role": "assistant", "content": None, "tool_calls": calls}
    return [{"messages": [said[0], asked, found, *said[1:]]}]


def sharegpt(n: int, talk: Talk) -> list[Any]:
    return [{"id": f"t{n}", "conversations": turns(talk, ("human", "gpt"), "from", "value")}]


def wildchat(n: int, talk: Talk) -> list[Any]:
    said = [{**m, "turn_identifier": 10 * n + i} for i, m in enumerate(messages(talk))]
    return [{"conversation_hash": f"t{n}", "hashed_ip": "ip", "conversation": said, "toxic": False}]


def lmsys(n: int, talk: Talk) -> list[Any]:
    """With what moderation found in every turn, nested."""
    scores = {"hate": 0.25, "violence/graphic": 1e-7 * n}
    found = {"flagged": n % 2 == 0, "categories": {"hate": n % 2 == 0}, "category_scores": scores}
    marks = {"model": "vicuna-13b", "language": "English", "redacted": n % 2 == 1}
    whole = {"conversation": messages(talk), "openai_moderation": [found for _ in talk]}
    return [{"conversation_id": f"t{n}", "turn": len(talk) // 2, **whole, **marks}]


def wildfeedback(n: int, talk: Talk) -> list[Any]:
    (row,) = sharegpt(n, talk)
    return [{**row, **{side: {"from": "gpt", "value": side} for side in ("chosen", "rejected")}}]


def hh_rlhf(n: int, talk: Talk) -> list[Any]:
    said = [*talk, "One."] if len(talk) % 2 else talk
    both = [
        "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {t}" for i, t in enumerate([*said[:-1], y]))
        for y in (said[-1], BETTER)
    ]
    return [dict(zip(("rejected", "chosen"), both, strict=True))]


def ultrafeedback(n: int, talk: Talk) -> list[Any]:
    replies = [{"response": y, "overall_score": i + 0.5} for i, y in enumerate((talk[1], BETTER))]
    return [{"id": f"t{n}", "instruction": talk[0], "completions": replies}]


def preference(n: int, talk: Talk) -> list[Any]:
    if n % 2:
        return [{"prompt": talk[0], "chosen": BETTER, "rejected": talk[1]}]
    worse = messages(talk[:2])
    return [{"chosen": [worse[0], {**worse[1], "content": BETTER}], "rejected": worse}]


def aloe(n: int, talk: Talk) -> list[Any]:
    """Rounds of which every second one goes on with the rejected reply."""
    rounds = [
        {
            "user": said,
            "assistant": {"preferred": reply, "rejected": [BETTER, "No."] if n % 2 else BETTER},
            "chosen": SIDES[i % 2],
            "inferred_profile": "",
        }
        for i, (said, reply) in enumerate(zip(talk[::2], talk[1::2], strict=False))
    ]
    return [{"profile": f'"Person {n}"\n', "personality": "Kind", "conversations": rounds}]


def oasst_tree(n: int, talk: Talk) -> list[Any]:
    below: list[Any] = []
    for i in reversed(range(len(talk))):
        role = ("prompter", "assistant")[i % 2]
        below = [{"message_id": f"t{n}m{i}", "role": role, "text": talk[i], "replies": below}]
    return [{"message_tree_id": f"t{n}", "prompt": below[0]}]


def oasst_flat(n: int, talk: Talk) -> list[Any]:
    return [
        {
            "message_id": f"t{n}m{i}",
            "parent_id": f"t{n}m{i - 1}" if i else None,
            "role": ("prompter", "assistant")[i % 2],
            "text": text,
        }
        for i, text in enumerate(talk)
    ]


def chatgpt(n: int, talk: Talk) -> list[Any]:
    mapping: dict[str, Any] = {"root": {"message": None, "parent": None, "children": ["m0"]}}
    for i, text in enumerate(talk):
        role = ("user", "assistant")[i % 2]
        content = {"content_type": "text", "parts": [text]}
        mapping[f"m{i}"] = {
            "message": {"author": {"role": role}, "content": content, "recipient": "all"},
            "parent": f"m{i - 1}" if i else "root",
            "children": [f"m{i + 1}"] if i + 1 < len(talk) else [],
        }
    return [{"conversation_id": f"t{n}", "mapping": mapping}]


def open_webui(n: int, talk: Talk) -> list[Any]:
    messages = {
        f"m{i}": {
            "parentId": f"m{i - 1}" if i else None,
            "childrenIds": [f"m{i + 1}"] if i + 1 < len(talk) else [],
            "role": ("user", "assistant")[i % 2],
            "content": text,
        }
        for i, text in enumerate(talk)
    }
    return [{"id": f"t{n}", "chat": {"history": {"messages": messages}}}]


FORMATS = {"tools": "openai", "lmsys": "wildchat"}
"""The formats of FORMS that have another name than theirs."""

# name, which is that of the format unless FORMATS says so -> the records of a dialogue; the recipes
# that learn from it
FORMS: dict[str, tuple[Callable[[int, Talk], list[Any]], tuple[str, ...]]] = {
    "native": (native, ("hindsight", "replies", "revisions", "pairs", "chosen")),
    "openai": (openai, ("hindsight", "revisions")),
    "tools": (tools, ("hindsight", "revisions")),
    "sharegpt": (sharegpt, ("hindsight",)),
    "wildchat": (wildchat, ("hindsight",)),
    "lmsys": (lmsys, ("hindsight",)),
    "wildfeedback": (wildfeedback, ("hindsight",)),
    "hh_rlhf": (hh_rlhf, ("pairs", "chosen")),
    "ultrafeedback": (ultrafeedback, ("pairs",)),
    "preference": (preference, ("pairs",)),
    "aloe": (aloe, ("pairs", "chosen", "hindsight")),
    "oasst_tree": (oasst_tree, ("hindsight",)),
    "oasst_flat": (oasst_flat, ("hindsight",)),
    "chatgpt": (chatgpt, ("hindsight",)),
    "open_webui": (open_webui, ("hindsight",)),
}
LAYOUTS = ("talks.jsonl", "talks.json", "talks.jsonl.gz", "talks.json.gz", "talks.jsonl.zst")
OFTEN = (1, 1, 1, 2, 4)  # times that something is done to a file


@dataclasses.dataclass
class Damaged:
    """A file of conversations, sound and damaged. `lines` are where each dialogue's records stand,
    counted from 0, `list` says whether the file is one JSON list."""

    form: str
    recipe: str
    name: str
    what: str
    sound: bytes
    damaged: bytes
    lines: list[range]
    packed: bool  # damaged when it was compressed already

    @property
    def list(self) -> bool:
        return ".jsonl" not in self.name

    def moved(self) -> dict[int, int]:
        """Lines that the damage left as they were, and where they stand now."""
        before, after = (text.split(b"\n") for text in (self.sound, self.damaged))
        same = difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
        return {block.a + i: block.b + i for block in same for i in range(block.size)}


def damaged(rng: random.Random) -> Damaged:
    """A file in one of the formats, with one thing wrong."""
    form = rng.choice(sorted(FORMS))
    make, recipes = FORMS[form]
    name = rng.choice(LAYOUTS)
    groups = [make(n, talk) for n, talk in enumerate(TALKS)]
    records = [record for group in groups for record in group]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    bounds, start = [], int(".jsonl" not in name)
    for group in groups:
        bounds.append(range(start, start + len(group)))
        start += len(group)
    sound = _text(name, lines)
    packed = False
    times, told = rng.choice(OFTEN), list[str]()
    if rng.random() < 0.5:
        for index in rng.sample(range(len(lines)), min(times, len(lines))):
            lines[index], what = mutations.of_value(records[index], rng)
            told.append(f"record {index}: {what}")
        after = _text(name, lines)
    elif packed := name.endswith((".gz", ".zst")) and rng.random() < 0.5:
        after, what = mutations.of_bytes(pack(name, sound), rng, times)
        told.append(what)
    else:
        after, what = mutations.of_bytes(sound, rng, times)
        told.append(what)
    what = f"{form} in {name}: {'; '.join(told)}"
    return Damaged(form, rng.choice(recipes), name, what, sound, after, bounds, packed)


def pack(name: str, data: bytes) -> bytes:
    """As a file of this name is packed: zstd in several frames, as `zstd` and `cat` make them."""
    if name.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    if not name.endswith(".zst"):
        return data
    return b"".join(frames(data))


def frames(data: bytes) -> list[bytes]:
    packer, half = zstandard.ZstdCompressor(write_checksum=True), data.find(b"\n", len(data) // 2)
    return [packer.compress(part) for part in (data[: half + 1], data[half + 1 :])]


def _text(name: str, lines: Sequence[str]) -> bytes:
    if ".jsonl" in name:
        return "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")
    return ("[\n" + ",\n".join(lines) + "\n]\n").encode("utf-8", "surrogatepass")


def write(found: Damaged, folder: Path, which: str = "damaged") -> Path:
    file = folder / found.name
    data = getattr(found, which)
    file.write_bytes(data if found.packed and which == "damaged" else pack(found.name, data))
    return file


# ------------------------------------------------------------------------------- what came through


def read(found: Damaged, file: Path, format: str) -> tuple[list[Conversation], ReadReport]:
    """With on_error=skip. Where nothing is left, there is no report: an empty one stands for it."""
    recipe = RECIPES[found.recipe]
    try:
        return read_conversations(str(file), format, "skip", recipe.count_units, recipe.expected)
    except InputError:
        return [], ReadReport()


def line_of(conversation: Conversation) -> int:
    """Counted from 0."""
    return int(re.findall(r":(\d+)", conversation.source)[-1]) - 1


def content(found: Damaged, c: Conversation) -> Any:
    """What must not change in silence. Ids that are made of the record's number move with it; in
    `oasst_flat` a damaged message may become another dialogue's, which only adds to it."""
    if found.form == "oasst_flat":
        return c.messages
    name = re.sub(r"^talks\.\d+", "talks", c.id)
    return name, c.messages, c.user, sorted(c.meta.items()), c.owned, c.preferences


def silent(
    found: Damaged,
    before: Sequence[Conversation],
    after: Sequence[Conversation],
    report: ReadReport,
) -> str:
    """What is not the same and was not told; "" where there is nothing of the kind."""
    told = sum(report.lost.values())
    if found.packed:
        expected, came = ([content(found, c) for c in each] for each in (before, after))
        same = came == expected
        if found.name.endswith(".zst") and found.damaged in frames(found.sound):
            # A frame is a whole file: that there was another cannot be seen.
            same = bool(came) and came in (expected[: len(came)], expected[-len(came) :])
        return "" if same or told or not after else "changed, and nothing was told"
    moved = found.moved()
    if found.list and not {0, max(bounds.stop for bounds in found.lines)} <= moved.keys():
        return ""  # the list's own brackets
    whole = [bounds for bounds in found.lines if all(i in moved for i in bounds)]
    kept = {i for bounds in whole for i in bounds}
    expected = collections.Counter(repr(content(found, c)) for c in before if line_of(c) in kept)
    new = {moved[i] for i in kept}
    here = [c for c in after if line_of(c) in new]
    # Where an id came to be there twice, which is told, the later one has a number behind it.
    numbered = r"~\d+$" if report.mended["duplicate id"] else "$"
    came = (dataclasses.replace(c, id=re.sub(numbered, "", c.id)) for c in after)
    missing = expected - collections.Counter(repr(content(found, c)) for c in came)
    if missing.total() > report.lost["duplicate id"]:
        return f"{missing.total()} untouched did not come through: {min(missing)[:300]}"
    if found.form != "oasst_flat" and len(here) > expected.total():
        return f"{len(here) - expected.total()} more than there were"
    return ""
