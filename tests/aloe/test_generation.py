"""Personas and conversations through a real endpoint, and what may happen to them meanwhile."""

import collections
import contextlib
import json
import os
import random
import signal
import sqlite3
import time

import pytest

from interact_jax.aloe import calls, flags
from interact_jax.generation.engine import SamplingParams
from interact_jax.schema import InputError, Message, RunStopped
from launch import aloe
from tests.aloe.launcher import Launcher
from tests.servers.chat_server import KEY, MODEL, OPENAI
from tests.servers.running import running

pytestmark = pytest.mark.one_device
ROUNDS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running("crowd_server", tmp_path_factory.mktemp("crowd")) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(server, monkeypatch):
    server.forget()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture(scope="module")
def launcher():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.delenv("OPENAI_BASE_URL", raising=False)
        launcher = Launcher()
    yield launcher
    launcher.stop()


def spec(server):
    return f"openai:{MODEL}@{server.url}/v1"


def converse(server, out, *more, conversations=6):
    """The arguments of the program."""
    plan = ["--conversations", conversations, "--rounds", ROUNDS]
    return ["converse", "--model", spec(server), "--out", out, *plan, *more]


def play(server, out, *more, **plan):
    """Run it here; returns (its conversations, its summary)."""
    aloe.main([str(argument) for argument in converse(server, out, *more, **plan)])
    lines = (out / "conversations.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((out / "summary.json").read_text())


def key_in(server, entry):
    """The key of a call that the server has answered."""
    body = entry["body"]
    settings = {"provider": "openai", "model": MODEL, "url": f"{server.url}/v1"}
    params = SamplingParams(body["max_tokens"], body["temperature"])
    messages = [Message(each["role"], each["content"]) for each in body["messages"]]
    return calls.key_of(settings, messages, params, body["seed"])


def kept_in(out):
    file = out / flags.CALLS
    if not file.exists():
        return set()
    connection = sqlite3.connect(file)
    keys = {key.hex() for (key,) in connection.execute("SELECT key FROM calls")}
    connection.close()
    return keys


def answered(server):
    """The calls that the server has answered; it may be writing the last line just now."""
    while True:
        with contextlib.suppress(json.JSONDecodeError):
            return server.journal(OPENAI)
        time.sleep(0.01)


def wait_for_calls(server, number):
    deadline = time.monotonic() + 300  # the first time, the program is imported meanwhile
    while len(answered(server)) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ----------------------------------------------------------------------------- what is written


def test_conversations_are_trees_of_two_replies_a_turn(server, tmp_path):
    conversations, summary = play(server, tmp_path)
    assert [each["id"] for each in conversations] == [f"aloe-{n}" for n in range(6)]
    assert len({(each["profile"], each["personality"]) for each in conversations}) == 6
    continuing = collections.Counter()
    for each in conversations:
        messages = each["messages"]
        assert [m["role"] for m in messages] == ["user", "assistant"] * ROUNDS
        assert not any("*" in m["content"] for m in messages)
        # Nothing shows in one message, so the first two replies are one.
        assert "hint" not in messages[1] and all(reply["hint"] for reply in messages[3::2])
        assert "alternative" not in messages[1]
        for reply in messages[3::2]:
            hinted = "thought of you" in reply["content"]
            assert ("thought of you" in reply["alternative"]) == (not hinted)
            assert reply["preferred"] == hinted
            continuing[hinted] += 1
    assert min(continuing.values()) > 0
    assert summary["kept"] == 6 and summary["turns"] == 18 and summary["pairs"] == 12
    assert summary["turns without a pair"] == {"equal replies": 6}
    # What continues is what the next message answers.
    shown = [e["body"]["messages"] for e in server.journal(OPENAI) if "has shown" in str(e["body"])]
    histories = {messages[-2]["content"] for messages in shown if len(messages) > 2}
    assert histories == {m["content"] for c in conversations for m in c["messages"][1:4:2]}


def test_a_judge_orders_pairs_and_sees_both_orders(server, tmp_path):
    conversations, summary = play(server, tmp_path, "--pairs", "judged", conversations=2)
    judged = [e["body"] for e in server.journal(OPENAI) if e["body"]["max_tokens"] == 16]
    assert len(judged) == 2 * summary["pairs"] == 8
    assert all(
        c["profile"] in str(judged) and c["personality"] in str(judged) for c in conversations
    )
    for reply in (m for each in conversations for m in each["messages"] if "alternative" in m):
        assert reply["preferred"] == (len(reply["content"]) > len(reply["alternative"]))


def test_portions_and_concurrency_do_not_show_in_the_data(server, tmp_path):
    play(server, tmp_path / "a")
    play(server, tmp_path / "b", "--portion", 4, "--concurrency", 1)
    a, b = ((tmp_path / name / "conversations.jsonl").read_bytes() for name in "ab")
    assert a == b
    calls_of = collections.Counter(key_in(server, entry) for entry in server.journal(OPENAI))
    assert set(calls_of.values()) == {2}  # once in each


def test_more_conversations_follow_those_that_are_there(server, tmp_path):
    play(server, tmp_path / "all")
    play(server, tmp_path / "more", conversations=2)
    server.forget()
    play(server, tmp_path / "more")
    assert len(server.journal(OPENAI)) < len(kept_in(tmp_path / "all"))
    all_, more = ((tmp_path / n / "conversations.jsonl").read_bytes() for n in ("all", "more"))
    assert all_ == more
    with pytest.raises(InputError, match="other models, personas or settings"):
        play(server, tmp_path / "more", "--seed", 1)


# ----------------------------------------------------------------------------- what may happen


def kill_and_resume(server, launcher, out, times, seed):
    """Run the program until it ends, killed so many times at random moments; no call whose answer
    it had is repeated."""
    draw, whole = random.Random(seed), 6 * (4 * ROUNDS - 1)
    for number in range(times):
        kept, before = kept_in(out), len(answered(server))
        process = launcher.start(*converse(server, out, "--portion", 2, "--concurrency", 4))
        room = max(0, whole - before - 8) // (times - number)
        wait_for_calls(server, before + draw.randint(1, max(1, room)))
        os.kill(process, signal.SIGKILL)
        assert launcher.status() == -signal.SIGKILL
        asked = {key_in(server, entry) for entry in answered(server)[before:]}
        assert asked and not asked & kept
        assert kept_in(out) >= kept
    kept, before = kept_in(out), len(answered(server))
    assert launcher.run(*converse(server, out, "--portion", 2)) == 0
    assert not {key_in(server, entry) for entry in answered(server)[before:]} & kept
    # Answers that were on their way to a killed program: at most as many as it asks at a time.
    repeated = len(answered(server)) - len(kept_in(out))
    assert repeated <= 4 * times


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_generation_repeats_no_call_and_ends_with_the_same_data(
    server, launcher, tmp_path, times
):
    kill_and_resume(server, launcher, tmp_path / "killed", times, seed=times)
    play(server, tmp_path / "whole")
    for name in ("conversations.jsonl", "summary.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    "fault",
    [
        {"do": "status", "status": 429, "headers": {"Retry-After": "0"}},
        {"do": "garbage"},
        {"do": "garbage", "text": '{"choices": []}'},
        {"do": "half"},
        {"do": "hang"},
        {"do": "die"},
        {"do": "die answering"},
    ],
    ids=lambda fault: fault["do"] + str(len(fault)),
)
def test_faults_of_the_endpoint_do_not_show_in_the_data(server, whole, tmp_path, fault):
    server.plan(*({"at": OPENAI, "nth": nth, **fault} for nth in (3, 7)))
    deaths = 2 if fault["do"].startswith("die") else 0
    timeout = 2 if fault["do"] == "hang" else 60
    with server.kept_alive(deaths):
        play(server, tmp_path, "--timeout", timeout, conversations=2)
    assert server.planned() == []
    assert (tmp_path / "conversations.jsonl").read_bytes() == whole
    # Answered twice: only what was lost on its way.
    counts = collections.Counter(key_in(server, entry) for entry in server.journal(OPENAI))
    lost = 2 if fault["do"] in ("half", "hang") else 0
    assert len(server.journal(OPENAI)) - len(counts) <= lost
    assert set(counts) == kept_in(tmp_path)


@pytest.fixture
def whole(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    play(server, folder, conversations=2)
    server.forget()
    return (folder / "conversations.jsonl").read_bytes()


def test_an_endpoint_that_refuses_everything_stops_the_program(server, tmp_path, whole):
    server.plan(*[{"at": OPENAI, "do": "status", "status": 400}] * 8)
    with pytest.raises(RunStopped, match=r"2 of 2 .*user: no answer .*400.*same command goes on"):
        play(server, tmp_path, conversations=2)
    play(server, tmp_path, conversations=2)
    assert (tmp_path / "conversations.jsonl").read_bytes() == whole


# ----------------------------------------------------------------------------------- personas


def test_pools_grow_to_their_size_and_again_from_the_cache(server, tmp_path):
    arguments = [
        "personas",
        "--model",
        spec(server),
        "--encoder",
        "hashing",
        "--out",
        str(tmp_path),
    ]
    sizes = ["--profiles", "60", "--personalities", "30", "--personas", "100"]
    aloe.main([*arguments, *sizes])
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    pool = [json.loads(line) for line in files["profiles.jsonl"].splitlines()]
    assert len(pool) == len(set(pool)) == 60
    people = [json.loads(line) for line in files["personas.jsonl"].splitlines()]
    assert len({(each["profile"], each["personality"]) for each in people}) == 100
    server.forget()
    aloe.main([*arguments, *sizes])
    assert not server.journal(OPENAI)
    assert files == {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
