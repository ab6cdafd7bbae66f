"""What `data.mixture` says: several prepared data sets that are learned from together, by weight.

parse("data/wildchat=3,data/own=1")      [Weighted("data/wildchat", 3), Weighted("data/own", 1)]
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from interact_jax.schema import InputError
from interact_jax.settings import Setting

SETTINGS = {
    "data.mixture": Setting(
        "",
        "several directories of prepared data instead of data.path, each with its weight: "
        "data/wildchat=3,data/own=1; needs steps",
        free=True,
        before="",
    ),
}
EXPECTED = "expected DIRECTORY=WEIGHT,DIRECTORY=WEIGHT, such as data/wildchat=3,data/own=1"


@dataclasses.dataclass(frozen=True)
class Weighted:
    """A directory of prepared data, and its weight."""

    path: str
    weight: Fraction


def parse(text: str) -> list[Weighted]:
    """What `data.mixture` says. A weight is what stands behind the last = before a comma, or before
    the end, so paths may have both. Raises InputError."""
    found, end = list[Weighted](), 0
    for item in re.finditer(r"(?s)(.+?)=([^=,/]*)(?:,|$)", text):
        path, weight = item[1], item[2].strip()
        if item.start() != end:
            break
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?|\.\d{1,9}", weight):
            raise InputError(
                f"data.mixture={text}: {path} has the weight {weight!r}, expected a number above "
                f"0, such as 3 or 0.5; {EXPECTED}."
            )
        if not Fraction(weight):
            raise InputError(
                f"data.mixture={text}: {path} has the weight 0. Leave it out: where the run is in "
                "it is kept."
            )
        found.append(Weighted(path, Fraction(weight)))
        end = item.end()
    if not found or end != len(text) or text.endswith(","):
        raise InputError(f"data.mixture={text}: {text[end:] or text} has no weight; {EXPECTED}.")
    paths = collections.Counter(each.path for each in found)
    for path, times in paths.items():
        if times > 1:
            raise InputError(f"data.mixture={text}: {path} is given {times} times.")
    return found


def interleaved(
    sizes: Sequence[int], weighted: Sequence[Weighted], most: int
) -> list[tuple[int, int]]:
    """(data set, number in it) of at most `most` conversations, none twice, as even as weights say
    while there are any: a sample to look at or to measure by."""
    places = [
        (Fraction(n + 1) / each.weight, part, n)
        for part, (size, each) in enumerate(zip(sizes, weighted, strict=True))
        for n in range(min(size, most))
    ]
    return [(part, n) for _, part, n in sorted(places)[:most]]


def workers_of(workers: int, weighted: Sequence[Weighted]) -> list[int]:
    """How many processes tokenise each data set, of so many: its share, rounded up."""
    whole = sum(each.weight for each in weighted)
    return [math.ceil(workers * each.weight / whole) for each in weighted]
