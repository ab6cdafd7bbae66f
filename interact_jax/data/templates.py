"""A model's chat template: tried once in a process that can be ended, from then on rendered here.

The sandbox (`sandbox/`) bounds what a template does with any messages. The trial is for what only
shows when a template is compiled, and for what the sandbox may not know of: it ends after some
seconds of a processor, or with too much memory, and takes nothing with it.
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import interact_jax
from interact_jax.data import sandbox
from interact_jax.schema import InputError

ROOT = str(Path(interact_jax.__file__).parents[1])
START = "import sys; sys.path.insert(0, sys.argv[1]); from interact_jax.data import sandbox; "
WAIT = 60  # seconds by the clock, on a machine that is busy with other things
_SYSTEM = {"role": "system", "content": "Be brief."}
_USER = {"role": "user", "content": "Hi"}
_REPLY = {"role": "assistant", "content": "Hello."}
CONVERSATIONS = ([_USER], [_USER, _REPLY, _USER], [_SYSTEM, _USER, _REPLY, _USER])
"""What a template is tried with; some take no system message."""
MEANT = {"tools": None, "documents": None, "add_generation_prompt": True, "enable_thinking": False}
"""What a template is told besides the messages; as transformers does."""


class ChatTemplate:
    """A chat template with what it may call special tokens; `file` is for messages to people."""

    def __init__(self, source: str, tokens: Mapping[str, Any], file: str | Path) -> None:
        self._given = (source, tokens, file)
        self._variables, self._file = {**MEANT, **tokens}, file
        self._template = sandbox.Template(source)

    @classmethod
    def load(cls, source: str, tokens: Mapping[str, Any], file: str | Path) -> ChatTemplate:
        """Try and compile it. Raises InputError, with the template's line, where it is no good."""
        if (why := _tried(source, json.dumps({**MEANT, **tokens}))) is not None:
            raise InputError(
                f"{file}: the chat template cannot be used: {why}. Take that of the model's own "
                "repository, or set model.tokenizer to another directory."
            )
        return cls(source, tokens, file)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of messages, with the generation prompt. Raises InputError, with the template's
        line, whatever goes wrong in it."""
        size = sum(len(message["content"]) for message in messages)
        try:
            return self._template.render({**self._variables, "messages": messages}, size)
        except Exception as error:
            why = sandbox.told(error, self._template.line_of(error))
            raise InputError(
                f"the chat template refuses these messages: {why} ({self._file})."
            ) from error

    def __reduce__(self) -> Any:  # compiled code stays in its process
        return ChatTemplate, self._given


@functools.lru_cache(maxsize=64)
def _tried(source: str, variables: str) -> str | None:
    """Why a template is not to be used, None where it is."""
    asked = {
        "source": source,
        "variables": json.loads(variables),
        "conversations": CONVERSATIONS,
    }
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-c", START + "sandbox.main()", ROOT],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT,
        )
    except subprocess.TimeoutExpired:
        return f"it renders three short conversations for more than {WAIT} seconds"
    if ended.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return f"it renders three short conversations for more than {sandbox.SECONDS} seconds"
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        return f"the process that tried it ended: {lines[-1]}"
    return json.loads(ended.stdout)
