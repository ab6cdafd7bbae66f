"""Labels, units and formats of what is measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Measure:
    """`share`: a number from 0 to 1, shown in %, with differences in points. `held_out`: it is of
    held-out conversations. `meaning`: a sentence for whoever does not know it."""

    label: str
    share: bool = False
    held_out: bool = False
    meaning: str = ""


NATS = "A nat is the unit of natural logarithms: 0.69 nats are a factor of two."
BETTER = "the reply after a follow-up over the one before, or a preferred one over a rejected one"

MEASURES = {
    "wanted_styles": Measure(
        "wanted styles",
        share=True,
        meaning="How many of the styles that the users of the pocket world want a reply has as "
        "wanted, on average.",
    ),
    "correct": Measure("correct answers", share=True, meaning="Replies with the right answer."),
    "readable": Measure(
        "readable replies", share=True, meaning="Replies that the parser of the world can read."
    ),
    "all_wanted": Measure(
        "all styles as wanted", share=True, meaning="Replies that have every style as wanted."
    ),
    "held_out_signal": Measure(
        "mean signal, nats",
        held_out=True,
        meaning="How much more likely the follow-up makes a token of the logged reply. Should move "
        f"towards 0. {NATS}",
    ),
    "held_out_signal_abs": Measure(
        "mean |signal|, nats",
        held_out=True,
        meaning="How much the follow-up changes a token, up or down. Should fall.",
    ),
    "held_out_margin": Measure(
        "margin of better replies, nats a token",
        held_out=True,
        meaning=f"How much likelier a token of the better reply is: {BETTER}. Should rise.",
    ),
    "held_out_preferred": Measure(
        "better reply is likelier",
        share=True,
        held_out=True,
        meaning="Pairs in which the better reply is the likelier. Should rise.",
    ),
    "held_out_entropy": Measure(
        "entropy, nats a token",
        held_out=True,
        meaning="How much sampled replies vary. Near 0 the model always says the same.",
    ),
    "held_out_length": Measure(
        "length of replies, tokens", held_out=True, meaning="Of sampled replies, on average."
    ),
    "held_out_finished": Measure(
        "replies that end",
        share=True,
        held_out=True,
        meaning="Sampled replies that the model ends before the limit of tokens.",
    ),
    "held_out_readable": Measure(
        "readable replies",
        share=True,
        held_out=True,
        meaning="Sampled replies with words, whole characters and no endless repetition.",
    ),
    "held_out_distance": Measure(
        "KL from the initial model, nats a token",
        held_out=True,
        meaning="How far the model has moved: its Kullback-Leibler divergence from what it was "
        "before training. Should stay well below 1.",
    ),
    "held_out_forgotten": Measure(
        "forgotten",
        share=True,
        held_out=True,
        meaning="How much probability is lost on the tokens that the initial model gave at least "
        "90 %, in its own replies. A new style takes next to nothing from these; a collapse does.",
    ),
}
"""By the names in `summary.json`. Others are shown by name, as a number."""

METRICS = {
    "signal_abs_mean": "mean |signal|, nats",
    "grad_norm": "gradient norm",
    "logp_mean": "mean log π(yₜ), nats",
    "margin": "mean margin of the preferred reply",
}
"""Labels of metrics in `metrics.jsonl` whose name is not clear by itself."""


def metric_label(name: str) -> str:
    return METRICS[name] if name in METRICS else name.replace("_", " ")


def measure_of(name: str) -> Measure:
    return MEASURES[name] if name in MEASURES else Measure(name.replace("_", " "))


def finite(measured: Mapping[str, float | None], name: str) -> float | None:
    """A measured number; None if it is missing or not finite."""
    number = measured.get(name)
    return number if number is not None and math.isfinite(number) else None


def format_value(name: str, number: float | None) -> str:
    """ "44.7%" or "1.234"; "–" if it is not known."""
    if number is None:
        return "–"
    return f"{number:.1%}" if measure_of(name).share else f"{number:,.4g}"


def format_difference(name: str, before: float | None, after: float | None) -> str:
    """ "+34.3 points" or "+0.12"."""
    if before is None or after is None:
        return "–"
    if measure_of(name).share:
        points = round(100 * (after - before), 1) + 0.0  # never -0.0
        return f"{points:+.1f} points"
    return f"{after - before:+,.4g}"
