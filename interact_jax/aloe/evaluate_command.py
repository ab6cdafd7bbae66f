"""`launch/aloe.py evaluate`: does a model learn whom it talks with?

    python launch/aloe.py evaluate --model mine-hf Qwen/Qwen3-4B --out evaluation \\
        --user-model openai:gpt-4.1-mini --judge-model openai:gpt-4.1-mini
    python launch/aloe.py evaluate --model pocket --world pocket --out evaluation

Started again with the same --out, it goes on where it was. OUT/results.json has the figures,
OUT/talks.jsonl what everybody said, OUT/index.html both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interact_jax import cli
from interact_jax.aloe import benchmark, flags, personas, pocket_cast, roles
from interact_jax.aloe.benchmark import FIELDS, ModelReplier, Talk, play
from interact_jax.aloe.cast import Cast, Persona
from interact_jax.aloe.models import Opener
from interact_jax.aloe.page import write_page
from interact_jax.aloe.results import lines_of, results, table
from interact_jax.aloe.roles import ModelCast, Models
from interact_jax.arguments import Parser
from interact_jax.data.thinking import PLAIN
from interact_jax.endpoints.chat import ChatEndpoint
from interact_jax.generation.engine import SamplingParams
from interact_jax.generation.local import Samplers
from interact_jax.judges import output, statistics
from interact_jax.judges.local import LoadedAtUse
from interact_jax.judges.remote import is_remote
from interact_jax.judges.sides import open_weights
from interact_jax.judges.store import Store
from interact_jax.sampling_flags import add_flags, params_of
from interact_jax.schema import InputError

MODELS, POCKET = "models", "pocket"
POCKET_CASES = 100  # personas that --world pocket draws, without --limit
SEEDED = "of the users, of replies at other temperatures, of the bootstrap"
SETTINGS = {
    **benchmark.SETTINGS,
    "user_temperature": dataclasses.replace(
        roles.SETTINGS["temperature"], meaning="of the user's messages"
    ),
    "judge_tokens": roles.SETTINGS["judge_tokens"],
    "bootstrap": dataclasses.replace(
        statistics.SETTINGS["bootstrap"], meaning="resamples of the cases for intervals"
    ),
}
PLAYED = ("user_model", "judge_model", "cases", "profiles", "personalities")
"""Flags of a world that models play."""


def add_arguments(parser: Parser) -> None:
    """Add the command's flags."""
    add = parser.add_argument
    add(
        "--model",
        required=True,
        nargs="+",
        metavar="MODEL",
        help=f"measure these; differences are from the first: {flags.SPEC}",
    )
    add(
        "--world",
        default=MODELS,
        choices=(MODELS, POCKET),
        help="who plays and judges: the models that follow, or the pocket world's programs",
    )
    add("--user-model", default="", metavar="MODEL", help="plays the personas")
    add(
        "--judge-model",
        default="",
        metavar="MODEL",
        help="scores replies, 1 to 5; by default the user's",
    )
    file: Any = {"default": "", "metavar": "FILE"}
    add(
        "--cases",
        nargs="+",
        default=[],
        metavar="FILE",
        help='personas: {"profile": "...", "personality": "..."} on every line; by default our '
        "hundred",
    )
    add("--profiles", **file, help="a pool, also in ALOE's own form: every one of it with")
    add("--personalities", **file, help="every one of this pool, instead of --cases")
    add(
        "--limit",
        type=cli.at_least(1),
        default=0,
        metavar="N",
        help=f"the first N cases; in the pocket world draw N, by default {POCKET_CASES}",
    )
    add("--out", required=True, metavar="DIR", help="directory to write, and to resume from")
    add("--json", default="", metavar="FILE", help="the results once more, as this file")
    add_flags(parser, temperature=0.0, new_tokens=300, seeded=SEEDED)
    names = {name: f"--{name.replace('_', '-')}" for name in SETTINGS}
    cli.add_settings(parser, names, table=SETTINGS)
    flags.add_opening_flags(parser)


