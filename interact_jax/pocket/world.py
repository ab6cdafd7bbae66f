"""A small chat world with checkable answers, styles of answering, and users who want some of them.

A request has one right answer, a word. A reply gives the answer in a combination of binary styles,
and can be parsed:

    request   "What is the capital of France?"                        answer "Paris"
    reply     "Paris."                                                no style
    reply     "Of course, the answer is Paris! 😊 Anything else?"      all but capitals
    follow-up "No emoji please."                                      asks for {emoji: False}

All randomness comes from the `random.Random` that is passed in.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
from collections.abc import Mapping, Sequence

from interact_jax.pocket import words
from interact_jax.schema import InputError

STYLES = ("capitals", "exclamation", "sentence", "polite", "emoji", "question")
PRIOR = 0.4  # probability of each style, independently, in a reply without a wish
KINDS = (
    *words.FACT_PHRASINGS,
    *words.LIST_PHRASINGS,
    "pick",
    *words.COMPARE_PHRASINGS,
)
LISTS = tuple(words.LIST_PHRASINGS)  # the kinds that ask for a word of a list by its position
HELD_OUT_EVERY = 5  # one in this many of the composed requests is held out

Styles = Mapping[str, bool]

FACTS = {
    "capital": words.CAPITALS,
    "opposite": words.OPPOSITES,
    "category": {thing: kind for kind, things in words.CATEGORIES.items() for thing in things},
    "next": dict(zip(words.NUMBERS, words.NUMBERS[1:], strict=False)),
}
THINGS = tuple(thing for things in words.CATEGORIES.values() for thing in things)
_ANSWERS = {
    kind: tuple(sorted(set(facts.values()))) for kind, facts in FACTS.items()
} | dict.fromkeys((*words.LIST_PHRASINGS, "pick"), THINGS)
_ANSWERS |= dict.fromkeys(words.COMPARE_PHRASINGS, tuple(words.NUMBERS))
_SPELLING = {answer.upper(): answer for answers in _ANSWERS.values() for answer in answers}


# ----------------------------------------------------------------------------- requests


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asks, and the word that answers it. `held_out` requests are never trained on."""

    kind: str
    text: str
    answer: str
    held_out: bool


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def fact(kind: str, subject: str, phrasing: int) -> Request:
    """The request for a fact, in one of its phrasings. One of them is held out; a model knows the
    fact from the others."""
    phrasings = words.FACT_PHRASINGS[kind]
    held_out = _hash(f"{kind} {subject}") % len(phrasings) == phrasing
    return Request(kind, phrasings[phrasing].format(subject), FACTS[kind][subject], held_out)


def compose(kind: str, text: str, answer: str) -> Request:
    """A request that is put together from words; its text decides whether it is held out."""
    return Request(kind, text, answer, _hash(text) % HELD_OUT_EVERY == 0)


def _draw(kind: str, rng: random.Random) -> Request:
    if kind in words.FACT_PHRASINGS:
        subject = rng.choice(tuple(FACTS[kind]))
        return fact(kind, subject, rng.randrange(len(words.FACT_PHRASINGS[kind])))
    if kind in words.LIST_PHRASINGS:
        things = rng.sample(THINGS, 3)
        answer = things[list(words.LIST_PHRASINGS).index(kind)]
        return compose(kind, rng.choice(words.LIST_PHRASINGS[kind]).format(*things), answer)
    if kind == "pick":
        categories = rng.sample(tuple(words.CATEGORIES), 3)
        things = [rng.choice(words.CATEGORIES[category]) for category in categories]
        index = rng.randrange(3)
        text = rng.choice(words.PICK_PHRASINGS).format(categories[index], *things)
        return compose(kind, text, things[index])
    values = rng.sample(range(len(words.NUMBERS)), 2)
    value = max(values) if kind == "bigger" else min(values)
    text = rng.choice(words.COMPARE_PHRASINGS[kind]).format(*(words.NUMBERS[v] for v in values))
    return compose(kind, text, words.NUMBERS[value])


