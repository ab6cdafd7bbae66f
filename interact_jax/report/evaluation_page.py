"""`index.html` of an evaluation: win rates over steps or side by side, figures, and some pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from interact_jax import progress
from interact_jax.report import html, measures
from interact_jax.report.plots import TALL, with_style
from interact_jax.report.style import LIGHT_COLOURS as COLOURS

CURVES = (COLOURS["second"], COLOURS["first"], COLOURS["link"], COLOURS["alarm"])
SHARES = {
    "win_rate": "win rate, ties as half",
    "win_rate_decided": "win rate, decided pairs",
    "coverage": "decided",
    "first_chosen": "first chosen",
    "agreement": "orders agree",
}
MEANINGS = (
    "The judge sees a pair in both orders; votes that differ are a tie. Decided: pairs that were "
    "won or lost. First chosen: votes for the reply that stood first, 50% for a judge without a "
    "bias. Orders agree: pairs with the same vote in both. Unparsable: the judge's answer could "
    "not be read; failed: it gave none."
)
LONGEST = 26  # characters of a name beside the picture
LEARNED = {"interactions": "interactions learned from", "step": "step"}
LABELS = ("won – tied – lost", "unparsable", "failed")
Result = Mapping[str, Any]


@progress.of("writing the report")
def write_evaluation_page(
    folder: Path, results: Result, judgements: Sequence[Result] = (), total: int = 0
) -> Path:
    """Write `index.html` into `folder`, and its picture as PNG; returns the page's path.

    `results` are those of results.json; `judgements` are the lines that are shown, out of `total`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    candidates = results["candidates"]
    body = [
        html.table(_overview(results)),
        "<h2>Win rate against the baseline</h2>",
        *_picture(folder, candidates),
        _figures(candidates),
        f'<p class="note">{MEANINGS}</p>',
        *_measured(results),
        *_pairs(judgements, total),
    ]
    title = f"Evaluation by {results['judge']}, against {results['baseline']['name']}"
    return html.write_page(folder / html.RUN, title, body)


def _overview(results: Result) -> Iterator[tuple[str, str]]:
    yield "judge", html.message(results["judge"])
    name = f"{results['persona_name']}: " if results["persona_name"] else ""
    persona = html.message(name + results["persona"])
    yield "persona", persona or "none: which reply is better in general"
    yield "baseline", html.message(results["baseline"]["name"])
    source = html.escape_text(results["settings"]["prompts"])
    yield "prompts", f"{results['prompts']:,} from {source}"
    sampling = results["settings"]
    yield "replies", f"{_drawn(sampling)}, at most {sampling['max_new_tokens']:,} tokens"
    if any(each["oracle"] for each in results["candidates"]):
        yield "told", "the baseline with the persona in its system prompt, as a mark to aim for"
    for note in results["notes"]:
        yield "note", html.escape_text(note)


def _drawn(sampling: Result) -> str:
    """How replies were sampled, with what is not as usual."""
    usual = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "stop": []}
    limits = [
        f", {name.replace('_', '-')} {html.escape_text(str(sampling[name]))}"
        for name, value in usual.items()
        if sampling[name] != value
    ]
    drawn = f"{sampling['samples']} of each prompt at temperature {sampling['temperature']:g}"
    return (drawn if sampling["temperature"] else "greedy") + "".join(limits)


# -------------------------------------------------------------------------------------- picture


def _picture(folder: Path, candidates: Sequence[Result]) -> Iterator[str]:
    shown = [each for each in candidates if each["win_rate"] is not None]
    if not shown:
        yield "<p>No pair was judged.</p>"
        return
    figure = win_rates(shown)
    html.save_picture(folder, "win_rate", figure)
    says = "; ".join(f"{each['name']} {percent(each['win_rate'])}" for each in shown)
    caption = (
        "Ties count half. Bands and bars are 95% intervals, by resampling the prompts; the line "
        "at 50% is the baseline."
    )
    yield html.inline_figure(figure, f"Win rates: {says}.", caption)


