"""Pairwise comparison of a candidate with a baseline: both orders, outcomes, figures.

    judgements = judge_pairs(judge, pairs, store)
    figures(judgements)["win_rate"]        {"value": 0.71, "error": 0.03, "low": 0.65, "high": 0.77}

A judge sees every pair in both orders. Where it names the same reply twice, that reply has won; two
votes that differ are a tie, as is twice "neither". A pair with an answer that cannot be read, or
with none, has no outcome: it is counted, and no share includes it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from interact_jax.judges import statistics
from interact_jax.judges.judge import (
    FAILED,
    FIRST,
    SECOND,
    UNPARSABLE,
    Comparison,
    Judge,
    Verdict,
)
from interact_jax.judges.store import Store, digest
from interact_jax.schema import Message

CANDIDATE, BASELINE = "candidate", "baseline"
WIN, LOSS, TIE = "win", "loss", "tie"
VERDICT_FIELDS = tuple(field.name for field in dataclasses.fields(Verdict))
BATCH = 256  # comparisons that a judge is handed at a time, and that a killed program may lose


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two replies to a prompt. `index` is the prompt's place among the prompts, `sample` the number
    of the reply among those to it."""

    index: int
    sample: int
    prompt: tuple[Message, ...]
    candidate: str
    baseline: str

    def ordered(self, first: str) -> Comparison:
        """What a judge sees where the reply of `first` (CANDIDATE or BASELINE) stands first."""
        if first == CANDIDATE:
            return Comparison(self.prompt, self.candidate, self.baseline)
        return Comparison(self.prompt, self.baseline, self.candidate)


@dataclasses.dataclass(frozen=True)
class Vote:
    """A verdict on a pair in one order; `first` is whose reply stood first."""

    first: str
    verdict: Verdict

    @property
    def choice(self) -> str:
        """CANDIDATE, BASELINE, or what else the verdict is."""
        second = BASELINE if self.first == CANDIDATE else CANDIDATE
        return {FIRST: self.first, SECOND: second}.get(self.verdict.choice, self.verdict.choice)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A judge's votes on a pair: two, one per order. A person sees a pair once: one vote."""

    pair: Pair
    judge: str
    votes: tuple[Vote, ...]

    @property
    def outcome(self) -> str:
        """WIN or LOSS of the candidate, TIE, UNPARSABLE or FAILED."""
        choices = {vote.choice for vote in self.votes}
        for problem in (FAILED, UNPARSABLE):
            if problem in choices:
                return problem
        return WIN if choices == {CANDIDATE} else LOSS if choices == {BASELINE} else TIE

    def line(self, candidate: str, baseline: str) -> dict[str, Any]:
        """The judgement as JSON; `candidate` and `baseline` are the names of the two."""
        return {
            "candidate": candidate,
            "baseline": baseline,
            "judge": self.judge,
            "prompt": self.pair.index,
            "sample": self.pair.sample,
            "outcome": self.outcome,
            "votes": [
                {"first": vote.first, "choice": vote.choice, "answer": vote.verdict.answer}
                | ({"error": vote.verdict.error} if vote.verdict.error else {})
                for vote in self.votes
            ],
            "messages": [{"role": m.role, "content": m.content} for m in self.pair.prompt],
            "candidate_reply": self.pair.candidate,
            "baseline_reply": self.pair.baseline,
        }


def judge_pairs(
    judge: Judge,
    pairs: Sequence[Pair],
    store: Store,
    advance: Callable[[int], None] = lambda comparisons: None,
) -> list[Judgement]:
    """A judgement on every pair, by votes in both orders.

    Votes in the store are not asked for again, except those that FAILED, and equal comparisons
    are asked once: the two orders of equal replies are one, and end in a tie. `advance` is told how
    many comparisons have been dealt with.
    """
    asked = {
        key_of(judge, comparison): comparison
        for pair in pairs
        for comparison in (pair.ordered(CANDIDATE), pair.ordered(BASELINE))
    }
    waiting = [key for key in asked if (store.get(key) or {"choice": FAILED})["choice"] == FAILED]
    advance(len(asked) - len(waiting))
    for start in range(0, len(waiting), BATCH):
        keys = waiting[start : start + BATCH]
        verdicts = judge.compare([asked[key] for key in keys])
        for key, verdict in zip(keys, verdicts, strict=True):
            store.add(key, dataclasses.asdict(verdict))
        advance(len(keys))

    def vote(pair: Pair, first: str) -> Vote:
        line = store.get(key_of(judge, pair.ordered(first)))
        assert line is not None
        return Vote(first, Verdict(line["choice"], line["answer"], line["error"]))

    return [
        Judgement(pair, judge.name, (vote(pair, CANDIDATE), vote(pair, BASELINE))) for pair in pairs
    ]


