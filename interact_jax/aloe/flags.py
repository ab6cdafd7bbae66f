"""The flags that say who plays ALOE's roles: one home for their names and meanings.

add_cast_flags(parser)
with open_cast(args, Path(args.out)) as (cast, opener): ...
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from interact_jax import cli, memory
from interact_jax.aloe import roles
from interact_jax.aloe.calls import CallCache
from interact_jax.aloe.models import Opener
from interact_jax.aloe.roles import ModelCast, Models
from interact_jax.data.chat import check_date
from interact_jax.data.rendering import DATE
from interact_jax.generation.local import ROWS
from interact_jax.opening import DTYPES
from interact_jax.schema import InputError

CALLS = "calls.sqlite"  # in the directory of --out
SPEC = (
    "Hugging Face directory, hub id, a run, or pocket; openai:MODEL, openai:MODEL@URL or "
    "anthropic:MODEL for one behind an endpoint"
)
ROLES = {
    "user": "plays the personas",
    "inducer": "notes what has shown of them",
    "responder": "writes the replies",
    "judge": "knows the personas, and orders or grades replies",
}


def add_opening_flags(parser: Any) -> None:
    """Add the flags of `models.Opener` to an argparse parser."""
    add = parser.add_argument
    add(
        "--concurrency",
        type=cli.at_least(1),
        default=16,
        metavar="N",
        help="requests to an endpoint at a time",
    )
    add(
        "--timeout",
        type=cli.at_least(1, float),
        default=120.0,
        metavar="SECONDS",
        help="of one try of a request; a request has eight",
    )
    add(
        "--extra",
        default="",
        metavar="JSON",
        help="further fields of all requests, such as"
        ' {"chat_template_kwargs": {"enable_thinking": false}} for vLLM',
    )
    add("--dtype", default="float32", choices=DTYPES, help="type of the computation here")
    add("--rows", type=cli.at_least(1), default=ROWS, help="prompts sampled together here")
    add("--date", default=DATE, metavar="DAY", help="date for chat templates that show it")


def add_cast_flags(parser: Any, *needed: str) -> None:
    """Add --model, and a flag for each role, of those that are `needed` (by default all)."""
    add = parser.add_argument
    add("--model", default="", metavar="MODEL", help=f"plays every role without its own: {SPEC}")
    for role in needed or ROLES:
        add(f"--{role}-model", default="", metavar="MODEL", help=ROLES[role])
    flags = {name: f"--{name.replace('_', '-')}" for name in roles.SETTINGS}
    cli.add_settings(parser, flags, table=roles.SETTINGS)
    add("--seed", type=cli.setting_type("seed"), default=0, help="of everything that is drawn")
    add_opening_flags(parser)


@contextlib.contextmanager
def open_models(args: Any, folder: Path) -> Iterator[Opener]:
    """What opens models as the flags say, with the cache of a directory. Raises InputError."""
    check_date(args.date, "--date")
    memory.keep_freed()
    cli.keep_compiled()
    options = {name: getattr(args, name) for name in ("concurrency", "timeout", "dtype", "rows")}
    with CallCache.open(folder / CALLS) as cache:
        yield Opener(cache, extra=read_extra(args.extra), date=args.date, **options)


@contextlib.contextmanager
def open_cast(args: Any, folder: Path) -> Iterator[tuple[ModelCast, Opener]]:
    """The cast that the flags name, with its calls in the directory's cache. Raises InputError."""
    with open_models(args, folder) as opener:
        yield cast_of(args, opener), opener


def cast_of(args: Any, opener: Opener, responder: str = "") -> ModelCast:
    """The cast, with another `responder` than the flags name."""
    specs = {role: getattr(args, f"{role}_model", "") or args.model for role in ROLES}
    specs["responder"] = responder or specs["responder"]
    if missing := [role for role, spec in specs.items() if not spec]:
        raise InputError(
            f"--{missing[0]}-model: which? Name a model for every role, or one for all by --model."
        )
    opened = {role: opener.open(spec) for role, spec in specs.items()}
    return ModelCast(
        Models(**opened),
        args.seed,
        **{name: getattr(args, name) for name in roles.SETTINGS},
        settings={role: model.settings for role, model in opened.items()},
    )


def read_extra(text: str) -> dict[str, Any]:
    """Raises InputError for what is no JSON object."""
    try:
        value = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"--extra {text}: expected a JSON object.")
    return value
