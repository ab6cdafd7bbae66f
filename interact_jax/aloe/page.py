"""`index.html` of the benchmark: alignment over the turns, figures, conversations side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from interact_jax import progress
from interact_jax.aloe.cast import SCORES
from interact_jax.aloe.results import interval, number
from interact_jax.report import html
from interact_jax.report.plots import with_style
from interact_jax.report.style import LIGHT_COLOURS as COLOURS

CURVES = ("second", "first", "link", "alarm")
LINES = ("-", "--", ":")  # one after the other, where there are more models than colours
SIZE = (5.6, 3.6)  # inches
CASES_SHOWN = 4
MEANINGS = (
    "AL(k) is the mean score at turn k; IR the slope of the straight line through AL(1), AL(2), … "
    "by least squares, and R² the share of their variance that it explains. For N-IR and N-R², the "
    "scores of every conversation are first stretched to 0 … 1, its least to its largest; "
    "conversations of equal scores (constant) cannot be, and are left out there. Intervals are of "
    "95%, by resampling the cases. – stands for what is undefined."
)
MISSING = (
    "Missing scores are in no mean. They are those of turns after a conversation had ended early, "
    "because the user or the model failed, and those that the judge did not give, or not in a form "
    "that could be read."
)
STYLE = """
.sides { display: grid; gap: .7rem 1.2rem; padding: .7rem .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)) }
.sides > div { min-width: 0 }
.sides section { margin: .5rem 0; padding-left: .8rem; border-left: 1px solid var(--line) }
.sides section.reply { border-left: 3px solid var(--second) }
"""
Result = Mapping[str, Any]


@progress.of("writing the report")
def write_page(folder: Path, results: Result, lines: Sequence[Result]) -> Path:
    """Write `index.html` into `folder`, and its picture as PNG; returns the page's path.

    `results` are those of results.json; `lines` those of talks.jsonl, of which some cases are
    shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    models = results["models"]
    body = [
        html.table(_overview(results)),
        "<h2>Alignment over the turns</h2>",
        *_picture(folder, models),
        _by_turn(models),
        "<h2>Improvement</h2>",
        _figures(models),
        f'<p class="note">{MEANINGS}</p>',
        *_differences(models),
        "<h2>What is missing</h2>",
        _missing(models),
        f'<p class="note">{MISSING}</p>',
        *_conversations(lines, [each["name"] for each in models]),
    ]
    title = "ALOE: does the model learn whom it talks with?"
    return html.write_page(folder / html.RUN, title, body, style=STYLE)


def _overview(results: Result) -> Iterator[tuple[str, str]]:
    yield "cases", f"{results['cases']:,}, each a conversation of {results['turns']:,} turns"
    yield "user", html.escape_text(results["user"])
    yield "judge", html.escape_text(results["judge"])
    sampling = results["settings"]
    drawn = f"at temperature {sampling['temperature']:g}" if sampling["temperature"] else "greedy"
    yield "replies", f"{drawn}, at most {sampling['max_new_tokens']:,} tokens"
    for note in results["notes"]:
        yield "note", html.escape_text(note)


# -------------------------------------------------------------------------------------- picture


def _picture(folder: Path, models: Sequence[Result]) -> Iterator[str]:
    shown = [each for each in models if any(each["al"])]
    if not shown:
        yield "<p>No reply was scored.</p>"
        return
    figure = alignment(shown)
    html.save_picture(folder, "alignment", figure)
    says = "; ".join(
        f"{each['name']} {number(each['al'][0])} at turn 1, {number(each['al'][-1])} at turn "
        f"{each['turns']}"
        for each in shown
    )
    caption = "Mean score at every turn, with bands of 95% intervals."
    yield html.inline_figure(figure, f"Alignment level: {says}.", caption)


