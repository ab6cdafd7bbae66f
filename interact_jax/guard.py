"""Signs that a model is collapsing, reported while the run can still be saved.

A model that is trained for too long, or too fast, first changes how it says things: its replies run
on or shrink, it becomes certain of every token or of none, it moves far from where it began, and
loses tokens of which it was sure.
Measured on held-out prompts (`held_out`), relative to the same model before training.

seen = guard.signs(before, now)
guard.warning(seen)              one line on them, and what to do
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from interact_jax.settings import Setting

SETTINGS = {
    "evaluation.guard": Setting(
        "warn",
        "what to do when held-out replies show that the model collapses: warn, stop after a"
        " checkpoint, or nothing",
        ("warn", "stop", "none"),
        free=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Sign:
    """A condition on a measure's values before and now that shows a problem; its description."""

    measure: str
    is_seen: Callable[[float, float], bool]
    words: str


SIGNS = (
    Sign("held_out_length", lambda before, now: now > 2 * before + 16, "replies run on"),
    Sign("held_out_length", lambda before, now: now < before / 4, "replies shrink to nothing"),
    Sign("held_out_finished", lambda before, now: now < before - 0.2, "replies do not end"),
    Sign("held_out_readable", lambda before, now: now < before - 0.1, "replies cannot be read"),
    Sign("held_out_entropy", lambda before, now: now < before / 4, "every reply is like another"),
    Sign("held_out_entropy", lambda before, now: now > 2 * before + 0.5, "replies are noise"),
    Sign("held_out_distance", lambda before, now: now > 1.0, "it is far from the initial model"),
    Sign("held_out_forgotten", lambda before, now: now > 0.03, "it forgets what it was sure of"),
)
NOT_FINITE = "its log-probabilities are not finite"
ADVICE = (
    "Go back to an earlier checkpoint, and try a smaller optim.lr, fewer steps, "
    "teacher.name=trust_region, or objective.kl_initial."
)


COLLAPSE = "the model shows signs of collapse: {}."


def warning(seen: Mapping[str, str]) -> str:
    """One line on signs that are seen, and what to do; empty if there are none."""
    return f"{COLLAPSE.format('; '.join(seen.values()))} {ADVICE}" if seen else ""


def signs(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, str]:
    """The signs that are seen, each with a version that includes its figures. A measure that is
    now NaN or infinite is one, whatever it was before."""
    odd = [name for name, value in now.items() if not math.isfinite(value)]
    not_finite = {NOT_FINITE: f"{NOT_FINITE} ({', '.join(odd)})"} if odd else {}
    measured = before.keys() & now.keys() - set(odd)
    return not_finite | {
        sign.words: f"{sign.words} ({sign.measure} {before[sign.measure]:.3g} -> "
        f"{now[sign.measure]:.3g})"
        for sign in SIGNS
        if sign.measure in measured and sign.is_seen(before[sign.measure], now[sign.measure])
    }
