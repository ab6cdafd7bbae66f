"""Settings: every recipe builds, overrides take the default's type, mistakes get one message."""

import json
import math
import re
from pathlib import Path

import pytest

from interact_jax import config
from interact_jax.schema import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipes_build_and_show_their_command(file):
    config.load(str(file))
    assert f"--config configs/{file.name}" in file.read_text()


PAPER_ONLINE = {  # what both online runs of the paper have (arXiv 2603.12273, its code)
    "hindsight": "online",
    "objective.name": "sdpo",
    "objective.centred": True,
    "objective.ratio": "trainer",
    "objective.old_every": 1,  # of the policy that sampled
    "objective.ratio_clip": 0.2,
    "objective.ignore_first": 0,
    "objective.kl_initial": 0.0,
    "teacher.name": "self",
    "optim.name": "adamw",
    "optim.lr": 5e-6,
    "optim.schedule": "constant",
    "optim.warmup_fraction": 0.0,
    "optim.clip_norm": 1.0,
    "online.temperature": 1.0,
    "online.top_k": 0,
    "online.top_p": 1.0,
    "online.max_prompt": 512,
    "online.new_tokens": 2048,
    "online.turns": 1,
    "online.staleness": 0,
    "limits.user": math.inf,
    "limits.conversation": math.inf,
}


@pytest.mark.parametrize(
    "name, own",
    [
        (
            "online_paper",
            {
                "model.path": "Qwen/Qwen3-4B",
                "online.format": "tldr",
                "online.system": "auto",
                "online.users": "concise_casual_beginner",
                "batch.interactions": 16,
            },
        ),
        (
            "online_helpsteer2",
            {
                "model.path": "Qwen/Qwen3-8B",
                "online.format": "helpsteer2",
                "online.system": "empty",
                "online.users": "no_emojis",
                "batch.interactions": 32,
            },
        ),
    ],
)
def test_the_papers_online_runs(name, own):
    found = config.flatten(config.load(name))
    wanted = PAPER_ONLINE | own
    assert {key: found[key] for key in wanted} == wanted
    assert found["data.max_length"] >= 512 + 2048 + 128  # a prompt, its reply, a follow-up


PAPER_ALOE = {  # what both steps of ALOE have (arXiv 2410.03642, its code, its trainer's defaults)
    "model.path": "Qwen/Qwen2-7B-Instruct",
    "model.init": "pretrained",
    "objective.ignore_first": 0,
    "objective.kl_initial": 0.0,
    "optim.name": "adamw",
    "optim.lr": 1e-5,
    "optim.schedule": "linear",
    "optim.warmup_fraction": 0.0,
    "optim.clip_norm": 1.0,
    "optim.weight_decay": 0.0,
    "epochs": 1.0,
}


@pytest.mark.parametrize(
    "name, own",
    [
        ("aloe_sft", {"objective.name": "sft", "data.recipe": "chosen"}),
        ("aloe_dpo", {"objective.name": "dpo", "objective.beta": 0.9, "batch.interactions": 48}),
    ],
)
def test_the_two_steps_of_aloe(name, own):
    found = config.flatten(config.load(name))
    wanted = PAPER_ALOE | own
    assert {key: found[key] for key in wanted} == wanted


def load(*overrides):
    return config.load("dpo", [f"--config.{o}" for o in overrides])


def test_overrides_take_the_type_of_the_default():
    c = load("optim.clip_norm=inf", "batch.rows=3", "epochs=0.5", "hindsight=saw: {o}=")
    assert (c.optim.clip_norm, c.batch.rows, c.epochs) == (math.inf, 3, 0.5)
    assert c.hindsight == "saw: {o}="


