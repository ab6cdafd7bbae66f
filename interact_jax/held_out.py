"""Measures on conversations that the run does not learn from, whatever their topic.

    held = HeldOut.of(conversations, model, cfg)            what is measured, chosen once
    values, replies = held.measure(params, begin=workdir)   of the initial model, saved there
    held.resume(workdir)                                    or read again
    values, replies = held.measure(params)

Measured of the current model, under NAMES: the signal on held-out interactions; where the log has
both, how much more likely it makes the reply that came after a complaint than the one complained
about, or a preferred reply than a rejected one; and, of replies sampled for held-out prompts, their
length, entropy, and readable share. The distance moved is the Kullback-Leibler divergence
KL(pi_0 || pi), estimated on the replies y of the initial model: the mean over their tokens of
log pi_0(y_t | x, y_<t) - log pi(y_t | x, y_<t). A model that takes on a style moves far from where
it was at the few tokens where the style is decided, and keeps all that it was sure of; one that
collapses loses that too, long before its replies cannot be read. So the share that is forgotten is
the mean of max(0, 1 - pi / pi_0) over the tokens with pi_0 >= SURE.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import logging
import math
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax import digests, files
from interact_jax.cluster import processes
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.examples import PREFERRED, REJECTED, Draft, Example, Target, as_ids
from interact_jax.data.fingerprint import digest_trees
from interact_jax.data.holdout import hash_of
from interact_jax.data.recipes import HINDSIGHT, PLAIN, Recipe, hindsight, pairs, revised_replies
from interact_jax.data.tree import GROW, Tree
from interact_jax.generation import (
    Completion,
    NotFinite,
    Sampler,
    SamplingParams,
    requests_for,
)
from interact_jax.generation.chat_model import text_of
from interact_jax.generation.local import sampler_of
from interact_jax.opening import OpenedModel
from interact_jax.printable import count
from interact_jax.schema import Conversation, InputError, Message
from interact_jax.settings import Setting
from interact_jax.signal import logps_of

log = logging.getLogger(__name__)

FOLDER, FILE, LOGPS = "held_out", "initial.jsonl", "initial.npy"
GRAM = 4  # tokens in a row; a reply most of whose grams are repeats is repetitive
SURE = 0.9  # a probability
LEAST = 3 * GRAM  # shorter replies are never called repetitive

SETTINGS = {
    "evaluation.every": Setting(
        100,
        "steps between measurements on held-out conversations; 0 = only before and after the run",
        least=0,
        free=True,
    ),
    "evaluation.interactions": Setting(
        256, "largest number of held-out interactions and pairs to measure", least=1, free=True
    ),
    "evaluation.prompts": Setting(
        64, "largest number of held-out prompts to sample replies to; 0 = none", least=0, free=True
    ),
    "evaluation.new_tokens": Setting(
        128, "longest sampled reply, in tokens", least=1, most=2**20, free=True
    ),
}


NAMES = (
    "held_out_signal",
    "held_out_signal_abs",
    "held_out_margin",
    "held_out_preferred",
    "held_out_entropy",
    "held_out_length",
    "held_out_finished",
    "held_out_readable",
    "held_out_distance",
    "held_out_forgotten",
)
"""What may be measured; `report.measures` says what each means, and its unit."""
SAMPLED = ("held_out_entropy", "held_out_length", "held_out_finished", "held_out_readable")
"""Of these, what needs sampled replies."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A held-out history x, also as ids, and the follow-up o to the reply in the log, "" where
    there is none."""

    id: str
    x: Sequence[Message]
    o: str
    ids: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Initial:
    """The initial model's replies to the prompts: as sampled, as trees, and log pi_0 of their
    tokens."""

    completions: list[Completion]
    trees: list[Tree]
    logps: np.ndarray


@dataclasses.dataclass
class HeldOut:
    """What is measured of a model: `trees` of interactions and revised replies, and `prompts` to
    sample replies for."""

    model: OpenedModel
    settings: EncodeSettings
    sharing: str
    seed: int
    new_tokens: int
    trees: list[Tree]
    prompts: list[Prompt]
    initial: Initial | None = None

    @classmethod
    def of(
        cls, conversations: Sequence[Conversation], model: OpenedModel, cfg: Any
    ) -> HeldOut | None:
        """What to measure, chosen by hashes of ids; None where nothing is held out."""
        if not conversations:
            return None
        settings = dataclasses.replace(
            EncodeSettings.of(cfg), weigh="", on_error="skip", special_tokens="drop"
        )
        ordered = sorted(conversations, key=lambda conversation: hash_of(conversation.id))
        chosen = list(_take_first(ordered, cfg.evaluation.interactions))
        return cls(
            model,
            settings,
            cfg.sharing,
            cfg.seed,
            cfg.evaluation.new_tokens,
            list(_grow(chosen, model, settings, cfg.sharing)),
            list(_prompts(chosen, model, cfg.evaluation.prompts)),
        )

    def describe(self) -> str:
        """In words, on how much is measured: few replies move a share by many points each."""
        replies = [reply for tree in self.trees for reply in tree.replies]
        sides = collections.defaultdict[str, set[int]](set)
        for reply in replies:
            sides[reply.target.unit].add(reply.target.side)
        interactions = sum(HINDSIGHT in reply.places for reply in replies)
        pairs = sum(both == {PREFERRED, REJECTED} for both in sides.values())
        prompts = f"replies to {count(len(self.prompts), 'prompt')}"
        if not self.trees:  # an online run: there are no logs
            return f"held out: measured on {prompts}"
        return (
            f"held out: measured on {count(interactions, 'interaction')}, "
            f"{count(pairs, 'pair')} of a better and a worse reply, and {prompts}"
        )

    @functools.cached_property
    def digest(self) -> str:
        """A digest of everything that is measured."""
        return digest_trees(self.trees, [list(prompt.ids) for prompt in self.prompts])

    def resume(self, workdir: Path) -> None:
        """Read the initial model's replies; logs a warning where they are missing."""
        saved = _read(workdir / FOLDER, self.prompts) if self.prompts else None
        # All measure the same: what one cannot read, none does.
        found = processes.exchange("held-out replies", "" if saved is None else "read")
        if saved is not None and all(found):
            completions, logps = saved
            self.initial = Initial(completions, self._trees_of(completions), logps)

    def measure(self, params: Any, begin: Path | None = None) -> tuple[dict[str, float], list[str]]:
        """The available measures of these parameters, by name; the sampled replies. Those of the
        initial model are saved in the run's directory, `begin`.

        Where training has made the model's logits infinite or NaN, there are no replies, and
        measures are NaN. Raises NotFinite where the initial model's are."""
        measures = self._measure_logs(params)
        if not self.prompts:
            return measures, []
        try:
            completions = self._sample(params)
        except NotFinite:
            if begin is not None:
                raise
            return measures | dict.fromkeys(SAMPLED, math.nan), []
        texts = [self.text(completion) for completion in completions]
        logps = np.concatenate([completion.logps for completion in completions])
        measures |= {
            "held_out_entropy": -float(logps.mean()),
            "held_out_length": _mean([len(completion.ids) for completion in completions]),
            "held_out_finished": _mean([completion.finished for completion in completions]),
            "held_out_readable": _mean(
                [is_readable(text, c.ids) for text, c in zip(texts, completions, strict=True)]
            ),
        }
        if begin is not None:
            trees = self._trees_of(completions)
            logps = self._logps(params, trees) if trees else np.zeros(0, np.float32)
            self.initial = Initial(completions, trees, logps)
            if processes.is_first():
                _write(begin / FOLDER, self.prompts, self.initial)
        if self.initial is not None and self.initial.trees:
            now = self._logps(params, self.initial.trees) if begin is None else self.initial.logps
            moved = self.initial.logps - now
            measures["held_out_distance"] = _mean(moved)
            sure = self.initial.logps >= math.log(SURE)
            if sure.any():
                measures["held_out_forgotten"] = _mean(np.maximum(0, 1 - np.exp(-moved[sure])))
        return measures, texts

    def first_replies(self) -> list[str] | None:
        """The texts of the initial model's replies."""
        return None if self.initial is None else [self.text(c) for c in self.initial.completions]

    def text(self, completion: Completion) -> str:
        return text_of(completion, self.model.chat)

    def _measure_logs(self, params: Any) -> dict[str, float]:
        """The measures on logged replies."""
        signals, sides = [], collections.defaultdict[str, dict[int, float]](dict)
        for views in ((PLAIN, HINDSIGHT), (PLAIN,)):  # trees of pairs alone have no hindsight
            trees = [tree for tree in self.trees if _views(tree) == set(views)]
            replies = [reply for tree in trees for reply in tree.replies]
            for reply, seen in zip(replies, self._logps_by_view(params, trees, views), strict=True):
                if HINDSIGHT in reply.places:
                    signals.append(seen[HINDSIGHT] - seen[PLAIN])
                if reply.target.side:
                    sides[reply.target.unit][reply.target.side] = float(seen[PLAIN].mean())
        measures = {}
        if signals:
            measures["held_out_signal"] = _mean([signal.mean() for signal in signals])
            measures["held_out_signal_abs"] = _mean([np.abs(signal).mean() for signal in signals])
        margins = [pair[PREFERRED] - pair[REJECTED] for pair in sides.values() if len(pair) == 2]
        if margins:
            measures["held_out_margin"] = _mean(margins)
            measures["held_out_preferred"] = _mean([margin > 0 for margin in margins])
        return measures

    @functools.cached_property
    def _sampler(self) -> Sampler:
        return sampler_of(self.model)

    def _sample(self, params: Any) -> list[Completion]:
        ids = [prompt.ids for prompt in self.prompts]
        requests = requests_for(ids, SamplingParams(self.new_tokens), self.seed)
        self._sampler.load(params)
        try:
            return self._sampler.sample(requests)
        finally:
            self._sampler.unload()  # training needs the memory

    def _trees_of(self, completions: Sequence[Completion]) -> list[Tree]:
        """Trees of the sampled tokens after the very ids that they were sampled for."""
        trees: list[Tree] = []
        for prompt, completion in zip(self.prompts, completions, strict=True):
            target = Target(prompt.id, as_ids(completion.ids), prompt.id)
            example = Example(target, {PLAIN: as_ids(prompt.ids)})
            trees += GROW[self.sharing]([[example]], LOGGED.frozen)
        return trees

    def _logps(self, params: Any, trees: Sequence[Tree]) -> np.ndarray:
        """Log-probabilities of all tokens of their replies, concatenated."""
        return np.concatenate(
            [seen[PLAIN] for seen in self._logps_by_view(params, trees, (PLAIN,))]
        )

    def _logps_by_view(
        self, params: Any, trees: Sequence[Tree], views: Sequence[str]
    ) -> list[dict[str, np.ndarray]]:
        model = self.model
        if not trees:
            return []
        return logps_of(model.decoder, params, trees, model.mesh, views, sharing=self.sharing)