def main(args: Any) -> None:
    """Run the command; the caller holds the lock of --out."""
    params = params_of(args)
    check_flags(args)
    cases = open_cases(args)
    out = Path(args.out)
    if args.json:
        read = (*args.cases, args.profiles, args.personalities)
        cli.check_output(args.json, *filter(None, read), option="--json")
    with (
        flags.open_models(args, out) as opener,
        Store.open(out / "cache" / "turns.jsonl", *FIELDS) as store,
    ):
        cast = open_cast(args, opener)
        samplers = Samplers(args.rows)
        repliers = [
            open_replier(name, spec, params, args, opener, samplers)
            for name, spec in zip(names_of(args.model), args.model, strict=True)
        ]
        played: dict[str, list[Talk]] = {}
        for replier in repliers:
            played[replier.name] = play(
                cast, replier, cases, args.turns, store, args.seed, portion=args.portion
            )
            samplers.unload()  # before the next weights come
        counts = opener.counts()
    found = {
        "cases": len(cases),
        "world": args.world,
        "user": args.user_model or args.world,
        "judge": args.judge_model or args.user_model or args.world,
        "settings": settings_of(args, params, cast),
        **results(played, args.turns, args.bootstrap, args.seed),
    }
    lines = list(lines_of(played))
    cli.write_lines(out / "talks.jsonl", lines)
    output.write_json(found, out / "results.json", args.json)
    page = write_page(out, found, lines)
    cli.show(*table(found["models"]), *found["notes"], *counts, f"report: {page}")


def check_flags(args: Any) -> None:
    """Raise InputError for flags that do not go together."""
    twice = [name for name in args.model if args.model.count(name) > 1]
    if twice:
        raise InputError(f"--model: {twice[0]!r} is there twice. Name each model once.")
    given = [name for name in PLAYED if getattr(args, name)]
    if args.world == POCKET and given:
        flag = f"--{given[0].replace('_', '-')}"
        raise InputError(
            f"--world {POCKET} has users, judge and cases of its own: leave out {flag}."
        )
    if args.world == MODELS and not args.user_model:
        raise InputError(
            "--user-model: which? Name the model that plays the personas, or take --world "
            f"{POCKET}, which needs none."
        )
    if bool(args.profiles) != bool(args.personalities):
        raise InputError("--profiles and --personalities go together: give both, or neither.")
    if args.cases and args.profiles:
        raise InputError("--cases has both; leave out --profiles and --personalities.")


def open_cases(args: Any) -> list[Persona]:
    """Raises InputError for files that hold no personas."""
    if args.world == POCKET:
        return pocket_cast.personas(args.limit or POCKET_CASES, args.seed, held_out=True)
    if args.cases:
        cases = [each for file in args.cases for each in personas.read_personas(file)]
    elif args.profiles:
        manners = personas.read_pool(args.personalities)
        cases = [Persona(who, how) for who in personas.read_pool(args.profiles) for how in manners]
    else:
        cases = personas.benchmark_personas()
    return cases[: args.limit or None]


def open_cast(args: Any, opener: Opener) -> Cast:
    """Who plays the user, and who judges; weights are read at their first call."""
    if args.world == POCKET:
        return pocket_cast.PocketCast(seed=args.seed, held_out=True)
    user, judge = (opener.open(spec or args.user_model) for spec in ("", args.judge_model))
    return ModelCast(
        Models(user=user, inducer=user, responder=user, judge=judge),
        args.seed,
        temperature=args.user_temperature,
        judge_tokens=args.judge_tokens,
        settings={"user": user.settings, "judge": judge.settings},
    )


def names_of(specs: Sequence[str]) -> list[str]:
    """What models under test are called: without an address, where that tells them apart."""
    short = [spec.partition("@http")[0] if is_remote(spec) else spec for spec in specs]
    return [
        name if short.count(name) == 1 else spec for name, spec in zip(short, specs, strict=True)
    ]


def open_replier(
    name: str,
    spec: str,
    params: SamplingParams,
    args: Any,
    opener: Opener,
    samplers: Samplers,
) -> ModelReplier:
    """A model under test. One of this process shares its sampler with others of its shape."""
    if is_remote(spec):
        chat = opener.open(spec)
        if isinstance(chat.model, ChatEndpoint):
            chat.model.check(params)
        return ModelReplier(name, chat, params, chat.settings)
    side = open_weights(spec, args.dtype, args.date)
    # A plain prompt, as servers make it: a model that reasons may do so, and is judged without.
    model = LoadedAtUse(side, samplers.of(side.model), PLAIN)
    return ModelReplier(name, model, params, {"weights": side.digest, "date": args.date})


def settings_of(args: Any, params: SamplingParams, cast: Cast) -> dict[str, Any]:
    """What the results depend on, beyond the names in them."""
    files = {name: getattr(args, name) for name in ("cases", "profiles", "personalities", "limit")}
    own = {name: getattr(args, name) for name in ("turns", "bootstrap", "seed", "dtype", "date")}
    return {
        "models": args.model,
        **files,
        **own,
        **dataclasses.asdict(params),
        "cast": dict(cast.settings),
    }
