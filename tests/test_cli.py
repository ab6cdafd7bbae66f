"""What the programs share."""

import gzip

import pytest

from interact_jax import cli
from launch import bench, make_pocket, plan, score
from tests.runs import ROOT, outcome, read_lines, records, write_lines


def test_a_file_of_lines_is_whole_or_not_there(tmp_path):
    def lines():
        yield {"id": "é"}
        raise OSError("the disk is full")

    for out in (tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"):
        cli.write_lines(out, [{"id": 1}])
        with pytest.raises(OSError, match="full"):
            cli.write_lines(out, lines())
    assert read_lines(tmp_path / "a.jsonl") == [{"id": 1}]
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == b'{"id": 1}\n'


@pytest.mark.parametrize("out", [".", "absent/scores.jsonl", "logs.jsonl"])
def test_scores_that_could_not_be_written_are_not_computed(tmp_path, monkeypatch, capsys, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs.jsonl").write_text("a line\n")
    given = ["--model", "pocket", "--data", "logs.jsonl", "--out", out]
    status, said = outcome(score.main, given, capsys)
    assert status == 2 and f"--out {out}" in said
    assert (tmp_path / "logs.jsonl").read_text() == "a line\n"


def test_scores_go_through_a_pipe_of_programs(tmp_path, standard_input, capfd):
    """From standard input to standard output, where everything else would be in the way."""
    data = write_lines(tmp_path / "talks.jsonl", records()[:2])
    given = ["--model", "pocket", "--row-tokens", "128", "--show", "1", "--show-trees", "1"]
    score.main([*given, "--data", str(data), "--out", str(tmp_path / "scores.jsonl")])
    standard_input(data.read_bytes())
    capfd.readouterr()
    score.main([*given, "--data", "-", "--out", "-"])
    said = capfd.readouterr()
    assert said.out == (tmp_path / "scores.jsonl").read_text() and said.out.count("\n") == 3
    for text in ("interactions scored", "trunk", "student"):
        assert text in said.err


def test_scores_do_not_replace_what_they_are_of(tmp_path, capsys):
    data = write_lines(tmp_path / "talks.jsonl", records()[:2])
    before = data.read_bytes()
    for path in (tmp_path, tmp_path / "*.jsonl"):
        given = ["--model", "pocket", "--data", str(path), "--out", str(data)]
        status, said = outcome(score.main, given, capsys)
        assert status == 2 and "is the file that is read" in said
    assert data.read_bytes() == before


CONFIG = ["--config", str(ROOT / "configs/quickstart.py"), "--topology", "v5e:2x2"]
PROGRAMS = {
    "score": (score.main, ["--model", "pocket", "--data", "pocket", "--out"]),
    "report": (score.main, ["--model=pocket", "--data=pocket", "--out=-", "--report"]),
    "bench": (bench.main, ["--json"]),
    "plan": (plan.main, [*CONFIG, "--json"]),
    "gate": (make_pocket.main, ["gate", "--model", "none", "--out"]),
    "logs": (make_pocket.main, ["logs", "--model", "none", "--out"]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_program_could_not_write_it_refuses_at_once(name, tmp_path, capsys, monkeypatch):
    main, given = PROGRAMS[name]
    (tmp_path / "file").write_text("")
    for module in (score, make_pocket.Speaker):  # nothing is opened before
        monkeypatch.delattr(module, "open_model" if module is score else "load")
    status, said = outcome(main, [*given, str(tmp_path / "file/out")], capsys)
    assert status == 2 and "Not a directory. Give another path" in said
    assert f"{given[-1]} {tmp_path}" in said


@pytest.mark.parametrize(
    "main, given",
    [
        (bench.main, ["--turns", "0"]),
        (bench.main, ["--turns", "4,many"]),
        (bench.main, ["--user-tokens", "4"]),
        (bench.main, ["--reply-tokens", "0"]),
        (bench.main, ["--seconds", "nan"]),
        (bench.main, ["--repeats", "-1"]),
        (score.main, ["--row-tokens", "0"]),
        (score.main, ["--max-reply", "0"]),
        (score.main, ["--show", "-1"]),
        (make_pocket.main, ["gate", "--replies", "0"]),
        (make_pocket.main, ["logs", "--seed", str(2**32)]),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, list) else "",
)
def test_numbers_that_cannot_be_meant_are_refused_with_their_argument(main, given, capsys):
    status, said = outcome(main, given, capsys)
    assert status == 2 and f"error: argument {given[-2]}: " in said
