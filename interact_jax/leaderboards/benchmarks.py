"""AlpacaEval, Arena-Hard-Auto, MT-Bench and IFEval: how their questions and answers are written.

    alpaca_eval  a JSON list of {dataset, instruction, output, generator}
    arena_hard   {uid, ans_id, model, messages, tstamp, metadata} a line, for v2.0 and v0.1
    mt_bench     {question_id, answer_id, model_id, choices, tstamp} a line; two turns
    ifeval       {prompt, response} a line

A new benchmark is an entry of BENCHMARKS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interact_jax.data.messages import Fault, require, require_name
from interact_jax.leaderboards.formats import Benchmark, Question, Stamp
from interact_jax.leaderboards.markdown import count_markdown

MT_BENCH_TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "stem": 0.1,
    "humanities": 0.1,
} | dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0)
"""By category, as in FastChat's llm_judge."""


def _text(record: dict[str, Any], key: str) -> str:
    """A required text that says something. Raises Fault."""
    text = require(record, key, str)
    if not text.strip():
        raise Fault("empty text", f"{key!r} is {text!r}")
    return str(text)


def _number(record: dict[str, Any], key: str) -> float:
    if isinstance(record.get(key), bool) or not isinstance(record.get(key), int | float):
        raise Fault("wrong type", f"{key!r} is {record.get(key)!r}, expected a number")
    return float(record[key])


# --------------------------------------------------------------------------------- AlpacaEval


def alpaca_question(line: dict[str, Any]) -> Question:
    instruction = _text(line, "instruction")
    return Question(instruction, (instruction,))


def alpaca_line(question: Question, texts: Sequence[str], stamp: Stamp) -> dict[str, Any]:
    return {
        "dataset": str(question.line.get("dataset", "")),
        "instruction": question.turns[0],
        "output": texts[0],
        "generator": stamp.model,
    }


def alpaca_key(line: dict[str, Any]) -> tuple[str, str]:
    for key in ("dataset", "output"):
        require(line, key, str)
    return _text(line, "instruction"), _text(line, "generator")


# --------------------------------------------------------------------------------- Arena-Hard


def arena_question(line: dict[str, Any]) -> Question:
    """A line of question.jsonl: {uid, category, prompt}, or of earlier releases {question_id,
    category, turns: [{content}]}."""
    key = require_name(line, "uid" if "uid" in line else "question_id")
    if "prompt" in line:
        return Question(key, (_text(line, "prompt"),))
    turns = require(line, "turns", list)
    if len(turns) != 1 or not isinstance(turns[0], dict):
        raise Fault("not one turn", f"'turns' is {turns!r}, expected one object with 'content'")
    return Question(key, (_text(turns[0], "content"),))


def arena_line(question: Question, texts: Sequence[str], stamp: Stamp) -> dict[str, Any]:
    (answer,) = texts
    return {
        "uid": question.key,
        "ans_id": stamp.answer_id,
        "model": stamp.model,
        "messages": [
            {"role": "user", "content": question.turns[0]},
            {"role": "assistant", "content": {"answer": answer}},
        ],
        "tstamp": stamp.time,
        "metadata": {"token_len": stamp.count_tokens(answer), **count_markdown(answer)},
    }


def arena_key(line: dict[str, Any]) -> tuple[str, str]:
    messages = require(line, "messages", list)
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    if last.get("role") != "assistant":
        raise Fault("no answer", "the last of 'messages' is not the assistant's")
    require(require(last, "content", dict), "answer", str)
    metadata = require(line, "metadata", dict)
    for key in ("header_count", "list_count", "bold_count"):
        require(metadata, key, dict)
    _number(metadata, "token_len")
    _number(line, "tstamp")
    _text(line, "ans_id")
    return require_name(line, "uid"), _text(line, "model")


# ----------------------------------------------------------------------------------- MT-Bench


def mt_question(line: dict[str, Any]) -> Question:
    turns = require(line, "turns", list)
    if not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise Fault("no turns", f"'turns' is {turns!r}, expected a list of texts")
    category = _text(line, "category")
    if category not in MT_BENCH_TEMPERATURES:
        known = ", ".join(MT_BENCH_TEMPERATURES)
        raise Fault("unknown category", f"{category!r}, expected one of {known}")
    temperature = MT_BENCH_TEMPERATURES[category]
    return Question(require_name(line, "question_id"), tuple(turns), temperature=temperature)


def mt_line(question: Question, texts: Sequence[str], stamp: Stamp) -> dict[str, Any]:
    return {
        "question_id": question.line["question_id"],
        "answer_id": stamp.answer_id,
        "model_id": stamp.model,
        "choices": [{"index": 0, "turns": list(texts)}],
        "tstamp": stamp.time,
    }


def mt_key(line: dict[str, Any]) -> tuple[str, str]:
    choices = require(line, "choices", list)
    for choice in choices or [None]:
        turns = choice.get("turns") if isinstance(choice, dict) else None
        if not (isinstance(turns, list) and turns and all(isinstance(x, str) for x in turns)):
            raise Fault("no answer", f"'choices' is {choices!r}, expected texts in 'turns'")
    _number(line, "tstamp")
    _text(line, "answer_id")
    return require_name(line, "question_id"), _text(line, "model_id")


# ------------------------------------------------------------------------------------- IFEval


def ifeval_question(line: dict[str, Any]) -> Question:
    prompt = _text(line, "prompt")
    return Question(prompt, (prompt,))


def ifeval_line(question: Question, texts: Sequence[str], stamp: Stamp) -> dict[str, Any]:
    return {"prompt": question.turns[0], "response": texts[0]}


def ifeval_key(line: dict[str, Any]) -> tuple[str, str]:
    require(line, "response", str)
    return _text(line, "prompt"), ""


BENCHMARKS = {
    "alpaca_eval": Benchmark(
        alpaca_question,
        'expected {"instruction": "...", "dataset": "..."}',
        alpaca_line,
        alpaca_key,
        max_new_tokens=2048,
        as_list=True,
        repeats=True,
        strip=True,
    ),
    "arena_hard": Benchmark(
        arena_question,
        'expected {"uid": "...", "category": "...", "prompt": "..."}',
        arena_line,
        arena_key,
        max_new_tokens=4096,
    ),
    "mt_bench": Benchmark(
        mt_question,
        'expected {"question_id": 81, "category": "writing", "turns": ["...", "..."]}',
        mt_line,
        mt_key,
        max_new_tokens=1024,
        strip=True,
    ),
    "ifeval": Benchmark(
        ifeval_question,
        'expected {"key": 1000, "prompt": "...", "instruction_id_list": [...], "kwargs": [...]}',
        ifeval_line,
        ifeval_key,
        max_new_tokens=1280,
        repeats=True,
    ),
}
"""By the name that programs take."""
