"""Who the users of an online run are, and what they want when: settings in words.

    online.users      "emoji,-sentence"                 one user of the pocket world
                      "poetic | mine.toml:grumpy"       two, played by online.user_model
    online.schedule   "250: -emoji,sentence; 500: capitals"

A user is a preference (styles of the pocket world, those with a minus are unwanted) or the name of
a persona. Conversations are dealt to the users in turn; one that is named twice gets twice as
many. A phase of the schedule begins once the run has learned from so many interactions, and names
its users anew.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from interact_jax.pocket import world
from interact_jax.printable import count
from interact_jax.schema import InputError
from interact_jax.settings import MOST_COUNTED, Setting
from interact_jax.users.persona import Persona, find_persona, load_personas

SETTINGS = {
    "online.users": Setting(
        "",
        "who reacts to replies, with | between several: styles of the pocket world, such as "
        "emoji,-sentence, or a persona, such as poetic or FILE.toml:NAME",
    ),
    "online.schedule": Setting(
        "",
        "what users want later on, by the number of interactions learned from, such as "
        "250: -emoji,sentence; 500: capitals; empty = always the same",
    ),
    "online.user_model": Setting(
        "",
        "who plays the personas: a model as in model.path, openai:MODEL, anthropic:MODEL, or "
        "policy = the model that is trained; empty = nobody",
    ),
    "online.unrelated": Setting(
        False, "users of the pocket world say something that has nothing to do with the reply"
    ),
    "online.leaves": Setting(
        0.0,
        "probability with which a user of the pocket world leaves without a follow-up",
        least=0,
        most=1,
    ),
}
EXAMPLE = "250: -emoji,sentence; 500: capitals"


@dataclasses.dataclass(frozen=True)
class Want:
    """What a user wants: a preference, or a persona. `name` says it, and names the user."""

    name: str
    preference: tuple[tuple[str, bool], ...] = ()
    persona: Persona | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
    """From `start` interactions on, conversations are dealt to these users in turn."""

    start: int
    users: tuple[Want, ...]

    def user_of(self, conversation: int) -> Want:
        """Who holds the conversation of this number, counted from 0 over the whole run."""
        return self.users[conversation % len(self.users)]


Schedule = tuple[Phase, ...]
"""Phases in order, the first from 0 on."""


def parse_schedule(users: str, schedule: str = "") -> Schedule:
    """The phases of the two settings. Raises InputError, with the place in the text."""
    if not users.strip():
        raise InputError(
            "online.users is not set: who reacts to replies? Give styles of the pocket world, such "
            "as emoji,-sentence, or a persona."
        )
    phases = [Phase(0, _parse_users("online.users", users, 0))]
    for at, text in _pieces(schedule, ";") if schedule.strip() else ():
        start = _parse_start(at, text, phases[-1].start)
        colon = text.index(":") + 1
        phases.append(Phase(start, _parse_users("online.schedule", text[colon:], at + colon)))
    _check_names(phases)
    return tuple(phases)


def phase_at(schedule: Schedule, interactions: int) -> Phase:
    """The phase in which a run is that has learned from so many interactions."""
    return next(phase for phase in reversed(schedule) if phase.start <= interactions)


def wants_of(schedule: Schedule) -> dict[str, Want]:
    """Everybody in the schedule, by name, in order of appearance."""
    return {want.name: want for phase in schedule for want in phase.users}


def describe(schedule: Schedule) -> list[str]:
    """A line for every phase, for people."""
    lines = []
    for phase in schedule:
        since = f"from interaction {phase.start:,} on" if phase.start else "from the start"
        names = " | ".join(want.name for want in phase.users)
        lines.append(f"{since}: {count(len(phase.users), 'user')}, {names}")
    return lines


# --------------------------------------------------------------------------------------- parsing


def _pieces(text: str, separator: str) -> Iterator[tuple[int, str]]:
    """(place, piece) of a text that is split."""
    at = 0
    for piece in text.split(separator):
        yield at, piece
        at += len(piece) + len(separator)


def _parse_start(at: int, text: str, before: int) -> int:
    number, colon, _ = text.partition(":")
    if not colon or not re.fullmatch(r"\s*[0-9]+\s*", number) or len(number) > 20:
        raise _error("online.schedule", at, text, f"expected NUMBER: USERS, such as {EXAMPLE!r}")
    start = int(number)
    if not before < start <= MOST_COUNTED:
        expected = f"more than {before}, where the phase before it begins"
        if start > MOST_COUNTED:
            expected = f"at most {MOST_COUNTED}"
        elif not before:
            expected = "at least 1; what users want at first is online.users"
        raise _error("online.schedule", at, number, f"expected {expected}")
    return start


def _parse_users(setting: str, text: str, at: int) -> tuple[Want, ...]:
    return tuple(_parse_user(setting, piece, at + start) for start, piece in _pieces(text, "|"))


def _parse_user(setting: str, text: str, at: int) -> Want:
    if not text.strip():
        raise _error(
            setting, at, text, "expected a user: styles such as emoji,-sentence, or a persona"
        )
    items = [(at + start, piece) for start, piece in _pieces(text, ",")]
    if len(items) == 1 and world.read_style(text) is None:
        return _find_persona(setting, text, at)
    return _parse_preference(setting, items)


def _find_persona(setting: str, text: str, at: int) -> Want:
    """A user who is a persona. Its name has no folder: what it says should not depend on that."""
    spec = text.strip()
    if ".toml" not in spec and spec not in load_personas():
        raise _error(setting, at, text, f"no style and no persona.{_suggestion(spec)}")
    try:
        persona = find_persona(spec)
    except InputError as error:
        raise _error(setting, at, text, str(error)) from None
    if ".toml" not in spec:
        return Want(persona.name, persona=persona)
    file = Path(spec.partition(".toml:")[0]).name.removesuffix(".toml")
    return Want(f"{file}.toml:{persona.name}", persona=persona)


def _parse_preference(setting: str, items: Sequence[tuple[int, str]]) -> Want:
    preference: dict[str, bool] = {}
    for at, text in items:
        if (read := world.read_style(text)) is None:
            near = difflib.get_close_matches(text.strip().lstrip("- "), world.STYLES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise _error(setting, at, text, f"no style.{hint} There are {', '.join(world.STYLES)}")
        style, wanted = read
        if style in preference:
            raise _error(setting, at, text, f"{style} is named twice")
        preference[style] = wanted
    ordered = world.check_preference(preference)
    name = ",".join(style if on else f"-{style}" for style, on in ordered.items())
    return Want(name, tuple(ordered.items()))


def _suggestion(name: str) -> str:
    known = [*world.STYLES, *load_personas()]
    near = difflib.get_close_matches(name.removeprefix("-"), known, 1)
    return (
        (f" Did you mean {near[0]!r}?" if near else "")
        + f" Styles of the pocket world are {', '.join(world.STYLES)}; a persona is one of "
        "interact_jax.users.load_personas(), or FILE.toml:NAME"
    )


def _error(setting: str, at: int, text: str, problem: str) -> InputError:
    start = at + len(text) - len(text.lstrip())
    problem = problem.removesuffix(".")
    return InputError(f"{setting}, character {start + 1}: {text.strip()!r}: {problem}.")


def _check_names(phases: Sequence[Phase]) -> None:
    """Raise InputError where two users who want different things have one name."""
    known: dict[str, Want] = {}
    for phase in phases:
        for want in phase.users:
            if known.setdefault(want.name, want) != want:
                raise InputError(
                    f"online.users, online.schedule: there are two personas {want.name}, from "
                    "files of one name, and records could not tell them apart. Rename one."
                )
