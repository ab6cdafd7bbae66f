"""Measures on conversations that the run does not learn from, whatever their topic.

    held = HeldOut.of(conversations, model, cfg)            what is measured, chosen once
    values, replies = held.measure(params, begin=workdir)   of the initial model, saved there
    held.resume(workdir)                                    or read again
    values, replies = held.measure(params)

Measured of the current model, under NAMES: the signal on held-out interactions; where the log has
both, how much more likely it makes the reply that came after a complaint than the one complained
about, or a preferred reply than a rejected one; and, of replies sampled for held-out prompts, their
length, entropy, and readable share. The distance moved is estimated on the replies y of the initial
model: the mean over their tokens of log pi_0(y_t | x, y_<t) - log pi(y_t | x, y_<t), which is the
Kullback-Leibler divergence of pi from pi_0.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import logging
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax import digests, files
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.examples import PREFERRED, REJECTED, Draft
from interact_jax.data.fingerprint import digest_trees
from interact_jax.data.holdout import hash_of
from interact_jax.data.recipes import HINDSIGHT, PLAIN, Recipe, hindsight, pairs, revised_replies
from interact_jax.data.tree import GROW, Tree
from interact_jax.generation import Completion, Sampler, SamplingParams, requests_for
from interact_jax.opening import OpenedModel
from interact_jax.schema import Conversation, InputError, Interaction, Message
from interact_jax.settings import Setting
from interact_jax.signal import logps_of

log = logging.getLogger(__name__)

FOLDER, FILE, LOGPS = "held_out", "initial.jsonl", "initial.npy"
GRAM = 4  # tokens in a row; a reply most of whose grams are repeats is repetitive
LEAST = 3 * GRAM  # shorter replies are never called repetitive

SETTINGS = {
    "evaluation.every": Setting(
        100,
        "steps between measurements on held-out conversations; 0 = only before and after the run",
        least=0,
        free=True,
    ),
    "evaluation.interactions": Setting(
        256, "largest number of held-out interactions to measure", least=1, free=True
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
)
"""What may be measured; `report.measures` says what each means, and its unit."""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A held-out history x, also as ids, and the follow-up o to the reply in the log."""

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
            list(_grow(chosen, model, settings, cfg.sharing, LOGGED)),
            list(_prompts(chosen, model, cfg.evaluation.prompts)),
        )

    @functools.cached_property
    def digest(self) -> str:
        """A digest of everything that is measured."""
        return digest_trees(self.trees, [list(prompt.ids) for prompt in self.prompts])

    def resume(self, workdir: Path) -> None:
        """Read the initial model's replies; logs a warning where they are missing."""
        saved = _read(workdir / FOLDER, self.prompts) if self.prompts else None
        if saved is not None:
            completions, logps = saved
            self.initial = Initial(completions, self._trees_of(completions), logps)

    def measure(self, params: Any, begin: Path | None = None) -> tuple[dict[str, float], list[str]]:
        """The available measures of these parameters, by name; the sampled replies. Those of the
        initial model are saved in the run's directory, `begin`."""
        measures = self._measure_logs(params)
        if not self.prompts:
            return measures, []
        completions = self._sample(params)
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
            _write(begin / FOLDER, self.prompts, self.initial)
        if self.initial is not None and self.initial.trees:
            now = self._logps(params, self.initial.trees) if begin is None else self.initial.logps
            measures["held_out_distance"] = _mean(self.initial.logps - now)
        return measures, texts

    def first_replies(self) -> list[str] | None:
        """The texts of the initial model's replies."""
        return None if self.initial is None else [self.text(c) for c in self.initial.completions]

    def text(self, completion: Completion) -> str:
        ids = completion.ids[:-1] if completion.finished else completion.ids
        return self.model.chat.decode(ids)

    def _measure_logs(self, params: Any) -> dict[str, float]:
        """The measures on logged replies."""
        signals, sides = [], collections.defaultdict[str, dict[int, float]](dict)
        for views in ((PLAIN, HINDSIGHT), (PLAIN,)):  # trees of pairs alone have no hindsight
            trees = [tree for tree in self.trees if _views(tree) == set(views)]
            replies = [reply for tree in trees for reply in tree.replies]
            for reply, seen in zip(replies, self._logps_by_view(params, trees, views), strict=True):
                if HINDSIGHT in reply.places:
                    signals.append(seen[HINDSIGHT] - seen[PLAIN])
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
        limit = len(self.model.chat.tokenizer)
        return Sampler(
            self.model.decoder, self.model.eos_ids, vocab_limit=limit, mesh=self.model.mesh
        )

    def _sample(self, params: Any) -> list[Completion]:
        ids = [prompt.ids for prompt in self.prompts]
        requests = requests_for(ids, SamplingParams(self.new_tokens), self.seed)
        self._sampler.load(params)
        try:
            return self._sampler.sample(requests)
        finally:
            self._sampler.unload()  # training needs the memory

    def _trees_of(self, completions: Sequence[Completion]) -> list[Tree]:
        """Trees of the sampled tokens after their prompts, never cut."""
        whole = self.model.config.max_positions
        settings = dataclasses.replace(
            self.settings, history="conversation", max_length=whole, max_reply=whole
        )
        trees: list[Tree] = []
        for prompt, completion in zip(self.prompts, completions, strict=True):
            y = Message("assistant", self.text(completion), tuple(completion.ids))
            draft = Draft(prompt.id, prompt.x, y, {PLAIN: None})
            recipe = Recipe(lambda _, draft=draft: iter([draft]))  # type: ignore[misc]
            conversation = Conversation(prompt.id, tuple(prompt.x))
            trees += _grow([conversation], self.model, settings, self.sharing, recipe)
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
    count = 0
    for conversation in conversations:
        if count >= most:
            return
        count += sum(1 for _ in conversation.interactions())
        yield conversation


