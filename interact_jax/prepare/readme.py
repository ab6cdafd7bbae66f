"""The card of prepared data as text: README.md beside the shards, and the end of the program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interact_jax.printable import count, printable

BAR = 24  # columns of the longest bar


def readme(card: Mapping[str, Any]) -> str:
    """The card, for people."""
    counts = card["counts"]
    lines = [
        f"# {card['name']}",
        "",
        f"Conversations, prepared by interact_jax {card['interact_jax']}.",
        "",
        f"- Source: {_line(card['source'])}",
        f"- Licence: {_line(card['license']) or 'not stated'}",
        f"- Digest: `{card['digest']}` (BLAKE2b, 256 bits, over those in card.json)",
        "",
        f"    {_line(card['command'])}",
        "",
        "```python",
        "import tensorflow_datasets as tfds",
        "tfds.builder_from_directory(DIRECTORY).as_data_source(split='train')",
        "",
        "from interact_jax.data.prepared import PreparedData",
        "PreparedData(DIRECTORY, 'train')[0]  # a Conversation",
        "```",
        "",
        "## What was read",
        "",
        f"{count(len(card['inputs']), 'file')}, {count(counts['records'], 'record')}. Of "
        f"{count(counts['read'], 'conversation')} and what could not be read as one, "
        f"{counts['kept']:,} were kept, {counts['dropped']:,} dropped by filters, "
        f"{counts['not_read']:,} not read, {counts['ignored']:,} left out by their format. "
        f"{count(counts['renamed'], 'id')} occurred before and got a number.",
        "",
        *_reasons(card),
        "## Splits",
        "",
        "| split | share | conversations | interactions | messages | characters |",
        "|---|---:|---:|---:|---:|---:|",
        *(
            f"| {name} | {split['share']:g} | {split['conversations']:,} | "
            f"{split['interactions']:,} | {split['messages']:,} | {split['characters']:,} |"
            for name, split in card["splits"].items()
        ),
        "",
        *_filters(card),
        *_histograms(card),
    ]
    return printable("\n".join(lines)).rstrip("\n") + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _reasons(card: Mapping[str, Any]) -> list[str]:
    lines = []
    for kind in ("not_read", "ignored", "mended", "unused"):
        for reason, times in card[kind].items():
            example = card["examples"].get(reason, "")
            lines.append(f"- {times:,} x {_line(reason)}, such as {_code(example)}")
    return [*lines, ""] if lines else []


def _code(text: str) -> str:
    return f"`{_line(text).replace('`', chr(39))}`"


def _filters(card: Mapping[str, Any]) -> list[str]:
    lines = ["## Filters", ""] if card["filters"] else []
    for each in card["filters"]:
        lines += [f"### {_code(each['filter'])}", ""]
        for kind in ("dropped", "changed"):
            lines += [f"- {kind} {n:,}: {_line(reason)}" for reason, n in each[kind].items()]
        if not each["dropped"] and not each["changed"]:
            lines.append("- nothing")
        lines.append("")
        for reason, samples in each["samples"].items():
            lines += [
                f"- {_line(reason)}: {_code(s['id'])} in {_code(s['source'])}, "
                f"{_code(s['detail'])}: {_code(s['opening'])}"
                for s in samples
            ]
        lines += [""] * bool(each["samples"])
    return lines


def _histograms(card: Mapping[str, Any]) -> list[str]:
    """Of all splits together."""
    lines = ["## Lengths", "", "Conversations by the highest power of two in a number.", ""]
    kinds = next(iter(card["splits"].values()))["histograms"]
    for kind in kinds:
        total: dict[int, int] = {}
        for split in card["splits"].values():
            for least, number in split["histograms"][kind].items():
                total[int(least)] = total.get(int(least), 0) + number
        most = max(total.values(), default=1)
        lines += [f"### {kind}", "", "```"]
        for least, number in sorted(total.items()):
            bar = "#" * -(-number * BAR // most)
            lines.append(f"{least:>10,} and more {number:>12,} {bar}")
        lines += ["```", ""]
    return lines


def summary(card: Mapping[str, Any], out: str) -> list[str]:
    """The end of the program, in 80 columns."""
    counts = card["counts"]
    lines = [
        f"read {count(len(card['inputs']), 'file')}, {count(counts['records'], 'record')}: "
        f"{count(counts['conversations'], 'conversation')}",
        *filter_lines(card["filters"]),
        *(f"  not read {n:,} x {reason}" for reason, n in card["not_read"].items()),
        *(f"  left out {n:,} x {reason}" for reason, n in card["ignored"].items()),
    ]
    if counts["renamed"]:
        lines.append(f"  {count(counts['renamed'], 'id')} occurred before and got a number")
    lines.append(f"kept {count(counts['kept'], 'conversation')}:")
    for name, split in card["splits"].items():
        tokens = f", {split['tokens']:,} tokens" if "tokens" in split else ""
        lines.append(
            f"  {name:<12}{split['conversations']:>12,}, "
            f"{count(split['interactions'], 'interaction')}{tokens}"
        )
    return [*map(_short, lines), f"digest {card['digest']}", f"prepared: {out}"]


def filter_lines(filters: list[Any]) -> list[str]:
    """What each filter did."""
    lines = []
    for each in filters:
        what = [
            *(f"dropped {n:,} x {reason}" for reason, n in each["dropped"].items()),
            *(f"changed {n:,} x {reason}" for reason, n in each["changed"].items()),
        ]
        lines.append(f"  {each['filter']}: {'; '.join(what) or 'nothing'}")
    return lines


def _short(line: str, width: int = 80) -> str:
    return line if len(line) <= width else f"{line[: width - 1]}…"
