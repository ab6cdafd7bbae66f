"""Did it work? Measured on conversations that the run does not learn from, whatever they are about.

    held = HeldOut.of(conversations, model, cfg)     what is measured, chosen once
    held.begin(params, workdir, resumed)             what the initial model replies, kept there
    values, replies = held.measure(params)

Of the model as it stands, under NAMES: the signal on held-out interactions; how
much likelier it makes the reply that came after a complaint than the one complained about, where
the log has both; and of replies that it samples to held-out prompts their length, entropy, and
share that a person could read. How far it has moved is estimated on the replies y of the initial
model: the mean over their tokens of log pi_0(y_t | x, y_<t) - log pi(y_t | x, y_<t), which is the
Kullback-Leibler divergence of pi from pi_0.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax import digests, files, sharding
from interact_jax.data.encode import EncodeSettings, encode
from interact_jax.data.examples import PREFERRED, REJECTED, Draft
from interact_jax.data.holdout import hash_of
from interact_jax.data.recipes import HINDSIGHT, PLAIN, Recipe, hindsight, revised
from interact_jax.data.tree import GROW, Tree
from interact_jax.digests import Damaged
from interact_jax.generation.sampler import Completion, Sampler
from interact_jax.opening import OpenedModel
from interact_jax.schema import Conversation, InputError, Interaction, Message
from interact_jax.settings import Setting
from interact_jax.signal import logps_of

log = logging.getLogger(__name__)

FOLDER, FILE = "held_out", "initial.jsonl"
GRAM = 4  # tokens in a row; a reply in which most of these came before says nothing more
LEAST = 3 * GRAM  # tokens of a reply that can be called repetitive

SETTINGS = {
    "evaluation.every": Setting(
        100,
        "steps between measurements on held-out conversations, beside those before and after; "
        "0 = none between",
        least=0,
        free=True,
    ),
    "evaluation.interactions": Setting(
        256, "held-out interactions that are measured at most", least=1, free=True
    ),
    "evaluation.prompts": Setting(
        64, "held-out prompts that replies are sampled to at most; 0 = none", least=0, free=True
    ),
    "evaluation.new_tokens": Setting(
        128, "of those replies at most", least=1, most=2**20, free=True
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
    """A held-out history x, as ids; and the follow-up to what was replied then."""

    id: str
    x: Sequence[Message]
    o: str
    ids: Sequence[int]


@dataclasses.dataclass
class HeldOut:
    """What is measured of a model. `trees` are of interactions and revised replies, `prompts` of
    what replies are sampled to."""

    model: OpenedModel
    settings: EncodeSettings
    sharing: str
    seed: int
    new_tokens: int
    trees: list[Tree]
    prompts: list[Prompt]
    initial: list[tuple[Completion, np.ndarray]] | None = None  # replies, and log pi_0 of them

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
        chosen = list(_first(ordered, cfg.evaluation.interactions))
        return cls(
            model,
            settings,
            cfg.sharing,
            cfg.seed,
            cfg.evaluation.new_tokens,
            list(_trees(chosen, model, settings, cfg.sharing)),
            list(_prompts(chosen, model, cfg.evaluation.prompts)),
        )

    def begin(self, params: Any, workdir: Path, resumed: bool) -> None:
        """Sample what the initial model replies and keep it with the run; or read it again."""
        if not self.prompts:
            return
        if resumed:
            self.initial = _read(workdir / FOLDER, self.prompts)
            return
        completions = self._sample(params)
        self.initial = list(zip(completions, self._logps(params, completions), strict=True))
        _write(workdir / FOLDER, self.prompts, self.initial)

    def measure(self, params: Any) -> tuple[dict[str, float], list[str]]:
        """The measures of these parameters that can be told, by name; the replies sampled."""
        found = self._scores(params)
        if not self.prompts:
            return found, []
        completions = self._sample(params)
        texts = [self.text(completion) for completion in completions]
        logps = np.concatenate([completion.logps for completion in completions])
        found |= {
            "held_out_entropy": -float(logps.mean()),
            "held_out_length": _mean([len(completion.ids) for completion in completions]),
            "held_out_finished": _mean([completion.finished for completion in completions]),
            "held_out_readable": _mean(
                [readable(text, c.ids) for text, c in zip(texts, completions, strict=True)]
            ),
        }
        if self.initial is not None:
            then = [logp for _, logp in self.initial]
            now = self._logps(params, [completion for completion, _ in self.initial])
            found["held_out_distance"] = float(np.mean(np.concatenate(then) - np.concatenate(now)))
        return found, texts

    def first_replies(self) -> list[str] | None:
        """What the initial model replied."""
        return None if self.initial is None else [self.text(c) for c, _ in self.initial]

    def text(self, completion: Completion) -> str:
        ended = completion.ids[:-1] if completion.finished else completion.ids
        return self.model.chat.decode(ended)

    def _scores(self, params: Any) -> dict[str, float]:
        """Of what is in the logs."""
        views = (PLAIN, HINDSIGHT)
        logps = logps_of(
            self.model.decoder, params, self.trees, self.model.mesh, views, sharing=self.sharing
        )
        targets = [reply.target for tree in self.trees for reply in tree.replies]
        signals, sides = [], collections.defaultdict[str, dict[int, float]](dict)
        for target, seen in zip(targets, logps, strict=True):
            if target.side != PREFERRED:
                signals.append(seen[HINDSIGHT] - seen[PLAIN])
            sides[target.unit][target.side] = float(seen[PLAIN].mean())
        found = {}
        if signals:
            found["held_out_signal"] = _mean([signal.mean() for signal in signals])
            found["held_out_signal_abs"] = _mean([np.abs(signal).mean() for signal in signals])
        margins = [one[PREFERRED] - one[REJECTED] for one in sides.values() if len(one) == 2]
        if margins:
            found["held_out_margin"] = _mean(margins)
            found["held_out_preferred"] = _mean([margin > 0 for margin in margins])
        return found

    def _sample(self, params: Any) -> list[Completion]:
        chat = self.model.chat
        limit = len(chat.tokenizer)
        sampler = Sampler(self.model.decoder, self.model.eos_ids, vocab_limit=limit)
        ids = [prompt.ids for prompt in self.prompts]
        with sharding.on(self.model.mesh):
            return sampler.sample(
                params, ids, max_new_tokens=self.new_tokens, temperature=1.0, seed=self.seed
            )

    def _logps(self, params: Any, completions: Sequence[Completion]) -> list[np.ndarray]:
        """log pi of sampled tokens behind their prompts; [0] of a reply that cannot be encoded."""
        whole = self.model.config.max_positions
        settings = dataclasses.replace(
            self.settings, history="conversation", max_length=whole, max_reply=whole
        )
        drafts = {}
        for prompt, completion in zip(self.prompts, completions, strict=True):
            y = Message("assistant", self.text(completion), tuple(completion.ids))
            drafts[prompt.id] = [Draft(prompt.id, prompt.x, y, {PLAIN: None})]
        recipe = Recipe(lambda conversation: iter(drafts[conversation.id]))
        trees = []
        for prompt in self.prompts:
            one = Conversation(prompt.id, tuple(prompt.x))
            for window in encode(one, self.model.chat, settings, collections.Counter(), recipe):
                trees += GROW[self.sharing](window, recipe.frozen)
        logps = logps_of(
            self.model.decoder, params, trees, self.model.mesh, (PLAIN,), sharing=self.sharing
        )
        targets = (reply.target for tree in trees for reply in tree.replies)
        found = {t.id: seen[PLAIN] for t, seen in zip(targets, logps, strict=True)}
        return [found.get(prompt.id, np.zeros(0, np.float32)) for prompt in self.prompts]


def readable(text: str, ids: Sequence[int]) -> bool:
    """Whether a reply could be read by a person: words, whole characters, not the same again and
    again."""
    if not text.strip() or "\ufffd" in text:
        return False
    if any(not character.isprintable() and character not in "\n\t\r" for character in text):
        return False
    if len(ids) < LEAST:
        return True
    grams = [tuple(ids[at : at + GRAM]) for at in range(len(ids) - GRAM + 1)]
    return len(set(grams)) > len(grams) / 2


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(np.asarray(values, np.float64)))


# ------------------------------------------------------------------------------- what is measured


def _first(conversations: Sequence[Conversation], most: int) -> Iterator[Conversation]:
    count = 0
    for conversation in conversations:
        if count >= most:
            return
        count += sum(1 for _ in conversation.interactions())
        yield conversation


def _drafts(conversation: Conversation) -> Iterator[Draft]:
    """Interactions as they are learned from, and beside each the reply that was accepted after it,
    where that is another."""
    better = {i.id: y for i, y in revised(conversation) if y.content != i.y.content}
    for draft in hindsight(conversation):
        side = REJECTED if draft.id in better else 0
        yield dataclasses.replace(draft, unit=draft.id, side=side)
        if side:
            y, name = better[draft.id], f"{draft.id}+"
            yield dataclasses.replace(draft, id=name, y=y, unit=draft.id, side=PREFERRED)


def _trees(
    conversations: Sequence[Conversation],
    model: OpenedModel,
    settings: EncodeSettings,
    sharing: str,
) -> Iterator[Tree]:
    recipe = Recipe(_drafts, frozenset({HINDSIGHT}))
    for conversation in conversations:
        for window in encode(conversation, model.chat, settings, collections.Counter(), recipe):
            yield from GROW[sharing](window, recipe.frozen)


def _prompts(
    conversations: Sequence[Conversation], model: OpenedModel, most: int
) -> Iterator[Prompt]:
    """One a conversation at most, so that they differ; none that leaves no room for a reply."""
    taken = 0
    for conversation in conversations:
        if taken >= most:
            return
        for interaction in sorted(conversation.interactions(), key=lambda i: hash_of(i.id)):
            ids = _ids(interaction, model)
            if ids is not None:
                yield Prompt(interaction.id, tuple(interaction.x), interaction.o.content, ids)
                taken += 1
                break


def _ids(interaction: Interaction, model: OpenedModel) -> list[int] | None:
    try:
        ids = model.chat.prompt(interaction.x)
    except InputError:
        return None
    return ids if len(ids) < model.config.max_positions else None


# --------------------------------------------------------------------------- kept with the run


def _write(
    folder: Path,
    prompts: Sequence[Prompt],
    initial: Sequence[tuple[Completion, np.ndarray]],
) -> None:
    with files.whole_directory(folder) as partial:
        lines = [
            {
                "id": prompt.id,
                "ids": completion.ids,
                "finished": completion.finished,
                "logps": logps.tolist(),
            }
            for prompt, (completion, logps) in zip(prompts, initial, strict=True)
        ]
        (partial / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
        digests.seal(partial)


def _read(folder: Path, prompts: Sequence[Prompt]) -> list[tuple[Completion, np.ndarray]] | None:
    """None, and a warning, where these are not the replies to these prompts."""
    try:
        digests.check(folder)
        lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
        if [line["id"] for line in lines] != [prompt.id for prompt in prompts]:
            raise ValueError("it is of other prompts")
        return [
            (
                Completion(line["ids"], line["logps"], line["finished"]),
                np.array(line["logps"], np.float32),
            )
            for line in lines
        ]
    except (OSError, ValueError, Damaged) as error:
        log.warning(
            "%s: what the initial model replied cannot be read (%s); the distance from it is not "
            "measured any more",
            folder,
            error,
        )
        return None
