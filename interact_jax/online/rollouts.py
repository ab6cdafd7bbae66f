"""Batches of an online run: each is played when the policy that is to learn from it is there.

    rollouts = Rollouts(record, lessons, planner, packing, batch, stage, last=100)
    batch = rollouts.next(state)       sample, let users react, record, pack

With `staleness` 1 the conversations of the next step are played while the device works on this one,
by the weights of the step before: all but a run's first, however long things take. A step that is
in the record is not played again, so a resumed run, and a replay of another run's record, learns
the same.

Several processes play the same conversations, each its part of the devices' work: all of it follows
from the settings, the record, and what servers say, which process 0 tells all. Each then packs the
whole step, and keeps its rows.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from interact_jax.cluster import processes
from interact_jax.data.dataset import counted_tokens, weight_of
from interact_jax.data.forest import Forest
from interact_jax.data.limits import Limits, removed_share
from interact_jax.data.pipeline import StepBatch, step_batch
from interact_jax.data.rows import Packing
from interact_jax.data.shares import Share
from interact_jax.data.tokenise import Tokenised
from interact_jax.generation.engine import Engine
from interact_jax.generation.sampler import Sampler
from interact_jax.online import packing as shapes
from interact_jax.online.lessons import Lessons
from interact_jax.online.packing import Planner
from interact_jax.online.people import samplers_of
from interact_jax.online.prompts import PromptSource
from interact_jax.online.record import Beginning, Record, Step
from interact_jax.online.rollout import Opening, Played, Player
from interact_jax.online.schedule import Schedule, phase_at
from interact_jax.printable import count_reason
from interact_jax.schema import InputError, RunStopped
from interact_jax.settings import Setting
from interact_jax.users import User

log = logging.getLogger(__name__)

FRUITLESS = 100  # conversations in a row without an interaction, after which a run stops
SETTINGS = {
    "online.turns": Setting(
        1, "replies of a conversation; each with a follow-up is an interaction", least=1, most=1000
    ),
    "online.staleness": Setting(
        0,
        "by how many steps the weights that sample are older than those that learn: 0 is "
        "on-policy, 1 samples the next batch while a step is computed (and needs a copy of the "
        "parameters); see objective.importance",
        least=0,
        most=1,
    ),
}


@dataclasses.dataclass(frozen=True)
class Stage:
    """What conversations are played with."""

    player: Player
    prompts: PromptSource
    users: Mapping[str, User]
    schedule: Schedule

    @property
    def engine(self) -> Engine:
        return self.player.engine

    @property
    def plays_beside(self) -> bool:
        """Whether conversations may be played while a step is computed. Not where several processes
        sample, who have to start the devices' programs in one order."""
        samples = isinstance(self.engine, Sampler) or any(samplers_of(self.users))
        return not samples or jax.process_count() == 1

    def load(self, params: Any, version: int, copy: bool) -> None:
        """Give the engine its weights: a copy of them, if the sampler of this process is to have
        them while a step takes them over.

        Pages of keys and values are forgotten, also those of users' models, so that what is
        computed does not depend on what came before a resume.
        """
        if isinstance(self.engine, Sampler):
            self.engine.unload()  # before a copy takes the memory
            params = jax.tree.map(lambda x: x.copy(), params) if copy else params
        for sampler in samplers_of(self.users):
            sampler.forget()
        self.engine.load(params, version)

    def unload(self) -> None:
        """Before a step, which needs the memory and takes the parameters over."""
        if isinstance(self.engine, Sampler):
            self.engine.unload()


