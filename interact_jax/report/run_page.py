"""`index.html`: what a run was, and what came of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import config
from interact_jax.metrics import read_log
from interact_jax.objectives import HINDSIGHT, OBJECTIVES
from interact_jax.report import html, measures, plots
from interact_jax.report.losses import loss_told
from interact_jax.report.summing import grouped, was_skipped


def write_run_report(
    folder: Path,
    *,
    metrics_file: Path,
    shown: str,
    settings: Mapping[str, Any],
    interactions: int,
    before: Mapping[str, float] | None,
    after: Mapping[str, float] | None,
    notes: Sequence[str] = (),
) -> Path:
    """Write `index.html`, and its pictures as PNG as well, into `folder`; the page's path.

    `shown` is a metric beside loss and gradient norm, `settings` are flat (`config.to_json`),
    `interactions` those that were learned from, `notes` what the program says of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = read_log(metrics_file)
    body = [
        html.table(_overview(settings, lines, interactions)),
        _settings(settings),
        *_measured(folder, before, after),
        *_training(folder, lines, shown, settings),
        *_notes(notes),
    ]
    there = [page for page in (html.SIGNAL, html.REPLIES) if (folder / page).exists()]
    title = f"Training run: {settings['model.path']} on {settings['data.path']}"
    return html.write_page(folder / html.RUN, title, body, there)


# -------------------------------------------------------------------------------- what it was


TOLD = (
    "model.path",
    "model.dtype",
    "start_from",
    "data.path",
    "objective.name",
    "teacher.name",
    "hindsight",
    "optim.name",
    "optim.lr",
    "optim.schedule",
    "batch.interactions",
    "batch.conversations",
    "steps",
    "epochs",
)
"""The settings that every overview has; others follow where they are not the default."""


def _overview(
    settings: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], interactions: int
) -> Iterator[tuple[str, str]]:
    def told(text: str) -> str:
        """Settings in the place of "{their.name}"."""
        return html.said(re.sub(r"\{([\w.]+)\}", lambda name: str(settings[name[1]]), text))

    yield "model", told("{model.path}, computed in {model.dtype}")
    if settings["start_from"]:
        yield "begun from", told("{start_from}")
    yield "data", told("{data.path}")
    if OBJECTIVES[settings["objective.name"]].recipes == HINDSIGHT:
        yield "method", told("{objective.name}, teacher {teacher.name}, hindsight {hindsight}")
    else:
        yield "method", told("{objective.name}")
    yield "optimiser", told("{optim.name}, learning rate {optim.lr}, schedule {optim.schedule}")
    unit = "interactions" if settings["batch.interactions"] else "conversations"
    yield "batch", told(f"{{batch.{unit}}} {unit} a step")
    others = [name for name in _changed(settings) if name not in TOLD]
    if others:
        spans = (f'<span class="set">{told(f"{name}={{{name}}}")}</span> ' for name in others)
        yield "also set", "".join(spans)
    seconds = duration(sum(line["seconds"] for line in lines))
    yield "length", f"{len(lines):,} step{'s' * (len(lines) != 1)}, {seconds}"
    yield "interactions", f"{interactions:,} learned from"


def _changed(settings: Mapping[str, Any]) -> list[str]:
    """The settings that are not the default."""
    defaults = config.to_json(config.default())
    return [name for name in settings if settings[name] != defaults.get(name)]


def duration(seconds: float) -> str:
    """ "7.2 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def _settings(settings: Mapping[str, Any]) -> str:
    """All of them, folded."""
    known, changed = config.settings(), _changed(settings)

    def row(name: str) -> tuple[str, str, str]:
        meaning = known[name].meaning if name in known else ""
        value = html.said(str(settings[name])) or '<span class="soft">empty</span>'
        return f"<b>{name}</b>" if name in changed else name, value, html.shown(meaning)

    everything = html.table(map(row, settings), ("setting", "value", "meaning"), "settings")
    return html.folded(
        f"All {len(settings)} settings ({len(changed)} set for this run, in bold)", everything
    )


# ------------------------------------------------------------------------------ what came of it


def _measured(
    folder: Path, before: Mapping[str, float] | None, after: Mapping[str, float] | None
) -> Iterator[str]:
    if not before or not after:
        return
    rows, told = [], []
    for name in after:
        old, new = measures.known(before, name), measures.known(after, name)
        label = measures.measure_of(name).label
        values = measures.value(name, old), measures.value(name, new)
        rows.append(
            (html.shown(label), *values, measures.difference(name, old, new).replace("-", "−"))
        )
        if measures.measure_of(name).share:
            told.append(f"{label} {values[0]} before, {values[1]} after")
    yield "<h2>Before and after</h2>"
    yield '<div class="figures">'
    yield html.table(rows, ("measured", "before", "after", "difference"), "numbers")
    if told:
        figure = plots.before_after(before, after)
        html.picture(folder, "before_after", figure)
        yield html.drawn(figure, f"Bars: {'; '.join(told)}.")
    yield "</div>"


def _training(
    folder: Path, lines: Sequence[Mapping[str, Any]], shown: str, settings: Mapping[str, Any]
) -> Iterator[str]:
    yield "<h2>Training</h2>"
    if not lines:
        yield "<p>No step has been done.</p>"
        return
    names = ("loss", shown, "grad_norm")
    html.picture(folder, "training", plots.training(lines, names))
    yield f"<p>{html.shown(loss_told(settings))}</p>"
    yield '<div class="figures">'
    for name in names:
        yield html.drawn(plots.training(lines, [name]), _course(lines, name))
    yield "</div>"
    skipped = sum(map(was_skipped, lines))
    if skipped:
        yield (
            f'<p class="note">{skipped:,} of {len(lines):,} steps were skipped (a red line each): '
            "their loss or gradient was not finite.</p>"
        )
    joined = grouped(lines, "loss").joined
    if joined > 1:
        yield f'<p class="note">Every point is the mean of {joined:,} steps.</p>'


def _course(lines: Sequence[Mapping[str, Any]], name: str) -> str:
    """A curve in words."""
    values = [line[name] for line in lines if line[name] is not None]
    label = measures.metric(name)
    if not values:
        return f"{label}: never finite in {len(lines):,} steps."
    return (
        f"{label} over {len(lines):,} steps: {values[0]:.4g} at first, {values[-1]:.4g} at last, "
        f"between {min(values):.4g} and {max(values):.4g}."
    )


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield "<h2>Summary</h2>"
        yield "<ul>" + "".join(f"<li>{html.shown(note)}</li>" for note in notes) + "</ul>"
