"""launch/bench.py: what it prints and writes, on small shapes; times are not looked at."""

import io
import json
import re

import pytest
from rich.console import Console

from interact_jax import config
from interact_jax.bench import count_interactions, interleave
from launch import bench
from tests.runs import outcome, records

pytestmark = pytest.mark.compiled_quickly

SMALL = [
    *("--model", "pocket", "--user-tokens", "16", "--reply-tokens", "24"),
    *("--followup-tokens", "8", "--seconds", "0", "--repeats", "1"),
]
KEYS = {
    *("case", "sharing", "seconds", "all_seconds", "interactions_per_second", "padding"),
    *("tokens_per_second", "compiled_bytes", "flops", "flops_per_second", "mfu", "token_passes"),
}


def figures(arguments, tmp_path, capsys):
    bench.main([*arguments, "--json", str(tmp_path / "f.json")])
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "f.json").read_text())
    for one in found["results"]:
        assert one.keys() >= KEYS and one["seconds"] > 0 and one["mfu"] is None
    return found["results"], out


@pytest.mark.parametrize("turns", [[3], pytest.param([1, 3], marks=pytest.mark.slow)])
def test_both_ways_of_shapes(turns, tmp_path, capsys):
    """The bound by token passes is 4 (trunk) + teacher's against those of two full forwards."""
    given = ["--turns", ",".join(map(str, turns)), "--remat", "full"]
    results, out = figures([*SMALL, *given], tmp_path, capsys)
    cases = {1: "1 turn", 3: "3 turns"}
    assert [(r["case"], r["sharing"]) for r in results] == [
        (cases[n], way) for n in turns for way in ("tree", "none")
    ]
    *fewer, three, none = results
    lengths = [40 * n for n in (1, 2, 3)]  # of a conversation after n turns
    # The last token of a sequence is a target only; a teacher forks 12 tokens into a turn.
    passes_none = sum(4 * (n - 1) + n - 1 + 8 for n in lengths) * 8  # rows, one a device
    passes_tree = (4 * (lengths[-1] - 1) + 3 * (40 - 1 + 8 - 12)) * 8
    assert (none["token_passes"], three["token_passes"]) == (passes_none, passes_tree)
    assert three["bound"] == pytest.approx(passes_none / passes_tree)
    assert three["faster"] == pytest.approx(none["seconds"] / three["seconds"])
    assert all(three["flops_share"] < one["flops_share"] < 1 for one in fewer[:1])
    assert three["flops_share"] < 1
    assert all(r["padding"] == 0 for r in results)
    assert "3 turns" in out and "tions/s" in out and "attention=" in out


def test_what_is_too_large_to_run_is_compiled_only(tmp_path):
    """32 GB of parameters, and moments."""
    huge = ["--model-shape", "qwen3-8b", "--turns", "2", *SMALL[2:-1], "0"]
    bench.main([*huge, "--attention", "dense", "--json", str(tmp_path / "f.json")])
    tree, none = json.loads((tmp_path / "f.json").read_text())["results"]
    assert tree["seconds"] is tree["faster"] is none["tokens_per_second"] is None
    assert 0.5 < tree["flops_share"] < 1 < tree["bound"]
    # Every token passes every weight of the layers: 2 FLOPs, and the trunk's thrice more.
    layers = 36 * 4096 * (128 * 2 * (32 + 8) + 3 * 12_288)
    assert tree["flops"] > 2 * tree["token_passes"] * layers


@pytest.mark.slow
def test_an_epoch_of_real_conversations(tmp_path, capsys):
    data = tmp_path / "talks.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records()))
    given = ["--model", "pocket", "--data", str(data), "--conversations", "4", *SMALL[-4:]]
    results, _ = figures([*given, "--row-tokens", "256"], tmp_path, capsys)
    assert [(r["case"], r["sharing"]) for r in results] == [
        *(("epoch at 4", "tree"), ("epoch at 4", "none"))
    ]
    assert results[0]["bound"] > 1 and 0 < results[0]["padding"] < 1