def _views(tree: Tree) -> set[str]:
    return {view for reply in tree.replies for view in reply.places}


def is_readable(text: str, ids: Sequence[int]) -> bool:
    """Whether a person could read a reply: it has text, whole characters, and does not repeat
    itself."""
    if not text.strip() or "\ufffd" in text:
        return False
    if any(unicodedata.category(c) == "Cc" and c not in "\n\t\r" for c in text):
        return False
    if len(ids) < LEAST:
        return True
    grams = [tuple(ids[at : at + GRAM]) for at in range(len(ids) - GRAM + 1)]
    return len(set(grams)) > len(grams) / 2


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(np.asarray(values, np.float64)))


# ------------------------------------------------------------------------------- what is measured


def _take_first(conversations: Sequence[Conversation], most: int) -> Iterator[Conversation]:
    """The first conversations with, in all, at most `most` interactions and pairs."""
    for conversation in conversations:
        if not most:
            return
        owned = [index for _, index in itertools.islice(conversation.replies(), most)]
        most -= len(owned)
        pairs_left = conversation.preferences
        if pairs_left is not None:
            pairs_left = pairs_left[:most]
            most -= len(pairs_left)
        if owned or pairs_left:
            yield dataclasses.replace(conversation, owned=frozenset(owned), preferences=pairs_left)


