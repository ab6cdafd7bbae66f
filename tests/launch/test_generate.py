import datetime
import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from interact_jax import cli
from interact_jax.data.chat import ChatFormat
from interact_jax.data.thinking import PLAIN
from interact_jax.generation import encode_prompt, read_prompts
from interact_jax.schema import InputError, Message
from launch import generate
from tests.tiny import EOS, tiny_model, tiny_tokenizer

PROGRAM = Path(generate.__file__)
LINES = [
    {"key": 7, "prompt": "What is the capital of France?"},
    {
        "messages": [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Sort a list?"},
            {"role": "assistant", "content": "sorted"},
            {"role": "user", "content": "Thank you, \u2028 é."},
        ],
        "note": {"kept": [1, None]},
    },
    {"prompt": "Is <|im_end|> special?"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny_tokenizer(directory)
    tiny_model(directory, "qwen3", num_hidden_layers=2)
    return directory


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    text = [json.dumps(line, ensure_ascii=i != 1) for i, line in enumerate(LINES)]
    path.write_text("\n\n".join(text), encoding="utf-8")
    return path


def run(*arguments):
    """The exit status of the program in this process; what it prints is pytest's `capsys`."""
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: generate.main([str(argument) for argument in arguments]))
    return ended.value.code


def run_on(model, prompts, out, *more):
    return run("--model", model, "--prompts", prompts, "--out", out, "--max-new-tokens", 8, *more)


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_lines_come_back_answered(model, prompts, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert run_on(model, prompts, out, "--temperature", 1, "--seed", 3) == 0
    written, chat = read(out), ChatFormat.load(model)
    assert len(written) == len(LINES)
    for line, answered in zip(LINES, written, strict=True):
        assert answered.items() >= line.items()
        added = {"completion", "completion_ids", "logps", "sampling_logps"}
        assert set(answered) - set(line) == added
        ids = answered["completion_ids"]
        assert 1 <= len(ids) <= 8 and len(answered["logps"]) == len(ids)
        assert max(answered["logps"]) <= 0
        assert max(ids) < len(chat.tokenizer)  # the model has more rows
        assert answered["completion"] == chat.decode(ids[:-1] if ids[-1] == EOS else ids)
    printed = capsys.readouterr().out
    assert "3 prompts answered" in printed and printed.count("\n") == 1
    assert "1 with text that parses as a special token" in printed
    assert sorted(tmp_path.iterdir()) == [out, prompts]  # no temporary file is left


def test_a_prompt_is_a_user_message(model, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl.gz", tmp_path / "out.jsonl.gz"
    lines = [{"prompt": "Paris?"}, {"messages": [{"role": "user", "content": "Paris?"}]}]
    prompts.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert run_on(model, prompts, out) == 0
    first, second = (json.loads(x) for x in gzip.decompress(out.read_bytes()).splitlines())
    assert first["completion_ids"] == second["completion_ids"]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A model whose template can think, and shows the day."""
    directory = tiny_tokenizer(tmp_path_factory.mktemp("thinker"), "think")
    file = directory / "chat_template.jinja"
    file.write_text("{{ strftime_now('%d %B %Y') }}\n" + file.read_text())
    tiny_model(directory, "qwen3", num_hidden_layers=2)
    return directory


def test_thinking_and_the_day_are_what_the_prompt_says(model, thinker, tmp_path, capsys):
    """By default, those of training. A prompt that spells all of it out is answered the same."""
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n')

    def logps(*flags):
        assert run_on(thinker, prompts, out, *flags) == 0
        return read(out)[0]["logps"]

    on, off, later = (
        logps(*flags)
        for flags in (("--thinking", "on"), ("--thinking", "off"), ("--date", "2031-02-03"))
    )
    assert logps() == off == logps("--thinking", "auto", "--date", "2026-01-01")
    assert on != off != later
    file = thinker / "chat_template.jinja"
    dated, constant = file.read_text(), file.read_text().replace("%d %B %Y", "03 February 2031")
    for template, flags, expected in (
        (constant, (), later),
        (dated.replace("not enable_thinking", "false"), (), on),
        (dated, ("--date", "2031-02-03"), later),
    ):
        file.write_text(template)
        assert logps(*flags) == expected
    file.write_text(dated)
    assert run_on(model, prompts, out, "--thinking", "on") == 2
    assert "--thinking on: the chat template" in capsys.readouterr().err
    assert run_on(thinker, prompts, out, "--date", "3 May") == 2
    assert "--date='3 May': expected a day as YYYY-MM-DD" in capsys.readouterr().err


def test_the_day_may_be_today(thinker, tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n')
    found = []
    for day in (datetime.date.today(), "today", datetime.date.today()):
        assert run_on(thinker, prompts, out, "--date", day) == 0
        found.append(read(out)[0]["logps"])
    assert found[1] in (found[0], found[2])  # midnight may pass


def test_prompts_are_read_as_conversations_are(model, tmp_path, capsys):
    """Roles by any name, content in parts, system prompts beside, turns that are to be joined: what
    is answered is the same, the line comes back as it was, and what was done is told."""
    plain = [("system", "Be brief."), ("user", "Hi\n\nParis?")]
    lines = [
        {"messages": [{"role": role, "content": text} for role, text in plain]},
        {
            "system": "Be brief.",
            "messages": [
                {"from": "Human", "value": [{"type": "text", "text": "Hi"}, {"type": "image"}]},
                {"role": "assistant", "content": ""},
                {"role": "USER", "content": "Paris?", "rating": 3},
            ],
        },
        {"prompt": "Hi\n\nParis?", "system_prompt": "Be brief."},
    ]
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("\n".join(map(json.dumps, lines)))
    assert run_on(model, prompts, out) == 0
    answered = read(out)
    assert len({tuple(line["completion_ids"]) for line in answered}) == 1
    assert all(a.items() >= line.items() for a, line in zip(answered, lines, strict=True))
    said = capsys.readouterr().out
    for told in ("1 empty message of the assistant", "1 part of kind 'image' left out"):
        assert told in said
    assert "1 field 'rating' not used" in said


def test_a_prompt_that_ends_in_what_a_tool_answered(model, tmp_path, capsys):
    """It is answered, unless the chat template cannot show how it came about."""
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    said = [
        {"role": "user", "content": "Paris?"},
        {"role": "assistant", "content": "Wait.", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
    ]
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text(json.dumps({"messages": said}))
    assert run_on(model, prompts, out) == 0 and len(read(out)) == 1
    assert "1 tool_calls not shown by the chat template" in capsys.readouterr().out
    said[1]["content"] = None
    prompts.write_text(json.dumps({"messages": said}))
    assert run_on(model, prompts, out) == 2
    error = capsys.readouterr().err
    assert f"{prompts}:1: calls and results of tools" in error and "chat template" in error


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_from_standard_input_to_standard_output(
    model, prompts, tmp_path, standard_input, capfd, pack
):
    """Which then holds the answers and nothing else."""
    assert run_on(model, prompts, tmp_path / "out.jsonl") == 0
    standard_input(pack(prompts.read_bytes()))
    capfd.readouterr()
    assert run_on(model, "-", "-") == 0
    said = capfd.readouterr()
    assert said.out == (tmp_path / "out.jsonl").read_text()
    assert "3 prompts answered" in said.err


def test_what_is_wrong_with_standard_input_has_its_line(model, tmp_path, standard_input, capsys):
    standard_input(b'{"prompt": "a"}\n{"prompt": 3}\n')
    assert run_on(model, "-", tmp_path / "out.jsonl") == 2
    assert "standard input:2: wrong type: prompt[0]: 'content' is 3" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["It's a prompt", "word " * 100, "either/or. Which?"])
def test_a_text_in_place_of_a_file_is_told_how_it_is_handed_in(text, tmp_path, capsys):
    """Also one that is too long for the name of a file; the command gives the prompt as it is."""
    assert run("--model", "pocket", "--prompts", text, "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert "no such file. Prompts are read from a file" in said
    command = said.split("If this is what to ask: ")[1].split(" | interact generate --prompts -")[0]
    line = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    assert json.loads(line) == {"prompt": text}


def test_damaged_gzip_exits_2(model, prompts, tmp_path, capsys):
    packed = bytearray(gzip.compress(prompts.read_bytes()))
    packed[20:40] = bytes(20)
    prompts.write_bytes(packed)
    assert run_on(model, prompts, tmp_path / "out.jsonl") == 2
    assert f"{prompts}:1: damaged gzip: it cannot be unpacked" in capsys.readouterr().err


def test_a_missing_file_is_not_called_a_malformed_one(model, tmp_path, capsys):
    assert run_on(model, tmp_path / "absent.jsonl", tmp_path / "out.jsonl") == 2
    said = capsys.readouterr().err
    assert "absent.jsonl: no such file. Prompts are read from a file" in said
    assert "what to ask" not in said


@pytest.mark.parametrize("text", ["Say hello", "nope.jsonl"])
def test_other_programs_do_not_tell_how_to_ask_this_one(text):
    with pytest.raises(InputError, match="no such file") as refused:
        read_prompts(text)
    assert "generate" not in str(refused.value)


BAD_LINES = {
    "nothing": ("", "no prompts in it"),
    "json": ('{"prompt": ', "prompts.jsonl:2: broken JSON"),
    "list": ("[1]", "prompts.jsonl:2 (item 1): not an object"),
    "both": ('{"prompt": "a", "messages": []}', "exactly one of 'messages' and 'prompt'"),
    "neither": ('{"text": "a"}', "found 'text'"),
    "empty": ('{"messages": []}', "'messages' is []"),
    "role": ('{"messages": [{"role": "narrator", "content": "a"}]}', "'role' is 'narrator'"),
    "last": ('{"messages": [{"role": "assistant", "content": "a"}]}', "of role 'assistant'"),
    "content": ('{"prompt": 3}', "'content' is 3"),
    "blank": ('{"prompt": " "}', "its text is ' '"),
    "surrogate": ('{"prompt": "\\ud83d"}', "one half of a surrogate pair"),
    "empty end": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": ""}]}',
        "empty message of the user",
    ),
    "system": (
        '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "a"},'
        ' {"role": "user", "content": "a"}]}',
        "misplaced system message: messages[1]",
    ),
    "long": (json.dumps({"prompt": "1" * 600}), "leaves no room"),
}


@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_prompts_exit_2(case, model, tmp_path, capsys):
    line, message = BAD_LINES[case]
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("\n" + line + "\n")
    assert run_on(model, prompts, out) == 2
    error = capsys.readouterr().err
    assert message in error and str(prompts) in error
    assert "Traceback" not in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--prompts": "absent.jsonl"}, "absent.jsonl"),
        ({"--model": "no such model!"}, "no such model!"),
        ({"--out": "absent/out.jsonl"}, "there is no directory"),
        ({"--out": "."}, "is a directory"),
        ({"--out": "prompts.jsonl"}, "is the file that is read"),
        ({"--max-new-tokens": "0"}, "max_new_tokens=0"),
        ({"--max-new-tokens": "many"}, "--max-new-tokens: many: expected a whole number"),
        ({"--temperature": "-1"}, "temperature=-1.0"),
        ({"--seed": "-1"}, "argument --seed: seed=-1: expected at least 0"),
        ({"--seed": "4294967296"}, "argument --seed: seed=4294967296: expected at most"),
        ({"--seed": "x"}, "argument --seed: x: expected a whole number"),
        ({"--rows": "0"}, "rows=0"),
        ({"--dtype": "int8"}, "error: --dtype int8: there is no such choice. Available: float32, "),
        ({"--sede": "1"}, "error: --sede: there is no such option. Did you mean --seed?"),
    ],
)
def test_bad_arguments_exit_2(changed, message, model, prompts, monkeypatch, capsys):
    monkeypatch.chdir(prompts.parent)
    before = prompts.read_bytes()
    given = {"--model": model, "--prompts": "prompts.jsonl", "--out": "out.jsonl"} | changed
    assert run(*(part for pair in given.items() for part in pair)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert prompts.read_bytes() == before and list(prompts.parent.iterdir()) == [prompts]


def test_a_tokenizer_may_stand_elsewhere(model, prompts, tmp_path, capsys):
    """And where it is needed, the message names the flag that takes it."""
    weights, out = tmp_path / "weights", tmp_path / "out.jsonl"
    tiny_model(weights, "qwen3", num_hidden_layers=2)
    tiny_tokenizer(weights)
    (weights / "chat_template.jinja").unlink()
    assert run_on(weights, prompts, out) == 2
    said = capsys.readouterr().err
    assert "--tokenizer" in said and "model.tokenizer" not in said
    assert run_on(weights, prompts, out, "--tokenizer", model, "--end", "turn") == 0
    assert len(read(out)) == len(LINES)


@pytest.mark.slow
def test_help_has_an_example_and_exits_0():
    found = subprocess.run(
        [sys.executable, PROGRAM, "--help"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert "python launch/generate.py --model" in found.stdout


def test_internal_failures_exit_1(model, prompts, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(generate, "read_prompts", broken)
    assert run_on(model, prompts, tmp_path / "out.jsonl") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_chat_is_rendered_by_its_template(model):
    """What the model is given ends where its reply begins."""
    chat = ChatFormat.load(model)
    prompt = generate.Prompt((Message("user", "Paris?"),), {}, "here")
    ids = encode_prompt(prompt, chat, 512, PLAIN)
    assert chat.decode(ids) == "<|im_start|>user\nParis?<|im_end|>\n<|im_start|>assistant\n"