def draw_request(
    rng: random.Random, held_out: bool = False, kinds: Sequence[str] = KINDS
) -> Request:
    """A random request of one side of the split, every kind equally likely.

    Raises InputError for a kind that does not exist.
    """
    kind = rng.choice(kinds)
    if kind not in KINDS:
        raise InputError(f"no kind of request {kind!r} in the pocket world; there are {KINDS}")
    while True:
        request = _draw(kind, rng)
        if request.held_out == held_out:
            return request


def held_out_requests(count: int, seed: int) -> list[Request]:
    """`count` different held-out requests, in rotation over the kinds that still have new ones."""
    rng = random.Random(f"held out {seed}")
    kinds, index = list(KINDS), 0
    requests: dict[str, Request] = {}
    while len(requests) < count:
        if not kinds:
            raise InputError(f"asked for {count} held-out requests; there are only {len(requests)}")
        kind = kinds[index % len(kinds)]
        for _ in range(200):  # facts and numbers run out, and then the kind is dropped
            request = draw_request(rng, True, (kind,))
            if request.text not in requests:
                requests[request.text] = request
                index += 1
                break
        else:
            kinds.remove(kind)
    return list(requests.values())


def wrong_answer(request: Request, rng: random.Random) -> str:
    """A word that answers other requests of this kind, but not this one."""
    while True:
        answer = rng.choice(_ANSWERS[request.kind])
        if answer != request.answer:
            return answer


# ------------------------------------------------------------------------------ replies


@dataclasses.dataclass(frozen=True)
class Reply:
    """The content and the form of a reply: the answer, and every style on or off."""

    answer: str
    styles: Styles


def draw_styles(rng: random.Random, asked: Styles | None = None) -> dict[str, bool]:
    """Every style by its prior, except for those in `asked`."""
    styles = {style: rng.random() < PRIOR for style in STYLES}
    return styles | dict(asked or {})


def render(reply: Reply, rng: random.Random) -> str:
    """The text of a reply: opener, answer or sentence, mark, emoji, closing question."""
    on = reply.styles
    opener = rng.choice(words.OPENERS) if on["polite"] else ""
    text = reply.answer
    if on["sentence"]:
        text = f"{'the' if opener else 'The'} answer is {text}"
    text = opener + text + ("!" if on["exclamation"] else ".")
    text += rng.choice(words.EMOJIS) if on["emoji"] else ""
    text += rng.choice(words.CLOSINGS) if on["question"] else ""
    return text.upper() if on["capitals"] else text


def _pattern(upper: bool) -> re.Pattern[str]:
    def one_of(texts: Sequence[str]) -> str:
        return "|".join(re.escape(text.upper() if upper else text) for text in texts)

    the, rest = ("T", "HE ANSWER IS ") if upper else ("[tT]", "he answer is ")
    return re.compile(
        f"(?P<polite>{one_of(words.OPENERS)})?"
        f"(?P<sentence>{the}{rest})?"
        f"(?P<answer>{'[A-Z]+' if upper else '[A-Za-z]?[a-z]+'})"
        "(?P<mark>[.!])"
        f"(?P<emoji>{one_of(words.EMOJIS)})?"
        f"(?P<question>{one_of(words.CLOSINGS)})?"
    )


_PATTERNS = {upper: _pattern(upper) for upper in (False, True)}


def parse(text: str) -> Reply | None:
    """Parse a reply: `parse(render(reply)) == reply`. None for text that is no such reply."""
    for upper, pattern in _PATTERNS.items():
        match = pattern.fullmatch(text.strip())
        if match is None:
            continue
        if (
            not upper
            and match["sentence"]
            and (match["sentence"][0] == "t") != bool(match["polite"])
        ):
            return None  # "the answer" follows an opener, "The answer" begins a reply
        answer = match["answer"]
        answer = _SPELLING.get(answer, answer.lower()) if upper else answer
        return Reply(
            answer,
            {
                "capitals": upper,
                "exclamation": match["mark"] == "!",
                "sentence": bool(match["sentence"]),
                "polite": bool(match["polite"]),
                "emoji": bool(match["emoji"]),
                "question": bool(match["question"]),
            },
        )
    return None


