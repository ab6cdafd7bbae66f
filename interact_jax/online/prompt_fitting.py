"""Prompts as a model is asked them: with their system message, if they fit."""

from __future__ import annotations

import dataclasses
from typing import Any

from interact_jax.data.chat import ChatFormat
from interact_jax.data.fitting import NO_SYSTEM
from interact_jax.data.records import NOTHING_WRONG, Loss
from interact_jax.online.prompt_files import Asked, Report
from interact_jax.schema import InputError, Message

Messages = tuple[Message, ...]

AUTO, NONE, EMPTY = "auto", "none", "empty"  # what online.system may say besides a text
NO_EMPTY = "empty system message left out: the chat template takes none"


def turns_of(messages: Messages) -> Messages:
    """The messages without that of the system."""
    return messages[bool(messages) and messages[0].role == "system" :]


class Fitter:
    """Gives prompts their system message, and drops those that the model cannot be asked."""

    def __init__(self, cfg: Any, chat: ChatFormat, kind: str, report: Report):
        self.system, self.most = cfg.online.system, cfg.online.max_prompt
        self.special, self.on_error = cfg.data.special_tokens, cfg.data.on_error
        self.chat, self.kind, self.report = chat, kind, report

    def fit(self, asked: Asked) -> Asked | None:
        """The prompt as it is asked; None, counted, where it is dropped. Raises InputError."""
        turns = turns_of(asked.messages)
        messages = (*self.system_of(asked), *turns)
        if loss := self._loss(asked.where, messages):
            if loss.remedy and self.on_error == "stop":
                raise InputError(f"{loss}. {loss.remedy}.")
            self.report.drop(loss)
            return None
        return dataclasses.replace(asked, messages=messages)

    def _loss(self, where: str, messages: Messages) -> Loss | None:
        """Why the prompt is dropped, if it is."""
        if self.special != "keep" and (loss := self._special_token(where, messages)):
            return loss
        try:
            length = self.length(messages)
        except InputError as error:
            return Loss("refused by the chat template", where, str(error))
        if length > self.most:
            detail = f"{length:,} tokens, online.max_prompt={self.most:,}"
            return Loss("prompt too long", where, detail, NOTHING_WRONG)
        return None

    def length(self, messages: Messages) -> int:
        """Tokens of the prompt, that of the reply's beginning included."""
        return len(self.chat.prompt(messages, kind=self.kind))

    def system_of(self, asked: Asked) -> Messages:
        """The system message of a prompt, if it has one."""
        own = asked.messages[:1] if asked.messages and asked.messages[0].role == "system" else ()
        texts = {AUTO: own[0].content if own else asked.system, NONE: None, EMPTY: ""}
        text = texts.get(self.system, self.system)
        if own and text is None:
            self.report.change("system message left out, as online.system says", asked.where)
        elif own and text != own[0].content:
            self.report.change("system message replaced by online.system", asked.where)
        if text is None:
            return ()
        if not self.chat.abilities.system:
            if not text:
                self.report.change(NO_EMPTY, asked.where)
                return ()
            self.report.change(NO_SYSTEM, asked.where)
        return (Message("system", text),)

    def _special_token(self, where: str, messages: Messages) -> Loss | None:
        """What `data.special_tokens` says about a prompt that holds one."""
        for message in messages:
            if token := self.chat.special_token_in(message.content):
                detail = f"the tokenizer reads {token!r} in it as one (data.special_tokens)"
                loss = Loss("special token in the text", where, detail, NOTHING_WRONG)
                if self.special == "stop":
                    raise InputError(
                        f"{loss}. Mend it, or set data.special_tokens=drop to drop such prompts."
                    )
                return loss
        return None
