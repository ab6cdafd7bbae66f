"""Online runs: what is learned is what was said, and a run ends the same whatever happens to it."""

import json
import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from interact_jax import checkpoint, config, evaluation, train
from interact_jax.cluster import processes
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.known import SAMPLER
from interact_jax.online import feed, rollouts
from interact_jax.online.record import Record
from interact_jax.online.rollout import CUT, CUT_BY_ROOM
from interact_jax.schema import InputError, Message, RunStopped
from interact_jax.users import ScriptedUser, Talk
from launch import train as launch_train
from tests.online.runs import SMALL, settings, started, trained
from tests.runs import ROOT, overrides, read_lines

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of four steps of four interactions, with two turns a conversation."""
    return trained(tmp_path_factory.mktemp("ended"), {"online.turns": 2})


def parameters(run):
    return jax.tree.map(np.asarray, run.state.params)


def assert_same_bits(run, other):
    same = jax.tree.map(np.array_equal, parameters(run), parameters(other))
    assert all(jax.tree.leaves(same))


def assert_other_bits(run, other):
    same = jax.tree.map(np.array_equal, parameters(run), parameters(other))
    assert not all(jax.tree.leaves(same))


def assert_same_end(run, other):
    """The same parameters, log, conversations and record."""
    assert_same_bits(run, other)
    assert without_times(run) == without_times(other)
    for name in ("conversations.jsonl", "rollouts.jsonl"):
        assert (run.workdir / name).read_bytes() == (other.workdir / name).read_bytes()


def without_times(run):
    lines = read_lines(run.workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


# ------------------------------------------------------------------------------- what is learned


def test_every_step_is_on_disk_as_conversations(ended):
    steps = read_lines(ended.workdir / "rollouts.jsonl")
    talks = read_lines(ended.workdir / "conversations.jsonl")
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [talk["step"] for talk in talks] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [talk["version"] for talk in talks] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {talk["user"] for talk in talks} == {"-sentence,emoji", "polite"}
    assert len({talk["id"] for talk in talks}) == len(talks)
    for talk in talks:
        roles = [message["role"] for message in talk["messages"]]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        for reply in talk["messages"][1::2]:
            lengths = {len(reply[name]) for name in ("token_ids", "logps", "sampling_logps")}
            assert len(lengths) == 1 and lengths.pop() > 0
    assert without_times(ended)[-1]["interactions"] == 4
    assert train.totals(ended)["interactions"] == 16


def test_the_follow_up_of_a_turn_is_the_users_reaction_to_that_turn(ended):
    cfg, chat = ended.config, ended.model.chat
    record = Record(ended.workdir)
    for played in record.step(2).played:
        talk = played.conversation
        wanted = {"emoji": True, "sentence": False} if "emoji" in talk.user else {"polite": True}
        user = ScriptedUser(talk.user, wanted, cfg.seed)
        (tree,) = ended.source.lessons(talk).trees
        assert len(tree.replies) == 2
        for turn, reply in enumerate(tree.replies):
            seen = talk.messages[: 2 * turn + 2]
            (reaction,) = user.react([Talk(talk.id, seen, talk.user, turn == 1)])
            assert reaction.text == talk.messages[2 * turn + 2].content
            x, y = seen[:-1], seen[-1].token_ids
            assert list(tree.path(reply, PLAIN)) == [*chat.prompt(x), *y[:-1]]
            hindsight = chat.prompt(x, reaction.text)
            assert list(tree.path(reply, HINDSIGHT)) == [*hindsight, *y[:-1]]
            assert tuple(reply.target.y) == y
            assert reply.target.known[SAMPLER] == pytest.approx(seen[-1].logps)


# --------------------------------------------------------------------- whatever happens to a run


def test_a_run_is_the_same_every_time_and_follows_its_seed(ended, tmp_path):
    same = trained(tmp_path / "same", {"online.turns": 2})
    assert_same_bits(same, ended)
    assert without_times(same) == without_times(ended)
    other = trained(tmp_path / "other", {"online.turns": 2, "seed": 1})
    assert_other_bits(other, ended)


def test_the_replay_of_a_record_gives_the_same_parameters(ended, tmp_path):
    more = {"online.replay": ended.workdir, "online.prompts": "", "online.turns": 2}
    replayed = trained(tmp_path, more)
    assert_same_bits(replayed, ended)
    assert not (tmp_path / "conversations.jsonl").exists()


def test_follow_ups_that_say_little_are_skipped(ended, tmp_path):
    more = {"online.replay": ended.workdir, "online.prompts": "", "online.turns": 2}
    run = trained(tmp_path, {**more, "skip.signal": 1e3, "steps": 2})
    assert [line["skipped"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 1]
    assert_same_bits(run, started(tmp_path / "unmoved"))


def test_the_conversations_are_data_for_any_run(ended, tmp_path):
    more = {"data.path": ended.workdir / "conversations.jsonl", "online.prompts": ""}
    run = started(tmp_path, {**more, "online.users": "", "objective.name": "sdpo"})
    assert sum(run.dataset.interactions) == 16
    assert not run.dataset.read.lost and not run.dataset.read.mended
    trees = run.dataset.trees_of(range(len(run.dataset.trees)))
    learned = {r.target.id: tuple(r.target.y) for tree in trees for r in tree.replies}
    for talk in read_lines(ended.workdir / "conversations.jsonl"):
        for index in (1, 3):
            ids = tuple(talk["messages"][index]["token_ids"])
            assert learned[f"{talk['id']}_{index}"] == ids


KILLED = """
import os, signal, sys
from interact_jax import startup
startup.begin()  # as the program does: without PyTorch, which takes seconds to import
from interact_jax.online import rollouts
from launch import train