# ---------------------------------------------------------------------- users, follow-ups


@dataclasses.dataclass(frozen=True)
class FollowUp:
    """The next message of a user. `kind`: complaint, correction, praise, chatter or request.

    `asked` has the styles that a complaint asks for; `request` is the new request, if it is one.
    """

    kind: str
    text: str
    asked: Styles = dataclasses.field(default_factory=dict)
    request: Request | None = None


def complaint(asked: Styles, rng: random.Random) -> FollowUp:
    """A request for every style in `asked`, on or off as given there, in one sentence each."""
    text = " ".join(rng.choice(words.COMPLAINTS[style][on]) for style, on in asked.items())
    return FollowUp("complaint", text, dict(asked))


def correction(answer: str, rng: random.Random) -> FollowUp:
    """A message that gives the right answer."""
    return FollowUp("correction", rng.choice(words.CORRECTIONS).format(answer))


def unrelated(
    kind: str, rng: random.Random, held_out: bool = False, new: Request | None = None
) -> FollowUp:
    """A message without a wish; `kind` is praise, chatter or request (`new`, or a random one)."""
    if kind == "request":
        new = new or draw_request(rng, held_out)
        return FollowUp("request", new.text, request=new)
    return FollowUp(kind, rng.choice({"praise": words.PRAISE, "chatter": words.CHATTER}[kind]))


STYLE = re.compile(r"(?P<off>-\s*|no\s+)?(?P<style>\S+)")


def read_style(text: str) -> tuple[str, bool] | None:
    """A style, and whether it is wanted: "emoji", or "-emoji" and "no emoji" for one that is not;
    None for any other text."""
    match = STYLE.fullmatch(text.strip())
    if match is None or match["style"] not in STYLES:
        return None
    return match["style"], not match["off"]


def check_preference(preference: Styles) -> dict[str, bool]:
    """The preference as a dict. Raises InputError if it is empty or names an unknown style."""
    unknown = sorted(set(preference) - set(STYLES))
    if unknown or not preference:
        raise InputError(
            f"a preference maps styles to True (wanted) or False (unwanted); got "
            f"{dict(preference)}, styles are {STYLES}"
        )
    return {style: bool(preference[style]) for style in STYLES if style in preference}


@dataclasses.dataclass(frozen=True)
class User:
    """A simulated user with a hidden preference: several styles, each wanted or unwanted.

    The user first corrects a wrong or unreadable answer; else complains about a violated style
    (`two_at_once`: probability of naming two of several), unless the user moves on (`silent`:
    probability); a satisfied user praises, asks the next question, or talks about something else.
    """

    preference: Styles
    two_at_once: float = 0.25
    silent: float = 0.1

    def violations(self, reply: Reply) -> dict[str, bool]:
        """The styles of a reply that violate the preference, as they should have been."""
        return {s: on for s, on in self.preference.items() if reply.styles[s] != on}

    def respond(
        self, request: Request, text: str, rng: random.Random, last: bool = False
    ) -> FollowUp:
        """The next message of the user; `last`: the conversation ends with it."""
        reply = parse(text)
        if reply is None or reply.answer != request.answer:
            return correction(request.answer, rng)
        wishes = self.violations(reply)
        if wishes and rng.random() >= self.silent:
            count = 2 if len(wishes) > 1 and rng.random() < self.two_at_once else 1
            named = rng.sample(sorted(wishes), count)
            return complaint({style: wishes[style] for style in named}, rng)
        moods = ("praise", "praise", "request", "chatter") if last else ("request",)
        return unrelated(rng.choice(moods), rng)


def draw_preference(rng: random.Random, wanted: int = 3, unwanted: int = 1) -> dict[str, bool]:
    """A preference of `wanted` styles on and `unwanted` styles off."""
    named = rng.sample(STYLES, wanted + unwanted)
    return check_preference({style: index < wanted for index, style in enumerate(named)})
