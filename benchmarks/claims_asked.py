"""What is asked of learning online, and how near runs of `claims.py` come: a claim for each kind.

CLAIMS["flip"].say(records)   their figures, as the page has them
shortfall(records by kind)    what the recommended mode misses of what is asked
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.compare_objectives import has_collapsed

Record = Mapping[str, Any]
Curve = Sequence[tuple[float, float]]  # interactions, per cent

RECOMMENDED, PAPER = "recommended", "paper"
MODES = {RECOMMENDED: "recommended", PAPER: "the paper's mode"}
TARGET = 85.0  # per cent, of one preference and of its opposite
KEPT = 80.0  # per cent, of each of three
DRIFT = 5.0  # points, where follow-ups say nothing
LOST = 2.0  # points of correct answers

# ----------------------------------------------------------------------------------------- values


def final(record: Record, preference: str = "") -> float:
    """Compliance at the end, per cent; with the preference of the last users by default."""
    return 100 * float(record["marks"][-1]["wanted"][preference or record["wants"][-1]])


def curve(record: Record, preference: str, share: str = "wanted", since: int = 0) -> Curve:
    """Over the interactions from `since` on, per cent."""
    return [
        (mark["interactions"] - since, 100 * mark[share][preference])
        for mark in record["marks"]
        if mark["interactions"] >= since and mark[share][preference] is not None
    ]


def correct_gained(record: Record) -> float:
    """Points of correct answers from the start to the end; negative where they were lost."""
    return 100 * float(record["marks"][-1]["correct"] - record["marks"][0]["correct"])


def collapsed(record: Record) -> bool:
    """Whether a run was ever unreadable, or wrong much more often than before."""
    return any(has_collapsed(mark, record["marks"][0]) for mark in record["marks"])


def groups_of(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records of the seeds together, by mode and users; modes and users in their order."""
    groups = collections.defaultdict(list)
    for record in sorted(records, key=lambda r: [*MODES].index(r["mode"])):
        groups[record["mode"], record["users"]].append(record)
    return groups


# ------------------------------------------------------------------------------------------ claims


def say_gain(records: Sequence[Record]) -> str:
    """From the start to the end, over all preferences and seeds."""
    before = statistics.mean(curve(r, r["wants"][-1])[0][1] for r in records)
    least = min(map(final, records))
    after = statistics.mean(map(final, records))
    return f"{before:.1f} → {after:.1f} % (least {least:.1f}); {say_answers(records)}"


def say_flip(records: Sequence[Record]) -> str:
    """The new preference at the flip and at the end."""
    at_flip = statistics.mean(
        100 * mark["wanted"][record["wants"][-1]]
        for record in records
        for mark in record["marks"]
        if mark["interactions"] == record["phase"]
    )
    after, least = statistics.mean(map(final, records)), min(map(final, records))
    return f"{at_flip:.1f} → {after:.1f} % (least {least:.1f}); {say_answers(records)}"


def say_parts(records: Sequence[Record]) -> str:
    """The end, by each part of the last users' wish or, where they name only their own, by each
    preference of the schedule."""
    wants = records[0]["wants"]
    means = [statistics.mean(final(record, want) for record in records) for want in wants]
    return f"{' / '.join(f'{mean:.1f}' for mean in means)} %; {say_answers(records)}"


def say_drift(records: Sequence[Record]) -> str:
    """The change from the start to the end by preference, and the largest of a run."""
    means = [statistics.mean(map(change, group)) for group in groups_of(records).values()]
    most = max(map(abs, map(change, records)))
    by_users = " / ".join(f"{mean:+.1f}" for mean in means)
    return f"{by_users} points (at most {most:.1f}); {say_answers(records)}"


def change(record: Record) -> float:
    """Points of compliance from the start to the end, by the last users."""
    return final(record) - curve(record, record["wants"][-1])[0][1]


def say_answers(records: Sequence[Record]) -> str:
    """Correct answers and collapses."""
    gains = [correct_gained(record) for record in records]
    count = sum(map(collapsed, records))
    return (
        f"correct {statistics.mean(gains):+.1f} points (worst {min(gains):+.1f}); "
        f"{count} of {len(records)} collapsed"
    )


def miss_target(group: Sequence[Record]) -> list[str]:
    """What these runs, one for each seed, miss at the end."""
    after = statistics.mean(map(final, group))
    return [f"{after:.1f} % at the end"] if after < TARGET else []


def miss_parts(group: Sequence[Record]) -> list[str]:
    """The same, of each preference of a schedule."""
    means = {w: statistics.mean(final(record, w) for record in group) for w in group[0]["wants"]}
    return [f"`{w}` {mean:.1f} % at the end" for w, mean in means.items() if mean <= KEPT]


def miss_drift(group: Sequence[Record]) -> list[str]:
    """The same, where nothing should change: in no run."""
    most = max(map(change, group), key=abs)
    return [f"{most:+.1f} points"] if abs(most) > DRIFT else []


def miss_answers(group: Sequence[Record]) -> list[str]:
    """Correct answers lost, and collapses."""
    gain = statistics.mean(map(correct_gained, group))
    count = sum(map(collapsed, group))
    lost = [f"{-gain:.1f} points of correct answers lost"] if gain < -LOST else []
    return lost + ([f"{count} of {len(group)} collapsed"] if count else [])


def shortfall(kinds: Mapping[str, Sequence[Record]]) -> list[str]:
    """A paragraph that names whatever the recommended mode misses, by preference: the mean over
    seeds, or the worst run where every run is asked. None where it misses nothing. `kinds` are the
    records by kind."""
    lines = []
    for kind, records in kinds.items():
        for (mode, users), group in groups_of(records).items():
            missed = [*CLAIMS[kind].miss(group), *miss_answers(group)]
            if mode == RECOMMENDED and missed:
                lines.append(f"- {CLAIMS[kind].name}, `{users}`: {'; '.join(missed)}")
    title = "**What falls short** (recommended mode; means over seeds, of changes the largest):"
    return [title, "\n".join(lines)] if lines else []


@dataclasses.dataclass(frozen=True)
class Claim:
    """What is asked of the recommended mode, what runs say, what those of one preference miss, and
    what the paper has."""

    name: str
    asked: str
    say: Callable[[Sequence[Record]], str]
    miss: Callable[[Sequence[Record]], list[str]]
    paper: str


CLAIMS = {
    "personalise": Claim(
        "one preference",
        "45 → 85 % in 250 interactions",
        say_gain,
        miss_target,
        "win rate 50 → 95.2 %",
    ),
    "flip": Claim(
        "flipped",
        "85 % of the new in 250 more",
        say_flip,
        miss_target,
        "win rate 1.8 → 99.3 % in 150 more",
    ),
    "sequence": Claim(
        "three in sequence, not mentioned again",
        "all above 80 %",
        say_parts,
        miss_parts,
        "win rate by the first 92.6 %, 500 interactions each",
    ),
    "growing": Claim(
        "three in sequence, still wanted", "all above 80 %", say_parts, miss_parts, ""
    ),
    "unrelated": Claim(
        "unrelated follow-ups", "within 5 points", say_drift, miss_drift, "signal near 0"
    ),
}
