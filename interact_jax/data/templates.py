"""A chat template, rendered in a process of its own, which can be killed (`rendering.py`)."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import interact_jax
from interact_jax.data import rendering
from interact_jax.schema import InputError

ROOT = str(Path(interact_jax.__file__).parents[1])
TOO_EXPENSIVE = f"it takes more than {rendering.SECONDS} seconds, or too much memory"
START = "import sys; sys.path.insert(0, sys.argv[1]); from interact_jax.data import rendering; "
COMMAND = (sys.executable, "-P", "-c", START + "rendering.main()", ROOT)
DEFAULTS = {
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
    "enable_thinking": False,
}
"""Variables that a template gets besides the messages, as transformers passes them."""
WITH_THINKING = {"enable_thinking": True, "thinking": True}
"""Variables that turn reasoning on: the switches that templates know."""
_SYSTEM = {"role": "system", "content": "Be brief."}
_USER = {"role": "user", "content": "Hi"}
_REPLY = {"role": "assistant", "content": "Hello."}
CONVERSATIONS = ([_USER], [_USER, _REPLY, _USER], [_SYSTEM, _USER, _REPLY, _USER])
"""What a template is tried on; some accept no system message."""
LINE = 32  # renderings that stand in a line when many are asked for
SOURCE = 1_000_000  # characters of a template; those of well-known models have up to 20,000


class Refusal(InputError):
    """A template's refusal of messages; `reason` begins with the line of the template."""

    def __init__(self, reason: str, file: str | Path):
        super().__init__(f"the chat template refuses these messages: {reason} ({file}).")
        self.reason, self.file = reason, file

    def __reduce__(self) -> tuple[type[Refusal], tuple[str, str | Path]]:  # from worker processes
        return Refusal, (self.reason, self.file)


class Rendering(NamedTuple):
    """What is to be rendered: messages as templates take them, the tools on offer, and whether
    reasoning is on."""

    rows: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] = ()
    thinking: bool = False


class ChatTemplate:
    """A chat template with the special tokens that it may use and the date that it takes for today;
    `file` names it in messages, and `defaults` are variables that every rendering has.

    It is tried before it is used. Raises InputError, with the template's line, where it cannot be
    compiled or renders no conversation at all.
    """

    def __init__(
        self,
        source: str,
        tokens: Mapping[str, Any],
        file: str | Path,
        date: str = rendering.DATE,
        defaults: Mapping[str, Any] = DEFAULTS,
    ) -> None:
        self._arguments = (source, tokens, file, date, defaults)
        self.source, self._file = source, file
        if len(source) > SOURCE:
            raise self._unusable(f"it has {len(source):,} characters")
        setup = {"source": source, "variables": {**defaults, **tokens}, "date": date}
        self._process = _process(json.dumps(setup))
        if reason := self._process.failure:
            raise self._unusable(reason)
        reasons = []
        for messages in CONVERSATIONS:
            answer = self._process.ask(json.dumps(_asked(messages)))
            reasons += [answer["error"]] if "error" in answer else []
            if TOO_EXPENSIVE in reasons or len(reasons) == len(CONVERSATIONS):
                raise self._unusable(reasons[-1])

    @property
    def key(self) -> str:
        """All that renderings depend on, as text."""
        source, tokens, _, date, defaults = self._arguments
        return json.dumps([source, dict(tokens), date, dict(defaults)], sort_keys=True)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] = (),
        *,
        thinking: bool = False,
        finished: bool = False,
    ) -> str:
        """The text of messages, with the generation prompt unless they are `finished`; `tools` are
        those on offer. Raises Refusal, with the template's line, for any error in the template.
        """
        asked = _asked(messages, tools, thinking)
        if finished:
            asked["add_generation_prompt"] = False
        answer = self._process.ask(json.dumps(asked))
        if "error" in answer:
            raise self._refusal(answer)
        return answer["text"]

    def render_all(self, renderings: Sequence[Rendering]) -> list[str | Refusal | None]:
        """Many texts in one go, each with the generation prompt, or what `render` would raise. None
        for those that the process did not come to: `render` them one by one.

        Rows that are the very same objects as those of the rendering before go to the process once.
        """
        asked = list[dict[str, Any]]()
        before: Sequence[Mapping[str, Any]] = ()
        for rows, tools, thinking in renderings:
            keep = _same_objects(before, rows)
            asked.append({"keep": keep, **_asked(rows, tools, thinking, keep)})
            before = rows
        lines = [json.dumps(asked[n : n + LINE]) for n in range(0, len(asked), LINE)]
        return self._texts_of(self._process.ask_all(lines, len(asked)))

    def _texts_of(self, answers: Iterable[Any]) -> list[str | Refusal | None]:
        """The texts of `rendering.render_all`'s answers."""
        found, before = list[str | Refusal | None](), ""
        for answer in answers:
            if answer is None:
                found.append(None)
            elif isinstance(answer, dict):
                found.append(self._refusal(answer))
            else:
                before = before[: answer[0]] + answer[1]
                found.append(before)
        return found

    def _refusal(self, answer: Mapping[str, str]) -> Refusal:
        return Refusal(answer["error"], self._file)

    def _unusable(self, reason: str) -> InputError:
        return InputError(
            f"{self._file}: the chat template cannot be used: {reason}. Take that of the model's "
            "own repository, or set model.tokenizer to another directory."
        )

    def __reduce__(self) -> Any:  # processes are not pickled
        return ChatTemplate, self._arguments


