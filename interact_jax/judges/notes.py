"""What is unusual about an evaluation: prompts, replies and verdicts, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from interact_jax.generation.prompts import count_repairs
from interact_jax.json_files import short
from interact_jax.judges.contest import Answered, Contest
from interact_jax.judges.judge import FAILED, UNPARSABLE
from interact_jax.judges.pairwise import Judgement
from interact_jax.judges.replies import Replies
from interact_jax.printable import count

LONGEST_ERROR = 200  # characters
REMEDIES = {
    FAILED: "the same command asks for them again",
    UNPARSABLE: "a longer answer, if it was cut: --judge-tokens",
}


def notes_on_replies(contest: Contest, replies: Replies, answered: Answered) -> list[str]:
    mended = count_repairs(list(contest.prompts))
    notes = [f"{count(number, 'prompt')} {what}" for what, number in mended.items()]
    for name, number in replies.unused.items():
        notes.append(f"{name}: {count(number, 'reply', 'replies')} to none of the prompts")
    for name, some in answered.items():
        flat = [reply for each in some for reply in each]
        for what, number in {
            "cut at --max-new-tokens": sum(reply.finished is False for reply in flat),
            "empty": sum(not reply.text.strip() for reply in flat),
        }.items():
            if number:
                notes.append(f"{name}: {count(number, 'reply', 'replies')} {what}")
    return notes


def notes_on_verdicts(judged: Mapping[str, Sequence[Judgement]]) -> Iterator[str]:
    """How many votes of a judge are no verdict, with an example of what it said instead."""
    votes = [vote.verdict for some in judged.values() for each in some for vote in each.votes]
    for choice, remedy in REMEDIES.items():
        some = [vote for vote in votes if vote.choice == choice]
        if some:
            example = some[0].error[:LONGEST_ERROR] or short(some[0].answer)
            share = f"{len(some):,} of {count(len(votes), 'vote')} {choice}"
            yield f"judge: {share}, such as {example}; {remedy}"