@dataclasses.dataclass
class Progress:
    """How far a run has come: all that changes, besides the record."""

    step: int = 0
    drawn: int = 0  # prompts
    interactions: int = 0
    reply_tokens: int = 0
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class Rollouts:
    """See the module; a `BatchSource`. Without a `stage` it can only replay the record. `batch` has
    the settings `batch.*`; `last` is the run's last step; `share` that of one of several processes,
    None for all rows."""

    def __init__(
        self,
        record: Record,
        lessons: Lessons,
        planner: Planner,
        packing: Packing,
        batch: Any,
        stage: Stage | None,
        *,
        staleness: int = 0,
        last: int = 0,
        limits: Limits | None = None,
        share: Share | None = None,
    ):
        self.record, self.lessons, self.planner, self.packing = record, lessons, planner, packing
        self.batch, self.stage, self.staleness = batch, stage, staleness
        self.last, self.limits, self.share = last, limits or Limits(), share
        self.progress = Progress()
        self._beginning = Beginning(
            stage.prompts.fingerprint if stage else None, shapes.save(packing)
        )
        self._ahead: _Ahead | _Before | None = None

    # ------------------------------------------------------------------------------ BatchSource

    def next(self, state: Any = None) -> StepBatch:
        """The next batch, for and by the policy of `state`.

        Raises RunStopped where the users give no follow-ups, IndexError after the end of a replay,
        InputError where the record is damaged.
        """
        step = self._recorded() or self._play_now(state)
        lessons = [self.lessons(played.conversation) for played in step.played]
        batch = self._pack(step, lessons)
        self._count(step, lessons, batch)
        if self.staleness and self.stage is not None and self.progress.step < self.last:
            self._play_ahead(self.stage, state)
        return batch

    def position(self) -> dict[str, Any]:
        """What a checkpoint stores; what is being played is waited for, so that it is recorded: the
        weights that draw it are gone once the run is resumed."""
        try:
            self._settle()
        except (RunStopped, InputError, OSError) as error:  # the checkpoint is worth more
            if not processes.is_common(error):
                raise
            log.error("the next step was not played to its end: %s", error)
        progress = dataclasses.asdict(self.progress) | {"counts": dict(self.progress.counts)}
        prompts = self.stage.prompts.fingerprint if self.stage else None
        return progress | {"packing": shapes.save(self.packing), "prompts": prompts}

    def seek(self, position: Mapping[str, Any]) -> None:
        """Go to a position that `position()` returned. Raises InputError where it was in a run
        with other prompts, or the record ends before it."""
        check_position(position, self.record, self.stage)
        fields = {field.name: position[field.name] for field in dataclasses.fields(Progress)}
        self.progress = Progress(**fields | {"counts": collections.Counter(fields["counts"])})
        self.packing = self.planner.restore(position["packing"])

    def steps_left(self) -> int:
        return max(0, self.last - self.progress.step)

    def totals(self) -> dict[str, int]:
        return {
            "interactions": self.progress.interactions,
            "reply_tokens": self.progress.reply_tokens,
        }

    def summary(self) -> list[str]:
        """How many conversations there were, and what happened in them."""
        counts = sorted(self.progress.counts.items())
        return [count_reason(number, reason) for reason, number in counts if number]

    # ---------------------------------------------------------------------------------- playing

    def _recorded(self) -> Step | None:
        self._settle()
        return self.record.step(self.progress.step + 1)

    def _settle(self) -> None:
        """Wait for what is being played ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.wait()

    def _play_now(self, state: Any) -> Step:
        if self.stage is None:
            raise IndexError(f"all {len(self.record):,} steps of the record are replayed")
        self.stage.load(state.params, int(state.step), copy=False)
        self._play(self.stage)
        self.stage.unload()
        step = self._recorded()
        assert step is not None
        return step

    def _play_ahead(self, stage: Stage, state: Any) -> None:
        """Begin to play the next step, by the weights that were there before this one; or play all
        of it, where nothing can be played beside this one."""
        if len(self.record) > self.progress.step:
            return
        stage.load(state.params, int(state.step), copy=stage.plays_beside)
        if stage.plays_beside:
            self._ahead = _Ahead(lambda: self._play(stage))
        else:
            self._ahead = _Before(lambda: self._play(stage))
            stage.unload()

    def _play(self, stage: Stage) -> None:
        """Play conversations until there are enough interactions for a step, and record it."""
        before = self.progress
        number, drawn = before.step + 1, before.drawn
        phase = phase_at(stage.schedule, before.interactions)
        played, learned, fruitless = list[Played](), 0, 0
        counts = collections.Counter(stage.player.counts)
        while fruitless < FRUITLESS:
            openings = [
                Opening(stage.prompts.id(i), stage.prompts[i], phase.user_of(i).name)
                for i in range(drawn, drawn + self._missing(learned, stage.player.turns))
            ]
            drawn += len(openings)
            wave = stage.player.play(openings, stage.users)
            played += wave
            units = sum(self.lessons(p.conversation).units for p in wave)
            learned, fruitless = learned + units, 0 if units else fruitless + len(wave)
            if not self._missing(learned, stage.player.turns):
                step = Step(number, played, drawn, stage.player.counts - counts)
                self.record.append(step, self._beginning)
                return
        stopped = RunStopped(
            f"step {number}: {len(played):,} conversations gave {learned:,} interactions to learn "
            f"from ({_text(stage.player.counts)}). Look at what the users do; the same command "
            "goes on from the newest checkpoint."
        )
        raise processes.common(stopped)

    def _missing(self, learned: int, turns: int) -> int:
        """How many conversations a step still needs."""
        if self.batch.conversations:
            return 0 if learned else self.batch.conversations
        return -(-max(0, self.batch.interactions - learned) // turns)

    # ---------------------------------------------------------------------------------- packing

    def _pack(self, step: Step, lessons: Sequence[Tokenised]) -> StepBatch:
        trees = [tree for lesson in lessons for tree in lesson.trees]
        units = sum(lesson.units for lesson in lessons)
        self.packing = self.planner.plan(trees, self.packing)
        members = [
            (played.conversation.id, played.conversation.user, weight_of(lesson.trees))
            for played, lesson in zip(step.played, lessons, strict=True)
            if lesson.units
        ]
        factors = self.limits.step_factors(members, {})
        forest = Forest.of(trees)
        factor_M = np.array([factors.get(name, 1.0) for _, name, *_ in forest.names])
        batch = step_batch(self.packing, forest, units, factor_M)
        metrics = self._metrics(step)
        if any(value < 1 for value in factors.values()):
            metrics["limited"] = removed_share(members, factors)
        batch = dataclasses.replace(batch, metrics=metrics)
        return batch if self.share is None else batch.of_share(self.share)

    def _metrics(self, step: Step) -> dict[str, float]:
        """What there is to see of a step's replies, for the log."""
        replies = [
            message
            for played in step.played
            for message in played.conversation.messages
            if message.token_ids is not None
        ]
        reactions = sum(len(played.kinds) for played in step.played)
        texts = sum(len(p.conversation.messages) - _opening(p) for p in step.played)
        logps = [logp for message in replies for logp in message.logps or ()]
        lengths = [len(message.token_ids or ()) for message in replies]
        versions = [played.version for played in step.played if played.kinds]
        shown = {
            "conversations": float(len(step.played)),
            "sampled_length": float(np.mean(lengths)),
            "follow_ups": (texts - len(replies)) / max(1, reactions),
            "staleness": float(step.number - 1 - min(versions)),
        }
        return shown | ({"sampled_entropy": -float(np.mean(logps))} if logps else {})

    def _count(self, step: Step, lessons: Sequence[Tokenised], batch: StepBatch) -> None:
        progress = self.progress
        counts = progress.counts + collections.Counter(step.counts)
        counts["conversations"] += len(step.played)
        for lesson in lessons:
            counts += lesson.counts
        kinds = (kind for played in step.played for kind in played.kinds)
        counts.update(f"reactions of the kind {kind}" for kind in kinds)
        tokens = sum(counted_tokens(x.trees, self.planner.ignore_first) for x in lessons)
        self.progress = Progress(
            step.number,
            step.drawn,
            progress.interactions + batch.interactions,
            progress.reply_tokens + tokens,
            counts,
        )


