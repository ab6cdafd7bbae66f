"""A method: what a run learns from, what it minimises, whose weights it uses.

    method = method_of(cfg)
    method.sources   whose weights are used, in which views; `method.rules` says how models move
    seen             the reply tokens as those sources see them (`scoring.look`)
    method.loss(method.quantities(seen, replies), replies)

The parts are entries of `data.recipes`, `objectives` and `teachers`; this module knows none of them
by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from interact_jax import scoring
from interact_jax.data.recipes import RECIPES
from interact_jax.objectives import OBJECTIVES, Quantities, Term, terms_of, total_of
from interact_jax.schema import InputError, Replies, Sum
from interact_jax.scoring import Quantity, Role, Seen, Source
from interact_jax.settings import Setting
from interact_jax.teachers import POLICY, RULES, Rule, roles_of

SETTINGS = {
    "data.recipe": Setting(
        "auto", "what is learned from; auto = what the objective needs", ("auto", *RECIPES)
    ),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """`rules` are those of the models other than the policy."""

    recipe: str
    terms: tuple[Term, ...]
    roles: Mapping[str, Role]
    rules: Mapping[str, Rule]
    shown: str

    @property
    def sources(self) -> frozenset[Source]:
        """The sources (weights and view) of all roles."""
        return frozenset(source for role in self.roles.values() for source in role.sources)

    @property
    def want(self) -> dict[str, Quantity]:
        """The quantities of all terms."""
        return {name: quantity for term in self.terms for name, quantity in term.want.items()}

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that are shown with the loss."""
        return tuple(dict.fromkeys(name for term in self.terms for name in term.shown))

    def quantities(self, seen: Mapping[Source, Seen], replies: Replies) -> Quantities:
        """The quantities that the terms need of every reply token."""
        return scoring.score(seen, self.roles, replies.target_BxR, self.want)

    def loss(self, quantities: Quantities, replies: Replies) -> tuple[Sum, dict[str, Sum]]:
        """The loss, to be divided by its count, and the sums of `metrics`."""
        return total_of(self.terms, quantities, replies)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The models that never change."""
        return tuple(name for name, rule in self.rules.items() if rule.fixed)

    @property
    def known(self) -> frozenset[str]:
        """The log-probabilities that have to be known before training."""
        return frozenset(name for term in self.terms for name in term.known)


def method_of(cfg: Any) -> Method:
    """The method given by a run's settings. Raises InputError where they are incompatible."""
    objective, terms = OBJECTIVES[cfg.objective.name], terms_of(cfg.objective)
    recipe = objective.recipes[0] if cfg.data.recipe == "auto" else cfg.data.recipe
    if recipe not in objective.recipes:
        raise InputError(
            f"data.recipe={recipe!r}: objective.name={cfg.objective.name!r} learns from "
            f"{', '.join(objective.recipes)}. Set one of these, or auto."
        )
    wanted = {role for term in terms for role in term.roles}
    roles = {name: role for name, role in roles_of(cfg).items() if name in wanted}
    models = {source.model for role in roles.values() for source in role.sources}
    rules = {name: RULES[name](cfg) for name in sorted(models - {POLICY})}
    return Method(recipe, terms, roles, rules, objective.shown)
