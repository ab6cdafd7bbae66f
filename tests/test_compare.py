"""benchmarks/compare_objectives.py on a few interactions; what it finds is not looked at."""

import json

import pytest

from benchmarks import compare_objectives as compare
from tests.runs import outcome, read_lines, write_lines

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

SMALL = ["--interactions", "24", "--replies", "16"]
TWO = ["--stage", "compare", "--only", "shipped/0/(start|sft/|sdpo/self)", *SMALL]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Results of the start and of one method. Users talk of one thing: long prompts would meet
    programs of their own, which take long to compile."""
    directory = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare.logs, "TURNS", ((1,), (1.0,)))
        compare.main(["--out", str(directory), *TWO[:3], "shipped/0/(start|sdpo/self)", *SMALL])
    return directory


@pytest.mark.slow
def test_goes_on_where_it_was(out, capsys):
    before = (out / "RESULTS.jsonl").read_text()
    compare.main(["--out", str(out), *TWO, "--minutes", "0"])
    assert "1 cases are left" in capsys.readouterr().out
    compare.main(["--out", str(out), *TWO, "--list"])
    assert "2 are done, 1 are left" in capsys.readouterr().out
    assert (out / "RESULTS.jsonl").read_text() == before
    compare.main(["--out", str(out), *TWO])
    assert (out / "RESULTS.jsonl").read_text().startswith(before)
    start, sdpo, sft = read_lines(out / "RESULTS.jsonl")
    assert start["marks"][0]["kl"] == pytest.approx(0, abs=1e-6)
    for record in (sdpo, sft):
        (mark,) = record["marks"]
        assert mark["kl"] > 0 and mark["steps"] == 1 and record["lr"] == compare.RATES[0]
    assert [p.name for p in (out / "logs").iterdir()] == ["shipped_0.jsonl.gz"]


@pytest.fixture
def of_another_model(tmp_path):
    """Where there is a result that no model is named in."""
    made = record("compare", "shipped", 0, "start", "none", None, mark(0.4, 0.97))
    write_lines(tmp_path / "RESULTS.jsonl", [made | {"interactions": 24, "replies": 16}])
    return tmp_path, made["case"]


def test_results_of_another_model_are_refused(of_another_model, capsys):
    folder, case = of_another_model
    status, error = outcome(compare.main, ["--out", str(folder), *TWO], capsys)
    assert status == 2 and f"{case} was made with another shipped model" in error


def test_other_sizes_are_refused(of_another_model, capsys):
    folder, _ = of_another_model
    given = ["--out", str(folder), *TWO[:4], "--replies", "8"]
    status, error = outcome(compare.main, given, capsys)
    assert status == 2 and "--interactions 24 --replies 16" in error


def record(stage, preference, seed, objective, teacher, lr, *marks):
    case = compare.Case(stage, preference, seed, objective, teacher, lr)
    return {"case": case.name, **vars(case), "marks": list(marks), "wall_seconds": 1.0}


def mark(wanted, correct, readable=1.0, epochs=1):
    shares = {"wanted_styles": wanted, "correct": correct, "readable": readable}
    return {**shares, "all_wanted": 0.1, "kl": 0.25, "epochs": epochs, "steps": 3, "seconds": 2.0}


def written(directory, *records):
    lines = [json.dumps(record) + "\n" for record in records]
    (directory / "RESULTS.jsonl").write_text("".join(lines))
    return compare.read_results(directory / "RESULTS.jsonl")


def tuning(objective, lr, *shares):
    teacher = dict(compare.FIRST).get(objective, "none")
    return record("tune", "tuning", compare.TUNING_SEED, objective, teacher, lr, mark(*shares))


def test_a_rate_must_keep_the_answers_correct(tmp_path):
    low, one, two, four, _ = sorted(compare.RATES)
    results = written(
        tmp_path,
        tuning("start", None, 0.4, 0.97),
        *(tuning("sdpo", one, 0.7, 0.96), tuning("sdpo", two, 0.8, 0.955)),
        *(tuning("sdpo", four, 0.9, 0.94), tuning("dpo", one, 0.9, 0.8)),
    )
    assert compare.best_rate("sdpo", results) == compare.best_rate("sdpo+kl", results) == two
    assert compare.best_rate("dpo", results) == compare.best_rate("sft", results) == one
    left = {(c.objective, c.lr) for c in compare.remaining(list(compare.tune_cases()), results)}
    assert {lr for name, lr in left if name == "sdpo"} == set()
    assert {lr for name, lr in left if name == "dpo"} == {low}
    assert {lr for name, lr in left if name == "sft"} == set(compare.RATES)


def test_tables(tmp_path, capsys):
    start = [("compare", "shipped", seed, "start", "none", None) for seed in (0, 1)]
    sdpo = [("compare", "shipped", seed, "sdpo", "self", 1.3e-4) for seed in (0, 1)]
    written(
        tmp_path,
        *(record(*of, mark(0.4, 0.97)) for of in start),
        *(record(*of, mark(wanted, 0.96)) for of, wanted in zip(sdpo, (0.7, 0.8), strict=True)),
        record("stability", "shipped", 0, "start", "none", None, mark(0.4, 0.97, epochs=0)),
        record(
            *("stability", "shipped", 0, "sdpo", "self", 1.3e-4),
            *(mark(0.8, 0.95), mark(0.9, 0.86, epochs=2)),
        ),
    )
    compare.main(["--out", str(tmp_path), "--stage", "table"])
    text = capsys.readouterr().out
    shares = "75.0 ± 7.1 | 10.0 ± 0.0 | 96.0 ± 0.0 | 100.0 ± 0.0"
    assert f"| sdpo | self | 1.3e-4 | {shares} | 0.250 ± 0.000 | 0 of 2 |" in text
    fallen = "| 80.0 / 95.0 / 100.0, 0.25 | 90.0 / 86.0 / 100.0, 0.25 |  |  | by 2x |"
    assert f"| sdpo | self | 1.3e-4 {fallen}" in text
