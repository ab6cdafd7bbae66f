"""Conversations to token ids: which history each interaction sees, and what is lost on the way.

`conversation` history keeps the whole conversation up to `max_length` tokens. Where it is longer,
the window hops: the oldest turns are dropped until half of `max_length` is left, the system message
stays, and the new window starts at a user turn. Student and teacher see the same window, and the
interactions of one window share their prefix. `reference` history is that of the paper's code: the
last 5 messages, x and (x, o) each cut on the left at 2,048 tokens.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from interact_jax.data import thinking, weighing
from interact_jax.data.chat import ChatFormat, LearnedReply
from interact_jax.data.examples import Draft, Example, Target
from interact_jax.data.recipes import RECIPES, Recipe
from interact_jax.data.sources import MOST_BYTES
from interact_jax.data.stretches import Entangled
from interact_jax.data.templates import Refusal
from interact_jax.data.texts import Prompt, SharedTexts, Texts
from interact_jax.schema import Conversation, InputError, Message
from interact_jax.settings import Setting

REFERENCE_MESSAGES = 5  # messages of history that the paper's code keeps
REFERENCE_CONTEXT = 2048  # tokens of x, and of (x, o)
LOOK_AHEAD = 4  # characters of a history, per token of a window, up to which it is rendered ahead
LONGEST_REASON = 120  # characters of a template's refusal
REFUSED = "conversations dropped: refused by the chat template"
ENTANGLED = "conversations tokenised sequence by sequence: stretches of text depend on one another"
TOO_LONG = "interactions dropped: longer than data.max_length by themselves"


@dataclasses.dataclass(frozen=True)
class EncodeSettings:
    """How conversations become ids; the fields are the settings `data.*` of the same names, and
    `objective.ignore_first`."""

    history: str = "conversation"
    max_length: int = 4096  # tokens of the longest sequence, reply included
    max_reply: int = 2048  # tokens of y before it is cut
    special_tokens: str = "drop"
    on_error: str = "stop"
    repair: str = "join"
    copies: str = "keep"
    mapping: str = ""
    max_bytes: int = MOST_BYTES  # of a file that are read, unpacked
    weigh: str = ""
    ignore_first: int = 0  # tokens of y that the objective does not count

    @classmethod
    def of(cls, cfg: Any) -> EncodeSettings:
        """From the settings of a run."""
        names = (field.name for field in dataclasses.fields(cls))
        values = {name: cfg.data[name] for name in names if name != "ignore_first"}
        if cfg.data.weigh:
            weighing.load(cfg.data.weigh)  # report a bad file before the work begins
        return cls(**values, ignore_first=cfg.objective.ignore_first)


Counts = collections.Counter[str]
Unit = list[Example]  # examples that a loss joins, mostly one
Planned = list[tuple[Draft, LearnedReply]]  # a unit as text, and how its replies are learned
SPECIAL_TOKENS = ("drop", "keep", "stop")


def encode(
    conversation: Conversation,
    chat: ChatFormat,
    settings: EncodeSettings,
    counts: Counts,
    recipe: Recipe = RECIPES["hindsight"],
    texts: SharedTexts | None = None,
) -> list[list[Unit]]:
    """What `recipe` finds in a conversation, unit by unit, grouped by history window.

    With `texts` sequences share what is rendered and tokenised. One of each conversation is
    tokenised whole, and where that gives other ids, all are.

    `counts` collects what was lost or cut, by reason. Raises InputError, with the conversation's
    file and line, where the template refuses it and `on_error` is "stop".
    """
    if settings.special_tokens != "keep" and (token := _special_token(conversation, chat)):
        if settings.special_tokens == "stop":
            raise InputError(
                f"{conversation.source or conversation.id}: a message holds {token!r}, which the "
                "tokenizer reads as a special token. Mend it, or set data.special_tokens=drop to "
                "drop such conversations, or keep to tokenise them as they are."
            )
        counts["conversations dropped: text of a special token in a message"] += 1
        return []
    if (unknown := _unknown_id(conversation, chat)) is not None:
        if settings.on_error == "stop":
            raise InputError(
                f"{conversation.source or conversation.id}: token_ids hold {unknown}, but the "
                f"tokenizer has {len(chat.tokenizer)} tokens: they come from another model. "
                "Remove them, or set data.on_error=skip to drop such conversations."
            )
        counts["conversations dropped: token_ids that the tokenizer does not have"] += 1
        return []
    drafts = _weighted_units(conversation, recipe, settings, counts)
    units = list(_units_with_answers(drafts, chat, counts))

    def windows(texts: Texts, counts: Counts) -> list[list[Unit]]:
        found = WINDOWS[settings.history](conversation, units, texts, settings, counts)
        return [[u for u in window if _has_counted_tokens(u, settings, counts)] for window in found]

    try:
        kept = _shared(windows, texts, counts) if texts else None
        if kept is None:
            kept = windows(Texts(chat), counts)
    except Refusal as error:
        if settings.on_error == "stop":
            where = conversation.source or conversation.id
            raise InputError(
                f"{where}: {error} Mend the conversation, or set data.on_error=skip to drop such "
                "conversations."
            ) from error
        counts[f"{REFUSED}: {error.reason[:LONGEST_REASON]}"] += 1
        return []
    reasoning = (e.target.reasoning for window in kept for unit in window for e in unit)
    counts.update(filter(None, reasoning))
    return [window for window in kept if window]


def _shared(
    windows: Callable[[Texts, Counts], list[list[Unit]]], texts: SharedTexts, counts: Counts
) -> list[list[Unit]] | None:
    """The windows by shared texts; None, and counted, where their ids are not to be had so."""
    seen: Counts = collections.Counter()
    try:
        kept = windows(texts, seen)
        texts.check()
    except Entangled:
        counts[ENTANGLED] += 1
        return None
    except Refusal:
        counts.update(seen)
        raise
    counts.update(seen)
    return kept


def prompts_of(
    conversation: Conversation, chat: ChatFormat, settings: EncodeSettings, recipe: Recipe
) -> Iterator[tuple[Prompt, str]]:
    """The prompts that `encode` will most likely ask for, to be rendered before, and the text that
    it will tokenise behind each, "" where it will not."""
    if _unknown_id(conversation, chat) is not None:  # it will be dropped, or is an error
        return
    for draft in recipe.drafts(conversation):
        x = draft.x if settings.history == "conversation" else _last_messages(draft.x)
        if sum([len(message.content) for message in x]) > LOOK_AHEAD * settings.max_length:
            return  # the window will have hopped
        reply = chat.learned_reply(draft.y)
        for o in dict.fromkeys([None, *draft.views.values()]):
            text = chat.text_of(reply.y) if o is None else ""
            yield Prompt(x, o, conversation.tools, reply.prompt), text


def _weighted_units(
    conversation: Conversation, recipe: Recipe, settings: EncodeSettings, counts: Counts
) -> Iterator[list[Draft]]:
    """The units of a conversation whose weight is above 0."""
    for _, unit in itertools.groupby(recipe.drafts(conversation), lambda d: d.unit or d.id):
        drafts = list(unit)
        weight = weighing.weight_of(settings.weigh, conversation, drafts[0])
        if weight > 0:
            yield [
                draft if draft.weight == weight else dataclasses.replace(draft, weight=weight)
                for draft in drafts
            ]
        else:
            counts["interactions left out: weight 0"] += 1


def _units_with_answers(
    units: Iterable[list[Draft]], chat: ChatFormat, counts: Counts
) -> Iterator[Planned]:
    """The units whose replies still say something without their reasoning."""
    for unit in units:
        replies = [chat.learned_reply(draft.y) for draft in unit]
        if any(reply.reasoning and not reply.y.content.strip() for reply in replies):
            counts[thinking.NO_ANSWER] += 1
            continue
        for draft, reply in zip(unit, replies, strict=True):
            if draft.y.token_ids is not None and reply.y.token_ids is None:
                counts[thinking.OTHER_IDS] += 1
        yield list(zip(unit, replies, strict=True))


def _special_token(conversation: Conversation, chat: ChatFormat) -> str | None:
    # Tools and calls, which templates may show, are text from strangers as well.
    texts = [json.dumps(conversation.tools, ensure_ascii=False)] if conversation.tools else []
    for message in _messages(conversation):
        parts = thinking.parts_of(message.content) if message.role == "assistant" else None
        # The marks of reasoning are parsed, and are not part of the text.
        texts += [parts.reasoning, parts.answer] if parts else [message.content]
        if message.fields:
            texts.append(json.dumps(dict(message.fields), ensure_ascii=False))
    if chat.special_token_in("\n".join(texts)) is None:  # most conversations
        return None
    tokens = map(chat.special_token_in, texts)
    return next(filter(None, tokens), None)


def _unknown_id(conversation: Conversation, chat: ChatFormat) -> int | None:
    """The largest of the sampled ids, if the tokenizer does not have it."""
    ids = [i for message in _messages(conversation) for i in message.token_ids or ()]
    return max(ids) if ids and max(ids) >= len(chat.tokenizer) else None


def _messages(conversation: Conversation) -> Iterator[Message]:
    yield from conversation.messages
    for preference in conversation.preferences or ():
        yield from (preference.chosen, preference.rejected)


def _has_counted_tokens(unit: Unit, settings: EncodeSettings, counts: Counts) -> bool:
    if all(len(e.target.y) > settings.ignore_first for e in unit):
        return True
    counts["interactions dropped: no counted token in the reply"] += 1
    return False


def _hopping_windows(
    conversation: Conversation,
    units: Iterable[Planned],
    texts: Texts,
    settings: EncodeSettings,
    counts: Counts,
) -> list[list[Unit]]:
    system = conversation.messages[:1] if conversation.messages[0].role == "system" else ()
    start = len(system)
    windows: list[list[Unit]] = []
    window: list[Unit] = []
    first = None
    for planned in units:
        x = planned[0][0].x
        if first is not None and x[len(system)] is not first:  # history restarts
            windows.append(window)
            start, window = len(system), []
        first = x[len(system)]

        def encode_from(start: int, x: Sequence[Message] = x, planned: Planned = planned) -> Unit:
            kept = x if start == len(system) else (*system, *x[start:])
            return [_encode(draft, reply, kept, conversation, texts) for draft, reply in planned]

        unit = encode_from(start)
        if _length(unit, settings) > settings.max_length:
            hops = [i for i in range(start + 1, len(x)) if x[i].role == "user"]
            # The last one first: if even that is too long, the others need not be tried.
            if not hops or _length(encode_from(hops[-1]), settings) > settings.max_length:
                counts[TOO_LONG] += 1
                continue  # the window stays where it is: the next unit may fit into it
            for hop in hops:
                unit = encode_from(hop)
                if _length(unit, settings) <= settings.max_length // 2:
                    break
            counts["windows hopped: the oldest turns of a long conversation cut"] += 1
            windows.append(window)
            start, window = hop, []
        if start > len(system):
            counts["interactions with only part of their history: windows hopped"] += 1
        window.append([_cut(e, settings, counts) for e in unit])
    return [*windows, window]


def _last_messages(x: Sequence[Message]) -> Sequence[Message]:
    """What the paper's code keeps of a history."""
    kept = x[-REFERENCE_MESSAGES:]
    while kept and kept[0].role != "user":  # it starts with a user turn
        kept = kept[1:]
    if not kept:  # the tool turns alone are longer than that
        kept = x[max(n for n, message in enumerate(x) if message.role == "user") :]
    return kept