def _drafts(conversation: Conversation) -> Iterator[Draft]:
    """Interactions as they are learned from, each with the reply that was accepted after it, where
    that differs; or the preference pairs of the data."""
    if conversation.preferences is not None:
        yield from pairs(conversation)
        return
    better = {i.id: y for i, y in revised_replies(conversation) if y.content != i.y.content}
    for draft in hindsight(conversation):
        side = REJECTED if draft.id in better else 0
        yield dataclasses.replace(draft, unit=draft.id, side=side)
        if side:
            y, name = better[draft.id], f"{draft.id}+"
            yield Draft(name, draft.x, y, {PLAIN: None}, unit=draft.id, side=PREFERRED)


LOGGED = Recipe(_drafts, frozenset({HINDSIGHT}))


def _grow(
    conversations: Sequence[Conversation],
    model: OpenedModel,
    settings: EncodeSettings,
    sharing: str,
    recipe: Recipe,
) -> Iterator[Tree]:
    for conversation in conversations:
        for window in encode(conversation, model.chat, settings, collections.Counter(), recipe):
            yield from GROW[sharing](window, recipe.frozen)


def _prompts(
    conversations: Sequence[Conversation], model: OpenedModel, most: int
) -> Iterator[Prompt]:
    """At most one per conversation, so that they differ; each leaves room for a reply."""
    count = 0
    for conversation in conversations:
        if count >= most:
            return
        for interaction in sorted(conversation.interactions(), key=lambda i: hash_of(i.id)):
            ids = _ids(interaction, model)
            if ids is not None:
                yield Prompt(interaction.id, tuple(interaction.x), interaction.o.content, ids)
                count += 1
                break


def _ids(interaction: Interaction, model: OpenedModel) -> list[int] | None:
    try:
        ids = model.chat.prompt(interaction.x)
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
            "%s: the initial model's replies cannot be read (%s); the distance from it is not "
            "measured any more",
            folder,
            error,
        )
        return None
