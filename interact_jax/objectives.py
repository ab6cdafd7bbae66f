"""Objectives: sums of terms, each a pure function of per-token quantities; none sees a model.

A term names the quantities that it needs of a chunk of logits (`logits.Quantity`) in terms of
roles, and turns those of all reply tokens into one number. A new objective is one function from the
settings to its terms, and one entry in OBJECTIVES.

    student  s   log pi(. | x, y_<t), the policy, differentiated
    teacher  t   log pi(. | x, o, y_<t), of the weights that `teacher.name` selects
    initial  s0  log pi(. | x, y_<t) of the weights of step 0
    old          the same of the policy some steps ago

Formulas are per token; a loss is the mean over examples of the mean over their counted tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from interact_jax import divergences
from interact_jax.logits import Logits, Quantity, logp
from interact_jax.schema import Array, Replies, Sum
from interact_jax.settings import LARGEST, MOST_COUNTED, Setting

Quantities = Mapping[str, jax.Array]
Loss = Callable[[Quantities, Replies], tuple[jax.Array, dict[str, Sum]]]


@dataclasses.dataclass(frozen=True)
class Term:
    """`loss` returns a sum over the examples of the rows, each weighted by its share, and the
    metrics listed in `shown`, as sums by name. `known` names log-probabilities that must have been
    computed elsewhere: by the "sampler" of the logs, by the "initial" model before training."""

    roles: tuple[str, ...]
    want: Mapping[str, Quantity]
    loss: Loss
    shown: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Objective:
    """`terms` are added; one of `recipes` makes its examples, the first by default; `shown` is the
    metric that is shown with the loss."""

    terms: Callable[[Any], tuple[Term, ...]]
    recipes: tuple[str, ...]
    shown: str


SETTINGS = {
    "objective.ignore_first": Setting(
        2, "leading tokens of every reply that do not count (the paper's code: 2)", least=0
    ),
    "objective.alpha": Setting(
        0.5, "for jsd: 0 is the forward KL, 1 the reverse KL", least=0, most=1
    ),
    "objective.reference": Setting(
        "kept",
        "for dpo: log-probabilities of the initial model are computed once and kept, or in "
        "every step",
        ("kept", "step"),
    ),
    "objective.k": Setting(
        20, "for top_k: number of tokens that have a bucket of their own", least=1
    ),
    "objective.k_by": Setting(
        "student", "for top_k: whose most likely tokens these are", ("student", "teacher")
    ),
    "objective.beta": Setting(
        0.1, "for dpo: factor on the log-ratio to the initial model", above=0, most=LARGEST
    ),
    "objective.kl_initial": Setting(
        0.0,
        "factor on the full-vocabulary KL to the initial model, added to any objective; 0 = off",
        least=0,
        most=LARGEST,
    ),
    "objective.centred": Setting(False, "for sdpo: subtract the signal's mean over the reply"),
    "objective.signal_clip": Setting(
        float("inf"),
        "for sdpo: largest size of a token's signal, in nats; inf = off",
        above=0,
    ),
    "objective.ratio": Setting(
        "none",
        "for sdpo: whose log-probabilities the clipped ratio is taken against",
        ("none", "sampler", "trainer"),
    ),
    "objective.ratio_clip": Setting(
        0.2, "for sdpo: distance from 1 at which the ratio is clipped", above=0
    ),
    "objective.old_every": Setting(
        8,
        "for sdpo with ratio=trainer: steps between copies of the policy to compare with",
        least=1,
        most=MOST_COUNTED,
    ),
    "objective.importance": Setting(
        0.0,
        "for sdpo: largest importance weight of a token, student over sampler; 0 = off",
        least=0,
    ),
}


# --------------------------------------------------------------------------- sums over the replies


def total_weight(replies: Replies) -> jax.Array:
    """The total weight of the examples of the rows, float32 scalar: a loss is divided by it."""
    return jnp.sum(replies.share_BxI)


def counts_in(replies: Replies) -> dict[str, jax.Array]:
    """The number of units (interactions, pairs) in the rows, and of counted tokens."""
    return {
        "interactions": jnp.sum(replies.unit_BxI.max(axis=1) + 1),
        "reply_tokens": jnp.sum(replies.weight_BxR > 0),
    }


def token_mean(per_token: jax.Array, replies: Replies) -> jax.Array:
    """Sum over examples, weighted by share, of the mean over their counted tokens."""
    return jnp.where(replies.weight_BxR > 0, per_token * replies.weight_BxR, 0.0).sum()


def sum_over_example(per_token: jax.Array, replies: Replies, counted: bool = False) -> jax.Array:
    """Sums [B, I] over the tokens of every example, all or the counted ones."""
    in_example = replies.example_BxR >= 0
    if counted:
        in_example &= replies.weight_BxR > 0
    B, R = per_token.shape
    row = jax.lax.broadcasted_iota(jnp.int32, (B, R), 0)
    number = jnp.where(in_example, replies.example_BxR, R)  # R is outside the table and dropped
    zeros = jnp.zeros((B, R), per_token.dtype)
    return zeros.at[row, number].add(jnp.where(in_example, per_token, 0.0), mode="drop")


def mean_over_example(per_token: jax.Array, replies: Replies) -> jax.Array:
    """Means [B, I] over the counted tokens of every example."""
    counted = sum_over_example(jnp.ones_like(per_token), replies, counted=True)
    return sum_over_example(per_token, replies, counted=True) / jnp.maximum(counted, 1)


def to_tokens(per_example_BxI: jax.Array, replies: Replies) -> jax.Array:
    """[B, R]: every token gets its example's value."""
    return jnp.take_along_axis(per_example_BxI, jnp.maximum(replies.example_BxR, 0), axis=1)


