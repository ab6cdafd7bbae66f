"""What an online run learns from: prompts, an engine, users; or the record of another online run.

feed = RolloutFeed(cfg, model, method, workdir, kept)
source = feed.open(params, saved)
"""

from __future__ import annotations

import json
import logging
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import held_out, sharding, store
from interact_jax.cluster import processes
from interact_jax.data import dataset, encode, holdout
from interact_jax.data.dataset import Dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.limits import Limits
from interact_jax.data.shares import share_of
from interact_jax.data.tree import Tree
from interact_jax.generation.chat_model import LocalChatModel
from interact_jax.generation.engine import Engine, SamplingParams
from interact_jax.generation.for_all import engine_for_all
from interact_jax.generation.sampler import Sampler
from interact_jax.generation.server_engine import RAW, ServerEngine
from interact_jax.held_out import HeldOut, Prompt
from interact_jax.known import SAMPLER
from interact_jax.methods import Method
from interact_jax.online.engines import open_engine, params_of
from interact_jax.online.lessons import RECIPE, Lessons
from interact_jax.online.packing import Planner
from interact_jax.online.people import open_users
from interact_jax.online.prompts import POCKET, PromptSource, open_prompts
from interact_jax.online.record import Record, record_files
from interact_jax.online.rollout import Player
from interact_jax.online.rollouts import Rollouts, Stage, check_position
from interact_jax.online.schedule import describe, parse_schedule
from interact_jax.opening import OpenedModel
from interact_jax.printable import count
from interact_jax.schema import Conversation, InputError, Message
from interact_jax.settings import Setting

log = logging.getLogger(__name__)

LOGS_ONLY = (  # settings of how logs are read
    *("data.format", "data.repair", "data.copies", "data.mapping", "data.workers", "data.history"),
    *("data.max_reply", "evaluation.interactions"),
)
FOLLOW_UP = 64  # tokens of the follow-ups that programs are first compiled for
SETTINGS = {
    "online.replay": Setting(
        "",
        "directory of an online run, whose recorded steps are learned from again, without sampling "
        "or users; empty = play",
        free=True,
    ),
}


def is_online(cfg: Any) -> bool:
    """Whether these settings are those of an online run."""
    return bool(cfg.online.prompts or cfg.online.replay)


def check_replay(cfg: Any) -> None:
    """Raise InputError where the record of a run in a bucket is to be replayed: it is read step by
    step, from files of this machine."""
    if store.is_remote(cfg.online.replay):
        names = ", ".join(map(str, record_files(Path())))
        raise InputError(
            f"online.replay={cfg.online.replay}: expected a directory of this machine. Copy "
            f"{names} from there into one, for example by `gcloud storage cp`, and give that."
        )