def _reference_windows(
    conversation: Conversation,
    units: Iterable[Planned],
    texts: Texts,
    settings: EncodeSettings,
    counts: Counts,
) -> list[list[Unit]]:
    window = []
    for planned in units:
        x = _last_messages(planned[0][0].x)
        unit = []
        for draft, reply in planned:
            whole = _encode(draft, reply, x, conversation, texts)
            for view, ids in whole.contexts.items():
                if len(ids) > REFERENCE_CONTEXT:
                    name = "x" if draft.views[view] is None else "(x, o)"
                    counts[f"contexts {name} cut on the left at {REFERENCE_CONTEXT} tokens"] += 1
            cut = {view: ids[-REFERENCE_CONTEXT:] for view, ids in whole.contexts.items()}
            unit.append(Example(whole.target, cut))
        if _length(unit, settings) > settings.max_length:  # the model may have no more positions
            counts[TOO_LONG] += 1
            continue
        window.append([_cut(e, settings, counts) for e in unit])
    return [window]


WINDOWS = {"conversation": _hopping_windows, "reference": _reference_windows}
"""How much history an interaction sees, by the value of the setting `data.history`."""

SETTINGS = {
    "data.max_length": Setting(
        4096, "length of a conversation, in tokens, at which the window moves on", least=2
    ),
    "data.max_reply": Setting(
        2048, "length of a reply, in tokens, at which it is cut (and loses its EOS)", least=1
    ),
    "data.history": Setting(
        "conversation",
        "which messages a reply sees: the conversation, or what the paper's code leaves of "
        "it (reference)",
        tuple(WINDOWS),
    ),
    "data.special_tokens": Setting(
        "drop",
        "what to do with conversations that spell out a special token in a message",
        SPECIAL_TOKENS,
    ),
}