def _drafts(conversation: Conversation) -> Iterator[Draft]:
    """Interactions as they are learned from; and the preference pairs of the data or, where it has
    none, with each interaction the reply that came after its follow-up, if that differs."""
    if conversation.preferences is None:
        better = {i.id: y for i, y in revised_replies(conversation) if y.content != i.y.content}
        for draft in hindsight(conversation):
            yield from _with_better(draft, better.get(draft.id))
        return
    at = collections.defaultdict[int, list[Draft]](list)  # history windows only move forwards
    for (_, index), draft in zip(conversation.replies(), hindsight(conversation), strict=True):
        at[index].append(draft)
    sides = pairs(conversation)
    for index in sorted(pair.index for pair in conversation.preferences):
        at[index] += itertools.islice(sides, 2)
    for index in sorted(at):
        yield from at[index]


def _with_better(draft: Draft, better: Message | None) -> Iterator[Draft]:
    """An interaction and the reply that came after its follow-up, joined as a pair."""
    yield dataclasses.replace(draft, unit=draft.id, side=REJECTED if better else 0)
    if better:
        yield Draft(f"{draft.id}+", draft.x, better, {PLAIN: None}, unit=draft.id, side=PREFERRED)


LOGGED = Recipe(_drafts, frozenset({HINDSIGHT}))


