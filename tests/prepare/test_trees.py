"""Token trees that are made when data are prepared: runs find them."""

from __future__ import annotations

import pytest

from interact_jax import config
from interact_jax.data.prepared import PreparedData
from interact_jax.data.stored import TREES
from interact_jax.feeds import open_feed
from interact_jax.methods import method_of
from interact_jax.opening import open_for
from interact_jax.sharding import make_mesh
from launch import prepare_data
from tests.runs import ROOT, outcome, overrides, small_settings

CONFIG = str(ROOT / "configs/quickstart.py")


def opened(settings, workdir):
    cfg = config.load(CONFIG, overrides(settings))
    mesh = make_mesh(**cfg.mesh)
    return open_feed(cfg, open_for(cfg, mesh), method_of(cfg), workdir, {})


@pytest.mark.one_device
def test_a_run_finds_what_was_made(tmp_path, capsys):
    settings = small_settings(tmp_path)
    data = tmp_path / "data"
    given = ["--data", str(settings.pop("data.path")), "--out", str(data), "--processes", "1"]
    given += ["--splits", "train=1"]
    prepare_data.main([*given, "--config", CONFIG, *overrides(settings)])
    assert "token trees of 6 conversations" in capsys.readouterr().out
    (made,) = (data / TREES).iterdir()

    again = {**settings, "data.path": data, "data.cache": tmp_path / "cache"}
    store = opened(again, tmp_path)._data.store
    assert store.folder == made and store.has(range(6)).all()
    others = opened({**again, "data.max_reply": 9}, tmp_path)._data.store
    assert others.folder.parent == tmp_path / "cache"
    # The directory is as it was: its digest and records do not depend on this.
    assert len(PreparedData(data)) == 6


def test_settings_need_their_file(tmp_path, capsys):
    given = ["--data", "x.jsonl", "--out", str(tmp_path / "data")]
    for more, said in (
        (["--config.data.max_reply=9"], "needs --config"),
        (["--confg", "x"], "--confg: there is no such option. Did you mean --config?"),
        (["--config", CONFIG, "--config.data.max_repl=9"], "Did you mean data.max_reply"),
    ):
        status, text = outcome(prepare_data.main, [*given, *more], capsys)
        assert status and said in text
