"""launch/evaluate.py: from models, checkpoints and files to win rates, and nothing done twice."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from interact_jax import evaluation, lock
from interact_jax.generation import Prompt, Sampler
from interact_jax.generation.engine import SamplingParams
from interact_jax.judges import people
from interact_jax.judges.replies import Replies, Sampling, _numbers
from interact_jax.judges.sides import open_run, open_weights
from interact_jax.opening import OpenedModel
from interact_jax.report import win_rate_lines
from interact_jax.schema import Message
from launch import evaluate
from tests.judges.checkpoints import LEARNED, make_run
from tests.pages import Page
from tests.runs import outcome, read_lines, tiny, write_lines

PERSONA = "sentence, polite, emoji, no question"
SHORT = ("--max-new-tokens", "16", "--bootstrap", "200", "--rows", "8")
POCKET = ("--prompts", "pocket", "--limit", "8", "--judge", "pocket", "--persona", PERSONA, *SHORT)
OUTPUTS = ("results.json", "judgements.jsonl", "index.html", "replies/baseline.jsonl")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three checkpoints of the pocket model: as it is, flat, and flatter."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, "pocket", {2: 1.0, 10: 0.6, 30: 0.02})
    return folder


@pytest.fixture(scope="module")
def arguments(run):
    return ["--run", str(run), "--baseline", "pocket", "--oracle", "--temperature", "1", *POCKET]


@pytest.fixture(scope="module")
def evaluated(arguments, tmp_path_factory):
    """An evaluation that ran to its end, and what it printed."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    evaluate.main([*arguments, "--out", str(out)])
    return out


def results_of(out):
    return json.loads((out / "results.json").read_text())


def contents(out):
    return {name: (out / name).read_bytes() for name in OUTPUTS}


def test_a_run_is_a_curve_with_the_oracle_above_it(evaluated):
    found = results_of(evaluated)
    assert found["judge"] == "pocket" and found["persona"] == PERSONA and found["prompts"] == 8
    names = [each["name"] for each in found["candidates"]]
    assert names == ["step 2", "step 10", "step 30", "pocket, told"]
    assert [each["step"] for each in found["candidates"]] == [2, 10, 30, None]
    learned = [each["interactions"] for each in found["candidates"]]
    assert learned == [2 * LEARNED, 10 * LEARNED, 30 * LEARNED, None]
    assert [each["oracle"] for each in found["candidates"]] == [False, False, False, True]
    same, _, flat, told = found["candidates"]
    assert told["win_rate"]["value"] > 0.8 > same["win_rate"]["value"] > 0.2
    assert flat["win_rate"]["value"] < 0.2 and flat["measures"]["readable"] < 0.5
    assert told["measures"]["wanted_styles"] > found["baseline"]["measures"]["wanted_styles"]
    for each in found["candidates"]:
        assert each["pairs"] == 8 == each["wins"] + each["losses"] + each["ties"]
        assert each["first_chosen"] is None or each["first_chosen"]["value"] == 0.5
        assert each["agreement"]["value"] == 1
    lines = read_lines(evaluated / "judgements.jsonl")
    assert len(lines) == 4 * 8
    assert all(len(line["votes"]) == 2 and line["judge"] == "pocket" for line in lines)
    wins = sum(line["outcome"] == "win" for line in lines if line["candidate"] == "pocket, told")
    assert wins == told["wins"]
    baseline = read_lines(evaluated / "replies/baseline.jsonl")
    assert [line["completion"] for line in baseline] == [x["baseline_reply"] for x in lines[:8]]


