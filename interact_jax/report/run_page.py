"""`index.html`: a run's settings and results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import config
from interact_jax.metrics import read_log
from interact_jax.objectives import HINDSIGHT, OBJECTIVES
from interact_jax.report import html, measures, plots
from interact_jax.report.losses import explain_loss
from interact_jax.report.summing import group_steps, was_skipped


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
    """Write `index.html`, and its pictures as PNG as well, into `folder`; returns the page's path.

    `shown` is a metric besides loss and gradient norm, `settings` are flat (`config.to_json`),
    `interactions` is the number learned from, `notes` are the lines of the run's summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = read_log(metrics_file)
    body = [
        html.table(_overview(settings, lines, interactions)),
        _settings(settings),
        *_before_and_after(folder, before, after),
        *_training(folder, lines, shown, settings),
        *_notes(notes),
    ]
    pages = [page for page in (html.SIGNAL, html.REPLIES) if (folder / page).exists()]
    title = f"Training run: {settings['model.path']} on {config.data_of(settings)}"
    return html.write_page(folder / html.RUN, title, body, pages)


# ----------------------------------------------------------------------------------- settings


OVERVIEW = (
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
"""The settings in every overview; others are added where they differ from the default."""


def _overview(
    settings: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], interactions: int
) -> Iterator[tuple[str, str]]:
    def fill(text: str) -> str:
        """Replace "{setting.name}" by the setting's value."""
        return html.message(re.sub(r"\{([\w.]+)\}", lambda name: str(settings[name[1]]), text))

    yield "model", fill("{model.path}, computed in {model.dtype}")
    if settings["start_from"]:
        yield "begun from", fill("{start_from}")
    yield "data", html.message(config.data_of(settings))
    if OBJECTIVES[settings["objective.name"]].recipes == HINDSIGHT:
        yield "method", fill("{objective.name}, teacher {teacher.name}, hindsight {hindsight}")
    else:
        yield "method", fill("{objective.name}")
    yield "optimiser", fill("{optim.name}, learning rate {optim.lr}, schedule {optim.schedule}")
    unit = "interactions" if settings["batch.interactions"] else "conversations"
    yield "batch", fill(f"{{batch.{unit}}} {unit} a step")
    others = [name for name in _changed_settings(settings) if name not in OVERVIEW]
    if others:
        spans = (f'<span class="set">{fill(f"{name}={{{name}}}")}</span> ' for name in others)
        yield "also set", "".join(spans)
    seconds = duration(sum(line["seconds"] for line in lines))
    yield "length", f"{len(lines):,} step{'s' * (len(lines) != 1)}, {seconds}"
    yield "interactions", f"{interactions:,} learned from"


def _changed_settings(settings: Mapping[str, Any]) -> list[str]:
    """The settings that differ from their default."""
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
    """All settings, folded."""
    known, changed = config.settings(), _changed_settings(settings)

    def row(name: str) -> tuple[str, str, str]:
        meaning = known[name].meaning if name in known else ""
        value = html.message(str(settings[name])) or '<span class="soft">empty</span>'
        return f"<b>{name}</b>" if name in changed else name, value, html.escape_text(meaning)

    everything = html.table(map(row, settings), ("setting", "value", "meaning"), "settings")
    return html.fold(
        f"All {len(settings)} settings ({len(changed)} set for this run, in bold)", everything
    )


# -------------------------------------------------------------------------------------- results


HELD_OUT = (
    "Held out: on conversations that the run did not learn from. A reply y that the user "
    "complained about is compared with the revised reply after the complaint, or a rejected reply "
    "with the preferred one. What you want: mean |signal| falls and the mean signal goes towards "
    "0, since the follow-up changes less; the revised reply gains on y; entropy and the shares of "
    "sampled replies that end and are readable stay about as they were; the distance from before "
    "is well below 1. A share of few replies moves by many points with each: the summary says how "
    "many there are."
)


def _before_and_after(
    folder: Path, before: Mapping[str, float] | None, after: Mapping[str, float] | None
) -> Iterator[str]:
    if not before or not after:
        return
    rows: dict[bool, list[tuple[str, ...]]] = {False: [], True: []}  # by whether it is held out
    descriptions = []
    for name in after:
        old, new = measures.finite(before, name), measures.finite(after, name)
        measure = measures.measure_of(name)
        values = [measures.format_value(name, each).replace("-", "−") for each in (old, new)]
        rows[measure.held_out].append(
            (
                html.escape_text(measure.label),
                *values,
                measures.format_difference(name, old, new).replace("-", "−"),
            )
        )
        if measure.share:
            label = f"held-out {measure.label}" if measure.held_out else measure.label
            descriptions.append(f"{label} {values[0]} before, {values[1]} after")
    yield "<h2>Before and after</h2>"
    yield '<div class="figures"><div>'
    for group, held_out in (("measured", False), ("on held-out conversations", True)):
        if rows[held_out]:
            head = (group, "before", "after", "difference")
            yield html.table(rows[held_out], head, "numbers")
    yield "</div>"
    if descriptions:
        figure = plots.before_after(before, after)
        html.save_picture(folder, "before_after", figure)
        yield html.inline_figure(figure, f"Bars: {'; '.join(descriptions)}.")
    yield "</div>"
    if any(name.startswith("held_out_") for name in after):
        yield f'<p class="note">{html.escape_text(HELD_OUT)}</p>'


def _training(
    folder: Path, lines: Sequence[Mapping[str, Any]], shown: str, settings: Mapping[str, Any]
) -> Iterator[str]:
    yield "<h2>Training</h2>"
    if not lines:
        yield "<p>No step has been done.</p>"
        return
    names = ("loss", shown, "grad_norm")
    html.save_picture(folder, "training", plots.training(lines, names))
    yield f"<p>{html.escape_text(explain_loss(settings))}</p>"
    yield '<div class="figures">'
    for name in names:
        yield html.inline_figure(plots.training(lines, [name]), _describe_curve(lines, name))
    yield "</div>"
    skipped = sum(map(was_skipped, lines))
    if skipped:
        yield (
            f'<p class="note">{skipped:,} of {len(lines):,} steps were skipped (a red line each): '
            "their loss or gradient was not finite.</p>"
        )
    joined = group_steps(lines, "loss").joined
    if joined > 1:
        yield f'<p class="note">Every point is the mean of {joined:,} steps.</p>'


def _describe_curve(lines: Sequence[Mapping[str, Any]], name: str) -> str:
    """A curve as text."""
    values = [line[name] for line in lines if line[name] is not None]
    label = measures.metric_label(name)
    if not values:
        return f"{label}: never finite in {len(lines):,} steps."
    return (
        f"{label} over {len(lines):,} steps: {values[0]:.4g} at first, {values[-1]:.4g} at last, "
        f"between {min(values):.4g} and {max(values):.4g}."
    )


def _notes(notes: Sequence[str]) -> Iterator[str]:
    if notes:
        yield "<h2>Summary</h2>"
        yield "<ul>" + "".join(f"<li>{html.escape_text(note)}</li>" for note in notes) + "</ul>"
