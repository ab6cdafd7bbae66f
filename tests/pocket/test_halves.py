"""What one half of the shipped logs teaches, measured on the other half of their users; and that it
teaches nothing of the kind where the follow-ups are those of other conversations."""

import gzip
import json
import random
from collections import Counter

import pytest

from interact_jax.data import holdout
from interact_jax.data.dataset import POCKET_LOGS
from launch import train as launch_train
from tests.runs import write_lines

pytestmark = [pytest.mark.slow, pytest.mark.one_device]
HALF = 0.5


def logs():
    """The shipped logs, one of each text: copies are on one side of a split, and would be none
    once the follow-ups of one of them were dealt out anew."""
    lines = [json.loads(line) for line in gzip.decompress(POCKET_LOGS.read_bytes()).splitlines()]
    return list({texts_of(one): one for one in lines}.values())


def texts_of(one):
    return tuple(message["content"] for message in one["messages"])


def shuffled(lines):
    """The same, with the follow-ups of the half that is learned from dealt out anew."""
    learned = [one for one in lines if holdout.hash_of(f"user {one['user']}") >= HALF]
    places = [(one, at) for one in learned for at in range(2, len(one["messages"]), 2)]
    texts = [one["messages"][at]["content"] for one, at in places]
    random.Random(0).shuffle(texts)
    for (one, at), text in zip(places, texts, strict=True):
        one["messages"][at] = {"role": "user", "content": text}
    # One that has become a copy of another would be held out or learned as that is.
    times = Counter(map(texts_of, lines))
    return [one for one in lines if one not in learned or times[texts_of(one)] == 1]


def trained(workdir, lines):
    """The size of the signal on the half that is held out, before and after."""
    settings = {
        "data.path": write_lines(workdir / "logs.jsonl", lines),
        "evaluation.name": "none",
        "evaluation.holdout": HALF,
        "evaluation.interactions": 10_000,
        "evaluation.prompts": 0,
        "check_hindsight": 0,
        "report.interactions": 0,
        "epochs": 2.0,
    }
    arguments = [f"--config.{name}={value}" for name, value in settings.items()]
    run = workdir / "run"
    launch_train.main(["--config", "quickstart", "--workdir", str(run), "--quiet", *arguments])
    summary = json.loads((run / "summary.json").read_text())
    return [summary[when]["held_out_signal_abs"] for when in ("before", "after")]


def test_relevant_follow_ups_leave_hindsight_less_to_say_and_others_do_not(tmp_path):
    """Within 1 %, which is what another seed of the run changes: these users all want the same, so
    any complaint tells of it."""
    (relevant := tmp_path / "relevant").mkdir()
    (others := tmp_path / "others").mkdir()
    before, after = trained(relevant, logs())
    assert after < 0.95 * before
    before_too, after_shuffled = trained(others, shuffled(logs()))
    assert before_too == pytest.approx(before, rel=1e-6), "the half that is held out is the same"
    assert after_shuffled > 0.99 * before
