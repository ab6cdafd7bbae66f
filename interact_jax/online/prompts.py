"""The prompts of an online run, without an end: of files, or requests of the pocket world.

    source = open_prompts(cfg, chat)
    messages = source[i]                 i = 0, 1, 2, ...: what the i-th conversation begins with
    source.id(i)                         its name, "p17_e0": prompt 17 in the first epoch
    source.held_out                      prompts that are never among them, to measure by

What `source[i]` is depends on the files, the settings and the seed alone, so a run that is resumed
at i needs nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from interact_jax import places, progress
from interact_jax.data.chat import ChatFormat
from interact_jax.data.holdout import FEWEST, hash_of, opening_of
from interact_jax.data.order import Order
from interact_jax.data.thinking import PLAIN
from interact_jax.generation.engine import seed_of
from interact_jax.online.prompt_files import FORMATS, Asked, Report, read_prompt_files
from interact_jax.online.prompt_fitting import AUTO, Fitter, Messages, turns_of
from interact_jax.pocket import world
from interact_jax.schema import Conversation, InputError, Message
from interact_jax.settings import Setting

POCKET = "pocket"
ORDERS = ("shuffled", "file")
POCKET_HELD_OUT = 256  # held-out requests of the pocket world to measure by
TRIED = 64  # requests of the pocket world whose length is looked at
SETTINGS = {
    "online.prompts": Setting(
        "",
        "what the model is asked in an online run: a file, a glob or a directory of prompts; "
        "pocket = requests of the pocket world; empty = learn from logs (data.path)",
        free=True,
        before="",
    ),
    "online.format": Setting(
        "auto",
        "format of the prompts: prompts (JSON Lines of prompt or messages), tldr, helpsteer2; auto "
        "looks at the first record of each file",
        ("auto", *FORMATS),
    ),
    "online.system": Setting(
        AUTO,
        "the system message of all prompts, as text; empty = one without text, none = none, auto = "
        "as the prompts have it (tldr: an instruction to summarise; helpsteer2: empty)",
    ),
    "online.max_prompt": Setting(
        512, "prompts with more tokens than this are dropped, counted", least=1, most=2**24
    ),
    "online.order": Setting(
        "shuffled", "order of the prompts: new in every epoch, or that of the files", ORDERS
    ),
}


class PromptSource(Protocol):
    """Prompts by number. `counts` says how many were dropped or changed, by reason; `fingerprint`,
    JSON for a checkpoint, what the prompts are."""

    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def held_out(self) -> Sequence[Messages]:
        """Prompts to measure by, never among those of training."""
        ...

    @property
    def fingerprint(self) -> dict[str, Any]: ...
    def __len__(self) -> int:
        """Prompts in an epoch; ENDLESS where there are no epochs."""
        ...

    def __getitem__(self, index: int) -> Messages:
        """The messages of the prompt at any index from 0 on."""
        ...

    def id(self, index: int) -> str:
        """The name of the conversation that begins there, unlike all others of the run."""
        ...

    def training_prompts(self) -> Iterable[tuple[str, Messages]]:
        """Every prompt of training once, with its place for messages; none where the source is the
        pocket world itself."""
        ...

    def lines(self) -> list[str]:
        """What was read and what became of it, for people."""
        ...

    def check_same(self, saved: Mapping[str, Any] | None) -> None:
        """Raise InputError, which says what is different, where a saved fingerprint is that of
        other prompts."""
        ...


ENDLESS = sys.maxsize


def open_prompts(cfg: Any, chat: ChatFormat, *, kind: str = PLAIN) -> PromptSource:
    """The prompts of a run's settings; `kind` says how they treat reasoning (`data.thinking`).

    Raises InputError for what cannot be read, and where no prompt is left.
    """
    path = cfg.online.prompts
    if not path:
        raise InputError(
            "online.prompts is not set: give a file of prompts, or pocket for requests of the "
            "pocket world."
        )
    if path == places.STANDARD:
        raise InputError(
            "online.prompts=-: a run that is resumed reads its prompts again, and standard input "
            "is over by then. Write them to a file and give that."
        )
    if path == POCKET:
        return PocketPrompts(cfg, chat, kind)
    return FilePrompts(cfg, chat, kind)


# ----------------------------------------------------------------------------------------- files


class FilePrompts:
    """Prompts of files: every epoch has each of them once, by default in a new order.

    Those held out are chosen by a hash of their opening, as conversations are (`data.holdout`):
    the share `evaluation.holdout`, or none where that would be very few.
    """

    @progress.of("reading the prompts")
    def __init__(self, cfg: Any, chat: ChatFormat, kind: str = PLAIN):
        online = cfg.online
        asked, self.report = read_prompt_files(
            online.prompts, online.format, cfg.data.on_error, cfg.data.max_bytes
        )
        fitter = Fitter(cfg, chat, kind, self.report)
        fitting = [prompt for each in asked if (prompt := fitter.fit(each))]
        if not fitting:
            name = places.input_name(online.prompts)
            raise InputError("\n".join([f"{name}: no prompt is left.", *self.report.lines(0)]))
        self._share = cfg.evaluation.holdout
        self._prompts, held = split(fitting, self._share)
        self._held_out = [prompt.messages for prompt in held]
        seed = cfg.seed if online.order == "shuffled" else None
        self._order = Order(len(self._prompts), seed)

    @property
    def counts(self) -> Mapping[str, int]:
        return self.report.dropped + self.report.changed

    @property
    def held_out(self) -> Sequence[Messages]:
        return self._held_out

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, index: int) -> Messages:
        return self._prompts[self._place(index)].messages

    def id(self, index: int) -> str:
        return f"p{self._place(index)}_e{index // len(self)}"

    def _place(self, index: int) -> int:
        if index < 0:
            raise IndexError(f"prompt {index}: they are counted from 0")
        return self._order[index]

    def training_prompts(self) -> Iterable[tuple[str, Messages]]:
        return ((prompt.where, prompt.messages) for prompt in self._prompts)

    def lines(self) -> list[str]:
        held = len(self._held_out)
        count = len(self) + held
        if held:
            what = f"{held:,} of {count:,} prompts"
        elif not self._share:
            what = "nothing (as asked; evaluation.holdout)"
        else:
            what = (
                f"nothing ({self._share:g} of {count:,} prompts are too few, fewer than {FEWEST})"
            )
        return [*self.report.lines(count), f"held out, to measure by: {what}"]

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        digest = _digest(prompt.messages for prompt in self._prompts)
        return {"prompts": len(self), "digest": digest}

    def check_same(self, saved: Mapping[str, Any] | None) -> None:
        check_same(saved, self.fingerprint)


def split(prompts: Sequence[Asked], share: float) -> tuple[list[Asked], list[Asked]]:
    """(to learn from, held out): nothing is held out where that would be fewer than FEWEST, or
    everything."""
    is_out = [
        hash_of(opening_of(Conversation("", turns_of(prompt.messages)))) < share
        for prompt in prompts
    ]
    if share * len(prompts) < FEWEST or all(is_out):
        return list(prompts), []
    parts: tuple[list[Asked], list[Asked]] = ([], [])
    for prompt, out in zip(prompts, is_out, strict=True):
        parts[out].append(prompt)
    return parts


# ------------------------------------------------------------------------------ the pocket world


def pocket_system(cfg: Any, chat: ChatFormat, report: Report | None = None) -> Messages:
    """The system message of the requests, by online.system; `report` says what became of it."""
    return Fitter(cfg, chat, PLAIN, report or Report()).system_of(Asked((), POCKET))


class PocketPrompts:
    """Requests of the pocket world, drawn one by one; those that it holds out are to measure by."""

    def __init__(self, cfg: Any, chat: ChatFormat, kind: str = PLAIN):
        """Raises InputError where a request does not fit the settings: none is ever dropped."""
        self.report, self._seed = Report(), cfg.seed
        self._system = pocket_system(cfg, chat, self.report)
        trial = Report()
        fitter = Fitter(cfg, chat, kind, trial)
        for index in range(TRIED):
            if fitter.fit(Asked(turns_of(self[index]), f"request {index}")) is None:
                (reason,) = trial.dropped
                raise InputError(
                    f"online.prompts=pocket: {reason}: {trial.examples[reason]}. All of its "
                    "requests must be such that the model can be asked them."
                )

    @property
    def counts(self) -> Mapping[str, int]:
        return self.report.changed

    @functools.cached_property
    def held_out(self) -> Sequence[Messages]:
        requests = world.held_out_requests(POCKET_HELD_OUT, seed=0)
        return [self._messages(request) for request in requests]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Messages:
        if index < 0:
            raise IndexError(f"prompt {index}: they are counted from 0")
        return self._messages(world.draw_request(random.Random(seed_of(self._seed, POCKET, index))))

    def _messages(self, request: world.Request) -> Messages:
        return (*self._system, Message("user", request.text))

    def id(self, index: int) -> str:
        return f"p{index}_e0"

    def training_prompts(self) -> Iterable[tuple[str, Messages]]:
        return ()

    def lines(self) -> list[str]:
        changes = [f"  all: {reason}" for reason in self.report.changed]
        return ["prompts are requests of the pocket world, without an end", *changes]

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        return {"prompts": POCKET, "digest": _digest(self[index] for index in range(TRIED))}

    def check_same(self, saved: Mapping[str, Any] | None) -> None:
        check_same(saved, self.fingerprint)


# ------------------------------------------------------------------------------------- comparing


def _digest(prompts: Iterable[Messages]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for messages in prompts:
        texts = [[message.role, message.content] for message in messages]
        digest.update(json.dumps(texts).encode() + b"\n")
    return digest.hexdigest()


def check_same(saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    """Raise InputError where a saved fingerprint is not that of now."""
    if saved == now:
        return
    if not saved or "prompts" not in saved:
        change = "learned from logs"
    elif saved["prompts"] != now["prompts"]:
        change = f"had {_in_words(saved['prompts'])}, now there are {_in_words(now['prompts'])}"
    elif now["prompts"] == POCKET:
        change = "drew other requests of the pocket world, those of another version"
    else:
        change = f"had other prompts, or the same {_in_words(now['prompts'])} in another order"
    raise InputError(
        f"the run to be resumed {change}: its place among the prompts means nothing. Set "
        "online.prompts and online.system to those of that run, or use another --workdir (with "
        "--config.start_from to continue from the parameters)."
    )


def _in_words(prompts: Any) -> str:
    return "requests of the pocket world" if prompts == POCKET else f"{prompts:,} prompts"
