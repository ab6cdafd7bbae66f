"""The program that breaks the package: what it counts is what the tests have noticed."""

import json
import shutil

from benchmarks import mutants


def test_a_look_at_the_table_does_not_disturb_the_run_at_work(tmp_path, capsys):
    (at_work := tmp_path / "copy/interact_jax/train.py").parent.mkdir(parents=True)
    at_work.write_text("broken just now")
    record = {"name": "train.py:1:1.0", "module": "train.py", "line": 1, "told": "a  ->  b"}
    of_now = {**record, "noticed": False, "source": mutants.digest_of("train.py")}
    of_then = {**of_now, "name": "train.py:2:1.0", "source": "of a module that was otherwise"}
    lines = [json.dumps(one) + "\n" for one in (of_now, of_then)]
    (tmp_path / "MUTANTS.jsonl").write_text("".join(lines))
    mutants.main(["--out", str(tmp_path), "--table"])
    assert "| `train.py` | 1 | 0 |" in capsys.readouterr().out
    assert at_work.read_text() == "broken just now"


def test_on_a_busy_machine_mutants_have_as_much_more_time_as_the_sound_module_took(
    tmp_path, monkeypatch
):
    limits = []

    def set_up(bench):
        shutil.copytree(mutants.ROOT / "interact_jax", bench.copy / "interact_jax")

    def run_tests(bench, module, limit=None):
        limits.append(limit)
        return limit is None, mutants.NOT_ENDED, 1000.0

    monkeypatch.setattr(mutants.Bench, "set_up", set_up)
    monkeypatch.setattr(mutants.Bench, "run_tests", run_tests)
    arguments = ["--out", str(tmp_path), "--count", "100", "--only", "optim"]
    mutants.main(arguments)
    tried = len(limits) - 1
    assert tried > 0 and limits == [None] + [5000.0] * tried
    shutil.rmtree(tmp_path / "copy")
    mutants.main(arguments)
    assert len(limits) == 1 + tried
    shutil.rmtree(tmp_path / "copy")
    mutants.main([*arguments, "--again"])  # what did not end may have been noticed or not
    assert len(limits) == 2 * (1 + tried)


def test_what_is_drawn_of_a_module_does_not_depend_on_the_others(monkeypatch):
    some = [mutant for mutant in mutants.draw(150, seed=0) if mutant.module == "optim.py"]
    assert some
    assert mutants.draw(150, seed=0) != mutants.draw(150, seed=1)
    monkeypatch.setattr(mutants, "TESTS", {"optim.py": mutants.TESTS["optim.py"]})
    assert set(mutants.draw(len(some), seed=0)) == set(some)