def _grow(
    conversations: Sequence[Conversation],
    model: OpenedModel,
    settings: EncodeSettings,
    sharing: str,
) -> Iterator[Tree]:
    for conversation in conversations:
        for window in encode(conversation, model.chat, settings, collections.Counter(), LOGGED):
            yield from GROW[sharing](window, LOGGED.frozen)


def _prompts(
    conversations: Sequence[Conversation], model: OpenedModel, most: int
) -> Iterator[Prompt]:
    """At most one per conversation, so that they differ; each leaves room for a reply."""
    taken = 0
    for conversation in conversations:
        if taken >= most:
            return
        for name, x, y, o in sorted(_asked(conversation), key=lambda asked: hash_of(asked[0])):
            ids = _ids(x, y, conversation, model)
            if ids is not None:
                yield Prompt(name, tuple(x), o, ids)
                taken += 1
                break


def _asked(conversation: Conversation) -> Iterator[tuple[str, Sequence[Message], Message, str]]:
    """(id, x, y, o) of every interaction and of every pair, of which y is the preferred reply and o
    is empty."""
    for i in conversation.interactions():
        yield i.id, i.x, i.y, i.o.content
    for pair in conversation.preferences or ():
        x = conversation.history(pair.index)
        yield conversation.name_at(pair.index), x, pair.chosen, ""


def _ids(
    x: Sequence[Message], y: Message, conversation: Conversation, model: OpenedModel
) -> list[int] | None:
    """The prompt, of the kind that the logged reply has; None where it leaves no room, or the
    template refuses it."""
    kind = model.chat.learned_reply(y).prompt
    try:
        ids = model.chat.prompt(x, tools=conversation.tools, kind=kind)
    except InputError:
        return None
    return ids if len(ids) < model.config.max_positions else None


# -------------------------------------------------------------------------- saved with the run


def _write(folder: Path, prompts: Sequence[Prompt], initial: Initial) -> None:
    with files.whole_directory(folder) as partial:
        lines = [
            {"id": prompt.id, **dataclasses.asdict(completion)}
            for prompt, completion in zip(prompts, initial.completions, strict=True)
        ]
        (partial / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(partial / LOGPS, initial.logps)
        digests.seal(partial)


def _read(folder: Path, prompts: Sequence[Prompt]) -> tuple[list[Completion], np.ndarray] | None:
    """None, with a warning, where the file cannot be read or belongs to other prompts."""
    try:
        digests.check(folder)
        lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
        if [line.pop("id") for line in lines] != [prompt.id for prompt in prompts]:
            raise ValueError("it is of other prompts")
        return [Completion(**line) for line in lines], np.load(folder / LOGPS)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning(
            "%s: the initial model's replies cannot be read (%s); the distance from it, "
            "and what is forgotten, are not measured any more",
            folder,
            error,
        )
        return None
