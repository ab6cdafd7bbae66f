"""The benchmark: personas talk with a model, and a judge scores every reply.

    replier = ModelReplier(name, model, SamplingParams(temperature=0.0), {"weights": digest})
    with Store.open(folder / "turns.jsonl", *FIELDS) as store:
        talks = play(cast, replier, personas, turns=10, store=store)
    scores_of(talks, turns=10)                         [cases, turns], NaN where there is none

At each turn the user (`cast.speak`) says something, the model replies without any hint, and the
judge (`cast.score`) scores the reply. All cases go turn by turn together, a portion at a time. What
anybody says is kept in the store under the digest of all that it depends on, so a benchmark that
was killed goes on where it was, and cases may come or go without changing the others. The user's
random numbers do not depend on the model, so every model meets the same users.

A conversation ends early where the user says nothing or the model fails; the scores of its
remaining turns are missing, as are those that the judge did not give. None is guessed. Answers that
did not come are asked for again when the benchmark is started again; one that came is final, also
where it is empty or cannot be read.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from interact_jax import progress
from interact_jax.aloe.cast import Cast, Persona, Scene, Score
from interact_jax.data.thinking import parts_of
from interact_jax.generation.chat_model import Answer, ChatModel
from interact_jax.generation.engine import SamplingParams, seed_of
from interact_jax.judges.store import Store, digest
from interact_jax.printable import count
from interact_jax.schema import Message, RunStopped
from interact_jax.settings import Setting

SETTINGS = {
    "turns": Setting(10, "turns of every conversation", least=1, most=1000),
    "portion": Setting(64, "cases that are played at a time, at most", least=1),
}
FIELDS = ("role", "said")  # of a line of the store
USER, MODEL, JUDGE = "user", "model", "judge"
ID_DIGITS = 12


# ----------------------------------------------------------------------------- who replies


@dataclasses.dataclass(frozen=True)
class Reply:
    """A reply without its reasoning; `cut`: it ended at the limit of tokens (None: not known),
    `reasoned`: there was reasoning. `error`: there is no reply, for this reason; `refused`: there
    never will be."""

    text: str
    error: str = ""
    cut: bool | None = None
    reasoned: bool = False
    refused: bool = False


class Replier(Protocol):
    """A model under test. `settings` is JSON that holds everything that its replies depend on,
    beside scene and seed."""

    name: str

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def reply(self, scenes: Sequence[Scene], seed: int) -> list[Reply]:
        """A reply to the last message of each."""
        ...


class ModelReplier:
    """Any chat model, which sees the conversation and nothing else."""

    def __init__(
        self,
        name: str,
        model: ChatModel,
        params: SamplingParams,
        settings: Mapping[str, Any],
    ):
        """`settings` say which model it is beyond its name: a digest of its weights, an address."""
        self.name, self._model, self._params = name, model, params
        self.settings = {**settings, "params": dataclasses.asdict(params)}

    def reply(self, scenes: Sequence[Scene], seed: int) -> list[Reply]:
        seeds = [seed_of(seed, MODEL, scene.id, scene.turn) for scene in scenes]
        answers = self._model.answer([scene.messages for scene in scenes], self._params, seeds)
        return list(map(reply_of, answers))


def reply_of(answer: Answer) -> Reply:
    """What the user sees of an answer. A reply whose reasoning never ended is empty."""
    if answer.error:
        return Reply("", answer.error, refused=answer.refused)
    parts, completion = parts_of(answer.text), answer.completion
    text = answer.text if parts is None else "" if parts.open else parts.answer
    cut = None if completion is None else not (completion.finished or completion.stopped)
    return Reply(text.strip(), cut=cut, reasoned=parts is not None)


# ----------------------------------------------------------------------------- what is played


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the user said, what the model replied, and how the judge scored that."""

    said: str
    reply: Reply
    score: Score


@dataclasses.dataclass
class Talk:
    """A conversation with a persona, as far as it went; `ended` is who failed (USER or MODEL), if
    somebody did, and `error` how."""

    id: str
    persona: Persona
    turns: list[Turn] = dataclasses.field(default_factory=list)
    ended: str = ""
    error: str = ""

    def scene(self, said: str = "") -> Scene:
        """The conversation so far, and what the user says now."""
        messages = [
            Message(role, text)
            for turn in self.turns
            for role, text in (("user", turn.said), ("assistant", turn.reply.text))
        ]
        if said:
            messages.append(Message("user", said))
        return Scene(self.id, self.persona, tuple(messages))

    def end(self, who: str, error: str) -> None:
        self.ended, self.error = who, error


def play(
    cast: Cast,
    replier: Replier,
    personas: Sequence[Persona],
    turns: int,
    store: Store,
    seed: int = 0,
    *,
    portion: int = SETTINGS["portion"].default,
) -> list[Talk]:
    """A conversation of so many turns with every persona, in order; `seed` is the model's and must
    be the cast's too.

    Raises InputError for what the models cannot do at all (see ChatModel), and RunStopped where
    most conversations of a portion have no answer, but may have one another time.
    """
    talks = [
        Talk(name, persona) for name, persona in zip(names_of(personas), personas, strict=True)
    ]
    starts = range(0, len(talks), portion)
    with progress.counting(replier.name, len(starts) * turns, "turns of a portion") as advance:
        for start in starts:
            for _ in range(turns):
                if some := [talk for talk in talks[start : start + portion] if not talk.ended]:
                    _play_turn(cast, replier, some, store, seed)
                advance()
    return talks


