"""Explanations of each loss, for the page that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SURROGATE = (
    "The loss is a policy-gradient surrogate: minus the signal, held fixed, times {}. Only its "
    "gradient means something. It has no floor at 0, and where signals are negative it goes on "
    "falling as these tokens become less likely; how low it is does not say how well the model has "
    "learned. What was measured does."
)
DIVERGENCE = (
    "The loss is {}, in nats per token: 0 where student and teacher agree, never less. A teacher "
    "that moves with the student makes it no measure of progress from run to run."
)

LOSSES = {
    "sdpo": SURROGATE.format("log π(yₜ | x)"),
    "reverse_kl": DIVERGENCE.format("the reverse KL divergence of the student from the teacher"),
    "forward_kl": DIVERGENCE.format("the forward KL divergence, of the teacher from the student"),
    "jsd": DIVERGENCE.format("the Jensen-Shannon divergence of student and teacher"),
    "top_k": DIVERGENCE.format(
        "the reverse KL divergence of the student from the teacher, over the likeliest tokens and "
        "a bucket with the rest"
    ),
    "sft": "The loss is −log π(yₜ | x), in nats per token: 0 or more.",
    "sft_revised": "The loss is −log π(yₜ | x) of revised replies, in nats per token: 0 or more.",
    "dpo": (
        "The loss is −log σ(margin) of every pair: log 2 = 0.693 where the model is still the "
        "initial one, towards 0 the more clearly it prefers the preferred replies."
    ),
}
"""By the name of the objective."""


def explain_loss(settings: Mapping[str, Any]) -> str:
    """The explanation for a run with these settings; "" for an unknown objective."""
    name = settings["objective.name"]
    text = LOSSES.get(name, "")
    if name == "sdpo" and settings["objective.ratio"] != "none":
        text = SURROGATE.format("the clipped ratio of π(yₜ | x) to its older value")
    if settings["objective.kl_initial"]:
        text += (
            f" {settings['objective.kl_initial']:g} times the KL divergence from the initial model "
            "is added to it."
        )
    return text.strip()