@pytest.mark.parametrize(
    "given, steps, epochs",
    [
        (["steps=3"], 3, 0),
        (["epochs=0.5"], 0, 0.5),
        (["steps=3", "epochs=0"], 3, 0),
        (["steps=0"], 0, 1),
    ],
)
def test_a_length_on_the_command_line_wins_over_that_of_the_file(given, steps, epochs):
    c = load(*given)
    assert (c.steps, c.epochs) == (steps, epochs)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["optim.lrr=1"], r"optim\.lrr: there is no such setting\. Did you mean optim\.lr"),
        (["lr=1"], r"lr: there is no such setting\. Did you mean optim\.lr\?"),
        (["optim.learning_rate=1"], r"optim\.learning_rate: .* Did you mean optim\.lr\?"),
        (["learning_rate=1"], r"Did you mean optim\.lr\?"),
        (["max_steps=1"], r"Did you mean steps\?"),
        (["model.rows=1"], r"Did you mean batch\.rows or online\.rows\?"),
        (["batch.rows=two"], r"batch\.rows=two: expected a whole number, such as \d+\."),
        (["epochs=0", "steps=2.5"], r"steps=2\.5: expected a whole number\.$"),
        (["optim.lr=high"], r"optim\.lr=high: expected a number, such as "),
        (["objective.centred=perhaps"], r"=perhaps: expected true or false\.$"),
        (["batch.rows"], r"expected --config\.batch\.rows=VALUE"),
        (["steps=3", "epochs=1"], "steps=3 and epochs=1.*exactly one"),
        (["steps=0", "epochs=0"], "steps=0 and epochs=0.*exactly one"),
        (["epochs=0"], "steps=0 and epochs=0.*exactly one"),
        (["batch.conversations=3"], "exactly one"),
        (["objective.name=ppo"], r"objective\.name='ppo': expected one of 'sdpo'"),
        (["remat=all"], "remat='all': expected one of 'none', 'full', 'attention', 'dots'"),
        (["sharing=both"], "'tree', 'none'"),
        (["batch.rows=0"], r"batch\.rows=0: expected at least 1"),
        (["data.workers=-2"], r"data\.workers=-2: expected at least -1"),
        (["optim.clip_norm=0"], "inf = off"),
        (["optim.lr=nan"], r"optim\.lr=nan: expected at least"),
        (["data.path="], r"data\.path is not set"),
        (["data.format=csv"], r"data\.format='csv'.*'sharegpt'"),
        (["seed=4294967296"], r"seed=4294967296: expected at most 4294967295"),
        (["seed=-1"], r"seed=-1: expected at least 0"),
        (["steps=2147483648", "epochs=0"], r"steps=2147483648: expected at most 2147483647"),
        (["epochs=inf"], r"epochs=inf: expected at most"),
        (["data.workers=1000000"], r"data\.workers=1000000: expected at most"),
        (["batch.rows=1000000"], r"batch\.rows=1000000: expected at most"),
        (["batch.row_tokens=2147483648"], r"batch\.row_tokens=2147483648: expected at most"),
        (["batch.interactions=2147483648"], r"batch\.interactions=2147483648: expected at most"),
        (["objective.old_every=2147483648"], r"objective\.old_every=2147483648: expected at most"),
        (["optim.lr=inf"], r"optim\.lr=inf: expected at most"),
        (["optim.weight_decay=inf"], r"optim\.weight_decay=inf: expected at most"),
        (["objective.kl_initial=inf"], r"objective\.kl_initial=inf: expected at most"),
        (["objective.beta=inf"], r"objective\.beta=inf: expected at most"),
        (["skip.signal=inf"], r"skip\.signal=inf: expected at most"),
        (
            ["data.max_reply=5", "objective.ignore_first=5"],
            r"data\.max_reply=5: expected more than objective\.ignore_first=5",
        ),
        (["objective.ignore_first=-1"], r"objective\.ignore_first=-1: expected at least 0"),
        (["model.path="], r"model\.path is not set"),
        (["data.path=-"], r"data\.path=-: a run that is resumed reads its data again"),
    ],
)
def test_mistakes_get_one_message(overrides, message):
    with pytest.raises(InputError, match=message):
        load(*overrides)


FLOATS = [name for name, one in config.settings().items() if isinstance(one.default, float)]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", ["1e-300", "1e39", "nan", "-inf"])
def test_what_the_device_could_not_hold_is_refused(name, value):
    """It would be 0 there, or infinity: a run that learns nothing, or NaN."""
    with pytest.raises(InputError, match=re.escape(f"{name}={float(value)!r}: expected")):
        load(f"{name}={value}")


@pytest.mark.parametrize(
    "name, value", [("steps", True), ("steps", None), ("optim.lr", None), ("model.path", None)]
)
def test_a_file_that_sets_another_type_is_refused(name, value, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from interact_jax import config\ndef get_config():\n    c = config.default()\n"
        f"    c.data.path = 'pocket'\n    c.{name} = {value}\n    return c\n"
    )
    with pytest.raises(InputError, match=rf"{re.escape(name)}={value}: expected a"):
        config.load(str(file))


def test_a_missing_file_lists_those_that_are_there():
    with pytest.raises(InputError, match=r"no such file.*quickstart\.py"):
        config.load(str(CONFIGS[0].with_name("quickstrt.py")))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_recipe_is_found_by_name_anywhere(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file.stem).mkdir()  # what lies around under that name changes nothing
    assert config.to_json(config.load(file.stem)) == config.to_json(config.load(str(file)))


def test_a_path_is_a_path_where_a_recipe_has_the_same_name(tmp_path, monkeypatch):
    text = CONFIGS[0].with_name("quickstart.py").read_text()
    (tmp_path / "quickstart.py").write_text(text.replace("epochs = 1.0", "epochs = 7.0"))
    monkeypatch.chdir(tmp_path)
    assert config.load("quickstart.py").epochs == 7


@pytest.mark.parametrize(
    "given, meant",
    [("quickstrt", "quickstart"), ("configs/quickstart.py", "quickstart"), ("dop", "dpo")],
)
def test_an_unknown_recipe_lists_those_that_there_are(given, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ", ".join(file.stem for file in CONFIGS)
    with pytest.raises(InputError, match=rf"--config={given}: no .*mean {meant}\?.*: {names}\."):
        config.load(given)


def test_a_broken_file_names_itself(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from interact_jax import config\ndef get_config():\n"
        "    c = config.default()\n    c.optim.lrr = 1\n    return c\n"
    )
    with pytest.raises(InputError, match=r"mine\.py.*lrr"):
        config.load(str(file))


def test_a_run_resumes_with_the_settings_that_it_had(tmp_path):
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(config.to_json(load())))
    config.check_resume(load("batch.rows=7", "mesh.fsdp=2", "epochs=9"), saved)
    with pytest.raises(InputError, match=r"other settings \(optim\.lr: .* then, 0\.5 now\)"):
        config.check_resume(load("optim.lr=0.5"), saved)


def test_settings_of_a_run_that_are_not_known_are_told(tmp_path, caplog):
    """Those of a newer version, or of a file that was changed."""
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(config.to_json(load()) | {"optim.newest": 1}))
    config.check_resume(load(), saved)
    assert "this version does not have: optim.newest" in caplog.text


def test_every_setting_is_described():
    text = config.describe()
    assert all(f"--config.{name}=" in text for name in config.flatten(config.default()))


def test_of_two_sources_it_says_how_to_leave_one():
    given = ["--config.online.replay=runs/online"]
    with pytest.raises(InputError) as refused:
        config.load("online_pocket", given)
    assert "Add --config.online.prompts= to learn from online.replay, or " in str(refused.value)
    config.load("online_pocket", [*given, "--config.online.prompts="])