@with_style
def win_rates(candidates: Sequence[Result]) -> Figure:
    """Curves over the interactions that each run had learned from (over steps, where one does not
    say), other candidates as levels; without a run, one bar of uncertainty each. Every candidate
    has a `win_rate`."""
    runs = [each for each in candidates if each["step"] is not None]
    if not runs:
        return _side_by_side(candidates)
    figure = Figure(figsize=TALL, layout="constrained")
    axes = figure.subplots()
    _baseline(axes.axhline)
    names = list(dict.fromkeys(each["run"] for each in runs))
    unit = "step" if any(each["interactions"] is None for each in runs) else "interactions"
    for number, name in enumerate(names):
        points = sorted((x for x in runs if x["run"] == name), key=lambda x: x["step"])
        _curve(axes, points, unit, name, CURVES[number % len(CURVES)])
    for number, level in enumerate(each for each in candidates if each["step"] is None):
        colour = CURVES[(len(names) + number) % len(CURVES)]
        rate = level["win_rate"]
        axes.axhline(100 * rate["value"], color=colour, linewidth=1.2, linestyle="--")
        axes.axhspan(100 * rate["low"], 100 * rate["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot([], [], color=colour, linestyle="--", label=level["name"])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=LEARNED[unit], ylabel="%", ylim=(0, 100), title="Win rate")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _curve(axes: Axes, points: Sequence[Result], unit: str, name: str, colour: str) -> None:
    at = [point[unit] for point in points]
    value, low, high = (
        [100 * point["win_rate"][key] for point in points] for key in ("value", "low", "high")
    )
    axes.plot(at, value, color=colour, marker="o", markersize=3.5, linewidth=1.4, label=name)
    if len(points) > 1:
        axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
    else:
        axes.vlines(at, low, high, color=colour, linewidth=1.4)


def _side_by_side(candidates: Sequence[Result]) -> Figure:
    figure = Figure(figsize=(TALL[0], 0.9 + 0.45 * len(candidates)), layout="constrained")
    axes = figure.subplots()
    _baseline(axes.axvline)
    for at, each in enumerate(candidates):
        rate = each["win_rate"]
        axes.hlines(at, 100 * rate["low"], 100 * rate["high"], color=COLOURS["second"])
        axes.plot(100 * rate["value"], at, "o", color=COLOURS["second"])
    axes.set_yticks(range(len(candidates)), [_end_of(each["name"]) for each in candidates])
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.set_ylim(len(candidates) - 0.5, -0.5)
    axes.set(xlabel="win rate, %", xlim=(0, 100))
    return figure


def _end_of(name: str) -> str:
    """The end of a name, where paths differ, for beside the picture."""
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def _baseline(draw: Any) -> None:
    draw(50, color=COLOURS["pale"], linewidth=0.8)


# --------------------------------------------------------------------------------------- tables


def _figures(candidates: Sequence[Result]) -> str:
    learned = any(each["interactions"] is not None for each in candidates)

    def seen(each: Result) -> list[str]:
        number = each["interactions"]
        return ["–" if number is None else f"{number:,}"] if learned else []

    rows = (
        (
            html.escape_text(each["name"]),
            *seen(each),
            *(with_interval(each[name]) for name in ("win_rate", "win_rate_decided")),
            *(percent(each[name]) for name in ("coverage", "first_chosen", "agreement")),
            f"{each['wins']:,} – {each['ties']:,} – {each['losses']:,}",
            *(f"{each[name]:,}" for name in LABELS[1:]),
        )
        for each in candidates
    )
    head = ("", *(["interactions"] if learned else []), *SHARES.values(), *LABELS)
    return html.table(rows, head, "numbers")


def percent(share: Mapping[str, float] | None) -> str:
    """ "71.5%", or "–" for a share of nothing."""
    return "–" if share is None else f"{share['value']:.1%}"


def with_interval(share: Mapping[str, float] | None) -> str:
    """ "71.5% (66.0 to 76.8)"."""
    if share is None:
        return "–"
    return f"{percent(share)} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def _measured(results: Result) -> Iterator[str]:
    """What was measured of the replies of every side, without comparing them."""
    baseline = {**results["baseline"], "name": f"baseline: {results['baseline']['name']}"}
    sides = [baseline, *results["candidates"]]
    names = list(dict.fromkeys(name for side in sides for name in side["measures"]))
    lengths = ("characters", "tokens", "finished")

    def row(side: Result) -> tuple[str, ...]:
        replies = side["replies"]
        return (
            html.escape_text(side["name"]),
            *(measures.format_value(name, side["measures"].get(name)) for name in names),
            *(f"{replies[x]:,.1f}" if x in replies else "–" for x in lengths[:2]),
            f"{replies['finished']:.1%}" if "finished" in replies else "–",
        )

    yield "<h2>Replies</h2>"
    labels = [measures.measure_of(name).label for name in names]
    yield html.table(map(row, sides), ("", *labels, "characters", "tokens", "ended"), "numbers")


def _pairs(judgements: Sequence[Result], total: int) -> Iterator[str]:
    if not judgements:
        return
    yield "<h2>Pairs</h2>"
    yield f'<p class="note">{html.count_shown(len(judgements), total, "pairs")}</p>'
    for line in judgements:
        answers = "; ".join(
            f"{vote['first']} first: {vote['answer'] or vote.get('error', '')}"
            for vote in line["votes"]
        )
        prompt = "\n\n".join(message["content"] for message in line["messages"])
        yield (
            f'<article class="pair"><header><h2>{line["outcome"]}</h2> '
            f'<span class="soft">{html.escape_text(answers)}</span></header>'
            '<div class="turns halves">'
            + html.section("prompt", html.message(prompt), "wide")
            + _reply(f"candidate: {line['candidate']}", line["candidate_reply"])
            + _reply(f"baseline: {line['baseline']}", line["baseline_reply"])
            + "</div></article>"
        )


def _reply(name: str, text: str) -> str:
    empty = '<span class="soft">(empty)</span>'
    return html.section(html.escape_text(name), html.message(text) or empty)
