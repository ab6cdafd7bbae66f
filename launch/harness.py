"""Evaluate a model with the LM Evaluation Harness: lm-eval's own command, with one model more.

    python launch/harness.py --model interact --model_args path=pocket --tasks my_task \\
        --include_path my_tasks

Arguments are those of `lm-eval run`. The model `interact` takes: path (a Hugging Face directory, a
hub id, a run, or pocket), dtype, tokenizer, max_length, add_bos_token, enable_thinking, rows,
row_tokens, attention. Needs the extra `eval`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin(torch=True)  # lm-eval's own models do

import importlib.util
import sys

from interact_jax import cli, memory
from interact_jax.leaderboards import sentences
from interact_jax.schema import InputError

NOT_FOUND = "Tasks not found:"  # how lm-eval begins its message


def main(argv: list[str] | None = None) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError("lm-eval is not installed: pip install 'interact_jax[eval]'.")
    from lm_eval.__main__ import cli_evaluate

    from interact_jax import harness

    memory.keep_freed()
    cli.keep_compiled()
    sentences.provide()  # for the task ifeval, which would download them
    cli.name_flags(harness.FLAGS)
    if argv is not None:
        sys.argv[1:] = argv
    try:
        cli_evaluate()
    except ValueError as error:
        if not str(error).startswith(NOT_FOUND):
            raise
        raise InputError(_no_such_task(error)) from error


def _no_such_task(error: ValueError) -> str:
    missing = str(error).removeprefix(NOT_FOUND).strip()
    return (
        f"--tasks {missing}: lm-eval knows no such task. `lm-eval ls tasks` lists those that it "
        "knows; tasks of your own are found in the directory that --include_path names."
    )


if __name__ == "__main__":
    cli.run(main, "What makes it smaller: row_tokens, rows, dtype=bfloat16 in --model_args.")
