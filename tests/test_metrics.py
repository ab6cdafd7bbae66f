"""The log of a run that goes on: nothing of it is lost, and what was changed is told."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from interact_jax import metrics
from interact_jax.metrics import Journal, interactions_until, read_log, summary_lines
from interact_jax.schema import RunStopped
from tests.runs import read_lines

BATCH = SimpleNamespace(interactions=2, reply_tokens=5, tokens=50, slots=64, metrics={})
NAMES = ("loss", "signal", "grad_norm", "lr")


def go_on(workdir, first, last, digest=None):
    """Write the lines of steps first + 1 to last; their digest."""
    with Journal(workdir, first, last, "signal", digest) as journal:
        for step in range(first + 1, last + 1):
            shown = {name: jnp.asarray(step / 8, jnp.float32) for name in NAMES}
            journal.add(step, {**shown, "bad_steps_in_row": jnp.asarray(0)}, BATCH)
        journal.flush()
        return journal.digest()


def steps(workdir):
    return [line["step"] for line in read_lines(workdir / "metrics.jsonl")]


@pytest.fixture
def errors(monkeypatch):
    """What is said that a quiet run shows too."""
    said = []
    monkeypatch.setattr(
        metrics.log, "error", lambda text, *arguments: said.append(text % arguments)
    )
    return said


def test_goes_on_behind_its_checkpoint(tmp_path, errors):
    digest = go_on(tmp_path, 0, 3)
    again = go_on(tmp_path, 3, 5, digest)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    assert again == go_on(tmp_path, 5, 5, again) != digest
    go_on(tmp_path, 3, 4, digest)  # a crash undid steps 4 and 5
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert errors == []


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_last_line_that_is_cut_off_is_dropped(cut, tmp_path, errors):
    digest = go_on(tmp_path, 0, 2)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    go_on(tmp_path, 2, 3, digest)
    with (tmp_path / "metrics.jsonl").open("r+b") as file:
        file.truncate(len(whole) + cut)
    go_on(tmp_path, 2, 3, digest)
    assert steps(tmp_path) == [1, 2, 3]
    assert errors == []
    assert not (tmp_path / "metrics.jsonl.unreadable").exists()


def test_a_line_that_lacks_nothing_but_its_end_is_kept(tmp_path, errors):
    digest = go_on(tmp_path, 0, 2)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-1])
    go_on(tmp_path, 2, 3, digest)
    assert steps(tmp_path) == [1, 2, 3]
    assert errors == []


@pytest.mark.parametrize(
    "spoilt",
    [b'{"step": 2, "loss"', b"\xff\xfe", b"[]", b'{"step": 2}', b'{"loss": 1}', b"7", b"{}"],
)
def test_a_line_that_cannot_be_read_is_kept_aside(spoilt, tmp_path, errors):
    """And the lines behind it stay."""
    digest = go_on(tmp_path, 0, 4)
    file, aside = tmp_path / "metrics.jsonl", tmp_path / "metrics.jsonl.unreadable"
    for expected in (spoilt, spoilt + b"\n" + spoilt):
        lines = file.read_bytes().splitlines()
        lines.insert(1, spoilt)
        file.write_bytes(b"\n".join(lines) + b"\n")
        go_on(tmp_path, 4, 4, digest)
        assert steps(tmp_path) == [1, 2, 3, 4]
        assert aside.read_bytes() == expected + b"\n"
    assert errors == [f"{file}: 1 line cannot be read, kept in {aside}"] * 2


SOUND = b'{"step": 2, "loss": 1, "signal": null, "grad_norm": 1.5, "seconds": 1, "limited": 0.5}'


def test_a_line_of_another_run_of_the_same_kind_is_read(tmp_path, errors):
    (tmp_path / "metrics.jsonl").write_bytes(SOUND + b"\n")
    go_on(tmp_path, 2, 2)
    assert read_log(tmp_path / "metrics.jsonl") == [json.loads(SOUND)]
    assert summary_lines(tmp_path / "metrics.jsonl") == [
        metrics.SUMMARY_TEXTS["limited"].format(0.5)
    ]
    assert errors == []


@pytest.mark.parametrize(
    "spoilt",
    [
        SOUND.decode().encode("utf-16"),
        SOUND.decode().encode("utf-16-le"),
        b"\xef\xbb\xbf" + SOUND,
        SOUND.replace(b"limited", "\u2028".encode()),
        SOUND.replace(b"0.5", b"[" * 100_000),
        *(
            SOUND.replace(b"0.5", value)
            for value in (b'"x"', b"[]", b"true", b"NaN", b"1e999", b"1" + b"0" * 400, b"7" * 5000)
        ),
        *(SOUND.replace(b'"step": 2', b'"step": ' + step) for step in (b"true", b"2.0", b"null")),
        SOUND.replace(b'"seconds": 1', b'"seconds": null'),
    ],
    ids=lambda spoilt: ascii(spoilt[:100]),
)
def test_whoever_reads_a_log_later_can_read_all_of_it(spoilt, tmp_path, errors):
    digest = go_on(tmp_path, 0, 3)
    file = tmp_path / "metrics.jsonl"
    sound = file.read_bytes()
    file.write_bytes(spoilt + b"\n" + sound)
    go_on(tmp_path, 3, 3, digest)
    assert file.read_bytes() == sound
    assert (tmp_path / "metrics.jsonl.unreadable").read_bytes() == spoilt + b"\n"
    assert len(errors) == 1
    assert [line["step"] for line in read_log(file)] == [1, 2, 3]


def test_a_carriage_return_between_values_does_not_end_a_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(SOUND.replace(b", ", b",\r") + b"\n")
    go_on(tmp_path, 2, 2)
    assert read_log(tmp_path / "metrics.jsonl") == [json.loads(SOUND)]


def test_a_value_that_is_not_finite_is_no_share_of_the_summary(tmp_path):
    lines = [SOUND, SOUND.replace(b"0.5", b"null").replace(b'"step": 2', b'"step": 3')]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert summary_lines(tmp_path / "metrics.jsonl") == [
        metrics.SUMMARY_TEXTS["limited"].format(0.5)
    ]


@pytest.mark.parametrize("how", ["a number", "a line", "all"])
def test_lines_that_are_not_those_of_the_run_are_reported(how, tmp_path, errors):
    digest = go_on(tmp_path, 0, 3)
    file = tmp_path / "metrics.jsonl"
    if how == "a number":
        text = file.read_text()
        file.write_text(text.replace('"loss": 0.25', '"loss": 0.35'))
        assert file.read_text() != text
    elif how == "a line":
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    else:
        file.unlink()
    go_on(tmp_path, 3, 4, digest)
    assert errors == [f"{file}: its lines up to step 3 are not what the run wrote"]


def test_a_log_that_is_taken_away_stops_the_run(tmp_path):
    shown = {name: jnp.asarray(1.0) for name in (*NAMES, "bad_steps_in_row")}
    with (
        pytest.raises(RunStopped, match=r"metrics\.jsonl is gone or was replaced"),
        Journal(tmp_path, 0, 2, "signal") as journal,
    ):
        journal.add(1, shown, BATCH)
        (tmp_path / "metrics.jsonl").rename(tmp_path / "else")
        journal.add(2, shown, BATCH)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_interactions_up_to_a_step_are_known_where_the_log_has_every_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert interactions_until(file, [1, 2]) == [None, None]
    go_on(tmp_path, 0, 3)
    assert interactions_until(file, [0, 2, 3]) == [0, 4, 6]
    assert interactions_until(file, [2, 4]) == [None, None]
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"step": 4, "inter')  # a run that was killed, or is at work
    assert interactions_until(file, [3]) == [6]
    file.write_bytes(whole[20:])
    assert interactions_until(file, [3]) == [None]


@pytest.mark.parametrize("level, lines", [("ERROR", 0), ("WARNING", 2), ("INFO", 2)])
def test_a_quiet_run_prints_no_steps(level, lines, tmp_path, caplog, capsys):
    with caplog.at_level(level, logger="interact_jax"):
        go_on(tmp_path, 0, 2)
    assert capsys.readouterr().err.count("step ") == lines
