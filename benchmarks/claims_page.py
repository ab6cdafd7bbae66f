"""The page of `claims.py`: docs/claims.md with its pictures and data, from the records of cases."""

from __future__ import annotations

import collections
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.claims_asked import (
    CLAIMS,
    MODES,
    TARGET,
    Curve,
    Record,
    collapsed,
    correct_gained,
    curve,
    groups_of,
    shortfall,
)
from benchmarks.compare_objectives import markdown
from interact_jax import places
from interact_jax.report.html import standalone_figure
from interact_jax.report.plots import PANEL, with_style
from interact_jax.report.style import LIGHT_COLOURS as COLOURS

Panels = Mapping[str, Mapping[str, Sequence[Curve]]]  # title -> label -> a curve for each seed

KINDS = ("personalise", "flip", "sequence", "growing", "unrelated")
LINES = ("second", "first", "ink")  # colours, in this order


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float, float, float]]:
    """(interactions, mean, least, most) over curves with the same places."""
    points = collections.defaultdict(list)
    for own in curves:
        for at, value in own:
            points[at].append(value)
    return [(at, statistics.mean(v), min(v), max(v)) for at, v in sorted(points.items())]


# --------------------------------------------------------------------------------------- pictures


@with_style
def draw(panels: Panels) -> Figure:
    """Shares over interactions, a panel for each title: the mean over seeds, and a band from the
    least to the most."""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down), layout="constrained")
    cells: Iterable[Axes] = np.atleast_1d(figure.subplots(down, across)).flat
    for axes, (title, lines) in zip(cells, panels.items(), strict=False):
        for colour, (label, curves) in zip(LINES, lines.items(), strict=False):
            at, mean, least, most = zip(*mean_curve(curves), strict=True)
            axes.plot(at, mean, label=label, color=COLOURS[colour], marker="o", markersize=3)
            axes.fill_between(at, least, most, color=COLOURS[colour], alpha=0.25, linewidth=0)
        axes.axhline(TARGET, color=COLOURS["soft"], linewidth=0.8, linestyle="dotted")
        axes.set(title=title, ylim=(0, 102), xlabel="interactions", ylabel="wanted styles, %")
        axes.legend(loc="lower right")
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    return figure


def panels_of(records: Sequence[Record]) -> Panels:
    """By preference, a line for each mode: what its users want last."""
    panels: dict[str, dict[str, list[Curve]]] = {}
    for record in records:
        lines = panels.setdefault(record["users"], {})
        lines.setdefault(MODES[record["mode"]], []).append(curve(record, record["wants"][-1]))
    return panels


def panels_of_phases(records: Sequence[Record]) -> Panels:
    """By mode, a line for each preference of the schedule."""
    panels: dict[str, dict[str, list[Curve]]] = {}
    for record in records:
        lines = panels.setdefault(MODES[record["mode"]], {})
        for preference in record["wants"]:
            lines.setdefault(preference, []).append(curve(record, preference))
    return panels


PICTURES: Mapping[str, Callable[[Sequence[Record]], Panels]] = {
    "personalise": panels_of,
    "flip": panels_of,
    "sequence": panels_of_phases,
    "growing": panels_of_phases,
    "unrelated": panels_of,
}

# ----------------------------------------------------------------------------------------- tables


def table_over_time(records: Sequence[Record], preference: str = "") -> str:
    """A row for each mode and users: mean and spread over seeds at every mark, by the preference;
    by default that of the last users."""
    rows = []
    marks = [f"{mark['interactions']}" for mark in records[0]["marks"]]
    for (mode, _), group in groups_of(records).items():
        want = preference or group[0]["wants"][-1]
        curves = [curve(record, want) for record in group]
        cells = [
            f"{mean:.1f} ± {(most - least) / 2:.1f}" for _, mean, least, most in mean_curve(curves)
        ]
        rows.append([MODES[mode], want, *cells, *cells_of_answers(group)])
    return markdown(["mode", "wanted", *marks, *ANSWERS], rows)


ANSWERS = ("correct, from → to", "worst, points", "collapsed")


