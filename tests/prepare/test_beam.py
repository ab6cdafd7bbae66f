"""Apache Beam does the same work on the same parts."""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from interact_jax.prepare.beam import prepare_with_beam
from interact_jax.prepare.filters import parse_filter as package_filter
from interact_jax.prepare.pipeline import Share, prepare
from interact_jax.schema import InputError
from tests.prepare.little import content, parse_filter, prepared, settings_of, talk, write_logs

pytestmark = pytest.mark.one_device
ALL = ("talkative", "once", "quiet")


# Python 3.12 comes with numpy 2.5 (constraints.txt), beside which Beam cannot be installed.
has_beam = sys.version_info < (3, 12)


def with_beam(logs, out, **more):
    return prepare_with_beam(settings_of(logs, *ALL), [parse_filter(f) for f in ALL], out, **more)


def check(tmp_path):
    """Begun or not, Beam finishes it to the same bytes, in several parts and splits."""
    logs = write_logs(tmp_path / "logs")
    card = prepared(logs, tmp_path / "here" / "out", *ALL)
    prepared(logs, tmp_path / "begun" / "out", *ALL, share=Share(0, 2))
    for name in ("new", "begun"):
        out = tmp_path / name / "out"
        assert with_beam(logs, out)["digest"] == card["digest"]
        assert content(out) == content(tmp_path / "here" / "out")
        assert with_beam(logs, out)["digest"] == card["digest"]


@pytest.mark.skipif(not has_beam, reason="Beam cannot be installed beside numpy 2.5")
def test_with_beam(tmp_path):
    check(tmp_path)


@pytest.mark.skipif(not has_beam, reason="Beam cannot be installed beside numpy 2.5")
@pytest.mark.slow
def test_surveys_with_beam(tmp_path):
    """The filters of the package that decide when all is read."""
    logs = write_logs(tmp_path / "logs", each=20)
    words = " ".join(f"word{n}" for n in range(80))
    alike = [talk(n, opening=f"{words} {n}", user=f"v{n}") for n in range(4)]
    (logs / "log-3.jsonl").write_text("".join(json.dumps(each) + "\n" for each in alike))
    specs = ("duplicates:ignore_case=yes", "users:most=2", "near_duplicates:threshold=0.5")
    settings, filters = settings_of(logs, *specs), [package_filter(spec) for spec in specs]
    card = prepare(settings, filters, tmp_path / "here" / "out")
    assert all(each["dropped"] for each in card["filters"]) and card["parts"] > 2
    again = prepare_with_beam(settings, filters, tmp_path / "beam" / "out")
    assert again["digest"] == card["digest"]
    assert content(tmp_path / "beam" / "out") == content(tmp_path / "here" / "out")


class Values:
    """A PCollection that is there at once."""

    def __init__(self, values):
        self.values = values

    def __or__(self, transform):
        return transform(self)


class Transform(SimpleNamespace):
    def __rrshift__(self, label):
        return self

    def __call__(self, values):
        return Values(self.apply(values.values))


class Pipeline(Values):
    def __init__(self, runner, options):
        super().__init__([])

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def transform_of(function, *given):
    """Side inputs are lists of one value."""
    values = [g.values[0] if isinstance(g, Values) else g for g in given]
    return Transform(apply=lambda items: [function(item, *values) for item in items])


@pytest.fixture
def stand_in(monkeypatch):
    """What of Beam is used here, in a few lines, for where it is not installed."""
    beam, runner = ModuleType("apache_beam"), "apache_beam.runners.portability.fn_api_runner"
    beam.Pipeline, beam.Map = Pipeline, transform_of
    beam.Create = lambda values: Transform(apply=lambda _: values)
    beam.Reshuffle = lambda: Transform(apply=lambda values: values[::-1])
    count = SimpleNamespace(Globally=lambda: Transform(apply=lambda values: [len(values)]))
    beam.combiners = SimpleNamespace(Count=count)
    beam.pvalue = SimpleNamespace(AsSingleton=lambda values: values)
    monkeypatch.setitem(sys.modules, "apache_beam", beam)
    monkeypatch.setitem(sys.modules, runner, SimpleNamespace(FnApiRunner=lambda: None))


@pytest.mark.skipif(has_beam, reason="Beam itself is tried")
def test_its_steps_are_in_order(stand_in, tmp_path):
    check(tmp_path)


def test_without_beam_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match="apache_beam is not installed"):
        with_beam(write_logs(tmp_path / "logs"), tmp_path / "out")