def sum_over_unit(per_example_BxI: Array, replies: Replies) -> jax.Array:
    """Sums [B, I] over the examples of every unit, at the index of the unit."""
    B, I = per_example_BxI.shape
    row = jax.lax.broadcasted_iota(jnp.int32, (B, I), 0)
    number = jnp.where(replies.unit_BxI >= 0, replies.unit_BxI, I)
    return (
        jnp.zeros((B, I), per_example_BxI.dtype).at[row, number].add(per_example_BxI, mode="drop")
    )


def signal_sums(quantities: Quantities, replies: Replies) -> dict[str, Sum]:
    """The signal log pi(y_t | x, o, y_<t) - log pi(y_t | x, y_<t) over the counted tokens."""
    counts = replies.weight_BxR > 0
    signal = quantities["logp_teacher"] - quantities["logp_student"]
    return {
        "signal_mean": Sum.of(signal, counts),
        "signal_abs_mean": Sum.of(abs(signal), counts),
    }


BOTH = {"logp_student": logp("student"), "logp_teacher": logp("teacher")}
SIGNAL = ("signal_mean", "signal_abs_mean")


# ------------------------------------------------------------------------- the sampled token alone


def sdpo(settings: Any) -> tuple[Term, ...]:
    """Self-distillation from user interactions, sampled-token form (arXiv 2603.12273).

    -sg(A_t) s[y_t], with the signal A_t = t[y_t] - s[y_t]. Settings make A_t mean-centred over the
    reply or clip it, weight a token by min(pi(y_t) / sampler(y_t), importance), and replace s[y_t]
    by the clipped ratio to older log-probabilities, -min(r A, clip(r) A) with r = exp(s - old).
    """
    want, roles = dict(BOTH), ["student", "teacher"]
    if settings.ratio == "trainer":
        want["logp_old"] = logp("old")
        roles.append("old")

    def loss(quantities: Quantities, replies: Replies) -> tuple[jax.Array, dict[str, Sum]]:
        student = quantities["logp_student"]
        shown = signal_sums(quantities, replies)
        signal = jax.lax.stop_gradient(quantities["logp_teacher"] - student)
        if settings.centred:
            signal -= to_tokens(mean_over_example(signal, replies), replies)
        signal = jnp.clip(signal, -settings.signal_clip, settings.signal_clip)
        if settings.importance:
            ratio = _ratio(jax.lax.stop_gradient(student), replies.known["sampler"])
            signal *= jnp.minimum(ratio, settings.importance)
        if settings.ratio == "none":
            gain = signal * student
        else:
            name = settings.ratio
            old = replies.known[name] if name == "sampler" else quantities["logp_old"]
            ratio = _ratio(student, old)
            clipped = jnp.clip(ratio, 1 - settings.ratio_clip, 1 + settings.ratio_clip)
            gain = jnp.minimum(ratio * signal, clipped * signal)
            counts = replies.weight_BxR > 0
            shown["ratio_clipped"] = Sum.of((clipped != ratio).astype(jnp.float32), counts)
        return token_mean(-gain, replies), shown

    extra = () if settings.ratio == "none" else ("ratio_clipped",)
    known = ("sampler",) if settings.importance or settings.ratio == "sampler" else ()
    return (Term(tuple(roles), want, loss, (*SIGNAL, *extra), known),)