def test_the_page_shows_the_curve_the_figures_and_the_pairs(evaluated):
    page = Page(evaluated / "index.html")
    assert "Evaluation by pocket, against pocket" in page.outside
    (picture,) = page.all("svg")
    assert re.search(r"step 2 \d+\.\d%; step 10 .*pocket, told \d+\.\d%", picture["aria-label"])
    assert "interactions learned from" in page.source  # the axis
    assert f"step 30{30 * LEARNED}" in page.outside.replace("\n", "")  # the table
    assert len(page.classed("pair")) == 32 and "All 32 pairs are shown." in page.outside
    assert "a mark to aim for" in page.outside
    assert (evaluated / "win_rate.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_made_twice(evaluated, arguments, tmp_path, monkeypatch, capsys):
    """Not a weight is read, and the results are the same to the byte."""
    out = shutil.copytree(evaluated, tmp_path / "out")
    cache = {file: file.read_bytes() for file in (out / "cache").iterdir()}
    for name in OUTPUTS:
        (out / name).unlink()

    def refuse(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(OpenedModel, "load", refuse)
    monkeypatch.setattr("interact_jax.checkpoint.restore_params", refuse)
    evaluate.main([*arguments, "--out", str(out)])
    assert {file: file.read_bytes() for file in cache} == cache
    assert contents(out).keys() == contents(evaluated).keys()
    assert contents(out) == {
        name: data.replace(str(evaluated).encode(), str(out).encode())
        for name, data in contents(evaluated).items()
    }


def test_an_evaluation_that_was_killed_ends_as_one_that_was_not(evaluated, arguments, tmp_path):
    """With the files as it leaves them: some of the replies, half a line, few verdicts."""
    out = tmp_path / "out"
    (out / "cache").mkdir(parents=True)
    for name, share in (("replies.jsonl", 0.4), ("verdicts.jsonl", 0.3)):
        data = (evaluated / "cache" / name).read_bytes()
        (out / "cache" / name).write_bytes(data[: int(share * len(data))])
    evaluate.main([*arguments, "--out", str(out)])
    assert contents(out) == contents(evaluated)


def test_replies_that_were_cut_are_counted(evaluated):
    """The flat model babbles until it is cut."""
    names = ("baseline", "pocket, told", "step 2", "step 10", "step 30")
    files = [
        evaluated / f"replies/{name.replace(', ', '_').replace(' ', '_')}.jsonl" for name in names
    ]
    cut = {
        name: sum(not line["finished"] for line in read_lines(file))
        for name, file in zip(names, files, strict=True)
    }
    assert cut["step 30"] > 0
    notes = [note for note in results_of(evaluated)["notes"] if "cut" in note]
    assert notes == [
        f"{name}: {cut[name]} repl{'y' if cut[name] == 1 else 'ies'} cut at --max-new-tokens"
        for name in names
        if cut[name]
    ]


def test_other_weights_and_other_settings_are_other_replies(evaluated, run, tmp_path):
    """What is kept is under the digest of what it was made from."""
    pocket = open_weights("pocket", "float32")
    step, flat = open_run(str(run), "2,10", "float32")
    copy = shutil.copytree(pocket.model.files, tmp_path / "copy")
    assert open_weights(str(copy), "float32").digest == pocket.digest
    assert open_weights(str(copy), "bfloat16").digest != pocket.digest
    file = copy / "chat_template.jinja"
    file.write_text(file.read_text() + " ")
    assert len({open_weights(str(copy), "float32").digest, step.digest, flat.digest}) == 3
    assert open_run(str(run), "10,2,2", "float32")[0].digest == step.digest


def test_checkpoints_and_models_of_one_shape_share_what_is_compiled(run):
    replies = Replies(None, Sampling(None), rows=8)
    models = [open_weights("pocket", "float32"), *open_run(str(run), "all", "float32")]
    assert len({id(replies.engine_for(side.model)) for side in models}) == 1
    other = open_weights("pocket", "bfloat16")
    assert replies.engine_for(other.model) is not replies.engine_for(models[0].model)


def test_a_random_judge_is_asked_and_what_it_babbles_is_counted(tmp_path, capsys):
    tiny(tmp_path / "judge", max_position_embeddings=1024)  # as in test_model_judge: compiled once
    lines = [{"prompt": f"Hi {n}", "completion": f"reply {n}"} for n in range(2)]
    ours = write_lines(tmp_path / "ours.jsonl", [*lines, {"prompt": "Else", "completion": "x"}])
    theirs = [{**line, "completion": "other"} for line in lines]
    theirs = write_lines(tmp_path / "theirs.jsonl", theirs)
    given = ["--replies", str(ours), "--baseline", str(theirs), "--persona", "Short."]
    given += ["--judge-model", str(tmp_path / "judge"), "--out", str(tmp_path / "out"), *SHORT]
    assert outcome(evaluate.main, given, capsys)[0] == 0
    found = results_of(tmp_path / "out")
    (each,) = found["candidates"]
    assert (each["pairs"], each["unparsable"], each["ties"]) == (2, 2, 0)
    assert each["win_rate"] is None
    assert found["judge"] == str(tmp_path / "judge")
    unread, votes = found["notes"]
    assert unread == f"{ours}: 1 reply to none of the prompts"
    assert votes.startswith("judge: 4 of 4 votes unparsable, such as ")
    (line, *_) = read_lines(tmp_path / "out/judgements.jsonl")
    assert line["votes"][0]["choice"] == "unparsable" and line["votes"][0]["answer"]


def test_how_replies_are_drawn_is_given_by_flags(evaluated, tmp_path):
    """Of one likeliest token there is no choice: as greedy, up to the stop text."""

    def replies(*given):
        out = tmp_path / str(len(given))
        given = ["--model", "pocket", "--baseline", "pocket", *POCKET, *given]
        evaluate.main([*given, "--out", str(out)])
        return read_lines(out / "replies/pocket.jsonl"), results_of(out)

    greedy, _ = replies()
    stop = greedy[0]["completion"][1:3]
    drawn, found = replies("--temperature", "1", "--top-k", "1", f"--stop={stop}")
    assert len(stop) == 2 and [line["completion"] for line in drawn] == [
        line["completion"].partition(stop)[0] for line in greedy
    ]
    assert drawn[0]["finished"]  # a stop text is an end, and no limit
    settings = found["settings"]
    assert (settings["temperature"], settings["top_k"], settings["stop"]) == (1, 1, [stop])
    assert "temperature 1, top-k 1, stop" in Page(tmp_path / "5/index.html").outside


def test_tasks_measure_every_checkpoint_once(run, tmp_path, capsys, monkeypatch):
    """With a measure that can be recomputed: of parameters, replies and seed."""
    asked = []

    def norm(decoder, params, chat, replies, seed, preferences, system):
        asked.append(seed)
        return {"final": float(abs(params["final_norm_D"]).sum()), "replies": replies}

    monkeypatch.setitem(evaluation.EVALUATIONS, "norm", norm)
    given = ["--run", str(run), "--tasks", "norm", "--seed", "7", "--limit", "5"]
    given += ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "out/copy.json")]
    for _ in range(2):
        assert outcome(evaluate.main, given, capsys)[0] == 0
    assert asked == [7] * 3
    found = json.loads((tmp_path / "out/tasks.json").read_text())
    assert found == json.loads((tmp_path / "out/copy.json").read_text())
    assert found["settings"] == {"replies": 5, "seed": 7, "dtype": "float32"}
    assert [line["name"] for line in found["models"]] == ["step 2", "step 10", "step 30"]
    assert [line["interactions"] for line in found["models"]] == [32, 160, 480]
    values = [line["tasks"]["norm"] for line in found["models"]]
    assert [value["replies"] for value in values] == [5, 5, 5]
    assert [v["final"] / values[0]["final"] for v in values] == pytest.approx(
        [1, 0.6, 0.02], rel=1e-4
    )


