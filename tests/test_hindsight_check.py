"""Whether a model uses hindsight: the shipped one does, a random one shows no sign of it."""

from __future__ import annotations

import dataclasses
import gzip

import pytest

from interact_jax import sharding
from interact_jax.data.conversations import read_conversations
from interact_jax.data.encode import EncodeSettings
from interact_jax.hindsight_check import FEWEST, HindsightCheck, check_hindsight
from interact_jax.opening import open_model
from interact_jax.pocket import LOGS
from launch import train as launch_train
from tests.runs import ONE_ROW_SHARD, outcome, train_arguments

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


@pytest.fixture(scope="module")
def pocket():
    conversations, _ = read_conversations(str(LOGS))
    return open_model("pocket", mesh=sharding.make_mesh()), conversations[:400]


def check(model, params, conversations, **how):
    settings = EncodeSettings(max_length=1024)
    return check_hindsight(
        model.decoder, params, conversations, model.chat, settings, model.mesh, **how
    )


def test_the_shipped_model_uses_hindsight_and_a_random_one_does_not(pocket):
    model, conversations = pocket
    found = check(model, model.load(), conversations, most=64)
    assert found.pairs == 64 and found.usable
    assert found.relevant > 3 > abs(found.shuffled)
    random = check(model, model.fresh(0), conversations, most=64)
    assert random.usable is False and abs(random.relevant) < 0.5
    assert "NO SIGN" in random.lines()[0]


def test_where_every_follow_up_is_the_same_chance_is_one_half(pocket):
    model, conversations = pocket

    def alike(conversation):
        said = [
            dataclasses.replace(m, content="Shorter.") if i and m.role == "user" else m
            for i, m in enumerate(conversation.messages)
        ]
        return dataclasses.replace(conversation, messages=tuple(said))

    found = check(model, model.load(), [alike(c) for c in conversations], most=32)
    assert found.helped == pytest.approx(0.5, abs=0.05) and found.usable is False
    assert found.relevant == pytest.approx(found.shuffled, abs=1e-3)


def test_both_ways_of_sharing_find_the_same(pocket):
    model, conversations = pocket
    params = model.load()
    tree, none = (check(model, params, conversations, most=20, sharing=s) for s in ("tree", "none"))
    assert tree.relevant == pytest.approx(none.relevant, abs=1e-3)
    assert tree.helped == none.helped


def test_few_pairs_tell_nothing():
    few = HindsightCheck(FEWEST - 1, 1.0, 0.0, 1.0, 0.1)
    assert few.usable is None and "too few pairs" in few.lines()[0]


def test_logs_without_a_revised_reply_tell_nothing(pocket):
    model, conversations = pocket
    short = [dataclasses.replace(c, messages=c.messages[:3]) for c in conversations[:5]]
    found = check(model, model.load(), short)
    assert (found.pairs, found.usable) == (0, None) and len(found.lines()) == 1


def test_one_pair_is_told_of_in_the_singular():
    _, line, *_ = HindsightCheck(1, 0.5, 0.1, 1.0, 0.5).lines()
    assert line.startswith("  (1 revised reply: with the user's own follow-up")


def test_the_gains_are_those_of_the_revised_reply_on_the_first_one():
    said = " ".join(" ".join(HindsightCheck(512, 8.72, 1.0, 0.84, 0.02).lines()).split())
    assert (
        "with the user's own follow-up the revised reply gains 8.72 nats on the first one" in said
    )
    assert (
        "with somebody else's 1.00; it gains more with the user's own in 84% of the pairs" in said
    )


def test_a_run_says_whether_its_model_uses_hindsight(tmp_path, capsys):
    lines = gzip.decompress(LOGS.read_bytes()).splitlines(keepends=True)
    (tmp_path / "logs.jsonl").write_bytes(b"".join(lines[:400]))
    settings = {"steps": 1, "epochs": 0, "report.interactions": 0, "evaluation.name": "none"}
    settings |= {"check_hindsight": 24, "data.path": tmp_path / "logs.jsonl"}
    settings |= {"batch.interactions": 8, "batch.row_tokens": 128, **ONE_ROW_SHARD}
    status, said = outcome(launch_train.main, train_arguments(tmp_path / "run", settings), capsys)
    assert status == 0 and "24 revised replies" in said and "the model uses hindsight" in said
