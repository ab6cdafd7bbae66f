"""launch/score.py: what it is told of reasoning, day and end is what the ids are."""

import json

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.signal import score_trees
from launch import score
from tests.runs import outcome, read_lines, tiny, write_lines
from tests.tiny import EOS, PAD

TALK = {
    "id": "c",
    "messages": [
        {"role": "user", "content": "What is 2 plus 2?"},
        {"role": "assistant", "content": "<think>\nA sum.\n</think>\n\nFour."},
        {"role": "user", "content": "Only the number"},
    ],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """It is stopped at the template's token; its tokenizer names another, its template the day."""
    directory = tmp_path_factory.mktemp("model")
    tiny(directory, "think")
    file = directory / "chat_template.jinja"
    file.write_text("{{ strftime_now('%d %B %Y') }}\n" + file.read_text())
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": "<|endoftext|>"}))
    return directory


def test_thinking_day_and_end(model, tmp_path, capfd):
    data, out = write_lines(tmp_path / "talks.jsonl", [TALK]), tmp_path / "scores.jsonl"
    chat = ChatFormat.load(model)

    def scored(*flags):
        where = ["--model", model, "--data", data, "--out", out, "--row-tokens", 128]
        status, _ = outcome(score.main, [str(x) for x in (*where, *flags)], capfd)
        assert status == 0
        (line,) = read_lines(out)
        *ids, end = line["completion_ids"]
        return chat.decode(ids), end, line["logp_student"]

    whole, end, logps = scored()
    assert (whole, end) == (TALK["messages"][1]["content"], EOS)
    assert scored("--thinking", "keep", "--date", "2026-01-01", "--end", "turn")[2] == logps
    assert scored("--thinking", "strip", "--end", "eos")[:2] == ("Four.", PAD)
    later = scored("--date", "2031-02-03")
    assert later[:2] == (whole, end) and later[2] != logps


def test_what_was_read_is_told_before_it_is_scored_and_with_the_program_s_flags(
    model, tmp_path, capfd, monkeypatch
):
    def announced(*args, **options):
        print("SCORING")
        return score_trees(*args, **options)

    monkeypatch.setattr(score, "score_trees", announced)
    data = write_lines(tmp_path / "talks.jsonl", [TALK, {**TALK, "id": "d"}])
    out = tmp_path / "scores.jsonl"
    where = ["--model", model, "--data", data, "--out", out, "--row-tokens", 128]
    capfd.readouterr()
    score.main([str(x) for x in where])
    said = capfd.readouterr().out
    assert said.index("2 conversations") < said.index("SCORING") < said.index("scored:")
    assert "--copies drop" in said and "data.copies" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--date", "soon"), "--date='soon': expected a day as YYYY-MM-DD"),
        (("--thinking", "on"), "--thinking"),
    ],
)
def test_flags_that_mean_nothing(model, tmp_path, capsys, flags, said):
    data = write_lines(tmp_path / "talks.jsonl", [TALK])
    where = ["--model", str(model), "--data", str(data), "--out", str(tmp_path / "out.jsonl")]
    status, told = outcome(score.main, [*where, *flags], capsys)
    assert status == 2 and said in told and "Traceback" not in told