def _encode(
    draft: Draft,
    reply: LearnedReply,
    x: Sequence[Message],
    conversation: Conversation,
    texts: Texts,
) -> Example:
    def prompt(o: str | None = None) -> str:
        return texts.render(Prompt(x, o, conversation.tools, reply.prompt))

    chat = texts.chat
    text = prompt()
    if reply.prompt == thinking.ON and chat.reasoning_format.closes(text):
        # The messages switch reasoning off.
        reply = chat.learned_reply(draft.y, room=False)
        text = prompt()
    reasoning = reply.reasoning
    if not reasoning and thinking.opens_a_block(text):
        reasoning = thinking.NO_BLOCK
    x_ids = texts.ids(text)
    contexts = {
        view: x_ids if o is None else texts.ids(prompt(o)) for view, o in draft.views.items()
    }
    y = chat.reply(reply.y, text, x_ids, texts.ids)
    known = {}
    if reply.y.logps is not None:
        known["sampler"] = np.asarray(reply.y.logps, np.float32)
    unit, side, weight = draft.unit or draft.id, draft.side, draft.weight
    target = Target(draft.id, y, conversation.id, unit, side, weight, known, reasoning)
    return Example(target, contexts)


def _cut(example: Example, settings: EncodeSettings, counts: Counts) -> Example:
    most, target = settings.max_reply, example.target
    if len(target.y) <= most:
        return example
    counts["replies cut at data.max_reply, their EOS lost"] += 1
    known = {name: logps[:most] for name, logps in target.known.items()}
    target = dataclasses.replace(target, y=target.y[:most].copy(), known=known)
    return dataclasses.replace(example, target=target)


def _length(unit: Unit, settings: EncodeSettings) -> int:
    """Length of the longest sequence, with the reply as it will be cut."""
    return max(
        len(ids) + min(len(e.target.y), settings.max_reply)
        for e in unit
        for ids in e.contexts.values()
    )