def cells_of_answers(group: Sequence[Record]) -> list[str]:
    """Correct answers and collapses of the runs of a row."""
    first, last = (statistics.mean(r["marks"][n]["correct"] for r in group) for n in (0, -1))
    return [
        f"{100 * first:.1f} → {100 * last:.1f}",
        f"{min(map(correct_gained, group)):+.1f}",
        f"{sum(map(collapsed, group))} of {len(group)}",
    ]


def table_of_seeds(records: Sequence[Record]) -> str:
    """A row for each mode and preference, a column for each seed: from the start to the end."""
    seeds = sorted({record["seed"] for record in records})
    rows = []
    for (mode, users), group in groups_of(records).items():
        by_seed = {record["seed"]: record for record in group}
        cells = [format_run(by_seed[seed]) if seed in by_seed else "" for seed in seeds]
        rows.append([MODES[mode], users, *cells])
    return markdown(["mode", "users", *(f"seed {seed}" for seed in seeds)], rows)


def format_run(record: Record) -> str:
    """Compliance and correct answers, from the start to the end."""
    preference, marks = record["wants"][-1], (record["marks"][0], record["marks"][-1])
    wanted = " → ".join(f"{100 * mark['wanted'][preference]:.1f}" for mark in marks)
    correct = " → ".join(f"{100 * mark['correct']:.1f}" for mark in marks)
    return f"{wanted}; {correct}" + (" (collapsed)" if collapsed(record) else "")


# ------------------------------------------------------------------------------------------- page

INTRODUCTION = """# Learning online, measured

Written by `python benchmarks/claims.py --out DIR`: {done} runs are done, {left} are left. They
are the lines of `docs/data/claims.jsonl`; copied to DIR/RESULTS.jsonl, the program goes on from
there.

Users of the [pocket world](pocket.md) talk to the shipped model, one turn each, and it learns
from what they say next. A user has a hidden preference (`emoji,-sentence` wants emojis and no
whole sentences) and complains of one violated style at a time, sometimes of two. *Wanted styles*
is the share of the styles of the preference that a reply has as wanted: the mean over replies, at
temperature 1, to {replies:,} held-out requests, which gives a run's figures a standard error of
about 1 point. An unreadable reply counts as wrong and has no wanted style. A run has collapsed if
fewer than 90 % of its replies are readable at any of its marks, or if correct answers are 10 points
below the start. After a mean, ± is half the distance from the least to the most over the seeds.

The *recommended* mode is `configs/online_pocket.py` as it stands. *The paper's mode* has the
paper's objective, as `configs/online_paper.py` has it, and its optimiser at a pace for this
model: its 5e-6 and 16 interactions a step are for four billion parameters, these are a million.
What was tried is in [log.md](log.md#learning-online)."""

SECTIONS = {
    "personalise": """## One preference

The paper's win rates against the base model (Qwen3-4B, TL;DR, `concise_casual_beginner`) are 50,
87.2, 94.0, 93.6, 95.2 and 95.2 % after 0, 50, 100, 150, 200 and 250 interactions. Win rates on
this page compare sampled replies with those of the shipped model to the same requests by the
world's checkers: more wanted styles win, then the right answer; ties do not count.""",
    "flip": """## Flipped

After {phase} interactions the users want the opposite of each style. The paper's win rate by the
new preference is 1.8 % at the flip, then 38.6 (50 interactions later), 95.7 (100) and 99.3 %
(150). The first {phase} interactions are those of a run without a flip, by the preference that
comes later.""",
    "sequence": """## Three in sequence, the earlier ones not mentioned again

Users want {sequence}, each for {phase} interactions, and care only for what they want now. Nobody
defends the earlier styles: whether they are kept is what is measured. The paper has 500
interactions each, and a win rate for the first of 77.8 % after 100 of them and of 92.6 % at the
end.""",
    "growing": """## Three in sequence, the earlier ones still wanted

The same, but later users want the earlier styles as well, and complain when they are gone.""",
    "unrelated": """## Unrelated follow-ups

Users praise, chat or ask something else, whatever the reply was, so there is nothing to learn.
The paper reports that the signal of such follow-ups is near zero. What moves the policy here are
the new requests alone: the shipped model, of a million parameters, takes some of them for the
request that its reply should have answered ([log.md](log.md#learning-online)).""",
}
OFFLINE = """## Offline, against supervised fine-tuning

[objectives_results.md](objectives_results.md) has the offline comparison, three seeds, from the
same logs and with the same steps: from 44.4 % wanted styles, the paper's objective reaches 77.9 %
(users of the shipped logs), `reverse_kl` with `trust_region` 82.4 %, and fine-tuning on the
logged replies 41.2 %, on the revised ones 58.8 %. The paper's Qwen3-4B goes from 37.9 to 46.1
(AlpacaEval 2, length-controlled), and by fine-tuning on the logged replies to 18.9."""


