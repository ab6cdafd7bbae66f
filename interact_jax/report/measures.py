"""Labels, units and formats of what is measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Measure:
    """`share`: a number from 0 to 1, shown in %, with differences in points. `held_out`: it is of
    held-out conversations."""

    label: str
    share: bool = False
    held_out: bool = False


MEASURES = {
    "wanted_styles": Measure("wanted styles", share=True),
    "correct": Measure("correct answers", share=True),
    "readable": Measure("readable replies", share=True),
    "all_wanted": Measure("all styles as wanted", share=True),
    "held_out_signal": Measure("mean signal, nats", held_out=True),
    "held_out_signal_abs": Measure("mean |signal|, nats", held_out=True),
    "held_out_margin": Measure("better reply over the other, nats a token", held_out=True),
    "held_out_preferred": Measure("better reply is the likelier", share=True, held_out=True),
    "held_out_entropy": Measure("entropy, nats a token", held_out=True),
    "held_out_length": Measure("length of replies, tokens", held_out=True),
    "held_out_finished": Measure("replies that end", share=True, held_out=True),
    "held_out_readable": Measure("readable replies", share=True, held_out=True),
    "held_out_distance": Measure("distance from before, nats a token", held_out=True),
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