def key_of(judge: Judge, comparison: Comparison) -> str:
    """The digest of all that a verdict depends on."""
    prompt = [[message.role, message.content] for message in comparison.prompt]
    return digest([judge.name, judge.settings, prompt, comparison.first, comparison.second])


# ------------------------------------------------------------------------------------- figures


def figures(
    judgements: Sequence[Judgement], draws: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Counts of outcomes, and shares with standard error and bootstrap interval (`statistics`):

    win_rate           of judged pairs, ties as half a win
    win_rate_decided   of pairs that were won or lost
    coverage           pairs that were won or lost, of those judged
    first_chosen       votes for the reply that stood first, of those for either: 0.5 where the
                       judge has no bias for a position, as it saw every pair in both orders
    agreement          pairs with the same vote in both orders, of those judged; None with one order

    A share of nothing is None. Judged are the pairs with an outcome: neither UNPARSABLE nor FAILED.
    """
    draws = statistics.SETTINGS["bootstrap"].default if draws is None else draws
    outcomes = Counter(judgement.outcome for judgement in judgements)
    clusters: dict[Any, Counter[str]] = {}
    for judgement in judgements:
        counts = clusters.setdefault(judgement.pair.prompt, Counter())
        counts.update(_contributions(judgement))
    columns = np.array(
        [[counts[name] for name in COLUMNS] for counts in clusters.values()], float
    ).reshape(-1, len(COLUMNS))
    columns = columns[columns.any(axis=1)]  # a prompt without any verdict says nothing
    sums = statistics.resample(columns, draws, seed) if len(columns) else np.zeros((1, 0))
    return {
        "pairs": len(judgements),
        "prompts": len(clusters),
        "wins": outcomes[WIN],
        "losses": outcomes[LOSS],
        "ties": outcomes[TIE],
        "unparsable": outcomes[UNPARSABLE],
        "failed": outcomes[FAILED],
        **{name: _share(columns, sums, *parts) for name, parts in SHARES.items()},
    }


COLUMNS = (WIN, LOSS, TIE, FIRST, SECOND, "agreeing", "twice")
Weights = Mapping[str, float]
_DECIDED: Weights = {WIN: 1, LOSS: 1}
_JUDGED: Weights = {WIN: 1, LOSS: 1, TIE: 1}
SHARES: dict[str, tuple[Weights, Weights]] = {
    "win_rate": ({WIN: 1, TIE: 0.5}, _JUDGED),
    "win_rate_decided": ({WIN: 1}, _DECIDED),
    "coverage": (_DECIDED, _JUDGED),
    "first_chosen": ({FIRST: 1}, {FIRST: 1, SECOND: 1}),
    "agreement": ({"agreeing": 1}, {"twice": 1}),
}
"""Every share as a ratio of weighted sums of columns."""


def _contributions(judgement: Judgement) -> Iterator[str]:
    """The columns in which a judgement counts."""
    if judgement.outcome not in (WIN, LOSS, TIE):
        return
    yield judgement.outcome
    yield from (v.verdict.choice for v in judgement.votes if v.verdict.choice in (FIRST, SECOND))
    if len(judgement.votes) > 1:
        yield "twice"
        if len({vote.choice for vote in judgement.votes}) == 1:
            yield "agreeing"


def _share(
    columns: np.ndarray, sums: np.ndarray, total: Weights, count: Weights
) -> dict[str, float | None] | None:
    if not len(columns):
        return None
    weights = np.array([[part.get(name, 0.0) for name in COLUMNS] for part in (total, count)]).T
    totals, counts = (columns @ weights).T
    found = statistics.estimate(totals, counts, sums @ weights)
    return None if found is None else dataclasses.asdict(found)