def test_unknown_ways_are_refused(capsys):
    status, err = outcome(bench.main, [*SMALL, "--sharing", "tree,forest"], capsys)
    assert status == 2 and "forest" in err and "none" in err


def test_figures_on_standard_output_are_alone_there(capfd):
    bench.main([*SMALL, "--repeats", "0", "--turns", "1", "--sharing", "tree", "--json", "-"])
    said = capfd.readouterr()
    (result,) = json.loads(said.out)["results"]
    assert result["sharing"] == "tree" and "1 turn" in said.err


@pytest.mark.parametrize("terminal", [True, False])
def test_tables_fit_the_terminal_and_cut_nothing(terminal):
    row = ["epoch at 128", "none", "27.500", "12.82", "21,907", "12.3%", "10,777"]
    row += ["12,205", "1,225", "45.2%", "13.89x", "14.63x", "0.258"]
    screen = io.StringIO()
    bench.print_tables(Console(file=screen, width=80, force_terminal=terminal), [row])
    text = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    lines = text.splitlines()
    assert all(cell in text for cell in row)
    assert "…" not in text
    assert max(map(len, lines)) <= (80 if terminal else bench.WIDE)
    assert sum("epoch at 128" in line for line in lines) == (2 if terminal else 1)


def test_turns_that_are_no_numbers_are_refused_in_words(capsys):
    status, err = outcome(bench.main, ["--turns", "1,x"], capsys)
    assert status == 2
    assert "--turns: 1,x: expected numbers of at least 1 with commas between, such as 1,2" in err


def test_an_impossible_mesh_is_named_by_its_flag(capsys):
    status, err = outcome(bench.main, [*SMALL, "--mesh-fsdp", "3"], capsys)
    assert status == 2 and err.startswith("error: --mesh-fsdp 3 does not divide the 8 devices")
    assert "mesh.data" not in err


def test_steps_are_those_of_data(capsys):
    status, err = outcome(bench.main, [*SMALL, "--steps", "2"], capsys)
    assert status == 2 and "--steps 2: these are steps of an epoch of --data" in err


def test_an_epoch_is_cut_to_its_first_steps(tmp_path):
    """Both ways take the same conversations, and fewer than an epoch has."""
    data = tmp_path / "talks.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records()))
    given = ["--model", "pocket", "--data", str(data), "--conversations", "2"]

    def interactions(*more):
        args = bench.parse([*given, "--row-tokens", "256", *more])
        by_way = bench._epoch(args, ["tree", "none"], 8, config.default())
        return [sum(map(count_interactions, micro)) for micro in by_way.values()]

    whole, first = interactions(), interactions("--steps", "1")
    assert whole[0] == whole[1] > first[0] == first[1] > 0


def test_it_says_what_is_timed():
    ways = ["tree", "none"]
    said = bench.describe_timing(bench.parse(["--data", "pocket", "--steps", "4"]), ways)
    assert "timing 5 rounds" in said and "each is 4 steps by tree, then by none" in said
    assert "the whole epoch" in bench.describe_timing(bench.parse(["--data", "pocket"]), ways)
    assert "1 step by" in bench.describe_timing(bench.parse([]), ways)


def test_rounds_are_told_of_every_few_seconds(monkeypatch, caplog):
    now = iter([0.0, 3.0, 6.0, 9.0, 12.0])
    monkeypatch.setattr(bench.time, "monotonic", lambda: next(now))
    report = bench.rounds_reporter("epoch")
    with caplog.at_level("INFO"):
        for rounds in (0, 0, 1, 2):
            report(rounds)
    assert [record.getMessage() for record in caplog.records] == [
        "epoch: warming up, 6 s so far",
        "epoch: 2 rounds timed, 12 s so far",
    ]


def test_every_call_is_reported_while_nothing_is_timed():
    calls = []

    class Timed:
        def __init__(self):
            self.seconds = []

        def run(self):
            calls.append("warm")

        def time(self):
            self.seconds.append(1.0)
            calls.append("timed")

    interleave([Timed(), Timed()], repeats=2, report=calls.append)
    assert calls == ["warm", 0, "warm", 0, *("timed", 0, "timed", 1, "timed", 1, "timed", 2)]
