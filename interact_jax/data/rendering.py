"""The process that renders chat templates: `python -c "...; rendering.main()"`.

A template is a program by whoever made the model. Here it can loop, multiply and recurse as it
likes: the kernel kills the process when a rendering has taken SECONDS of processor time, and denies
it more than MEMORY; the program that asked goes on (`templates.py`). Input and output are lines of
JSON: first the template, its variables and its date, then for each rendering its messages, tools
and variables.

The prompts of a conversation begin alike, and many can be asked for in a way that is linear in its
length. A number announces as many lines, which are read before the first is answered. A line has a
list of renderings, whose `keep` is the number of messages that are those of the rendering before
it, and so an answer is how many characters are those of the text before it, and what follows them:

    2
    [{"keep": 0, "messages": [A], "tools": null}, {"keep": 1, "messages": [B, C], "tools": null}]
    [{"keep": 2, "messages": [D], "tools": null}]
                                        [0, "text of A"]  [9, "text of B and C"]  [18, "text of D"]

The environment is that of transformers' `apply_chat_template`. Nothing but Jinja is imported, so
the process starts at once.
"""

from __future__ import annotations

import datetime
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes, utils
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2  # of processor time, for one rendering
MEMORY = 1 << 30  # bytes
LONGEST = 64  # times as many characters as its input has, plus 1,000,000
DATE = "2026-01-01"
"""The day that templates take for today by default: a clock would give other token ids tomorrow."""


class Generation(Extension):
    """`{% generation %}` marks the output of the model; it does not change the text."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class Namespace(utils.Namespace):
    """Jinja's namespace, without attributes through which a template could reach Python itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # any name may be an attribute's
        self, *rest = args
        utils.Namespace.__init__(self)
        for name, value in dict(*rest, **kwargs).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace takes no {name!r}")
        super().__setitem__(name, value)


class Dict:
    """What `dict` is in a template: the type itself has more attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON with Unicode unescaped, and no escapes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def compile_template(source: str, date: str) -> jinja2.Template:
    """The template, with `date` as its today. Raises jinja2.TemplateError."""
    now = datetime.datetime.fromisoformat(date)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {"dict": Dict(), "namespace": Namespace}
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = now.strftime
    return environment.from_string(source)


def describe(error: BaseException) -> str:
    """An exception for people: the line of the template, the kind and the message."""
    line, step = getattr(error, "lineno", None), error.__traceback__
    while step is not None:  # Jinja replaces its own frames by the template's
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    message = str(error).partition("\n")[0][:300]
    kind = "" if isinstance(error, jinja2.TemplateError) else type(error).__name__
    where = "" if line is None else f"line {line}"
    return ": ".join(part for part in (where, kind, message) if part)


def render(
    template: jinja2.Template, variables: dict[str, Any], asked: dict[str, Any]
) -> dict[str, str]:
    """{"text": the rendered text} or {"error": what is wrong}; `asked` has messages, tools, and
    variables that override those of all renderings."""
    try:
        text = template.render(**{**variables, **asked})
        text.encode()  # half a character is not text
    except Exception as error:
        return {"error": describe(error)}
    if len(text) > 1_000_000 and len(text) > 1_000_000 + LONGEST * len(json.dumps(asked)):
        return {"error": f"it makes {len(text):,} characters of these messages"}
    return {"text": text}


def render_request(
    template: jinja2.Template, variables: dict[str, Any], request: str
) -> dict[str, str]:
    """The answer to a rendering by itself."""
    limit_time()
    try:
        asked = json.loads(request)
    except Exception as error:  # it is nested too deeply
        return {"error": describe(error)}
    return render(template, variables, asked)


def render_all(
    template: jinja2.Template, variables: dict[str, Any], requests: Iterable[str]
) -> Iterator[list[Any] | dict[str, str]]:
    """The answers to renderings that were announced."""
    messages, text = list[Any](), ""
    for request in requests:
        limit_time()
        for asked in json.loads(request):
            limit_time()
            messages = [*messages[: asked.pop("keep")], *asked["messages"]]
            answer = render(template, variables, {**asked, "messages": messages})
            if "error" in answer:
                yield answer
                continue
            shared, text = common_prefix(text, answer["text"]), answer["text"]
            yield [shared, text[shared:]]


def common_prefix(a: str, b: str) -> int:
    """How many characters at the beginning two texts have in common."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:  # a[:low] is that of b, a[:high] is not
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def limit_time() -> None:
    """Let the kernel kill this process after SECONDS more of processor time."""
    soft = int(time.process_time()) + 1 + SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def main() -> None:
    """Answer requests until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    setup, answers = json.loads(sys.stdin.readline()), sys.stdout
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - nothing else may print there
    limit_time()
    try:
        template = compile_template(setup["source"], setup["date"])
    except Exception as error:  # a compiler may raise anything: RecursionError, MemoryError, ...
        print(json.dumps({"error": describe(error)}), file=answers, flush=True)
        return
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        if line[:1].isdecimal():
            requests = [sys.stdin.readline() for _ in range(int(line))]
            for answer in render_all(template, setup["variables"], requests):
                print(json.dumps(answer), file=answers)
            answers.flush()
        else:
            answer = render_request(template, setup["variables"], line)
            print(json.dumps(answer), file=answers, flush=True)
