"""The whole of ALOE as one run."""

import json
from pathlib import PurePosixPath

import pytest

import train as program
from interact_jax import config
from interact_jax.aloe import whole
from interact_jax.schema import InputError
from tests.runs import ROOT

CONFIG = str(ROOT / "configs/aloe_pocket.py")
SMALL = {"aloe.conversations": 12, "aloe.cases": 6, "aloe.rounds": 3, "compile_cache": ""}


def settings(**changed):
    given = {**SMALL, **changed}
    return config.load(CONFIG, [f"--config.{name}={value}" for name, value in given.items()])


def test_each_training_begins_where_the_one_before_ended(tmp_path):
    (first, sft), (second, dpo) = whole.trainings(settings(), tmp_path)
    assert (first, second) == ("sft", "dpo")
    assert sft.model.path == "pocket-talks"
    assert dpo.model.path == str(tmp_path / "sft" / "export")
    assert {sft.data.path, dpo.data.path} == {str(tmp_path / "conversations/conversations.jsonl")}
    assert (sft.objective.name, sft.data.recipe) == ("sft", "chosen")
    assert (dpo.objective.name, dpo.data.recipe) == ("dpo", "pairs")
    assert (sft.optim.lr, dpo.optim.lr) == (settings().aloe.sft_lr, settings().optim.lr)
    assert {sft.stages, dpo.stages} == {"none"}
    for each in (sft, dpo):
        config.check(each)


def test_one_training_alone(tmp_path):
    ((name, dpo),) = whole.trainings(settings(**{"aloe.train": "dpo"}), tmp_path)
    assert name == "dpo" and dpo.model.path == "pocket-talks"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"start_from": "runs/other"}, "start_from"),
        ({"data.path": "talks.jsonl"}, "data.path"),
        ({"online.users": "polite"}, "online"),
        ({"data.max_reply": 1, "objective.ignore_first": 0}, ""),
    ],
)
def test_what_the_stages_do_not_heed_is_refused_first(changed, named, tmp_path):
    if not named:
        whole.check(settings(**changed), tmp_path)  # nothing is wrong with these
        return
    with pytest.raises(InputError, match=named):
        whole.check(settings(**changed), tmp_path)


def test_a_bucket_is_refused():
    with pytest.raises(InputError, match="a directory of this machine"):
        program.aloe(settings(), PurePosixPath("gs://bucket/run"), quiet=True)


@pytest.mark.slow
def test_it_goes_on_where_it_was(tmp_path, monkeypatch):
    """A run that fails in the second training, and one that does not, end with the same figures."""

    def train(fails=False):
        def one(cfg, home):
            if fails and home.name == "dpo":
                raise KeyboardInterrupt
            return program.one_run(cfg, home, quiet=True)

        return one

    lines = whole.learn(settings(), tmp_path / "whole", train())
    with pytest.raises(KeyboardInterrupt):
        whole.learn(settings(), tmp_path / "stopped", train(fails=True))
    again = whole.learn(settings(), tmp_path / "stopped", train())
    assert again[:-1] == lines[:-1]  # but for where the report is
    one, other = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "stopped")
    )
    assert one["stages"] == other["stages"]
    assert list(one["stages"]) == ["before", "sft", "sft, dpo"]
    assert one["before"] == one["stages"]["before"] and one["after"] == one["stages"]["sft, dpo"]
    assert (tmp_path / "whole/export/model.safetensors").is_file()
    assert (tmp_path / "whole/report/index.html").is_file()
    with pytest.raises(InputError, match=r"aloe\.rounds"):
        whole.learn(settings(**{"aloe.rounds": 4}), tmp_path / "whole", train())
