"""A chat template, rendered in a process of its own, which can be ended (`rendering.py`)."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import interact_jax
from interact_jax.data import rendering
from interact_jax.schema import InputError

ROOT = str(Path(interact_jax.__file__).parents[1])
ENDED = f"it takes more than {rendering.SECONDS} seconds, or too much memory"
START = "import sys; sys.path.insert(0, sys.argv[1]); from interact_jax.data import rendering; "
COMMAND = (sys.executable, "-P", "-c", START + "rendering.main()", ROOT)
MEANT = {"tools": None, "documents": None, "add_generation_prompt": True, "enable_thinking": False}
"""What a template is told besides the messages; as transformers does."""
THINKING = {"enable_thinking": True, "thinking": True}
"""What it is told instead where a reply is to be thought over: the switches that templates have."""
_SYSTEM = {"role": "system", "content": "Be brief."}
_USER = {"role": "user", "content": "Hi"}
_REPLY = {"role": "assistant", "content": "Hello."}
CONVERSATIONS = ([_USER], [_USER, _REPLY, _USER], [_SYSTEM, _USER, _REPLY, _USER])
"""What a template is tried with; some take no system message."""
SOURCE = 1_000_000  # characters of a template; the longest of well-known models have 20,000


class Refusal(InputError):
    """What a template says of messages that it does not take; `why` begins with its line."""

    def __init__(self, why: str, file: str | Path):
        super().__init__(f"the chat template refuses these messages: {why} ({file}).")
        self.why, self.file = why, file

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str | Path]]:  # from worker processes
        return Refusal, (self.why, self.file)


class ChatTemplate:
    """A chat template with what it may call special tokens, and the day that it takes for today;
    `file` is for messages to people.

    It is tried before it is used. Raises InputError, with the template's line, where it cannot be
    compiled, or renders no conversation at all.
    """

    def __init__(
        self,
        source: str,
        tokens: Mapping[str, Any],
        file: str | Path,
        date: str = rendering.DATE,
    ) -> None:
        self._given = (source, tokens, file, date)
        self.source, self._file = source, file
        if len(source) > SOURCE:
            raise self._unusable(f"it has {len(source):,} characters")
        given = {"source": source, "variables": {**MEANT, **tokens}, "date": date}
        self._process = _process(json.dumps(given))
        if why := self._process.refused:
            raise self._unusable(why)
        whys = []
        for messages in CONVERSATIONS:
            answer = self._ask(messages)
            whys += [answer["why"]] if "why" in answer else []
            if ENDED in whys or len(whys) == len(CONVERSATIONS):
                raise self._unusable(whys[-1])

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] = (),
        *,
        thinking: bool = False,
        finished: bool = False,
    ) -> str:
        """The text of messages, with the generation prompt unless they are `finished`; `tools` are
        what could be called. Raises Refusal, with the template's line, whatever goes wrong in it.
        """
        told: dict[str, Any] = dict(THINKING) if thinking else {}
        if finished:
            told["add_generation_prompt"] = False
        answer = self._ask(messages, tools, told)
        if "why" in answer:
            raise Refusal(answer["why"], self._file)
        return answer["text"]

    def _ask(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] = (),
        told: Mapping[str, Any] | None = None,
    ) -> Any:
        asked = {"messages": messages, "tools": tools or None, **(told or {})}
        return self._process.ask(json.dumps(asked))

    def _unusable(self, why: str) -> InputError:
        return InputError(
            f"{self._file}: the chat template cannot be used: {why}. Take that of the model's own "
            "repository, or set model.tokenizer to another directory."
        )

    def __reduce__(self) -> Any:  # a process stays with its owner
        return ChatTemplate, self._given


class _Process:
    """One that renders one template; started anew where the kernel had to end it."""

    def __init__(self, template: str) -> None:
        self._template, self._lock = template, threading.Lock()
        self.refused = self._start().get("why", "")

    def _start(self) -> dict[str, str]:
        self._running = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        weakref.finalize(self, self._running.kill)
        return self._answer(self._template)

    def ask(self, messages: str) -> dict[str, str]:
        with self._lock:
            if self._running.poll() is not None:
                self._start()
            return self._answer(messages)

    def _answer(self, question: str) -> dict[str, str]:
        streams = self._running.stdin, self._running.stdout
        assert streams[0] is not None and streams[1] is not None
        try:
            streams[0].write(question + "\n")
            streams[0].flush()
            line = streams[1].readline()
            if line.endswith("\n"):  # else it was ended meanwhile
                return json.loads(line)
        except BrokenPipeError:
            pass
        self._running.wait()
        return {"why": ENDED}


_process = functools.lru_cache(maxsize=16)(_Process)  # models of one template share it