at, step = sys.argv[1], int(sys.argv[2])

def die(self, *given):
    number = given[0].number if at == "record" else self.progress.step + 1
    if number == step:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *given)

place, name = {
    "record": (rollouts.Record, "append"),
    "next": (rollouts.Rollouts, "next"),
    "learned": (rollouts.Rollouts, "_pack"),
}[at]
original = getattr(place, name)
setattr(place, name, die)
train.main(sys.argv[3:])
"""


def killed(at, step, workdir, more, small=SMALL):
    """Kill a run before it records a step, before it asks for it, or once it is recorded."""
    ended = python(["-c", KILLED, at, str(step)], workdir, {**small, **more})
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def python(program, workdir, settings):
    """What became of a process that trains."""
    config = str(ROOT / "configs/online_pocket.py")
    arguments = ["--config", config, "--workdir", str(workdir), *overrides(settings)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *program, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_run_that_is_killed_ends_as_one_that_was_not(staleness, tmp_path):
    more = {"online.staleness": staleness, "checkpoint.every": 2, "steps": 6}
    whole = trained(tmp_path / "whole", more)
    workdir = tmp_path / "killed"
    killed("record", 2, workdir, more)
    killed("learned", 4, workdir, more)
    before = read_lines(workdir / "conversations.jsonl")
    assert_same_end(trained(workdir, more), whole)
    assert read_lines(workdir / "conversations.jsonl")[: len(before)] == before


@pytest.mark.slow
def test_500_interactions_killed_twice(tmp_path):
    """As it is shipped, with users who change their minds."""
    more = {
        **{name: "" for name in ("loggers", "compile_cache")},
        "batch.interactions": 8,
        "steps": 63,
        "online.schedule": "248: -emoji,sentence",
        "evaluation.every": 0,
        "evaluation.name": "none",
        "report.interactions": 0,
    }
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    killed("record", 23, workdir, more, small={})
    killed("learned", 47, workdir, more, small={})
    # In processes of their own, too: optimised programs add up as the threads of a process want it.
    for place in (whole, workdir):
        ended = python(["launch/train.py"], place, more)
        assert ended.returncode == 0, ended.stderr
    assert sum(line["interactions"] for line in read_lines(workdir / "metrics.jsonl")) >= 500
    for name in ("export/model.safetensors", "conversations.jsonl", "rollouts.jsonl"):
        assert (workdir / name).read_bytes() == (whole / name).read_bytes()


def test_recorded_steps_are_not_played_again(tmp_path, monkeypatch):
    """A user who has answered is not asked twice, even if the step was never learned from."""
    more = {"checkpoint.every": 2, "steps": 4}
    killed("learned", 4, tmp_path, more)  # the checkpoint is of step 2, or none
    asked = []
    react = ScriptedUser.react
    monkeypatch.setattr(
        ScriptedUser, "react", lambda self, talks: asked.extend(talks) or react(self, talks)
    )
    trained(tmp_path, more)
    assert asked == []


def test_stale_batches_are_those_of_the_weights_before(tmp_path, caplog, monkeypatch):
    """Also in a run that ended by an error once the last step was recorded, and goes on."""
    with caplog.at_level("INFO"):
        run = trained(tmp_path / "whole", {"online.staleness": 1})
    assert " parameters to sample from" in caplog.text
    lines = read_lines(run.workdir / "rollouts.jsonl")
    assert [set(line["versions"]) for line in lines] == [{0}, {0}, {1}, {2}]
    assert [line["staleness"] for line in read_lines(run.workdir / "metrics.jsonl")] == [0, 1, 1, 1]
    assert int(run.state.step) == 4

    def fail(self, *given):
        if self.progress.step == 3:
            raise RunStopped("nobody is there")
        return pack(self, *given)

    more, pack = {"online.staleness": 1, "checkpoint.every": 2}, rollouts.Rollouts._pack
    with monkeypatch.context() as patch:
        patch.setattr(rollouts.Rollouts, "_pack", fail)
        stopped = started(tmp_path / "stopped", more)
        with pytest.raises(RunStopped, match="nobody is there"):
            train.loop(stopped)
        stopped.checkpoints.close()
    assert_same_end(trained(tmp_path / "stopped", more), run)


def test_the_users_want_what_the_schedule_says(tmp_path):
    more = {"online.users": "emoji", "online.schedule": "8: polite; 12: -emoji"}
    trained(tmp_path, more)
    talks = read_lines(tmp_path / "conversations.jsonl")
    names = [{t["user"] for t in talks if t["step"] == step} for step in (1, 2, 3, 4)]
    assert names == [{"emoji"}, {"emoji"}, {"polite"}, {"-emoji"}]


def test_replies_that_are_cut_are_counted_by_what_cut_them(tmp_path):
    """Prompts have about 20 tokens, so many replies have no room for the 30 they may have."""
    more = {"online.new_tokens": 30, "data.max_length": 40, "online.temperature": 5.0, "steps": 1}
    run = trained(tmp_path, more)
    counts = run.source.progress.counts
    replies = [talk["messages"][1] for talk in read_lines(tmp_path / "conversations.jsonl")]
    assert 0 < counts[CUT_BY_ROOM] <= len(replies) and counts[CUT] == 0
    assert counts[CUT_BY_ROOM] == sum(
        len(run.model.chat.prompt([Message("user", talk["messages"][0]["content"])]))
        + len(talk["messages"][1]["token_ids"])
        == 40
        for talk in read_lines(tmp_path / "conversations.jsonl")
    )


# ------------------------------------------------------------------------------ users that go away


def test_conversations_are_begun_until_there_are_enough_interactions(tmp_path):
    run = trained(tmp_path, {"online.leaves": 0.5, "steps": 3})
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert all(line["interactions"] >= 4 for line in lines)
    talks = read_lines(tmp_path / "conversations.jsonl")
    left = [talk for talk in talks if talk["messages"][-1]["role"] == "assistant"]
    assert left and len(talks) - len(left) == sum(line["interactions"] for line in lines)
    assert f"{len(left):,} conversations that the user left" in run.source.summary()
    shares = [line["follow_ups"] for line in lines]
    assert 0 < min(shares) < 1


def test_where_everybody_leaves_the_run_stops(tmp_path):
    run = started(tmp_path, {"online.leaves": 1.0})
    with pytest.raises(
        RunStopped, match=r"step 1: 100 conversations gave 0 interactions .*the user left"
    ):
        train.loop(run)
    run.checkpoints.close()


def fail_at_the_third(monkeypatch, error, beside):
    """Playing the third step raises an error; it is played beside the second one, or before it."""
    play = rollouts.Rollouts._play

    def until_the_third(self, stage):
        if self.progress.step == 2:
            raise error
        play(self, stage)

    monkeypatch.setattr(rollouts.Rollouts, "_play", until_the_third)
    monkeypatch.setattr(rollouts.Stage, "plays_beside", beside)


@pytest.mark.parametrize(
    ("beside", "every"),
    [(True, 1), (False, 1), pytest.param(False, 100, marks=pytest.mark.slow)],
)
def test_what_goes_wrong_ahead_does_not_stop_the_step_before(beside, every, tmp_path, monkeypatch):
    """Nor its checkpoint, where one is due. Several processes do not play beside the step."""
    fail_at_the_third(monkeypatch, RunStopped("nobody is there"), beside)
    run = started(tmp_path, {"online.staleness": 1, "checkpoint.every": every})
    with pytest.raises(RunStopped, match="nobody is there"):
        train.loop(run)
    run.checkpoints.close()
    assert int(run.state.step) == 2
    assert checkpoint.finished_steps(tmp_path) == ([1, 2] if every == 1 else [])


def test_what_goes_wrong_ahead_in_one_process_ends_it_at_once(tmp_path, monkeypatch):
    """The others do not know of it: in the next step they would wait for this process."""
    fail_at_the_third(monkeypatch, InputError("data.weigh: no such file"), beside=False)
    run = started(tmp_path, {"online.staleness": 1})
    monkeypatch.setattr(processes, "is_common", lambda error: False)  # as if there were others
    with pytest.raises(InputError, match="no such file"):
        train.loop(run)
    run.checkpoints.close()
    assert int(run.state.step) == 1


# ------------------------------------------------------------------------------- refused, in words

REFUSED = {
    "nothing to learn from": ({"online.prompts": ""}, "data.path is not set"),
    "two things": ({"data.path": "pocket"}, "data.path=pocket and online.prompts=pocket"),
    "no users": ({"online.users": ""}, "online.users is not set"),
    "an objective without follow-ups": ({"objective.name": "sft"}, "learns from replies"),
    "no end": ({"steps": 0, "epochs": 1.0}, "have no end. Set steps"),
    "no such engine": ({"online.engine": "vllm"}, "expected mesh, or vllm@http"),
    "no room": ({"data.max_length": 20}, "leaves room"),
    "no such record": ({"online.prompts": "", "online.replay": "/tmp"}, "no recorded steps"),
    "no such run": (
        {"online.prompts": "", "online.replay": "/absent"},
        "/absent: there is no such directory",
    ),
    "a record elsewhere": (
        {"online.prompts": "", "online.replay": "gs://bucket/run"},
        r"gs://bucket/run: expected a directory .*Copy conversations\.jsonl, rollouts\.jsonl",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_played_is_refused_before_the_weights_are_read(case, tmp_path, monkeypatch):
    more, says = REFUSED[case]
    monkeypatch.setattr("interact_jax.opening.OpenedModel.load", None)
    with pytest.raises(InputError, match=says):
        started(tmp_path, more)


def test_a_resumed_run_keeps_to_its_prompts_and_record(tmp_path):
    more = {"checkpoint.every": 1, "steps": 2}
    trained(tmp_path, more)
    record = tmp_path / "rollouts.jsonl"
    whole = record.read_bytes()
    record.write_bytes(b"".join(whole.splitlines(keepends=True)[:1]))
    with pytest.raises(InputError, match="at step 2, and its record has 1 steps"):
        started(tmp_path, {**more, "steps": 3})
    record.write_bytes(whole)  # and the conversations are as they were
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Capital of France?"}) + "\n")
    with pytest.raises(InputError, match="requests of the pocket world, now there are"):
        started(tmp_path, {**more, "steps": 3, "online.prompts": prompts})
    assert int(started(tmp_path, {**more, "steps": 3}).state.step) == 2
    logs = {"online.prompts": "", "data.path": tmp_path / "conversations.jsonl"}
    with pytest.raises(InputError, match="learned online"):
        started(tmp_path, {**more, "steps": 3, **logs})


@pytest.mark.parametrize(
    "other, says",
    [
        ({"online.users": "polite"}, "other settings"),
        pytest.param({"seed": 1}, "other settings", marks=pytest.mark.slow),
    ],
)
def test_steps_of_another_run_are_not_learned_from(other, says, tmp_path):
    """Even where it was killed before its first checkpoint."""
    run = started(tmp_path)
    run.source.next(run.state)
    with pytest.raises(InputError, match=says):
        started(tmp_path, other)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Capital of France?"}) + "\n")
    with pytest.raises(InputError, match="had requests"):
        started(tmp_path, {"online.prompts": prompts})
    batch = started(tmp_path).source.next(run.state)
    assert batch.interactions == 4


def test_prompts_of_several_turns_are_history_and_not_learned(tmp_path):
    prompts, workdir = tmp_path / "prompts.jsonl", tmp_path / "run"
    texts = ["Capital of France?", "Paris.", "Capital of Italy?"]
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
    ]
    prompts.write_text(json.dumps({"messages": messages}) + "\n")
    run = trained(workdir, {"online.prompts": prompts, "steps": 1, "online.turns": 2})
    assert train.totals(run)["interactions"] == 4
    talks = read_lines(workdir / "conversations.jsonl")
    ids = {
        r.target.id
        for talk in Record(workdir).step(1).played
        for tree in run.source.lessons(talk.conversation).trees
        for r in tree.replies
    }
    assert ids == {f"{talk['id']}_{index}" for talk in talks for index in (3, 5)}


def test_a_replay_as_a_program(ended, tmp_path, capsys):
    more = {"online.replay": ended.workdir, "online.prompts": "", "online.turns": 2}
    given = ["--config", str(ROOT / "configs/online_pocket.py"), "--workdir", str(tmp_path / "run")]
    for _ in range(2):  # the second time it has ended
        launch_train.main([*given, "--quiet", *overrides({**SMALL, **more})])
    said = capsys.readouterr().out
    assert "16 interactions" in said and "This run had already ended" in said


def test_before_and_after_are_measured_by_the_users_of_the_end(tmp_path):
    more = {"online.users": "emoji", "online.schedule": "8: -emoji", "evaluation.name": "auto"}
    run = started(tmp_path, {**more, "evaluation.replies": 16})
    assert evaluation.preferences_at(run, 0) == [{"emoji": True}]
    at_end = evaluation.preferences_at(run, evaluation.interactions_at_end(run))
    assert at_end == [{"emoji": False}]
    before = evaluation.measure_run(run, tmp_path / "before.json")
    wanted = evaluation.measure_replies(run, 0)["wanted_styles"]
    assert before["wanted_styles"] == pytest.approx(1 - wanted, abs=0.1)


@pytest.mark.parametrize("system", ["auto", "Be kind."])
def test_replies_are_measured_after_the_system_message_of_the_run(system, tmp_path, monkeypatch):
    asked = []
    requests_for = evaluation.requests_for
    monkeypatch.setattr(
        evaluation,
        "requests_for",
        lambda prompts, *rest: asked.extend(prompts) or requests_for(prompts, *rest),
    )
    more = {"online.system": system, "evaluation.name": "pocket", "evaluation.replies": 4}
    run = started(tmp_path, more)
    assert evaluation.measure_replies(run, 0)["readable"] > 0
    texts = [run.model.chat.decode(ids) for ids in asked]
    assert len(texts) == 4
    assert all(("Be kind." in text) == (system != "auto") for text in texts)


def test_settings_that_an_online_run_does_not_read_are_named(tmp_path, caplog):
    started(tmp_path, {"data.history": "reference", "data.repair": "drop"})
    (line,) = [r.getMessage() for r in caplog.records if "does not read" in r.getMessage()]
    assert line.endswith("an online run does not read: data.repair=drop, data.history=reference")


@pytest.mark.parametrize(("prompts", "unread"), [("pocket", True), ("asked.jsonl", False)])
def test_the_share_to_hold_out_is_read_for_prompts_of_files(prompts, unread, caplog):
    given = overrides({"online.prompts": prompts, "evaluation.holdout": 0.1})
    feed._warn_of_unread(config.load("online_pocket", given))
    assert ("evaluation.holdout=0.1" in caplog.text) == unread


@pytest.mark.parametrize(("name", "measured"), [("auto", False), ("pocket", True)])
def test_a_replay_says_what_it_replays_and_what_it_does_not_measure(name, measured, ended, caplog):
    more = {"online.prompts": "", "online.replay": ended.workdir, "evaluation.name": name}
    with caplog.at_level("INFO"):
        run = started(ended.workdir.parent / f"measured_{name}", more)
    assert f"replaying 4 recorded steps of {ended.workdir}" in caplog.messages
    assert any("nothing is measured" in line for line in caplog.messages) != measured
    assert (evaluation.measure_for(run.config) is not None) == measured


def test_settings_of_a_replay_are_checked(ended):
    with pytest.raises(InputError, match=r"4 recorded steps there, fewer than steps=5\. Set .*=4"):
        started(
            ended.workdir.parent / "more",
            {"online.prompts": "", "online.replay": ended.workdir, "steps": 5},
        )


def test_the_config_is_that_of_an_online_run():
    assert settings().online.prompts == "pocket"
