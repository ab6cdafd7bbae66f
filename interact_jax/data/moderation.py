"""What moderation found in a conversation, as scalars among its meta data.

WildChat and LMSYS-Chat-1M have a result per turn, nested; their dataset cards list the fields.

    "openai_moderation": [{"flagged": true, "categories": {"hate": true, ...},
                           "category_scores": {"hate": 0.91, ...}}, ...]
        -> "moderation_flagged": true, "moderation_categories": "hate", "moderation_score": 0.91
    "detoxify_moderation": [{"toxicity": 0.97, "insult": 0.4, ...}, ...]
        -> "toxicity": 0.97, "severe_toxicity": ..., one for each of DETOXIFY
    turns with "toxic": true, or "redacted": true
        -> "toxic": true, "redacted": true, unless the record says it itself

Each is the worst of all turns. Fields of the record itself go first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from interact_jax.data.messages import as_float

OPENAI, DETOXIFY_RESULTS = "openai_moderation", "detoxify_moderation"
FLAGGED, CATEGORIES, SCORE = "moderation_flagged", "moderation_categories", "moderation_score"
DETOXIFY = (
    "toxicity",
    "severe_toxicity",
    "identity_attack",
    "insult",
    "obscene",
    "sexual_explicit",
    "threat",
)
TURN_MARKS = ("toxic", "redacted")  # true or false


def moderation_of(
    record: Mapping[str, Any], turns: Iterable[Any] = ()
) -> tuple[dict[str, str | bool | float], set[str]]:
    """(meta data, names of the fields of the record that they are from)."""
    found: dict[str, str | bool | float] = {}
    used = set()
    for key, reduce in ((OPENAI, _openai), (DETOXIFY_RESULTS, _detoxify)):
        given = record.get(key)
        results = [given] if isinstance(given, dict) else given
        if isinstance(results, list) and results and all(isinstance(r, dict) for r in results):
            found |= reduce(results)
            used.add(key)
    marked = [turn for turn in turns if isinstance(turn, dict)]
    for mark in TURN_MARKS:
        if given := [turn[mark] for turn in marked if isinstance(turn.get(mark), bool)]:
            found[mark] = any(given)
    return {key: value for key, value in found.items() if key not in record}, used


def _openai(results: list[dict[str, Any]]) -> dict[str, str | bool | float]:
    found: dict[str, str | bool | float] = {
        FLAGGED: any(result.get("flagged") is True for result in results)
    }
    categories = {
        name.replace("/", "_").replace("-", "_")
        for result in results
        for name, given in _object(result, "categories").items()
        if given is True
    }
    if categories:
        found[CATEGORIES] = ", ".join(sorted(categories))
    scores = [
        as_float(s) for result in results for s in _object(result, "category_scores").values()
    ]
    if known := [score for score in scores if score is not None]:
        found[SCORE] = max(known)
    return found


def _detoxify(results: list[dict[str, Any]]) -> dict[str, str | bool | float]:
    found: dict[str, str | bool | float] = {}
    for name in DETOXIFY:
        scores = [as_float(result.get(name)) for result in results]
        if known := [score for score in scores if score is not None]:
            found[name] = max(known)
    return found


def _object(result: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key, empty where there is none."""
    value = result.get(key)
    return value if isinstance(value, dict) else {}
