"""All filters by name, and `parse_filter`, which makes one from text as `settings` explains."""

from __future__ import annotations

from interact_jax.prepare.filtering import Filter, Survey
from interact_jax.prepare.filters.about import Model, Time
from interact_jax.prepare.filters.duplicates import Duplicates
from interact_jax.prepare.filters.language import Language
from interact_jax.prepare.filters.lengths import Length, Turns
from interact_jax.prepare.filters.moderation import Moderation
from interact_jax.prepare.filters.near_duplicates import NearDuplicates
from interact_jax.prepare.filters.paper import Paper, Sample
from interact_jax.prepare.filters.personal import Personal
from interact_jax.prepare.filters.settings import describe, parse, to_text
from interact_jax.prepare.filters.users import Users

FILTERS: dict[str, type[Filter] | type[Survey]] = {
    Paper.name: Paper,
    Sample.name: Sample,
    Language.name: Language,
    Length.name: Length,
    Turns.name: Turns,
    Moderation.name: Moderation,
    Model.name: Model,
    Time.name: Time,
    Users.name: Users,
    Duplicates.name: Duplicates,
    NearDuplicates.name: NearDuplicates,
    Personal.name: Personal,
}


def parse_filter(text: str) -> Filter | Survey:
    """The filter of a text such as "language:languages=en,de,least=0.8". Raises InputError."""
    found: Filter | Survey = parse(text, FILTERS)
    return found