def test_tasks_that_do_not_exist_are_refused(tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    for given, said in (
        (["--model", "pocket", "--tasks", "mmlu"], "--tasks mmlu: expected pocket"),
        (["--model", "pocket", "--tasks", "pocket", "pocket"], "name each once"),
        (["--tasks", "pocket"], "--tasks: of which models?"),
        (["--model", "pocket"], "--baseline: which?"),
        (["--model", "pocket", "--tasks", "pocket", "--temperature", "1"], "leave --temperature"),
    ):
        status, message = outcome(evaluate.main, [*given, *out], capsys)
        assert status == 2 and said in message, message


def test_people_judge_on_a_page_and_are_read_back(evaluated, tmp_path, capsys):
    baseline = str(evaluated / "replies/baseline.jsonl")
    told = str(evaluated / "replies/pocket_told.jsonl")
    given = ["--replies", told, "--baseline", baseline, "--judge", "people", "--pairs", "6"]
    given += ["--persona", "Polite, please.", "--out", str(tmp_path / "out"), *SHORT]
    assert outcome(evaluate.main, given, capsys)[0] == 0
    html = (tmp_path / "out/pairs.html").read_text()
    assert not (tmp_path / "out/results.json").exists()
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    wanted = [line["completion"] for line in read_lines(evaluated / "replies/pocket_told.jsonl")]
    answers = {
        str(n): "first" if each["first"] in wanted else "second"
        for n, each in enumerate(data["pairs"][:5])
    }
    saved = tmp_path / "saved.json"
    about = {"format": people.FORMAT, "page": data["page"], "session": "1", "name": "Ann"}
    saved.write_text(json.dumps({**about, "answers": answers}))
    given += ["--judgements", str(saved)]
    assert outcome(evaluate.main, given, capsys)[0] == 0
    found = results_of(tmp_path / "out")
    assert found["judge"] == "people: Ann"
    assert found["notes"] == ["Ann: 1 of 6 pairs left open", "6 pairs of 8 were shown (--pairs)"]
    assert found["candidates"][0]["wins"] == 5 and found["candidates"][0]["agreement"] is None
    status, message = outcome(evaluate.main, [*given, "--seed", "1"], capsys)
    assert status == 2 and "given on another page" in message


@pytest.mark.parametrize(
    "given, said",
    [
        ([], "--judge model: which?"),
        (["--judge", "pocket", "--judge-model", "x"], "--judge is pocket. Leave one out."),
        (["--judge", "pocket", "--judgements", "x"], "--judgements: they are people's"),
        (["--judge", "pocket", "--oracle"], "--oracle: told what?"),
        (["--judge", "pocket", "--samples", "2"], "--samples 2: at temperature 0"),
        (["--judge", "pocket", "--persona", "polit"], "--persona 'polit'"),
        (["--judge", "pocket", "--persona", "@gone.txt"], "@gone.txt: cannot be read"),
        (["--judge", "pocket"], "--prompts: which?"),
        (["--judge", "pocket", "--stop", ""], "an empty text would end every reply"),
        (["--judge", "people", "--persona", "poetc"], "Did you mean 'poetic'"),
        (["--tasks", "pocket"], "--tasks measures models by themselves: leave --baseline out."),
        (["--judge", "pocket", "--prompts", "pocket"], "no candidate: name each once"),
        (["--judge", "pocket", "--bootstrap", "1"], "at least 100"),
        (
            ["--judge", "pocket", "--prompts", "pocket", "--model", "pocket", "pocket"],
            "two candidates of the name 'pocket'",
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_flags_that_make_no_sense_are_refused(given, said, tmp_path, capsys):
    given = ["--baseline", "pocket", "--out", str(tmp_path / "out"), *given]
    status, message = outcome(evaluate.main, given, capsys)
    assert status == 2 and said in message and "Traceback" not in message


def test_bad_input_is_refused_before_the_work(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Sampler, "sample", None)
    prompts = write_lines(tmp_path / "p.jsonl", [{"prompt": "Capital of Peru?"}, {"prompt": "Hi"}])
    replies = write_lines(tmp_path / "r.jsonl", [{"prompt": "Capital of Peru?", "completion": "a"}])
    nothing = write_lines(tmp_path / "n.jsonl", [{"prompt": "Capital of Peru?"}])
    long = write_lines(tmp_path / "l.jsonl", [{"prompt": "Hi"}, {"prompt": "a " * 2000}])
    base = ["--out", str(tmp_path / "out"), "--judge", "pocket"]
    people_base = ["--out", str(tmp_path / "out"), "--judge", "people"]
    for given, said in (
        (
            [*base, "--baseline", "pocket", "--model", "pocket", "--prompts", str(prompts)],
            f"{prompts}:2: no request of the pocket world",
        ),
        (
            [
                *people_base,
                "--baseline",
                str(replies),
                "--model",
                "pocket",
                "--prompts",
                str(prompts),
            ],
            f"{prompts}:2: {replies} has 0 unused replies",
        ),
        ([*base, "--baseline", str(nothing), "--model", "pocket"], f"{nothing}:1: no reply"),
        (
            [*base, "--baseline", str(replies), "--model", "pocket", "--json", str(replies)],
            f"--json {replies}: is the file that is read",
        ),
        (
            [*people_base, "--baseline", "pocket", "--model", "pocket", "--prompts", str(long)],
            f"{long}:2: the prompt is",
        ),
        (
            [*base, "--baseline", str(replies), "--oracle", "--persona", "polite"],
            f"--oracle: {replies} is a file",
        ),
        (
            [
                *base,
                "--baseline",
                "pocket",
                "--prompts",
                "pocket",
                "--run",
                str(run),
                "--steps",
                "3",
            ],
            f"--steps 3: {run} has no checkpoint of step 3; there are 2, 10, 30.",
        ),
        (
            [
                *base,
                "--baseline",
                "pocket",
                "--prompts",
                "pocket",
                "--run",
                str(run),
                "--steps",
                "x",
            ],
            "--steps x: expected all, last, or numbers",
        ),
        (
            [*base, "--baseline", "pocket", "--prompts", "pocket", "--run", str(tmp_path)],
            "no checkpoint there",
        ),
    ):
        status, message = outcome(evaluate.main, given, capsys)
        assert status == 2 and said in message, message


def test_two_evaluations_do_not_write_to_one_directory(tmp_path, capsys):
    given = ["--baseline", "pocket", "--model", "pocket", "--out", str(tmp_path / "out"), *POCKET]
    with lock.hold(tmp_path / "out"):
        status, message = outcome(evaluate.main, given, capsys)
    assert status == 2 and "another run is active there" in message
    assert "--workdir" not in message, "its flag is --out"


def test_samples_draw_independently_and_stay_when_prompts_come(tmp_path):
    def prompt(text):
        return Prompt((Message("user", text),), {"prompt": text}, "here")

    sampling = Sampling(SamplingParams(temperature=1.0), samples=2, seed=5)
    seeds = {
        sampling.seed_of(role, prompt(text), sample)
        for role in ("candidate", "baseline")
        for text in ("a", "b")
        for sample in (0, 1)
    }
    twice = [prompt("a"), prompt("b"), prompt("a")]
    assert list(_numbers(twice, 2)) == [0, 1, 0, 1, 2, 3]
    assert len(seeds) == 8 and all(0 <= seed < 2**32 for seed in seeds)
    assert Sampling(SamplingParams(temperature=0.0)).seed_of("baseline", prompt("a"), 0) == 0


def test_the_table_fits_into_80_columns():
    share = {"value": 1.0, "error": 0.0123, "low": 0.99, "high": 1.0}
    each = dict.fromkeys(("win_rate", "coverage", "first_chosen"), share)
    each |= {"interactions": None}
    each |= {"name": "a/very/long/path/of/a/model step 1000", "unparsable": 9999, "failed": 0}
    nothing = {**each, "win_rate": None, "name": "b"}
    single = {**each, "win_rate": {**share, "error": None}, "first_chosen": None, "name": "c"}
    *lines, legend = win_rate_lines([each, nothing, single])
    assert max(map(len, [*lines, legend])) < 80 and len({len(line) for line in lines}) == 1
    assert all(f"{word}: " in legend and word in lines[0] for word in ("decided", "first", "void"))
    assert lines[1].startswith("…") and "step 1000  100.0 ± 1.2" in lines[1]
    run = {**each, "interactions": 1_234_567, "name": "a/very/long/run step 1000"}
    *curve, _ = win_rate_lines([run, nothing])
    assert max(map(len, curve)) < 80 and len({len(line) for line in curve}) == 1
    assert "step 1000  1,234,567  100.0 ± 1.2" in curve[1] and "learned" in curve[0]
    assert "no verdict" in lines[2] and lines[3].split()[1] == "100.0"
