"""Teachers: whose weights see the hindsight; and how each model of a run changes.

    self           the current policy: there is no other model, and one pass serves both
    ema            an average of the policy over the steps
    frozen         the weights of step 0
    trust_region   the current policy's logits mixed with those of step 0 (arXiv 2601.20802)
    frozen_signal  the current policy without hindsight, moved by what hindsight changes for the
                   weights of step 0

A model that is not trained has a rule: a function from its parameters, those of the policy after
the step, and the number of the step, to its next parameters. A new teacher is a function from the
logits of its sources here, and possibly a model with a rule.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.scoring import Role, Source
from interact_jax.settings import LARGEST, Setting

POLICY, TEACHER, INITIAL, OLD = "policy", "teacher", "initial", "old"


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a model that is not trained changes. `fixed` ones never do, so a run saves them once and
    not in every checkpoint; `wide` ones are float32 whatever the policy's parameters are."""

    move: Callable[[Any, Any, jax.Array], Any] | None = None
    wide: bool = False

    @property
    def fixed(self) -> bool:
        return self.move is None


def fixed(settings: Any) -> Rule:
    """The weights of step 0."""
    return Rule()


def ema(settings: Any) -> Rule:
    """teacher <- (1 - rate) teacher + rate policy, after every step, in float32."""
    rate = settings.teacher.rate

    def move(params: Any, policy: Any, step: jax.Array) -> Any:
        return jax.tree.map(lambda a, p: a + rate * (p.astype(jnp.float32) - a), params, policy)

    return Rule(move, wide=True)


def refreshed(settings: Any) -> Rule:
    """A copy of the policy, refreshed every `objective.old_every` steps."""
    every = settings.objective.old_every

    def move(params: Any, policy: Any, step: jax.Array) -> Any:
        return jax.lax.cond(step % every == 0, lambda: policy, lambda: params)

    return Rule(move)


RULES = {TEACHER: ema, INITIAL: fixed, OLD: refreshed}
"""The rules of the models that a run may have besides the policy, by name."""


def _hindsight_of(model: str) -> Callable[[Any], Role]:
    return lambda settings: Role((Source(model, HINDSIGHT),))


def trust_region(settings: Any) -> Role:
    """(1 - mix) t_live + mix t_initial, normalised."""

    def combine(live: jax.Array, initial: jax.Array) -> jax.Array:
        return (1 - settings.mix) * live + settings.mix * initial

    return Role((Source(POLICY, HINDSIGHT), Source(INITIAL, HINDSIGHT)), combine)


def frozen_signal(settings: Any) -> Role:
    """s moved by what hindsight changes for the initial model, t0 - s0, and normalised: logit
    arithmetic as in arXiv 2105.03023. A log-probability is moved until it is `reach` times that
    change away from s0, no further and never back.

    Where the follow-up changes nothing for the initial model, the teacher is the policy: nothing
    is forgotten. How it reads follow-ups cannot drift with the policy either.
    """
    reach = min(settings.reach, LARGEST)  # infinity times no change is no number

    def combine(live: jax.Array, read: jax.Array, unread: jax.Array) -> jax.Array:
        s, t0, s0 = (jax.nn.log_softmax(logits, axis=-1) for logits in (live, read, unread))
        change = t0 - s0
        left = reach * change - (s - s0)
        return s + jnp.clip(left, jnp.minimum(change, 0), jnp.maximum(change, 0))

    sources = (Source(POLICY, PLAIN), Source(INITIAL, HINDSIGHT), Source(INITIAL, PLAIN))
    return Role(sources, combine)


TEACHERS = {
    "self": _hindsight_of(POLICY),
    "ema": _hindsight_of(TEACHER),
    "frozen": _hindsight_of(INITIAL),
    "trust_region": trust_region,
    "frozen_signal": frozen_signal,
}
"""The sources of the teacher's logits, by the value of the setting `teacher.name`."""

SETTINGS = {
    "teacher.name": Setting(
        "self", "whose weights score the replies in hindsight", tuple(TEACHERS)
    ),
    "teacher.rate": Setting(
        0.05, "for ema: share of the policy that enters the average in every step", above=0, most=1
    ),
    "teacher.mix": Setting(
        0.5, "for trust_region: share of the initial model's logits", least=0, most=1
    ),
    "teacher.reach": Setting(
        1.0,
        "for frozen_signal: how far from the initial model the policy is moved, in multiples of "
        "what hindsight changes for that model; inf = without end",
        above=0,
    ),
}


def roles_of(settings: Any) -> dict[str, Role]:
    """Every role that an objective may use, made of sources; `settings` are a run's."""
    return {
        "student": Role((Source(POLICY, PLAIN),)),
        "teacher": TEACHERS[settings.teacher.name](settings.teacher),
        "initial": Role((Source(INITIAL, PLAIN),)),
        "old": Role((Source(OLD, PLAIN),)),
    }