class _Ahead(threading.Thread):
    """Plays in the background. A daemon: a program that ends does not wait for it."""

    def __init__(self, play: Callable[[], None]):
        super().__init__(name="rollouts", daemon=True)
        self._play = play
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._play()
        except BaseException as error:  # for whoever waits
            self._error = error

    def wait(self) -> None:
        """Until it is done. Raises what it raised."""
        self.join()
        if self._error is not None:
            raise self._error


class _Before:
    """Plays at once, before the step: what goes wrong with the next one must not stop this one."""

    def __init__(self, play: Callable[[], None]):
        self._error: Exception | None = None
        try:
            play()
        except Exception as error:
            if not processes.is_common(error):
                raise  # the others do not know of it, and would wait
            self._error = error

    def wait(self) -> None:
        """Raises what was raised."""
        if self._error is not None:
            raise self._error


def check_position(position: Mapping[str, Any], record: Record, stage: Stage | None) -> None:
    """Raise InputError where a run was at this position with other prompts, or where its record
    ends before it."""
    if "step" not in position:
        raise InputError(
            "the run to be resumed learned from logs. Set data.path as it was, or use another "
            "--workdir (with --config.start_from to continue from the parameters)."
        )
    if stage is not None:
        stage.prompts.check_same(position.get("prompts"))
    if len(record) < position["step"]:
        raise InputError(
            f"the run was at step {position['step']}, and its record has {len(record)} steps. Put "
            "back conversations.jsonl and rollouts.jsonl as the run wrote them."
        )


def _opening(played: Played) -> int:
    """How many messages there were before the first reply."""
    sampled = [message.token_ids is not None for message in played.conversation.messages]
    return [*sampled, True].index(True)


def _text(counts: Mapping[str, int]) -> str:
    texts = (count_reason(number, reason) for reason, number in counts.items() if number)
    return ", ".join(texts) or "-"