@with_style
def alignment(models: Sequence[Result]) -> Figure:
    """AL(k) of every model over the turns, on the whole scale of scores; turns without a score are
    gaps."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for place, each in enumerate(models):
        colour = COLOURS[CURVES[place % len(CURVES)]]
        line = LINES[place // len(CURVES) % len(LINES)]
        turns = range(1, each["turns"] + 1)
        value, low, high = (
            [float("nan") if level is None else level[name] for level in each["al"]]
            for name in ("value", "low", "high")
        )
        axes.plot(
            turns,
            value,
            line,
            color=colour,
            marker="o",
            markersize=3.5,
            linewidth=1.4,
            label=each["name"],
        )
        axes.fill_between(turns, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="turn k", ylabel="score", ylim=(SCORES[0] - 0.1, SCORES[-1] + 0.1))
    axes.set(yticks=SCORES, title="AL(k)")
    figure.legend(loc="outside lower center", ncols=1 if len(models) < 3 else 2)
    return figure


# --------------------------------------------------------------------------------------- tables


def _names(models: Sequence[Result]) -> list[str]:
    return [html.escape_text(each["name"]) for each in models]


def _by_turn(models: Sequence[Result]) -> str:
    """A row per turn, so that many turns need no wide screen."""
    rows = [
        (f"AL({k + 1})", *(with_interval(each["al"][k]) for each in models))
        for k in range(models[0]["turns"])
    ]
    rows.append(("mean", *(with_interval(each["al_mean"]) for each in models)))
    return html.table(rows, ("", *_names(models)), "numbers")


def _figures(models: Sequence[Result]) -> str:
    labels = {"ir": "IR", "r2": "R²", "n_ir": "N-IR", "n_r2": "N-R²"}
    right = any(each["right"] for each in models)
    rows = (
        (
            name,
            *(with_interval(each[key], 3) for key in labels),
            *([percent(each["right"])] if right else []),
        )
        for name, each in zip(_names(models), models, strict=True)
    )
    head = ("", *labels.values(), *(["right content"] if right else []))
    return html.table(rows, head, "numbers")


def _differences(models: Sequence[Result]) -> Iterator[str]:
    first, *others = models
    if not others:
        return
    turns = first["turns"]
    right = any(each["against_first"]["right"] for each in others)
    yield f"<h2>Differences from {html.escape_text(first['name'])}</h2>"
    rows = []
    for each in others:
        apart = each["against_first"]
        rows.append(
            (
                html.escape_text(each["name"]),
                *(with_interval(apart[key]) for key in ("al_first", "al_last")),
                with_interval(apart["ir"], 3),
                *([percent(apart["right"])] if right else []),
            )
        )
    head = ("", "AL(1)", f"AL({turns})", "IR", *(["right content"] if right else []))
    yield html.table(rows, head, "numbers")
    yield (
        '<p class="note">Case by case: what is hard or easy for both cancels out, so a difference '
        "is surer than the levels that it is between.</p>"
    )


def _missing(models: Sequence[Result]) -> str:
    labels = {
        "missing": "missing scores",
        "judge_failed": "judge failed",
        "judge_unreadable": "judge not readable",
        "ended_by_user": "ended by the user",
        "ended_by_model": "ended by the model",
        "unscored": "without any score",
        "constant": "constant",
    }
    rows = (
        (name, *(f"{each[key]:,}" for key in labels))
        for name, each in zip(_names(models), models, strict=True)
    )
    return html.table(rows, ("", *labels.values()), "numbers")


def with_interval(estimate: Mapping[str, float] | None, digits: int = 2) -> str:
    """ "3.42 (3.30 to 3.54)", or "–" for what is undefined."""
    if estimate is None:
        return "–"
    return f"{number(estimate, digits)} ({interval(estimate, digits)})"


def percent(estimate: Mapping[str, float] | None) -> str:
    """ "71.5% (66.0 to 76.8)"."""
    if estimate is None:
        return "–"
    hundred = {name: 100 * estimate[name] for name in ("value", "low", "high")}
    return f"{number(hundred, 1)}% ({interval(hundred, 1)})"


# -------------------------------------------------------------------------------- conversations


def _conversations(lines: Sequence[Result], names: Sequence[str]) -> Iterator[str]:
    cases = sorted({line["case"] for line in lines})
    chosen = cases[:: max(1, -(-len(cases) // CASES_SHOWN))]
    yield "<h2>Conversations</h2>"
    yield f'<p class="note">{html.count_shown(len(chosen), len(cases), "cases")}</p>'
    for case in chosen:
        some = {line["model"]: line for line in lines if line["case"] == case}
        persona = next(iter(some.values()))
        who = html.message(f"{persona['profile']}\n{persona['personality']}".strip())
        sides = "".join(_side(some[name]) for name in names if name in some)
        yield (
            f'<article class="pair"><header><h2>case {case + 1}</h2>'
            f'<div class="said soft">{who}</div></header><div class="sides">{sides}</div></article>'
        )


def _side(line: Result) -> str:
    """The conversation of one model, with its scores."""
    parts = [f"<h3>{html.escape_text(line['model'])}</h3>"]
    for place, turn in enumerate(line["turns"], 1):
        parts.append(html.section(f"{place}: user", html.message(turn["user"])))
        score = f"score {turn['score']:g}" if turn["score"] is not None else "no score"
        reply = html.message(turn["assistant"]) or '<span class="soft">(empty)</span>'
        parts.append(html.section(f"model, {score}", reply, "reply"))
    if line["ended"]:
        error = html.escape_text(line["error"])
        parts.append(f'<p class="note">ended early, as the {line["ended"]} failed: {error}</p>')
    return f"<div>{''.join(parts)}</div>"