LARGEST_LOG_RATIO = 20.0  # so that the gradient is finite where samplers report -9999


def _ratio(logp_BxR: jax.Array, old_BxR: Array) -> jax.Array:
    """exp(logp - old); 1 where the older one is not known (NaN)."""
    now = jax.lax.stop_gradient(logp_BxR)
    old_BxR = jnp.where(jnp.isnan(old_BxR), now, old_BxR)
    return jnp.exp(jnp.minimum(logp_BxR - old_BxR, LARGEST_LOG_RATIO))


# ----------------------------------------------------------------------- over the whole vocabulary


def _distil(divergence: Callable[..., jax.Array]) -> tuple[Term, ...]:
    """The mean divergence of student and teacher, per token."""
    between = functools.partial(_between, divergence, "student", "teacher")

    def loss(quantities: Quantities, replies: Replies) -> tuple[jax.Array, dict[str, Sum]]:
        return token_mean(quantities["divergence"], replies), signal_sums(quantities, replies)

    return (Term(("student", "teacher"), {**BOTH, "divergence": between}, loss, SIGNAL),)


def _between(
    divergence: Callable[..., jax.Array],
    a: str,
    b: str,
    roles: Mapping[str, Logits],
    target_BxC: jax.Array,
) -> jax.Array:
    return divergence(roles[a], roles[b])


def reverse_kl(settings: Any) -> tuple[Term, ...]:
    """sum_v exp(s) (s - t): the paper's objective, of which `sdpo` is the one-sample estimate."""
    return _distil(divergences.reverse_kl)


def forward_kl(settings: Any) -> tuple[Term, ...]:
    """sum_v exp(t) (t - s)."""
    return _distil(divergences.forward_kl)


def jsd(settings: Any) -> tuple[Term, ...]:
    """The generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649)."""
    return _distil(functools.partial(divergences.jsd, alpha=settings.alpha))


def top_k(settings: Any) -> tuple[Term, ...]:
    """The reverse KL over k tokens and one bucket with all the rest (arXiv 2601.20802)."""
    by_teacher = settings.k_by == "teacher"
    return _distil(functools.partial(divergences.top_k, k=settings.k, by_teacher=by_teacher))


# ---------------------------------------------------------------------------------------- baselines


def sft(settings: Any) -> tuple[Term, ...]:
    """-s[y_t]: supervised fine-tuning."""

    def loss(quantities: Quantities, replies: Replies) -> tuple[jax.Array, dict[str, Sum]]:
        logp_BxR, counts = quantities["logp_student"], replies.weight_BxR > 0
        return token_mean(-logp_BxR, replies), {"logp_mean": Sum.of(logp_BxR, counts)}

    return (Term(("student",), {"logp_student": logp("student")}, loss, ("logp_mean",)),)


