"""Learning from the conversation of a chat: what `launch/train.py` does with its log.

    learner = Learner(cfg, model, model.load())
    lesson = learner.learn(transcript.read(), steps=1)
    learner.undo()

Data, rows, gradients and updates are those of a run (`train.jit_gradients`, `train.jit_update`) on
a log of this one conversation, so the parameters after N steps are those after N steps of such a
run. Moments of the optimiser and the number of the step go on from one lesson to the next.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from interact_jax import config, memory, sharding, train
from interact_jax.data.conversations import ReadReport
from interact_jax.data.dataset import Dataset, grow
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.first_steps import packing_for
from interact_jax.data.limits import Limits
from interact_jax.data.pipeline import LogBatches, StepBatch
from interact_jax.methods import method_of
from interact_jax.opening import OpenedModel
from interact_jax.optim import learning_rate, make_optimiser
from interact_jax.printable import count_reason
from interact_jax.run_state import TrainState, abstract_state, new_state
from interact_jax.schema import Conversation, InputError
from interact_jax.signal import Scored, score_trees
from interact_jax.teachers import INITIAL

FIXED = {
    "optim.schedule": "constant",
    "optim.warmup_fraction": 0.0,
    "batch.conversations": 1,
    "batch.interactions": 0,
}
"""Settings of a step that a chat decides: it has no planned end, and one conversation."""
MOST_KEPT = 8  # lessons that can be taken back
NOTHING_YET = "nothing to learn from: that takes a reply, and another message after it."


def check_settings(cfg: ConfigDict) -> list[str]:
    """Set what a chat decides; returns what was changed, "NAME=OLD -> NEW".

    Raises InputError for settings with which a chat cannot learn.
    """
    flat = config.flatten(cfg)
    if flat["skip.signal"]:
        raise InputError(
            f"skip.signal={flat['skip.signal']}: a chat learns from every interaction. Leave it 0."
        )
    if INITIAL in method_of(cfg).known:
        raise InputError(
            "objective.reference=kept: a chat keeps no log-probabilities, since its replies are yet"
            " to come. Set objective.reference=step."
        )
    changed = [name for name, value in FIXED.items() if flat[name] != value]
    for name in changed:
        group, _, last = name.partition(".")
        cfg[group][last] = FIXED[name]
    return [f"{name}={flat[name]} -> {FIXED[name]}" for name in changed]


@dataclasses.dataclass(frozen=True)
class SignalMeans:
    """Means over the counted tokens of a conversation's replies, in nats: of the signal, and of its
    size."""

    mean: float
    size: float

    @classmethod
    def of(cls, scored: Sequence[Scored], ignore_first: int) -> SignalMeans | None:
        """None where no token counts."""
        counted = [each.signal[ignore_first:] for each in scored]
        values = np.concatenate([np.zeros(0), *counted])
        return cls(float(values.mean()), float(abs(values).mean())) if len(values) else None


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What was learned: the loss before each step; the signal before and after all of them; how
    many steps were `skipped`, because loss or gradient was not finite; what was lost or mended on
    the way from messages to tokens; how many earlier lessons can no longer be taken back."""

    losses: list[float]
    interactions: int
    before: SignalMeans | None
    after: SignalMeans | None
    skipped: int
    lost: list[str]
    forgotten: int


