"""Judges behind endpoints, against a real server process that can be told to fail."""

from __future__ import annotations

import json

import pytest

from interact_jax.endpoints.http import check_url
from interact_jax.endpoints.retrying import Patience
from interact_jax.judges.pairwise import FAILED, VERDICT_FIELDS, WIN, figures, judge_pairs
from interact_jax.judges.remote import is_remote, remote_judge
from interact_jax.judges.store import Store
from interact_jax.schema import InputError
from interact_jax.users.persona import find_persona
from launch import evaluate
from tests.judges.programs import ProgramJudge, longer, pair
from tests.runs import outcome, read_lines, write_lines
from tests.servers.chat_server import ANTHROPIC, KEY, MODEL, OPENAI
from tests.servers.running import running

QUICK = Patience(tries=3, first=0.01, longest=0.02)
PATHS = {"openai": OPENAI, "anthropic": ANTHROPIC}
both = pytest.mark.parametrize("provider", list(PATHS))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running("chat_server", tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(server, monkeypatch):
    server.forget()
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
        monkeypatch.delenv(f"{name}_BASE_URL", raising=False)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "verdicts.jsonl", *VERDICT_FIELDS) as opened:
        yield opened


def spec(server, provider):
    return f"{provider}:{MODEL}@{server.url}" + ("/v1" if provider == "openai" else "")


@both
def test_it_judges_as_the_model_behind_it(provider, server, store):
    pairs = [pair("x" * (n % 4), "y" * (n % 3), prompt=f"p{n}") for n in range(12)]
    judge = remote_judge(spec(server, provider), "Long answers.", patience=QUICK)
    judged = judge_pairs(judge, pairs, store)
    known = judge_pairs(ProgramJudge(longer), pairs, store)
    assert [each.outcome for each in judged] == [each.outcome for each in known]
    assert {each.judge for each in judged} == {MODEL}
    asked = server.journal(PATHS[provider])
    assert len(asked) == 2 * len(pairs) - sum(p.candidate == p.baseline for p in pairs)
    for entry in asked:
        assert entry["body"]["temperature"] == 0 and entry["body"]["max_tokens"] == 8
        assert "Long answers." in json.dumps(entry["body"])
    assert judge.settings["provider"] == provider
    assert judge.settings["url"].startswith(server.url)


@both
def test_what_is_left_after_all_tries_has_failed_and_is_asked_again(provider, server, store):
    judge = remote_judge(spec(server, provider), patience=QUICK)
    pairs = [pair("longer", "short")]
    server.plan(*[{"at": PATHS[provider], "do": "status", "status": 500}] * 2 * QUICK.tries)
    judged = judge_pairs(judge, pairs, store)
    assert server.planned() == [] and [each.outcome for each in judged] == [FAILED]
    found = figures(judged, draws=100)
    assert (found["failed"], found["ties"], found["win_rate"]) == (1, 0, None)
    assert "3 tries" in judged[0].votes[0].verdict.error
    assert [each.outcome for each in judge_pairs(judge, pairs, store)] == [WIN]


def test_another_endpoint_or_provider_is_another_judge(server):
    judges = [
        remote_judge(name)
        for name in (spec(server, "openai"), f"anthropic:{MODEL}", f"openai:{MODEL}")
    ]
    assert len({str(judge.settings) for judge in judges}) == 3


def test_a_program_names_the_judge_and_counts_what_failed(server, tmp_path, capsys):
    """One of four requests is refused: a void pair, until the same command is given again."""
    ours = [{"prompt": f"p{n}", "completion": "longer " * 3} for n in range(2)]
    theirs = [{**line, "completion": "short"} for line in ours]
    given = ["--replies", str(write_lines(tmp_path / "ours.jsonl", ours))]
    given += ["--baseline", str(write_lines(tmp_path / "theirs.jsonl", theirs))]
    given += ["--judge", spec(server, "openai"), "--persona", "concise_casual_expert"]
    given += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "copy.json")]
    server.plan({"at": OPENAI, "nth": 2, "do": "status", "status": 400})
    assert outcome(evaluate.main, given, capsys)[0] == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found == json.loads((tmp_path / "copy.json").read_text())
    assert found["judge"] == MODEL and found["persona_name"] == "concise_casual_expert"
    assert found["persona"] == find_persona("concise_casual_expert").text
    assert {line["judge"] for line in read_lines(tmp_path / "out/judgements.jsonl")} == {MODEL}
    (each,) = found["candidates"]
    assert (each["wins"], each["ties"], each["failed"]) == (1, 0, 1)
    (note,) = found["notes"]
    assert note.startswith("judge: 1 of 4 votes failed, such as ") and "400" in note
    assert found["persona"] in server.journal(OPENAI)[0]["body"]["messages"][0]["content"]
    assert len(server.journal(OPENAI)) == 3
    assert outcome(evaluate.main, given, capsys)[0] == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found["candidates"][0]["wins"] == 2 and found["notes"] == []
    assert len(server.journal(OPENAI)) == 4


def test_a_missing_key_and_a_bad_name_are_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    given = ["--baseline", str(tmp_path / "gone"), "--model", str(tmp_path / "gone"), "--out"]
    given += [str(tmp_path / "out"), "--judge"]
    for judge, said in (
        ("openai:parrot", "OPENAI_API_KEY: not set"),
        ("openai:", "an endpoint needs the name of a model"),
        ("opnai:parrot", "--judge opnai:parrot: expected model, pocket, people, openai:MODEL"),
        ("openai:parrot@http://me:secret@127.0.0.1", "127.0.0.1: an address with a name"),
    ):
        status, message = outcome(evaluate.main, [*given, judge], capsys)
        assert status == 2 and said in message and "secret" not in message, message


def test_a_judge_is_remote_by_its_form():
    assert is_remote("openai:a:b") and is_remote("anthropic:x@http://h")
    assert not any(map(is_remote, ("openai", "model", "mine:x", "")))
    check_url("http://127.0.0.1:8000/v1")
    with pytest.raises(InputError, match=r"127\.0\.0\.1: an address with a name"):
        check_url("http://me@127.0.0.1")
