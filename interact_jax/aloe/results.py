"""What the benchmark finds, as JSON and as lines for the terminal.

found = results(played, turns=10, draws=5000, seed=0)
first, second = found["models"]
second["ir"]               {"value": 0.12, "error": 0.01, "low": 0.1, "high": 0.14}
second["against_first"]    differences from the first model, case by case
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from interact_jax.aloe import metrics
from interact_jax.aloe.benchmark import MODEL, USER, Talk, counts_of, right_of, scores_of
from interact_jax.json_files import short
from interact_jax.printable import count, printable

NAME = 15  # columns for a model's name: the table fits into 80
LONGEST_ERROR = 200  # characters
LEGEND = (
    "AL: mean score, 1 to 5, at the first and the last turn. IR: its slope over the",
    "turns; R2 of that line. N-IR, N-R2: of scores stretched to 0..1 within each",
    "conversation. none: missing scores. right: replies whose content is, if known.",
)
Result = Mapping[str, Any]
Played = Mapping[str, Sequence[Talk]]
"""The conversations of every model, by its name; all have the same cases in the same order."""


def results(played: Played, turns: int, draws: int, seed: int = 0) -> dict[str, Any]:
    """The figures of every model, and their differences from those of the first, which are paired
    by case. All of it is JSON."""
    tables = {
        name: (scores_of(talks, turns), right_of(talks, turns)) for name, talks in played.items()
    }
    first = next(iter(tables), "")
    models = []
    for name, (scores, right) in tables.items():
        against = None
        if name != first:
            baseline, right_before = tables[first]
            against = metrics.compare(scores, baseline, draws, seed)
            against["right"] = metrics.compare_shares(right, right_before, draws, seed)
        models.append(
            {
                "name": name,
                **metrics.summarise(scores, draws, seed),
                "right": metrics.share(right, draws, seed),
                **counts_of(played[name]),
                "against_first": against,
                "scores": [[_or_none(score) for score in row] for row in scores],
            }
        )
    notes = [note for name, talks in played.items() for note in notes_on(name, talks)]
    return {"turns": turns, "models": models, "notes": notes}


def _or_none(score: float) -> float | None:
    return None if np.isnan(score) else float(score)


def notes_on(name: str, talks: Sequence[Talk]) -> Iterator[str]:
    """What is unusual about a model's conversations, with an example of each."""
    for who, what in {
        USER: "ended early, as the user failed",
        MODEL: "ended early, as the model failed",
    }.items():
        if errors := [talk.error for talk in talks if talk.ended == who]:
            example = errors[0][:LONGEST_ERROR]
            yield f"{name}: {count(len(errors), 'conversation')} {what}, such as: {example}"
    counts = counts_of(talks)
    replies = sum(len(talk.turns) for talk in talks)
    scores = [turn.score for talk in talks for turn in talk.turns if turn.score.value is None]
    for key, what in {
        "judge_failed": "failed",
        "judge_unreadable": "could not be read",
    }.items():
        some = [score for score in scores if bool(score.answer) == (key == "judge_unreadable")]
        if some:
            example = short(some[0].answer) if some[0].answer else some[0].error[:LONGEST_ERROR]
            share = f"{len(some):,} of {count(replies, 'answer')} of the judge {what}"
            yield f"{name}: {share}, such as: {example}"
    for key, what in {
        "cut": "cut at --max-new-tokens",
        "empty": "empty",
        "reasoned": "judged without the reasoning before it",
    }.items():
        if counts[key]:
            yield f"{name}: {count(counts[key], 'reply', 'replies')} {what}"


def lines_of(played: Played) -> Iterator[dict[str, Any]]:
    """A line for every conversation of every model, with all that was said."""
    for name, talks in played.items():
        for case, talk in enumerate(talks):
            yield {
                "model": name,
                "case": case,
                "id": talk.id,
                "profile": talk.persona.profile,
                "personality": talk.persona.personality,
                "traits": dict(talk.persona.traits),
                "ended": talk.ended,
                "error": talk.error,
                "turns": [
                    {
                        "user": turn.said,
                        "assistant": turn.reply.text,
                        "score": turn.score.value,
                        "judge": turn.score.answer,
                        "error": turn.score.error,
                        "right": turn.score.correct,
                    }
                    for turn in talk.turns
                ],
            }


# ------------------------------------------------------------------------------------ as text


def number(estimate: Mapping[str, float] | None, digits: int = 2) -> str:
    """ "3.42", or "–" for what is undefined."""
    return "–" if estimate is None else _signed(estimate["value"], digits)


def interval(estimate: Mapping[str, float] | None, digits: int = 2) -> str:
    """ "3.30 to 3.54"."""
    if estimate is None:
        return "–"
    return " to ".join(_signed(estimate[end], digits) for end in ("low", "high"))


def _signed(value: float, digits: int) -> str:
    """With a minus sign, and never as -0."""
    rounded = round(value, digits)
    return f"{rounded + 0.0:.{digits}f}".replace("-", "−") if math.isfinite(rounded) else "–"


def table(models: Sequence[Result]) -> list[str]:
    """A line per model, 80 columns wide, and what the words mean; then the differences from the
    first model."""
    turns = models[0]["turns"]
    head = ("", "AL(1)", f"AL({turns})", "IR", "95% interval", "R2", "N-IR", "N-R2", "none")
    rows = [
        (
            _shorten(each["name"]),
            *(number(each["al"][k]) for k in (0, -1)),
            *(number(each["ir"], 3), interval(each["ir"], 3)),
            *(number(each["r2"]), number(each["n_ir"], 3), number(each["n_r2"])),
            f"{each['missing']:,}",
        )
        for each in models
    ]
    widths = (NAME, 5, 6, 6, 16, 5, 6, 5, 5)
    right = [
        f"{_shorten(each['name']):{NAME}}  right   {number(each['right'], 3):>6}  "
        f"{interval(each['right'], 3)}"
        for each in models
        if each["right"]
    ]
    return [*_aligned([head, *rows], widths), *LEGEND, *right, *_differences(models)]


def _differences(models: Sequence[Result]) -> Iterator[str]:
    first, *others = models
    if not others:
        return
    yield f"Differences from {_shorten(first['name'], 30)}, paired by case:"
    for each in others:
        name, apart = _shorten(each["name"]), each["against_first"]
        for what, (found, digits) in {
            f"AL({each['turns']})": (apart["al_last"], 2),
            "IR": (apart["ir"], 3),
            "right": (apart["right"], 3),
        }.items():
            if found is not None:
                shown = f"{number(found, digits):>6}  {interval(found, digits)}"
                yield f"{name:{NAME}}  {what:7} {shown}"
                name = ""


def _aligned(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    first, *others = widths
    for name, *cells in rows:
        right = "".join(f" {cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        yield f"{name:{first}}{right}".rstrip()


def _shorten(name: str, most: int = NAME) -> str:
    """The end of a name, where paths differ."""
    name = printable(name).replace("\n", " ")
    return name if len(name) <= most else f"…{name[1 - most :]}"