def names_of(personas: Sequence[Persona]) -> list[str]:
    """The ids of their conversations, from which random numbers come: digests of who it is, so that
    other cases may come or go. One that occurs again has its number behind."""
    counts: collections.Counter[str] = collections.Counter()
    names = []
    for persona in personas:
        who = [persona.profile, persona.personality, dict(persona.traits)]
        name = digest(who)[:ID_DIGITS]
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}-{counts[name]}")
    return names


def _play_turn(
    cast: Cast, replier: Replier, talks: Sequence[Talk], store: Store, seed: int
) -> None:
    """One turn of every talk, in three calls: of the user, of the model, of the judge."""

    def key(role: str, settings: Any, scene: Scene, *more: str) -> str:
        return digest([role, settings, seed, *_identity(scene), *more])

    lost = []  # errors that may pass
    before = [talk.scene() for talk in talks]
    lines = _ask(
        store,
        USER,
        [key(USER, cast.settings, scene) for scene in before],
        lambda places: map(reply_of, cast.speak([before[place] for place in places])),
    )
    waiting, now = [], []
    for talk, line in zip(talks, lines, strict=True):
        if line["error"] or not line["text"]:
            talk.end(USER, line["error"] or "said nothing")
            lost += [line["error"]] if line["error"] and not line["refused"] else []
        else:
            waiting.append(talk)
            now.append(talk.scene(line["text"]))

    lines = _ask(
        store,
        MODEL,
        [key(MODEL, replier.settings, scene) for scene in now],
        lambda places: replier.reply([now[place] for place in places], seed),
    )
    answered, scenes, replies = [], [], []
    for talk, scene, line in zip(waiting, now, lines, strict=True):
        if line["error"]:
            talk.end(MODEL, line["error"])
            lost += [] if line["refused"] else [line["error"]]
        else:
            answered.append(talk)
            scenes.append(scene)
            replies.append(Reply(**line))

    if 2 * len(lost) > len(talks):  # figures over the others would say nothing
        raise RunStopped(
            f"no answer in {len(lost)} of {count(len(talks), 'conversation')} ({lost[0]}). When "
            "that is mended, the same command goes on."
        )

    texts = [reply.text for reply in replies]
    lines = _ask(
        store,
        JUDGE,
        [key(JUDGE, cast.settings, *each) for each in zip(scenes, texts, strict=True)],
        lambda places: cast.score([scenes[place] for place in places], [texts[p] for p in places]),
    )
    for talk, scene, reply, line in zip(answered, scenes, replies, lines, strict=True):
        talk.turns.append(Turn(scene.messages[-1].content, reply, Score(**line)))


def _identity(scene: Scene) -> list[Any]:
    who = [scene.persona.profile, scene.persona.personality, dict(scene.persona.traits)]
    return [scene.id, who, [[message.role, message.content] for message in scene.messages]]


def _ask(
    store: Store, role: str, keys: Sequence[str], ask: Callable[[list[int]], Iterable[Any]]
) -> list[dict[str, Any]]:
    """What is said under every key, from the store; for the others `ask` is told their places.
    Failures are not kept."""
    found = {place: line["said"] for place, name in enumerate(keys) if (line := store.get(name))}
    waiting = [place for place in range(len(keys)) if place not in found]
    if waiting:
        for place, answer in zip(waiting, ask(waiting), strict=True):
            found[place] = line = dataclasses.asdict(answer)
            if not is_failure(line):
                store.add(keys[place], {"role": role, "said": line})
    return [found[place] for place in range(len(keys))]


def is_failure(said: Mapping[str, Any]) -> bool:
    """Whether nothing was said: neither a text nor, of a judge, an answer that was read or not."""
    return bool(said["error"]) and not said.get("answer")


# ----------------------------------------------------------------------------- what comes out


def scores_of(talks: Sequence[Talk], turns: int) -> np.ndarray:
    """The scores [cases, turns]; NaN where there is none."""
    return _table(talks, turns, lambda turn: turn.score.value)


def right_of(talks: Sequence[Talk], turns: int) -> np.ndarray:
    """Whether the content of replies is right [cases, turns]: 0 or 1, NaN where nobody says."""
    return _table(talks, turns, lambda turn: turn.score.correct)


def _table(talks: Sequence[Talk], turns: int, value: Callable[[Turn], float | None]) -> np.ndarray:
    table = np.full((len(talks), turns), np.nan)
    for row, talk in zip(table, talks, strict=True):
        for place, turn in enumerate(talk.turns):
            if (found := value(turn)) is not None:
                row[place] = found
    return table


def counts_of(talks: Sequence[Talk]) -> dict[str, int]:
    """How many conversations ended early, by who failed; how many scores are missing of replies
    that were given, by what was wrong; replies that were cut, empty, or had reasoning."""
    turns = [turn for talk in talks for turn in talk.turns]
    unscored = [turn.score for turn in turns if turn.score.value is None]
    return {
        "ended_by_user": sum(talk.ended == USER for talk in talks),
        "ended_by_model": sum(talk.ended == MODEL for talk in talks),
        "judge_failed": sum(not score.answer for score in unscored),
        "judge_unreadable": sum(bool(score.answer) for score in unscored),
        "cut": sum(bool(turn.reply.cut) for turn in turns),
        "empty": sum(not turn.reply.text for turn in turns),
        "reasoned": sum(turn.reply.reasoned for turn in turns),
    }