def dpo(settings: Any) -> tuple[Term, ...]:
    """Direct preference optimisation (arXiv 2305.18290): per pair of y' preferred over y

    -log sigmoid(beta ((log pi(y'|x) - log pi0(y'|x)) - (log pi(y|x) - log pi0(y|x)))),

    sums over the counted tokens; pi0 is the initial model.
    """
    kept = settings.reference == "kept"

    def loss(quantities: Quantities, replies: Replies) -> tuple[jax.Array, dict[str, Sum]]:
        initial = replies.known["initial"] if kept else quantities["logp_initial"]
        gain = quantities["logp_student"] - initial
        reward = settings.beta * sum_over_example(gain, replies, counted=True)
        margin = sum_over_unit(reward * replies.side_BxI, replies)
        weight = sum_over_unit(replies.share_BxI, replies)
        present = weight > 0
        total = jnp.where(present, -jax.nn.log_sigmoid(margin) * weight, 0.0).sum()
        right = (margin > 0).astype(jnp.float32)
        return total, {"margin": Sum.of(margin, present), "right": Sum.of(right, present)}

    shown = ("margin", "right")
    if kept:
        want = {"logp_student": logp("student")}
        return (Term(("student",), want, loss, shown, known=("initial",)),)
    want = {"logp_student": logp("student"), "logp_initial": logp("initial")}
    return (Term(("student", "initial"), want, loss, shown),)


# ------------------------------------------------------------------------------- terms for any sum


def kl_initial(settings: Any) -> Term:
    """coefficient * sum_v exp(s) (s - s0): the distance from the initial model."""
    between = functools.partial(_between, divergences.reverse_kl, "student", "initial")

    def loss(quantities: Quantities, replies: Replies) -> tuple[jax.Array, dict[str, Sum]]:
        kl = quantities["kl_initial"]
        shown = {"kl_initial": Sum.of(kl, replies.weight_BxR > 0)}
        return settings.kl_initial * token_mean(kl, replies), shown

    return Term(("student", "initial"), {"kl_initial": between}, loss, ("kl_initial",))


HINDSIGHT = ("hindsight",)
OBJECTIVES = {
    "sdpo": Objective(sdpo, HINDSIGHT, "signal_abs_mean"),
    "reverse_kl": Objective(reverse_kl, HINDSIGHT, "signal_abs_mean"),
    "forward_kl": Objective(forward_kl, HINDSIGHT, "signal_abs_mean"),
    "jsd": Objective(jsd, HINDSIGHT, "signal_abs_mean"),
    "top_k": Objective(top_k, HINDSIGHT, "signal_abs_mean"),
    "sft": Objective(sft, ("replies", "revisions", "chosen"), "logp_mean"),
    "sft_revised": Objective(sft, ("revisions",), "logp_mean"),
    "dpo": Objective(dpo, ("pairs",), "margin"),
}
"""By the name of the setting `objective.name`."""
SETTINGS = {
    "objective.name": Setting("sdpo", "the objective that is minimised", tuple(OBJECTIVES)),
    **SETTINGS,
}


def terms_of(settings: Any) -> tuple[Term, ...]:
    """All terms of the objective that these settings (`objective.*`) name."""
    terms = OBJECTIVES[settings.name].terms(settings)
    return (*terms, kl_initial(settings)) if settings.kl_initial else terms


def total_of(
    terms: tuple[Term, ...], quantities: Quantities, replies: Replies
) -> tuple[Sum, dict[str, Sum]]:
    """The loss as a sum over examples, to be divided by their weight, and the metrics."""
    total = jnp.float32(0)
    shown: dict[str, Sum] = {}
    for term in terms:
        value, sums = term.loss(quantities, replies)
        if set(sums) != set(term.shown):
            raise ValueError(
                f"a term says that it shows {sorted(term.shown)}, and its loss gives {sorted(sums)}"
            )
        total, shown = total + value, shown | sums
    return Sum(total, total_weight(replies)), shown