class RolloutFeed:
    """See the module; a `feeds.Feed`."""

    dataset: Dataset | None = None

    def __init__(
        self,
        cfg: Any,
        model: OpenedModel,
        method: Method,
        workdir: Path,
        kept: Mapping[str, Any],
    ):
        """Raises InputError for settings that do not go together, prompts that cannot be read, and
        a record that is damaged or of another run."""
        check_replay(cfg)
        self._record = Record(Path(cfg.online.replay or workdir))
        _check(cfg, method, len(self._record))
        _warn_of_unread(cfg)
        self._cfg, self._model = cfg, model
        room = min(cfg.data.max_length, model.config.max_positions)
        self._lessons = Lessons(
            model.chat, room, cfg.sharing, cfg.objective.ignore_first, cfg.data.weigh
        )
        height = cfg.batch.rows * sharding.row_shards(model.mesh)
        self._planner = Planner(cfg.batch.row_tokens, height, cfg.objective.ignore_first)
        self._stage: Stage | None = None
        self.held_out = None
        if cfg.online.replay:
            for line in _describe_replay(cfg, self._last()):
                log.info("%s", line)
        else:
            prompts = open_prompts(cfg, model.chat, kind=model.chat.prompt_kind)
            processes.agree("what is read as online.prompts", json.dumps(prompts.fingerprint))
            for line in prompts.lines():
                log.info("%s", line)
            engine = open_engine(cfg, model, workdir)
            params, turns = params_of(cfg.online), cfg.online.turns
            _check_logprobs(engine, params, method)
            engine = engine_for_all(engine)
            player = Player(engine, model.chat, params, turns, room, cfg.seed)
            policy = LocalChatModel("policy", engine, model.chat, room, model.chat.prompt_kind)
            schedule = parse_schedule(cfg.online.users, cfg.online.schedule)
            for line in describe(schedule):
                log.info("%s", line)
            users = open_users(cfg, schedule, prompts, mesh=model.mesh, policy=policy)
            self._stage = Stage(player, prompts, users, schedule)
            self.held_out = _held_out(prompts, model, cfg)
        if kept:
            check_position(kept["position"], self._record, self._stage)
        self.copies = 0
        if self._stage is not None and cfg.online.staleness:
            beside = self._stage.plays_beside
            self.copies = int(beside and isinstance(self._stage.engine, Sampler))
            if not beside:
                log.info(
                    "online.staleness=%d: several processes sample, so conversations are played "
                    "before each step, and not while it is computed",
                    cfg.online.staleness,
                )
        self.trees = self._typical_step()
        if (beginning := self._record.beginning) is None:
            self.packing = self._planner.plan(self.trees)
        else:
            if self._stage is not None:
                self._stage.prompts.check_same(beginning.prompts)
            self.packing = self._planner.restore(beginning.shapes)
        log.info("%s", self.packing)

    def open(self, params: Any, saved: Mapping[str, Any]) -> Rollouts:
        cfg = self._cfg
        rollouts = Rollouts(
            self._record,
            self._lessons,
            self._planner,
            self.packing,
            cfg.batch,
            self._stage,
            staleness=cfg.online.staleness,
            last=self._last(),
            limits=Limits.of(cfg),
            share=share_of(cfg, self._model.mesh),
        )
        if saved:
            rollouts.seek(saved["position"])
        return rollouts

    def _conversations(self) -> int:
        """How many conversations a step has, where nobody leaves."""
        batch = self._cfg.batch
        return batch.conversations or -(-batch.interactions // self._cfg.online.turns)

    def _last(self) -> int:
        """The run's last step."""
        cfg = self._cfg
        if cfg.steps:
            return int(cfg.steps)
        if self._stage is None:
            return len(self._record)
        return max(1, round(cfg.epochs * len(self._stage.prompts) / self._conversations()))

    def _typical_step(self) -> list[Tree]:
        """Trees of a step before there is any, with replies of half the longest length: programs
        are compiled for them in advance, to see what they need."""
        if self._stage is None:
            step = self._record.step(1)
            assert step is not None, "checked before"
            return [t for p in step.played for t in self._lessons(p.conversation).trees]
        prompts = self._stage.prompts
        made = (self._imagined(prompts.id(i), prompts[i]) for i in range(self._conversations()))
        trees = [tree for conversation in made for tree in self._lessons(conversation).trees]
        if not trees:
            raise InputError(
                "no prompt leaves room for a reply and its follow-up: set data.max_length (at most "
                "the model's context) higher, or online.max_prompt and online.new_tokens lower."
            )
        return trees

    def _imagined(self, name: str, messages: Sequence[Message]) -> Conversation:
        """A conversation with tokens in place of what will be said."""
        chat = self._model.chat
        ids = tuple(chat.encode("a ") * max(1, self._cfg.online.new_tokens // 2))
        ids = ids[: max(1, self._cfg.online.new_tokens // 2)]
        reply = Message("assistant", chat.decode(ids) or "a", token_ids=ids)
        follow_up = Message("user", chat.decode(ids[:FOLLOW_UP]) or "a")
        turns = [reply, follow_up] * self._cfg.online.turns
        return Conversation(name, (*messages, *turns))


def _check(cfg: Any, method: Method, recorded: int) -> None:
    """Raise InputError for settings with which nothing can be played; the record has so many
    steps."""
    if method.recipe != RECIPE:
        raise InputError(
            f"objective.name={cfg.objective.name!r} learns from {method.recipe}: an online run "
            "learns from replies and the follow-ups to them. Take sdpo, or another objective with "
            "a teacher."
        )
    if cfg.epochs and cfg.online.prompts == POCKET:
        raise InputError(
            f"epochs={cfg.epochs}: requests of the pocket world have no end. Set steps instead."
        )
    if cfg.data.thinking == "keep":
        raise InputError(
            "data.thinking=keep: online, replies are drawn without room for reasoning. Leave it at "
            "auto."
        )
    if cfg.checkpoint.best != "none":
        raise InputError(
            f"checkpoint.best={cfg.checkpoint.best}: an online run has no such measure. Leave it "
            "none."
        )
    if cfg.online.replay:
        _check_record(cfg, recorded)


def _check_record(cfg: Any, recorded: int) -> None:
    """Raise InputError where there is nothing to replay, or less than is asked for."""
    given = f"online.replay={cfg.online.replay}"
    if not recorded:
        there = Path(cfg.online.replay).is_dir()
        problem = "no recorded steps there" if there else "there is no such directory"
        raise InputError(f"{given}: {problem}. Expected the --workdir of an online run.")
    if cfg.steps > recorded:
        raise InputError(
            f"{given}: {count(recorded, 'recorded step')} there, fewer than steps={cfg.steps}. "
            f"Set --config.steps={recorded} or less."
        )


def _describe_replay(cfg: Any, steps: int) -> list[str]:
    """What a replay does, and what it leaves out, as text."""
    lines = [f"replaying {count(steps, 'recorded step')} of {cfg.online.replay}"]
    if cfg.evaluation.name == "auto":  # which goes by the prompts
        lines.append(
            "nothing is measured before and after: a replay reads no prompts. If they were "
            "requests of the pocket world, evaluation.name=pocket measures replies to such."
        )
    return lines


def _warn_of_unread(cfg: Any) -> None:
    """Name the settings that were set and of which an online run makes nothing."""
    settings = {**dataset.SETTINGS, **encode.SETTINGS, **holdout.SETTINGS, **held_out.SETTINGS}
    of_files = cfg.online.prompts not in ("", POCKET)  # of which a share is held out
    names = LOGS_ONLY if of_files else (*LOGS_ONLY, "evaluation.holdout")
    values = {name: operator.attrgetter(name)(cfg) for name in names}
    unread = [f"{n}={value}" for n, value in values.items() if value != settings[n].default]
    if unread:
        log.warning("settings of logs, which an online run does not read: %s", ", ".join(unread))


def _check_logprobs(engine: Engine, params: SamplingParams, method: Method) -> None:
    """Raise InputError where the objective needs log-probabilities that a server does not tell."""
    reported = engine.logprobs if isinstance(engine, ServerEngine) else RAW
    plain = (params.temperature, params.top_k, params.top_p, params.min_p) == (1, 0, 1, 0)
    if SAMPLER in method.known and reported != RAW and not plain:
        raise InputError(
            "objective.ratio=sampler and objective.importance need the log-probabilities of the "
            f"model itself, and {engine.name} reports {reported} ones. Sample at temperature 1 "
            "without top_k, top_p and min_p, or start the server so that it reports raw ones, and "
            "set online.logprobs=raw."
        )


def _held_out(prompts: PromptSource, model: OpenedModel, cfg: Any) -> HeldOut | None:
    """What is measured: replies to prompts that are never learned from."""
    chosen = list(prompts.held_out)[: cfg.evaluation.prompts]
    if not chosen:
        return None
    asked = [
        Prompt(f"h{n}", messages, "", model.chat.prompt(messages, kind=model.chat.prompt_kind))
        for n, messages in enumerate(chosen)
    ]
    new_tokens = min(cfg.evaluation.new_tokens, cfg.online.new_tokens)
    return HeldOut(model, EncodeSettings.of(cfg), cfg.sharing, cfg.seed, new_tokens, [], asked)
