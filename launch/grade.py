"""Figures of benchmarks that need no judge: win rates from annotations, and IFEval's checks.

    python launch/grade.py alpaca_eval --annotations annotations.json
    python launch/grade.py alpaca_eval --annotations mine/annotations.json base/annotations.json \\
        --gamed df_gamed.csv --json figures.json
    python launch/grade.py ifeval --questions input_data.jsonl --answers responses.jsonl

Annotations are judgements that AlpacaEval has written. IFEval's checks need the extra `eval`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from interact_jax import cli, places
from interact_jax.arguments import Parser
from interact_jax.help_text import Help, Paragraphs
from interact_jax.leaderboards import ifeval, win_rates
from interact_jax.leaderboards.benchmarks import BENCHMARKS
from interact_jax.leaderboards.formats import read_questions
from interact_jax.printable import count
from interact_jax.schema import InputError


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=Paragraphs,
        allow_abbrev=False,
    )
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    alpaca = kinds.add_parser(
        "alpaca_eval",
        help="win rates, plain and controlled for length",
        formatter_class=Help,
        allow_abbrev=False,
    )
    add = alpaca.add_argument
    add(
        "--annotations",
        required=True,
        nargs="+",
        metavar="FILE",
        help="annotations.json of a model; of a second one to compare it with",
    )
    add(
        "--gamed",
        default="",
        metavar="FILE",
        help="AlpacaEval's df_gamed.csv: the whole design of AlpacaEval 2",
    )
    add(
        "--difficulty",
        default="",
        metavar="FILE",
        help="AlpacaEval's instruction_difficulty.csv, where df_gamed.csv is not there",
    )
    add(
        "--questions",
        default="",
        metavar="FILE",
        help="alpaca_eval.json, where annotations are not of all its instructions in its order",
    )
    checks = kinds.add_parser(
        "ifeval",
        help="the four accuracies of IFEval",
        formatter_class=Help,
        allow_abbrev=False,
    )
    checks.add_argument("--questions", required=True, metavar="FILE", help="input_data.jsonl")
    checks.add_argument(
        "--answers", required=True, metavar="FILE", help="lines of {prompt, response}"
    )
    for kind in (alpaca, checks):
        kind.add_argument("--json", default="", metavar="FILE", help="write all figures there")
    cli.name_flags({})
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    cli.log_to_stderr(logging.INFO)
    if args.json:
        read = [args.questions, *getattr(args, "annotations", ())]
        cli.check_output(args.json, *filter(None, read), option="--json")
    grade = {"alpaca_eval": grade_alpaca_eval, "ifeval": grade_ifeval}[args.benchmark]
    with cli.reserve_stdout(args.json or "none"):
        figures = grade(args)
    if args.json:
        places.write(args.json, json.dumps(_finite(figures), indent=2) + "\n")


def grade_alpaca_eval(args: argparse.Namespace) -> dict[str, Any]:
    if len(args.annotations) > 2:
        raise InputError(f"--annotations: {len(args.annotations)} files; expected one or two.")
    if args.gamed and args.difficulty:
        raise InputError("--difficulty: df_gamed.csv holds the difficulties; give one of the two.")
    gamed, difficulty = win_rates.read_gamed(args.gamed) if args.gamed else (None, None)
    if args.difficulty:
        difficulty = win_rates.read_difficulty(args.difficulty)
    instructions = None
    if args.questions:
        questions = read_questions(BENCHMARKS["alpaca_eval"], args.questions)
        instructions = [question.key for question in questions]
    models = [win_rates.read_annotations(path) for path in args.annotations]
    fits, figures = [], []
    for model in models:
        ordered = None
        if difficulty is not None:
            ordered = win_rates.in_order(model, difficulty, instructions)
        plain = win_rates.win_rate(model)
        fits.append(win_rates.control_length(model, ordered, gamed))
        whole = {"model": model.model, "baseline": model.baseline, **plain, **fits[-1].figures()}
        figures.append(whole)
        cli.show(*alpaca_lines(whole))
    result: dict[str, Any] = {"models": figures}
    if len(models) == 2:
        a, b = models
        result["comparison"] = win_rates.compare(a, b, (fits[0], fits[1]))
        cli.show(comparison_line(result["comparison"]))
    return result


def alpaca_lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures of a model for people."""
    lines = [
        f"{figures['model']} against {figures['baseline']}, "
        f"{count(int(figures['judged']), 'judgement')}, {figures['mean_length']:,.0f} characters",
        f"  win rate                    {figures['win_rate']:6.2f} % "
        f"(standard error {figures['standard_error']:.2f})",
        f"  length-controlled win rate  {figures['length_controlled_win_rate']:6.2f} % "
        f"(standard error {figures['length_controlled_standard_error']:.2f}), "
        f"{figures['length_controlled_design']}",
    ]
    if figures["not_judged"]:
        lines.append(f"  {count(int(figures['not_judged']), 'annotation')} without a preference")
    change = figures["length_controlled_win_rate"] - figures["win_rate"]
    if abs(change) > win_rates.EXTREME:
        lines.append(f"  length control changes the win rate by {change:+.1f}: look at the outputs")
    return lines


def comparison_line(figures: Mapping[str, Any]) -> str:
    a, b = figures["models"]
    return (
        f"{a} minus {b}: win rate {figures['win_rate_difference']:+.2f} "
        f"(standard error {figures['win_rate_difference_error']:.2f}), length-controlled "
        f"{figures['length_controlled_difference']:+.2f} "
        f"({figures['length_controlled_difference_error']:.2f}); predicted win rate over it "
        f"{figures['length_controlled_win_rate_over']:.2f} %"
    )


def grade_ifeval(args: argparse.Namespace) -> dict[str, Any]:
    prompts = ifeval.read_prompts(args.questions)
    figures = ifeval.grade(prompts, ifeval.read_replies(args.answers))
    cli.show(
        f"IFEval, {count(int(figures['prompts']), 'prompt')} with "
        f"{count(int(figures['instructions']), 'instruction')}",
        *(
            f"  {kind}  prompts {figures[f'prompt_{kind}']:6.2f} % "
            f"(standard error {figures[f'prompt_{kind}_error']:.2f}), "
            f"instructions {figures[f'instruction_{kind}']:6.2f} %"
            for kind in ("strict", "loose")
        ),
    )
    if figures["empty_replies"]:
        cli.show(f"  empty replies: {figures['empty_replies']:,}")
    return figures


def _finite(value: Any) -> Any:
    """The value as JSON: no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    cli.run(main)
