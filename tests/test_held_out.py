"""What held-out conversations say of a model, before, during and after a run."""

import json
import logging
import shutil

import numpy as np
import pytest

from interact_jax import config, guard, held_out, train
from interact_jax.data import holdout
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.opening import open_model
from interact_jax.schema import Conversation, Message, Preference, RunStopped
from interact_jax.signal import score_trees
from launch import train as launch_train
from tests.pages import Page
from tests.runs import (
    MEASURED,
    ROOT,
    overrides,
    read_lines,
    records,
    tiny,
    train_arguments,
    write_lines,
)

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

OF_A_RANDOM_MODEL = set(held_out.NAMES) - {"held_out_forgotten"}  # it is sure of nothing
TALK = [
    ("Say {n}", "It is {n}.", "Shorter", "{n}", "Thank you"),
    ("What comes after {n}?", "A number.", "Which one?"),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A run on 120 short conversations, of which a good quarter are held out."""
    folder = tmp_path_factory.mktemp("given")
    tiny(folder / "model")
    talks = [[text.format(n=n) for text in TALK[n % 2]] for n in range(120)]
    return {
        **MEASURED,
        "model.path": folder / "model",
        "data.path": write_lines(folder / "logs.jsonl", records(talks)),
        "evaluation.every": 2,
        "evaluation.prompts": 5,
        "evaluation.new_tokens": 12,
        "steps": 5,
        "checkpoint.every": 3,
    }


@pytest.fixture(scope="module")
def ended(settings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("ended") / "run"
    launch_train.main(train_arguments(workdir, settings))
    return workdir


@pytest.fixture(scope="module")
def interrupted(settings, tmp_path_factory):
    """The same run, after three of its five steps."""
    workdir = tmp_path_factory.mktemp("interrupted") / "run"
    launch_train.main(train_arguments(workdir, {**settings, "steps": 3}))
    return workdir


def measured(workdir):
    """{step: what its line says of held-out conversations}."""
    lines = read_lines(workdir / "metrics.jsonl")
    found = {
        line["step"]: {k: v for k, v in line.items() if k.startswith("held_out_")} for line in lines
    }
    return {step: values for step, values in found.items() if values}


def test_measures_stand_in_the_log_and_in_the_summary(ended):
    found = measured(ended)
    assert list(found) == [2, 4, 5], "every second step, and the last"
    summary = json.loads((ended / "summary.json").read_text())
    assert summary["after"] == pytest.approx(found[5], abs=1e-6)
    first = read_lines(ended / "metrics.jsonl")[0]
    for name, value in summary["before"].items():
        assert first[f"before_{name}"] == pytest.approx(value, abs=1e-6)
    assert set(found[5]) == OF_A_RANDOM_MODEL
    assert summary["before"]["held_out_distance"] == pytest.approx(0, abs=1e-6)
    assert found[5]["held_out_distance"] > 0
    assert 0 < found[5]["held_out_length"] <= 12


def test_measures_stand_in_the_model_card(ended):
    found = json.loads((ended / "summary.json").read_text())
    card = (ended / "export/README.md").read_text()
    for name in found["after"]:
        before, after = (f"{found[moment][name]:.4g}" for moment in ("before", "after"))
        assert f"| {name} | {before} | {after} |" in card


def test_the_summary_says_on_how_much_was_measured(ended, settings):
    """Of the two talks, the first has two interactions and a revised reply, the second one."""
    held = [line for line in read_lines(settings["data.path"]) if is_held(json.dumps(line))]
    long = sum(len(line["messages"]) == 5 for line in held)
    expected = (
        f"held out: measured on {len(held) + long} interactions, {long} pairs of a better and a "
        "worse reply, and replies to 5 prompts"
    )
    assert 0 < long < len(held)
    assert expected in json.loads((ended / "finished.json").read_text())["lines"]
    page = Page(ended / "report/index.html").outside
    assert expected in page and "What you want: mean |signal| falls" in page


def test_a_resumed_run_measures_the_same(ended, interrupted, settings, tmp_path):
    workdir = shutil.copytree(interrupted, tmp_path / "run")
    launch_train.main(train_arguments(workdir, settings))
    before, after = (json.loads((w / "summary.json").read_text()) for w in (ended, workdir))
    assert after["before"] == before["before"] and after["after"] == before["after"]
    assert measured(workdir)[4] == measured(ended)[4]


OTHERWISE = {
    "the same": (lambda lines: lines, {}, False),
    "other follow-ups": (lambda lines: lines.replace("Which one?", "Which, then?"), {}, True),
    "more of them": (lambda lines: lines, {"evaluation.interactions": 3}, True),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case == "other follow-ups" else pytest.mark.slow)
        for case in OTHERWISE
    ],
)
def test_a_resumed_run_says_where_it_measures_on_something_else(case, settings, tmp_path, capsys):
    change, more, told = OTHERWISE[case]
    workdir, logs = tmp_path / "run", tmp_path / "logs.jsonl"
    given = settings | {"data.path": logs, "objective.name": "sft", "checkpoint.every": 1}
    text = settings["data.path"].read_text()
    logs.write_text(text)
    launch_train.main(train_arguments(workdir, {**given, "steps": 1}))
    lines = text.splitlines(keepends=True)
    logs.write_text("".join(change(x) if is_held(x) else x for x in lines))
    capsys.readouterr()
    launch_train.main(train_arguments(workdir, {**given, **more, "steps": 2}))
    assert ("before and after cannot be compared" in capsys.readouterr().err) == told
    if told:  # what a run that has ended says is measured on today's data too
        ended = json.loads((workdir / "summary.json").read_text())["after"]
        launch_train.main(train_arguments(workdir, {**given, "steps": 2}))
        again = json.loads((workdir / "summary.json").read_text())["after"]
        assert (again == ended) == (more == {})


@pytest.mark.parametrize(
    ("checked", "lengths"),
    [
        ("pocket", [(1, 5), (2, 6)]),
        pytest.param("pocket", [(1, 5), (2, 5), (3, 6)], marks=pytest.mark.slow),
        pytest.param("none", [(1, 5), (2, 5), (3, 6)], marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_says_where_it_checks_more_replies(
    checked, lengths, settings, tmp_path, capsys
):
    given = settings | {"evaluation.holdout": 0, "checkpoint.every": 1, "evaluation.name": checked}
    said = {}
    for steps, replies in lengths:
        more = {"steps": steps, "evaluation.replies": replies}
        launch_train.main(train_arguments(tmp_path / "run", given | more))
        told = f"5 replies were measured before training, and {replies} are now"
        said[steps] = told in capsys.readouterr().err
    assert said == {n: replies == 6 and checked == "pocket" for n, replies in lengths}


def is_held(line) -> bool:
    opening = Message("user", json.loads(line)["messages"][0]["content"])
    return holdout.hash_of(holdout.key_of(Conversation("c", (opening,)))) < 0.3


def test_without_what_the_initial_model_said_the_distance_is_left_out(
    interrupted, settings, tmp_path, caplog
):
    workdir = shutil.copytree(interrupted, tmp_path / "run")
    (workdir / "held_out/initial.jsonl").write_text("damaged")
    with caplog.at_level(logging.WARNING, "interact_jax"):
        logging.getLogger("interact_jax").propagate = True
        launch_train.main(train_arguments(workdir, settings))
    after = json.loads((workdir / "summary.json").read_text())["after"]
    assert set(after) == OF_A_RANDOM_MODEL - {"held_out_distance"}


def test_the_signal_is_that_of_the_interactions_held_out(settings, tmp_path):
    """And the margin that of revised replies over those complained about, per token."""
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides(settings))
    run = train.start(cfg, tmp_path / "run")
    held = run.held_out
    learned = {c.id for c in run.dataset.conversations}
    names = {reply.target.conversation for tree in held.trees for reply in tree.replies}
    assert names and names.isdisjoint(learned)
    found = held._measure_logs(run.state.params)
    (views,) = {frozenset(view for r in t.replies for view in r.places) for t in held.trees}
    assert views == {PLAIN, HINDSIGHT}
    scored = score_trees(run.model.decoder, run.state.params, held.trees, run.model.mesh)
    mean = {one.id: one.signal.mean() for one in scored if not one.id.endswith("+")}
    plain = {one.id: one.logp_student.mean() for one in scored}
    assert found["held_out_signal"] == pytest.approx(np.mean(list(mean.values())), rel=1e-5)
    pairs = [plain[name] - plain[name[:-1]] for name in plain if name.endswith("+")]
    assert pairs and found["held_out_margin"] == pytest.approx(np.mean(pairs), rel=1e-5)
    run.checkpoints.close()


PAIRS = [
    {"prompt": f"Say {n}", "chosen": f"{n}", "rejected": f"It is {n}, I think."} for n in range(120)
]


def test_pairs_without_any_interaction_are_measured_too(settings, tmp_path):
    """Preference files hold nothing but pairs: no follow-up, so no signal; but there are prompts,
    and replies that may run on."""
    given = {
        **settings,
        "data.path": write_lines(tmp_path / "pairs.jsonl", PAIRS),
        "objective.name": "dpo",
        "objective.ignore_first": 0,
        "steps": 2,
    }
    launch_train.main(train_arguments(tmp_path / "run", given))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    signal = {"held_out_signal", "held_out_signal_abs"}
    assert summary["after"].keys() == OF_A_RANDOM_MODEL - signal
    assert summary["after"]["held_out_margin"] > summary["before"]["held_out_margin"]
    assert "Say" in (tmp_path / "run/report/replies.html").read_text()


def held_of(conversations, settings, **changed):
    """What is measured on these conversations, by a model without weights."""
    cfg = config.load(str(ROOT / "configs/quickstart.py"), overrides({**settings, **changed}))
    model = open_model(settings["model.path"], weights=False, attention="xla")
    return held_out.HeldOut.of(conversations, model, cfg)


def replies_of(held):
    return [reply.target for tree in held.trees for reply in tree.replies]


def talk(name, count, **more):
    """A conversation of so many interactions."""
    texts = [("user", "q0")]
    for n in range(count):
        texts += [("assistant", f"y{n}"), ("user", f"o{n}")]
    return Conversation(name, tuple(Message(*text) for text in texts), **more)


def test_pairs_beside_interactions_are_measured_with_them(settings):
    """In the order of the dialogue, whose windows move forwards."""
    pair = Preference(1, Message("assistant", "good"), Message("assistant", "bad"))
    given = talk("c", 20, preferences=(pair,))
    held = held_of([given], settings)  # longer than a window
    found = [target.id for target in replies_of(held)]
    assert {"c_1+", "c_1-"} <= set(found)
    assert {name for name in found if name[-1].isdigit()} == {i.id for i in given.interactions()}
    names = held._measure_logs(held.model.fresh(0)).keys()
    assert names >= {"held_out_signal", "held_out_margin"}


@pytest.mark.parametrize("most", [1, 5, 100])
def test_no_more_is_measured_than_asked_for(settings, most):
    pair = Preference(1, Message("assistant", "good"), Message("assistant", "bad"))
    talks = [
        talk("a", 20),
        talk("b", 3),
        *(talk(f"p{n}", 0, preferences=(pair,)) for n in range(9)),
    ]
    held = held_of(talks, settings, **{"evaluation.interactions": most})
    assert len({target.unit for target in replies_of(held)}) == min(most, 32)


def test_prompts_are_those_of_the_logged_replies(settings, tmp_path):
    """With the tools on offer; with thinking on where the logged reply has reasoning."""
    tiny(tmp_path / "model", "reasons")
    tools = ({"type": "function", "function": {"name": "clock"}},)
    thinks = [Message("user", "q"), Message("assistant", "<think>\nHm.\n</think>\n\ny")]
    plain = [Message("user", "q"), Message("assistant", "y")]
    template = tmp_path / "model/chat_template.jinja"
    template.write_text("{% if tools %}{{ tools | tojson }}{% endif %}" + template.read_text())
    given = settings | {"model.path": tmp_path / "model"}
    for messages, closed in ((thinks, False), (plain, True)):
        talks = [Conversation("c", (*messages, Message("user", "o")), tools=tools)]
        held = held_of(talks, given)
        (prompt,) = held.prompts
        text = held.model.chat.decode(prompt.ids)
        assert "clock" in text and text.rstrip().endswith("</think>") == closed


@pytest.mark.slow
def test_a_run_that_was_stopped_for_its_signs_stops_again(ended, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SIGNS", (guard.Sign("held_out_length", lambda *_: True, "odd"),))
    given = {**settings, "evaluation.guard": "stop"}
    for step in (2, 4):
        with pytest.raises(RunStopped, match=rf"step {step}: .*signs of collapse: odd"):
            launch_train.main(train_arguments(tmp_path / "run", given))
    assert len(read_lines(tmp_path / "run/metrics.jsonl")) == 4


def strict(file):
    """The lines of a JSON file that has no NaN and no infinity, or of several joined by lines."""

    def refuse(name):
        raise AssertionError(f"{file}: {name}")

    whole = file.read_text()
    texts = whole.splitlines() if file.suffix == ".jsonl" else [whole]
    return [json.loads(text, parse_constant=refuse) for text in texts]


def test_logits_that_are_not_finite_are_for_the_guard_and_in_no_file(settings, tmp_path, capsys):
    """A step that makes the weights overflow: stopped with a checkpoint, which goes on when asked
    to, to the end; and what cannot be measured is left out, and named."""
    workdir, given = tmp_path / "run", {**settings, "steps": 2, "evaluation.every": 1}
    given |= {"optim.name": "sgd", "optim.lr": 1e20, "optim.clip_norm": "inf"}
    given |= {"optim.weight_decay": 0, "optim.warmup_fraction": 0}
    with pytest.raises(RunStopped, match=r"step 1: .*not finite .*held_out_entropy.* is saved"):
        launch_train.main(train_arguments(workdir, {**given, "evaluation.guard": "stop"}))
    assert (workdir / "checkpoints/1").is_dir()
    launch_train.main(train_arguments(workdir, {**given, "evaluation.guard": "none"}))
    said = capsys.readouterr().err
    assert "step 2: not finite: held_out_signal" in said
    assert "after.json: without held_out_signal" in said
    (summary,) = strict(workdir / "summary.json")
    assert set(summary["before"]) == OF_A_RANDOM_MODEL
    assert not summary["after"].keys() & set(held_out.SAMPLED)
    assert strict(workdir / "report/after.json") == [summary["after"]]
    lines = strict(workdir / "metrics.jsonl")
    assert [line["held_out_entropy"] for line in lines] == [None, None]
    assert "NaN" not in (workdir / "checkpoints/2/data/metadata").read_text()


def test_what_can_be_read():
    assert held_out.is_readable("Paris.", [5, 6])
    assert not held_out.is_readable("  \n", [5])
    assert not held_out.is_readable("half a \ufffd", [5])
    assert not held_out.is_readable("\x1b[2J", [5])
    assert held_out.is_readable("a family: 👨\u200d👩\u200d👧", [5])
    assert not held_out.is_readable("no no no no", [7, 8] * 20)
    assert held_out.is_readable("many words", list(range(40)))


# ------------------------------------------------------------------------------------ on real logs


@pytest.mark.slow
def test_message_trees_of_real_people(shared, tmp_path, capsys):
    tiny(tmp_path / "model")
    settings = {
        "model.path": tmp_path / "model",
        "data.path": shared / "real/conversations/oasst_en_100_tree.jsonl",
        "data.max_length": 512,
        "batch.row_tokens": 512,
        "evaluation.holdout": 0.4,
        "evaluation.prompts": 4,
        "evaluation.new_tokens": 8,
        "steps": 2,
        "epochs": 0,
        "report.interactions": 0,
        "check_hindsight": 0,
    }
    launch_train.main(train_arguments(tmp_path / "run", settings))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert {"held_out_signal_abs", "held_out_margin"} <= summary["before"].keys()
    assert summary["before"].keys() == summary["after"].keys()
    assert list(measured(tmp_path / "run")) == [2]
    told = capsys.readouterr().out
    page = (tmp_path / "run/report/index.html").read_text()
    assert "signal" in told and "signal" in page
