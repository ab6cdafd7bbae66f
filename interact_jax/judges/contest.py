"""A contest: candidates against a baseline, on the same prompts, by one judge.

answered = answer(contest, replies)
pairs = pair_up(contest, answered)                       {candidate: [Pair ...]}
judged = {name: judge_pairs(judge, some, store) for name, some in pairs.items()}
results(contest, answered, judged, judge, draws=5000)    what results.json holds
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from interact_jax.generation.prompts import Prompt
from interact_jax.judges.judge import Judge
from interact_jax.judges.pairwise import BASELINE, CANDIDATE, Judgement, Pair, figures
from interact_jax.judges.replies import Replies, Reply, describe
from interact_jax.judges.sides import FileSide, ModelSide, Side
from interact_jax.schema import InputError

AnySide = ModelSide | FileSide
Answered = Mapping[str, list[list[Reply]]]
"""Replies by the name of their side: prompt, sample. Those of the baseline are under BASELINE."""


@dataclasses.dataclass(frozen=True)
class Contest:
    """Who is compared with whom, on what."""

    baseline: AnySide
    candidates: Sequence[AnySide]
    prompts: Sequence[Prompt]

    def __post_init__(self) -> None:
        """Raise InputError for candidates of one name, which results could not tell apart."""
        names = Counter(side.name for side in self.candidates)
        twice = [name for name, count in names.items() if count > 1 or name == BASELINE]
        if twice or not names:
            what = f"two candidates of the name {twice[0]!r}" if twice else "no candidate"
            raise InputError(f"{what}: name each once, by --model, --run, --replies or --oracle.")

    def check(self, replies: Replies) -> None:
        """Raise InputError where a side cannot answer one of the prompts; no weights are read."""
        for side in (self.baseline, *self.candidates):
            replies.check(side, self.prompts)


def answer(contest: Contest, replies: Replies) -> dict[str, list[list[Reply]]]:
    """The replies of all sides. An oracle follows the baseline, whose weights it shares."""
    answered = {BASELINE: replies.of(contest.baseline, contest.prompts, BASELINE)}
    for side in sorted(contest.candidates, key=lambda side: not side.oracle):
        answered[side.name] = replies.of(side, contest.prompts, CANDIDATE)
    replies.release()
    return answered


def pair_up(contest: Contest, answered: Answered) -> dict[str, list[Pair]]:
    """Each candidate's replies beside those of the baseline, sample by sample."""
    return {
        side.name: [
            Pair(index, sample, prompt.messages, ours.text, theirs.text)
            for index, prompt in enumerate(contest.prompts)
            for sample, (ours, theirs) in enumerate(
                zip(answered[side.name][index], answered[BASELINE][index], strict=True)
            )
        ]
        for side in contest.candidates
    }


def results(
    contest: Contest,
    answered: Answered,
    judged: Mapping[str, Sequence[Judgement]],
    judge: Judge | None,
    draws: int,
    seed: int = 0,
) -> dict[str, Any]:
    """The figures of every side; `judge` measures replies where it can."""

    def about(side: Side, replies: Sequence[Sequence[Reply]]) -> dict[str, Any]:
        prompts = [prompt.messages for prompt in contest.prompts for _ in replies[0]]
        texts = [reply.text for some in replies for reply in some]
        measures = judge.measure(prompts, texts) if judge is not None else {}
        return {"name": side.name, "replies": describe(replies), "measures": measures}

    return {
        "prompts": len(contest.prompts),
        "baseline": about(contest.baseline, answered[BASELINE]),
        "candidates": [
            about(side, answered[side.name])
            | side.place
            | figures(judged.get(side.name, ()), draws, seed)
            for side in contest.candidates
        ],
    }
