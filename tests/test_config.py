"""Settings: every recipe builds, overrides take the default's type, mistakes get one message."""

import json
import math
from pathlib import Path

import pytest

from interact_jax import config
from interact_jax.schema import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_recipes_build_and_show_their_command(file):
    config.load(str(file))
    assert f"--config configs/{file.name}" in file.read_text()


def load(*overrides):
    return config.load(str(CONFIGS[0]), [f"--config.{o}" for o in overrides])


def test_overrides_take_the_type_of_the_default():
    c = load("optim.clip_norm=inf", "batch.rows=3", "epochs=0.5", "hindsight=saw: {o}=")
    assert (c.optim.clip_norm, c.batch.rows, c.epochs) == (math.inf, 3, 0.5)
    assert c.hindsight == "saw: {o}="


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["optim.lrr=1"], r"optim\.lrr: there is no such setting\. Did you mean optim\.lr"),
        (["batch.rows=two"], r"batch\.rows=two: expected an int"),
        (["batch.rows"], r"expected --config\.batch\.rows=VALUE"),
        (["steps=3"], "steps=3 and epochs=.*exactly one"),
        (["batch.conversations=3"], "exactly one"),
        (["objective.name=ppo"], r"objective\.name='ppo': expected one of 'sdpo'"),
        (["remat=all"], "remat='all': expected one of 'none', 'full', 'attention', 'dots'"),
        (["sharing=both"], "'tree', 'none'"),
        (["batch.rows=0"], r"batch\.rows=0: expected at least 1"),
        (["data.workers=-1"], r"data\.workers=-1: expected at least 0"),
        (["optim.clip_norm=0"], "inf = off"),
        (["optim.lr=nan"], r"optim\.lr=nan: expected at least"),
        (["data.path="], r"data\.path is not set"),
        (["data.format=csv"], r"data\.format='csv'.*'sharegpt'"),
    ],
)
def test_mistakes_get_one_message(overrides, message):
    with pytest.raises(InputError, match=message):
        load(*overrides)


def test_a_missing_file_lists_those_that_are_there():
    with pytest.raises(InputError, match=r"no such file.*quickstart\.py"):
        config.load(str(CONFIGS[0].with_name("quickstrt.py")))


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


def test_every_setting_is_described():
    text = config.describe()
    assert all(f"--config.{name}=" in text for name in config.flatten(config.default()))
