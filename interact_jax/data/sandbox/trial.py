"""A template compiled and rendered, here or in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from interact_jax.data.sandbox.bounds import SOURCE, TooMuch
from interact_jax.data.sandbox.environment import Sandbox

SECONDS = 3  # of a processor, for a trial
MEMORY = 2 << 30  # bytes
LEAVES = (TooMuch, MemoryError, RecursionError, jinja2.exceptions.SecurityError)
"""What is raised where a template leaves what it may do, whatever the messages."""


class Template:
    """A compiled chat template. Making one raises whatever Jinja does, or TooMuch."""

    def __init__(self, source: str) -> None:
        if len(source) > SOURCE:
            raise TooMuch(f"it has {len(source):,} characters, of which {SOURCE:,} are read")
        self._sandbox = Sandbox()
        self._template = self._sandbox.from_string(source)
        self._lock = threading.Lock()

    def render(self, variables: Mapping[str, Any], size: int = 0) -> str:
        """The text; `size` is how many characters the messages have. Raises whatever is raised."""
        with self._lock:
            self._sandbox.start(size)
            context = self._template.new_context(variables)
            return self._sandbox.sized("".join(self._template.root_render_func(context)))

    def line_of(self, error: Exception) -> int | None:
        """The line of the template where an exception of `render` came from."""
        line, step = None, error.__traceback__
        while step is not None:
            if step.tb_frame.f_globals.get("__jinja_template__") is self._template:
                line = self._template.get_corresponding_lineno(step.tb_lineno)
            step = step.tb_next
        return line


def told(error: Exception, line: int | None) -> str:
    """An exception for people: the line, and what there is to say."""
    said = str(error).partition("\n")[0][:300] or "nothing more is known"
    kind = "" if isinstance(error, TooMuch | jinja2.TemplateError) else f"{type(error).__name__}: "
    return f"{'' if line is None else f'line {line}: '}{kind}{said}"


def trial(
    source: str, variables: Mapping[str, Any], conversations: Sequence[Sequence[Any]]
) -> str | None:
    """Why a template is not to be used, None where it is: it takes one of these conversations at
    least, and with none of them does it leave what a template may do."""
    try:
        template = Template(source)
    except Exception as error:
        return told(error, getattr(error, "lineno", None))
    refused = []
    for messages in conversations:
        try:
            template.render({**variables, "messages": messages})
        except Exception as error:
            refused.append(told(error, template.line_of(error)))
            if isinstance(error, LEAVES):
                return refused[-1]
    return refused[0] if len(refused) == len(conversations) else None


def main() -> None:
    """A trial of what stands on stdin, its outcome to stdout; both are JSON."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    json.dump(trial(**json.load(sys.stdin)), sys.stdout)
