"""What the models that play ALOE's roles are told. The words are ours; who knows what is ALOE's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from interact_jax.data.thinking import parts_of
from interact_jax.judges.model_judge import BLOCK
from interact_jax.schema import Message

SENTENCES = "Answer in at most three sentences."

PERSON = """Who the person is:
{profile}

What the person is like:
{personality}"""

USER = f"""You play a person who chats with an AI assistant. Nobody may notice that you play.

{PERSON}

How you write:
- One message at a time, short and natural, one to three sentences, as this person would type them.
- Talk about what matters in this person's life. Facts come out bit by bit, in passing, when they \
have to do with the matter.
- The manner shows in how you write: tone, words, length, punctuation. Never describe yourself, \
and never say how you would like to be answered.
- Take up what the assistant said last, then go on: ask, tell, disagree, change the subject.
- Give the message alone: no name before it, no quotation marks, no gestures or actions."""
FIRST_MESSAGE = "The chat is still empty. Write the person's first message."
NEXT_MESSAGE = "Write the person's next message."

INDUCER = """You read a chat between a person and an AI assistant, and note what the person's \
messages have shown of the person so far: who they are (life, work, family, interests) and what \
they are like (temper, tone, how they like to talk).

Be careful. Note only what the messages say or plainly show, in their own words where you can. Do \
not guess, do not fill in what is usual for such people, and take nothing from what the assistant \
said. Less is better than something wrong.

Answer with one short paragraph about the person, in the third person and without preface. If \
nothing has shown yet, answer: nothing yet"""
INDUCE = "What have the person's messages shown so far?"

PLAIN = f"You are an assistant who chats with a person. {SENTENCES}"
HINTED = f"""You are an assistant who chats with a person. This has shown of the person so far:

{{hint}}

Let it guide what you talk about and the manner in which you write, so that the answer suits this \
person. Do not mention that you know it. {SENTENCES}"""

ORDER = f"""You know a person well, and choose for them between two answers of an AI assistant.

{PERSON}

The better answer is the one that this person would rather get: its manner suits what they are \
like, and its content suits who they are. It makes no difference which answer comes first. Give \
one capital letter and nothing else: A if answer A is better, B if answer B is, C if neither is."""
WHICH = "Which answer would the person rather get: A, B or C (neither)?"

SCORE = f"""You know a person well, and grade how an AI assistant answers them.

{PERSON}

Three things count alike:
1. Manner: the style of the answer suits what the person is like.
2. Content: what the answer says suits who the person is.
3. Talk: the answer reads as from a human being, draws the person in, and is short and to the point.

Grades: 5 = all three fully; 4 = small faults in one of them; 3 = some of it suits, or it would do \
for anybody; 2 = most of it does not suit; 1 = it does not suit the person at all. Give the grade \
as one digit from 1 to 5 and nothing else."""
GRADE = "The grade, 1 to 5:"

NOTHING = re.compile(r"\W*nothing(?: has shown)?(?: yet)?\W*", re.IGNORECASE)
# A pair of single asterisks around words; not **bold**, "2 * 3", nor the marks of a list.
ACTION = re.compile(r"(?<![*\w])\*(?![\s*])[^*\n]*(?<!\s)\*(?![*\w])")
GRADES = re.compile(r"[\s\"'`*(\[]*([1-5])(?:\s*/\s*5)?[\s\"'`*)\].]*")
SPEAKERS = {"user": "Person", "assistant": "Assistant"}


def fill(template: str, **values: str) -> str:
    """A template with its names in braces replaced; values may hold braces themselves."""
    pattern = re.compile("|".join(rf"\{{{name}\}}" for name in values))
    return pattern.sub(lambda found: values[found[0][1:-1]].strip(), template)


def transcript(messages: Sequence[Message]) -> str:
    """A conversation as text, for somebody who takes no part in it."""
    return block("chat", "\n\n".join(f"{SPEAKERS[m.role]}: {m.content}" for m in messages))


def block(title: str, text: str) -> str:
    return fill(BLOCK, title=title, text=text)


def answer_in(text: str) -> str:
    """What a model says after its reasoning; "" where that was cut off. Lone surrogates, which no
    file can hold, are replaced."""
    parts = parts_of(text)
    said = text if parts is None else "" if parts.open else parts.answer
    return said.encode(errors="replace").decode().strip()


def without_actions(text: str) -> str:
    """A message without what stands between single asterisks: "*smiles* Hi!" is "Hi!"."""
    lines = ACTION.sub(" ", text).split("\n")
    return "\n".join(" ".join(line.split()) for line in lines).strip()


def hint_in(text: str) -> str:
    """What an inducer has found; "" for its "nothing yet"."""
    return "" if NOTHING.fullmatch(text) else text


def grade_in(text: str) -> int | None:
    """A grade that stands alone, also as in "4/5"; None for any other text."""
    match = GRADES.fullmatch(text)
    return int(match[1]) if match else None
