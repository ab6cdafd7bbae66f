"""Judges that are programs, for tests: what they will say is known."""

from __future__ import annotations

from interact_jax.generation.chat_model import Answer
from interact_jax.judges.judge import FIRST, NEITHER, SECOND, Verdict
from interact_jax.judges.pairwise import Pair
from interact_jax.schema import Message
from tests.servers.chat_server import letter_of


class ProgramJudge:
    """Judges by a function of a comparison; counts what it is asked."""

    def __init__(self, choose, name="program"):
        self.name, self.settings, self.choose, self.asked = name, {}, choose, []

    def check(self, prompts):
        pass

    def compare(self, comparisons):
        self.asked += comparisons
        return [Verdict(self.choose(comparison)) for comparison in comparisons]

    def measure(self, prompts, replies):
        return {}


def longer(comparison):
    first, second = len(comparison.first), len(comparison.second)
    return NEITHER if first == second else FIRST if first > second else SECOND


class Reader:
    """A chat model that finds both answers in the judge's prompt, and names the longer one; what it
    says is `says` of the letter."""

    name = "reader"

    def __init__(self, says=str):
        self.says, self.dialogues = says, []

    def answer(self, dialogues, params, seeds=None):
        self.dialogues += dialogues
        return [Answer(self.says(letter_of(dialogue[-1].content))) for dialogue in dialogues]


def pair(candidate, baseline, prompt="Hi", sample=0, index=0):
    return Pair(index, sample, (Message("user", prompt),), candidate, baseline)