class Learner:
    """A model that learns. `params` are the parameters of now; they are taken over."""

    def __init__(self, cfg: ConfigDict, model: OpenedModel, params: Any):
        self.cfg, self.model = cfg, model
        self.method = method_of(cfg)
        self._params = params
        self._state: TrainState | None = None  # begins with the first lesson
        self._kept: collections.deque[tuple[int, Any]] = collections.deque()
        self.steps = 0  # that were not taken back
        self._checked = False

    @property
    def params(self) -> Any:
        return self._params if self._state is None else self._state.params

    @property
    def kept(self) -> int:
        """How many lessons can be taken back."""
        return len(self._kept)

    # ----------------------------------------------------------------------------------- lessons

    def learn(
        self,
        conversation: Conversation,
        steps: int = 1,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Lesson:
        """Take steps on the conversation; `stopped` is asked between them.

        Raises InputError where there is nothing to learn from, or no memory for it. If a step
        fails, all are taken back.
        """
        dataset = self._dataset(conversation)
        if not dataset.trees:
            raise InputError("\n  ".join([NOTHING_YET, *_lost(dataset)]))
        before = self.means(conversation)
        with sharding.on(self.model.mesh):
            source = self._source(dataset)
            forgotten = self._keep()
            losses: list[float] = []
            skipped = 0
            try:
                while len(losses) < steps and not (losses and stopped()):
                    loss, bad = self._step(source.next())
                    losses.append(loss)
                    skipped += bad
            except BaseException:
                self.undo()
                raise
        self.steps += len(losses)
        return Lesson(
            losses,
            sum(dataset.interactions),
            before,
            self.means(conversation),
            skipped,
            _lost(dataset),
            forgotten,
        )

    def undo(self) -> bool:
        """Go back to before the last lesson; False where there is none to take back."""
        if not self._kept:
            return False
        self.steps, kept = self._kept.pop()
        self._state = None  # before the other takes its memory
        with sharding.on(self.model.mesh):
            self._state = jax.device_put(kept, sharding.layout_of(self._abstract))
        return True

    def _step(self, batch: StepBatch) -> tuple[float, bool]:
        """(loss before the step, whether the step was skipped as not finite)."""
        assert self._state is not None
        differentiate, add, update = self._programs
        models = self._state.all_params()
        sums: Any = None
        for micro in batch.micro:
            more = differentiate(models, sharding.place_rows(micro, self.model.mesh))
            sums = more if sums is None else add(sums, more)
        del models
        self._state, shown = update(self._state, sums)
        return float(shown["loss"]), bool(shown["bad_steps_in_row"])

    def _keep(self) -> int:
        """Copy the state to the host, to go back to; returns how many older copies were let go.

        Raises InputError where the host has no memory for a copy.
        """
        self._begin()
        size = sum(x.nbytes for x in jax.tree.leaves(self._state))
        forgotten = 0
        while self._kept and (self.kept >= MOST_KEPT or memory.host_left()[0] < 2 * size):
            self._kept.popleft()
            forgotten += 1
        if memory.host_left()[0] < size:
            raise InputError(
                f"no memory for a copy of the parameters ({memory.format_bytes(size)}), which "
                "going back would need. Take a smaller model, or optim.name=sgd."
            )
        self._kept.append((self.steps, jax.tree.map(np.array, self._state)))
        return forgotten

    def _begin(self) -> None:
        """Make the state, on the first lesson: before it, the parameters are all there is."""
        if self._state is None:
            make = functools.partial(new_state, optimiser=self._optimiser, rules=self.method.rules)
            layout = sharding.layout_of(self._abstract)
            self._state = jax.jit(make, out_shardings=layout, donate_argnums=0)(self._params)
            self._params = None

    # -------------------------------------------------------------------------------------- data

    def _dataset(self, conversation: Conversation, recipe: str = "") -> Dataset:
        cfg, chat = self.cfg, self.model.chat
        return grow(
            [conversation],
            ReadReport(),
            chat,
            EncodeSettings.of(cfg),
            cfg.sharing,
            recipe=recipe or self.method.recipe,
        )

    def _source(self, dataset: Dataset) -> LogBatches:
        cfg, mesh = self.cfg, self.model.mesh
        draws = Draws(dataset.interactions, cfg.batch, cfg.seed)
        height = cfg.batch.rows * sharding.row_shards(mesh)
        packing = packing_for(
            dataset,
            draws,
            cfg.batch.row_tokens,
            height,
            cfg.objective.ignore_first,
            self.method.known,
        )
        if not self._checked:
            trees, fixed = dataset.trees_of([0]), self.method.fixed
            differentiate, *_ = self._programs
            memory.check_run(differentiate, self._abstract, packing, trees, mesh, fixed)
            self._checked = True
        return LogBatches(dataset, draws, packing, Limits.of(cfg))

    @functools.cached_property
    def _optimiser(self) -> Any:
        return make_optimiser(self.cfg.optim)

    @functools.cached_property
    def _abstract(self) -> TrainState:
        model = self.model
        return abstract_state(model.decoder, self._optimiser, model.mesh, self.method.rules)

    @functools.cached_property
    def _programs(self) -> tuple[Any, Any, Any]:
        """(differentiate, add, update), jitted."""
        gradients = train.jit_gradients(self.cfg, self.model.decoder, self._abstract)
        rate = learning_rate(self.cfg.optim, 1)  # constant, whatever the length of a run
        return (*gradients, train.jit_update(self.cfg, self._optimiser, self._abstract, rate))

    # ------------------------------------------------------------------------------------ signal

    def score(self, conversation: Conversation) -> list[Scored]:
        """The signal of every reply with a follow-up.

        Raises InputError, with the reasons, where none can be shown to the model.
        """
        dataset = self._dataset(conversation, "hindsight")
        if not dataset.trees:
            raise InputError("\n  ".join([NOTHING_YET, *_lost(dataset)]))
        model, cfg = self.model, self.cfg
        return score_trees(
            model.decoder,
            self.params,
            dataset.trees_of([0]),
            model.mesh,
            sharing=cfg.sharing,
            row_tokens=cfg.batch.row_tokens,
            rows=cfg.batch.rows,
        )

    def means(self, conversation: Conversation) -> SignalMeans | None:
        """The signal of all replies; None where none has a follow-up and a token that counts."""
        if not self._dataset(conversation, "hindsight").trees:
            return None
        return SignalMeans.of(self.score(conversation), self.cfg.objective.ignore_first)


def _lost(dataset: Dataset) -> list[str]:
    return [count_reason(number, reason) for reason, number in sorted(dataset.counts.items())]
