"""Several processes learn online as one process does: the same conversations, the same model."""

import os
import signal

import pytest

from tests.cluster.several import alone, relative_difference, supervised, together
from tests.cluster.test_run_faults import children, end, wait_for
from tests.online.runs import SMALL
from tests.runs import ROOT, overrides, read_lines, tensors
from tests.servers.chat_server import KEY, MODEL, OPENAI
from tests.servers.running import running

pytestmark = pytest.mark.compiled_quickly
SETTINGS = {**SMALL, "online.turns": 2, "steps": 3, "optim.lr": 0.1, "mesh.sequence": 1}
FSDP = {"mesh.fsdp": 2}
PATHS = ("v1/completions", "update_weights")
PERSONA = {"online.users": "poetic", "online.user_model": "pocket", "data.max_length": 512}


def arguments(workdir, **more):
    config = str(ROOT / "configs/online_pocket.py")
    return ["--config", config, "--workdir", str(workdir), *overrides({**SETTINGS, **more})]


def said(workdir):
    """What was said in each step, to the last id, and by which weights."""
    return [
        (
            *(talk[name] for name in ("step", "version", "id", "user")),
            [(m["role"], m["content"], m.get("token_ids")) for m in talk["messages"]],
        )
        for talk in read_lines(workdir / "conversations.jsonl")
    ]


def check_same(found, expected):
    """The same conversations, counts and parameters, which are not those of the beginning."""
    if (found / "conversations.jsonl").exists():  # a replay writes none
        assert said(found) == said(expected)
    ours, theirs = (read_lines(each / "metrics.jsonl") for each in (found, expected))
    for mine, its in zip(ours, theirs, strict=True):
        for name in ("step", "interactions", "reply_tokens", "conversations", "staleness"):
            assert mine[name] == its[name]
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-3, abs=1e-5)
    learned, wanted = tensors(found / "export"), tensors(expected / "export")
    difference = relative_difference(learned, wanted)
    print(f"{found.name}: {difference:.2g}")
    assert difference < 1e-5
    assert relative_difference(wanted, tensors(ROOT / "interact_jax/pocket/model")) > 1e-4


@pytest.mark.slow
def test_two_processes_learn_online_as_one_does(tmp_path):
    alone(arguments(tmp_path / "one"))
    together(2, 1, arguments(tmp_path / "two", **FSDP))
    check_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh", [{"mesh.data": 2, "mesh.tensor": 2}, {"mesh.data": 1, "mesh.sequence": 4}]
)
def test_on_other_meshes(mesh, tmp_path):
    alone(arguments(tmp_path / "one"))
    together(2, 2, arguments(tmp_path / "two", **mesh))
    check_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes(tmp_path):
    """Of two processes, one of which is killed; of one; of two again, which first learn from what
    is on record: as the run that was not stopped."""
    steps = {"steps": 12, "checkpoint.every": 4}
    alone(arguments(tmp_path / "one", **steps))
    workdir = tmp_path / "moved"
    started = supervised(2, 1, "train", arguments(workdir, **steps, **FSDP), "--stalled", "20")
    wait_for(workdir, "rollouts.jsonl", started)
    os.kill(children(started.pid)[1], signal.SIGKILL)
    text, _ = end(started)
    assert started.returncode and "SIGKILL" in text
    on_record = len(read_lines(workdir / "rollouts.jsonl"))
    assert 1 <= on_record < 6
    before = (workdir / "conversations.jsonl").read_bytes()
    alone(arguments(workdir, **{**steps, "steps": 6}))
    assert (workdir / "conversations.jsonl").read_bytes().startswith(before)
    text = together(2, 1, arguments(workdir, **steps, **FSDP))
    assert "resuming from step 6" in text
    check_same(workdir, tmp_path / "one")


@pytest.mark.slow
def test_what_was_played_ahead_is_the_same(tmp_path):
    """With several processes it is played before the step, and not beside it."""
    stale = {"online.staleness": 1}
    alone(arguments(tmp_path / "one", **stale))
    text = together(2, 1, arguments(tmp_path / "two", **stale, **FSDP))
    assert "conversations are played before each step" in text
    check_same(tmp_path / "two", tmp_path / "one")
    steps = read_lines(tmp_path / "two" / "rollouts.jsonl")
    assert [line["versions"][0] for line in steps] == [0, 0, 1]


@pytest.mark.slow
def test_a_replay(tmp_path):
    alone(arguments(tmp_path / "one"))
    replay = {"online.replay": tmp_path / "one", "online.prompts": "", **FSDP}
    together(2, 1, arguments(tmp_path / "two", **replay))
    assert not (tmp_path / "two" / "conversations.jsonl").exists()
    check_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_model_of_the_mesh_plays_the_users(tmp_path):
    alone(arguments(tmp_path / "one", **PERSONA))
    together(2, 1, arguments(tmp_path / "two", **PERSONA, **FSDP))
    check_same(tmp_path / "two", tmp_path / "one")
    assert all(len(messages) == 5 for *_, messages in said(tmp_path / "two"))


@pytest.mark.slow
def test_users_behind_an_endpoint_are_asked_once(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running("chat_server", tmp_path) as server:
        users = {**PERSONA, "online.user_model": f"openai:{MODEL}@{server.url}/v1"}
        alone(arguments(tmp_path / "one", **users))
        asked = len(server.journal(OPENAI))
        assert asked == 2 * len(said(tmp_path / "one"))
        server.forget()
        together(2, 1, arguments(tmp_path / "two", **users, **FSDP))
        assert len(server.journal(OPENAI)) == asked
    check_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("staleness", [0, 1])
def test_a_server_is_asked_once_and_gets_the_weights_of_all(staleness, tmp_path):
    with running("engine_server", tmp_path, "--protocol", "vllm") as server:
        engine = {
            "online.engine": f"vllm@{server.url}",
            "online.served_model": "pocket",
            "online.staleness": staleness,
            "checkpoint.every": 1,  # sealed in the background, while weights are written
        }
        counts = []
        for name in ("one", "two"):
            server.forget()
            if name == "one":
                alone(arguments(tmp_path / name, **engine))
            else:
                together(2, 1, arguments(tmp_path / name, **engine, **FSDP))
            counts.append([len(server.journal(f"/{at}")) for at in PATHS])
    check_same(tmp_path / "two", tmp_path / "one")
    loads = 3 - staleness  # weights of versions 0, 1, 2; those of the last are not asked for
    assert counts == [[2 * len(said(tmp_path / "two")), loads]] * 2


@pytest.mark.slow
def test_all_stop_where_users_say_nothing(tmp_path):
    started = supervised(2, 1, "train", arguments(tmp_path, **FSDP, **{"online.leaves": 1.0}))
    text, _ = end(started)
    assert started.returncode == 1, text
    # By both, unless the first to end takes the other with it.
    assert "step 1: 100 conversations gave 0 interactions" in text, text
    assert "Traceback" not in text
