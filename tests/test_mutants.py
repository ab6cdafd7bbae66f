"""The program that breaks the package: what it counts is what the tests have noticed."""

import json

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
