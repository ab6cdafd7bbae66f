"""What a log says about a conversation, beside its messages: the model, the time."""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import math
from typing import Any, ClassVar

from interact_jax.data.messages import as_float
from interact_jax.prepare.filtering import Dropped, Outcome
from interact_jax.prepare.filters.settings import KEEP_OR_DROP, Settings, setting
from interact_jax.schema import Conversation


@dataclasses.dataclass(frozen=True)
class Model(Settings):
    """Only replies of some models, by the field `model` of the record."""

    name: ClassVar[str] = "model"
    models: tuple[str, ...] = setting(
        ("*",), "names or patterns (gpt-4*) of those to keep, in upper or lower case"
    )
    missing: str = setting("drop", "conversations that name no model", KEEP_OR_DROP)

    def __call__(self, conversation: Conversation) -> Outcome:
        model = str(conversation.meta.get("model", "")).strip()
        if not model:
            return conversation if self.missing == "keep" else Dropped("no model named", "")
        if any(fnmatch.fnmatchcase(model.lower(), one.lower()) for one in self.models):
            return conversation
        return Dropped("another model", repr(model))


FIELDS = ("timestamp", "time", "created_at", "create_time")
UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (math.inf, 1e9))
"""(below which an epoch is in these units, how many of them are a second): s, ms, µs, ns. Seconds
below 1e11 are before the year 5138, milliseconds from there on after 1973."""


@dataclasses.dataclass(frozen=True)
class Time(Settings):
    """When a conversation took place: the first of some fields that it has, as an ISO date or time,
    or as an epoch in seconds, milliseconds, microseconds or nanoseconds. Times without a zone are
    UTC, as are the limits."""

    name: ClassVar[str] = "time"
    since: str | None = setting(None, "ISO date or time of the first to keep")
    until: str | None = setting(None, "ISO date or time of the last to keep; a date is a whole day")
    fields: tuple[str, ...] = setting(FIELDS, "where the time stands")
    missing: str = setting("drop", "conversations whose time is not known", KEEP_OR_DROP)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("since", "until"):
            given = getattr(self, name)
            if given is not None and _iso(given) is None:
                raise self.refuse(name, "an ISO date or time, such as 2023-04-30")
        low, high = self._limits()
        if low > high:
            raise self.refuse("until", f"a time after since={self.since}")

    def __call__(self, conversation: Conversation) -> Outcome:
        given = next((conversation.meta[f] for f in self.fields if f in conversation.meta), None)
        seconds = None if given in (None, "") else seconds_of(given)
        if seconds is None:
            if self.missing == "keep":
                return conversation
            absent = given in (None, "")
            detail = f"none of {', '.join(self.fields)}" if absent else repr(given)[:80]
            return Dropped("no time" if absent else "unreadable time", detail)
        low, high = self._limits()
        if seconds < low:
            return Dropped(f"before {self.since}", repr(given)[:80])
        if seconds > high:
            return Dropped(f"after {self.until}", repr(given)[:80])
        return conversation

    def _limits(self) -> tuple[float, float]:
        """Seconds since 1970 between which it has to lie."""
        low = -math.inf if self.since is None else _iso(self.since)
        high = math.inf if self.until is None else _iso(self.until)
        assert low is not None and high is not None
        whole_day = self.until is not None and len(self.until.strip()) <= len("2023-04-30")
        return low, math.nextafter(high + 86_400, 0) if whole_day else high


def seconds_of(value: Any) -> float | None:
    """Seconds since 1970 of an ISO time or an epoch; None where it is neither."""
    if isinstance(value, str):
        iso = _iso(value)
        if iso is not None:
            return iso
        try:
            value = float(value)
        except ValueError:
            return None
    epoch = as_float(value)
    if epoch is None or not math.isfinite(epoch):
        return None
    return epoch / next(per_second for most, per_second in UNITS if abs(epoch) < most)


def _iso(text: str) -> float | None:
    """Seconds since 1970 of an ISO date or time, UTC where it names no zone."""
    try:
        time = datetime.datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    except ValueError:
        return None
    return time.replace(tzinfo=time.tzinfo or datetime.UTC).timestamp()