def _asked(
    rows: Sequence[Mapping[str, Any]],
    tools: Sequence[Any] = (),
    thinking: bool = False,
    first: int = 0,
) -> dict[str, Any]:
    """What the process is asked for: messages from the `first` one on, tools and variables."""
    variables = WITH_THINKING if thinking else {}
    return {"messages": rows[first:], "tools": tools or None, **variables}


def _same_objects(some: Sequence[Any], others: Sequence[Any]) -> int:
    """How many of the first ones are the same objects."""
    pairs = zip(some, others, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a is not b), min(len(some), len(others)))


class _Process:
    """A process that renders one template; it is restarted if the kernel had to kill it."""

    def __init__(self, template: str) -> None:
        self._template, self._lock = template, threading.Lock()
        self.failure = self._start().get("error", "")

    def _start(self) -> dict[str, str]:
        self._running = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            process_group=0,  # a terminal's Ctrl-C is for this program, which may go on
        )
        weakref.finalize(self, self._running.kill)
        return self._answer(self._template)

    def ask(self, messages: str) -> dict[str, str]:
        with self._lock:
            if self._running.poll() is not None:
                self._start()
            return self._answer(messages)

    def ask_all(self, lines: Sequence[str], count: int) -> list[Any]:
        """The `count` answers to all lines, None from where it was killed. All lines lie in the
        process's memory at once."""
        with self._lock:
            if self._running.poll() is not None:
                self._start()
            return list(self._answers([str(len(lines)), *lines], count))

    def _answer(self, question: str) -> dict[str, str]:
        (answer,) = self._answers([question], 1)
        return {"error": TOO_EXPENSIVE} if answer is None else answer

    def _answers(self, questions: Sequence[str], count: int) -> Iterator[Any]:
        """The next `count` lines that come after these; None once it was killed."""
        streams = self._running.stdin, self._running.stdout
        assert streams[0] is not None and streams[1] is not None
        try:
            streams[0].writelines(f"{question}\n" for question in questions)
            streams[0].flush()
            while count and (line := streams[1].readline()).endswith("\n"):
                yield json.loads(line)
                count -= 1
        except BrokenPipeError:
            pass
        if count:
            self._running.wait()
        yield from [None] * count


_process = functools.lru_cache(maxsize=16)(_Process)  # models with the same template share it
