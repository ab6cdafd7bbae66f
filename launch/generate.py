"""Answer prompts with a model.

    python launch/generate.py --model pocket --prompts prompts.jsonl --out replies.jsonl
    python launch/generate.py --model Qwen/Qwen3-0.6B --prompts prompts.jsonl \\
        --out replies.jsonl --max-new-tokens 512 --temperature 1 --dtype bfloat16

Each line of the prompts is {"messages": [{"role": "user", "content": "..."}]}, ending in a user
message, or {"prompt": "..."}. The output repeats it with all its fields, and adds `completion`
(text), `completion_ids` (with EOS if the model ended), `logps` (of each id under the model, at
temperature 1 over the whole vocabulary) and `sampling_logps` (of each id under the distribution
that it was drawn from).
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import datetime
import logging
import time
from typing import Any

import jax

from interact_jax import cli, memory, sharding
from interact_jax.arguments import Parser
from interact_jax.data.chat import ChatFormat, check_date
from interact_jax.data.rendering import DATE
from interact_jax.data.thinking import CLOSED, ON, PLAIN
from interact_jax.generation import (
    Completion,
    Prompt,
    SamplingParams,
    count_repairs,
    encode_prompt,
    fit_prompt,
    read_prompts,
    requests_for,
)
from interact_jax.generation.chat_model import text_of
from interact_jax.generation.local import sampler_of
from interact_jax.help_text import Paragraphs
from interact_jax.opening import open_model
from interact_jax.printable import count
from interact_jax.sampling_flags import add_flags, params_of
from interact_jax.schema import InputError

ADDED = ("completion", "completion_ids", "logps", "sampling_logps")
SETTINGS = {"model.tokenizer": "--tokenizer", "data.end": "--end"}
"""Settings of a run that are arguments here, with their own meaning and choices."""
OWN_SETTINGS = {"model.path": "--model", "model.dtype": "--dtype", "data.date": "--date"}
"""Settings of a run that are arguments here with another meaning or default."""
KINDS = {"auto": PLAIN, "on": ON, "off": CLOSED}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=Paragraphs,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="Hugging Face directory, hub id, a run, or pocket")
    add("--prompts", required=True, metavar="FILE", help="JSON Lines, .gz too; - = standard input")
    add(
        "--out",
        required=True,
        metavar="FILE",
        help="file to write, in the same format; - = standard output",
    )
    add_flags(parser, temperature=0.0, new_tokens=256)
    add(
        "--thinking",
        default="auto",
        choices=list(KINDS),
        help="room for reasoning before the answer (on), or none (off); auto = as in training, for "
        "replies without reasoning",
    )
    add(
        "--date",
        default=DATE,
        metavar="DAY",
        help="date for chat templates that show it: YYYY-MM-DD, or today. By default that of "
        "training and scoring, so that prompts are like those that were learned",
    )
    add(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16"],
        help="type of the computation",
    )
    add("--rows", type=int, default=64, help="replies sampled at a time, at most (default 64)")
    cli.add_settings(parser, SETTINGS)
    cli.name_flags(SETTINGS | OWN_SETTINGS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.date == "today":
        args.date = datetime.date.today().isoformat()
    check_date(args.date, "--date")
    cli.log_to_stderr(logging.INFO)
    memory.keep_freed()
    cli.keep_compiled()
    cli.check_output(args.out, args.prompts)
    with cli.reserve_stdout(args.out):
        generate(args)


def generate(args: argparse.Namespace) -> None:
    params = params_of(args)
    prompts = read_prompts(args.prompts, "interact generate --prompts - ...")
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    model = open_model(
        args.model,
        mesh=mesh,
        tokenizer=args.tokenizer,
        date=args.date,
        end=args.end,
        dtype=args.dtype,
        attention="auto",
    )
    chat, kind = model.chat, KINDS[args.thinking]
    if kind == ON and not chat.reasoning_format.supported:
        raise InputError(
            f"--thinking on: the chat template of {args.model} leaves no room for reasoning. Take "
            "another model, or leave the flag out."
        )
    prompts = [fit_prompt(prompt, chat) for prompt in prompts]
    context = model.config.max_positions
    prompt_ids = [encode_prompt(prompt, chat, context, kind) for prompt in prompts]
    sampler = sampler_of(model, rows=args.rows)
    requests = requests_for(prompt_ids, params, args.seed)
    sampler.check(requests)
    sampler.load(model.load())

    began = time.perf_counter()
    completions = sampler.sample(requests, progress=True)
    seconds = time.perf_counter() - began
    pairs = zip(prompts, completions, strict=True)
    cli.write_lines(args.out, (with_completion(*pair, chat, params) for pair in pairs))
    cli.show(summary(args.out, prompts, completions, chat, seconds))


def with_completion(
    prompt: Prompt, completion: Completion, chat: ChatFormat, params: SamplingParams
) -> dict[str, Any]:
    """The prompt's line with the reply added; the text excludes what ended it."""
    logps = ([round(v, 7) for v in x] for x in (completion.logps, completion.sampling_logps))
    added = (text_of(completion, chat, params.stop), completion.ids, *logps)
    return {**prompt.line, **dict(zip(ADDED, added, strict=True))}


def summary(
    out: str,
    prompts: list[Prompt],
    completions: list[Completion],
    chat: ChatFormat,
    seconds: float,
) -> str:
    """One line: what was done, and anything unusual about it."""
    tokens = sum(len(completion.ids) for completion in completions)
    counts = {
        "cut at the limit": sum(not (c.finished or c.stopped) for c in completions),
        "replaced an older completion": sum(
            any(name in prompt.line for name in ADDED) for prompt in prompts
        ),
        "with text that parses as a special token": sum(
            any(chat.special_token_in(message.content) for message in prompt.messages)
            for prompt in prompts
        ),
    }
    counts |= count_repairs(prompts)
    remarks = "".join(f", {times:,} {what}" for what, times in counts.items() if times)
    return (
        f"{count(len(prompts), 'prompt')} answered with {count(tokens, 'token')} in {seconds:.1f} s"
        f" ({tokens / seconds:,.0f} tokens/s){remarks}: {out}"
    )


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: --rows, --max-new-tokens, --dtype bfloat16.")