def write(records: Sequence[Record], left: int, docs: Path) -> Path:
    """Write the page, its pictures and its data to `docs`; returns the page."""
    kinds = {kind: [r for r in records if r["kind"] == kind] for kind in KINDS}
    kinds = {kind: own for kind, own in kinds.items() if own}
    facts = {
        "done": len(records),
        "left": left,
        "replies": max((record["replies"] for record in records), default=0),
        "phase": max((record["phase"] for record in records), default=0),
        "sequence": ", then ".join(kinds["sequence"][0]["wants"]) if "sequence" in kinds else "",
    }
    parts = [INTRODUCTION.format(**facts), summary(kinds), *shortfall(kinds)]
    for folder in ("pictures", "data"):
        (docs / folder).mkdir(parents=True, exist_ok=True)
    for kind, own in kinds.items():
        picture = docs / "pictures" / f"claims_{kind}.svg"
        says = f"Wanted styles over interactions, {kind}"
        places.write(picture, standalone_figure(draw(PICTURES[kind](own)), says))
        parts += [SECTIONS[kind].format(**facts), f"![{says}](pictures/{picture.name})"]
        parts += tables_of(kind, own)
    parts += [OFFLINE, "## Single replies", single_replies(records)]
    places.write(docs / "claims.md", "\n\n".join(parts) + "\n")
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    places.write(docs / "data" / "claims.jsonl", "".join(lines))
    return docs / "claims.md"


def tables_of(kind: str, records: Sequence[Record]) -> list[str]:
    """The tables of a section."""
    if kind in ("sequence", "growing"):
        wants = records[0]["wants"]
        tables = [table_over_time(records, want) for want in wants]
    else:
        tables = [table_over_time(records)]
    if kind in ("personalise", "flip"):
        tables.append(table_of_wins(records))
    return [*tables, SEEDS_CAPTION, table_of_seeds(records)]


SEEDS_CAPTION = (
    "Every run: wanted styles of the last users, then correct answers, %, from start to end."
)


def summary(kinds: Mapping[str, Sequence[Record]]) -> str:
    """A row for each claim, a column for each mode."""
    rows = []
    for kind, own in kinds.items():
        claim = CLAIMS[kind]
        by_mode = [[record for record in own if record["mode"] == mode] for mode in MODES]
        said = [claim.say(group) if group else "" for group in by_mode]
        rows.append([claim.name, claim.asked, *said, claim.paper])
    return markdown(["", "asked for", *MODES.values(), "the paper"], rows)


def table_of_wins(records: Sequence[Record]) -> str:
    """Win rates against the shipped model, over time: a row for each mode and preference."""
    rows = []
    for (mode, _), group in groups_of(records).items():
        want = group[0]["wants"][-1]
        means = mean_curve([curve(record, want, "wins") for record in group])
        rows.append([MODES[mode], want, *(f"{mean:.1f}" for _, mean, _, _ in means)])
    marks = [str(mark["interactions"]) for mark in records[0]["marks"][1:]]
    return "Win rate against the shipped model, %:\n\n" + markdown(["mode", "by", *marks], rows)


def single_replies(records: Sequence[Record]) -> str:
    """The first replies of a run of each mode and kind, before and after."""
    rows = []
    for record in records:
        if record["seed"] == 0 and record["users"] == records[0]["users"]:
            name = f"{MODES[record['mode']]}, {record['kind']}"
            cells = [[f"`{text or ' '}`" for text in texts] for texts in record["shown"]]
            rows += [[name, *texts] for texts in cells]
    users = f"Runs of seed 0 that begin with `{records[0]['users']}`, the first held-out requests."
    return f"{users}\n\n{markdown(['run', 'request', 'before', 'after'], rows)}"
