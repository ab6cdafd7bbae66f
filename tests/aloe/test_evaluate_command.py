"""`launch/aloe.py evaluate`: from models and personas to figures, and nothing asked twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from interact_jax import lock
from interact_jax.aloe import evaluate_command
from interact_jax.arguments import Parser
from interact_jax.judges.sides import open_weights
from interact_jax.opening import OpenedModel
from tests.pages import Page
from tests.runs import outcome, read_lines, write_lines
from tests.servers.chat_server import KEY, MODEL, OPENAI
from tests.servers.running import running

pytestmark = [pytest.mark.one_device, pytest.mark.compiled_quickly]
SHORT = ["--turns", "3", "--bootstrap", "200"]
PERSONAS = [
    {"profile": "A baker.", "personality": "Short."},
    {"profile": "A pilot.", "personality": "Somebody who mumbles."},
    {"profile": "A nurse.", "personality": "Warm."},
]
OUTPUTS = ("results.json", "talks.jsonl", "index.html")


def evaluate(given):
    """As launch/aloe.py does, with the directory locked."""
    parser = Parser()
    evaluate_command.add_arguments(parser)
    args = parser.parse_args(given)
    with lock.hold(Path(args.out)):
        evaluate_command.main(args)


def results_of(out):
    return json.loads((out / "results.json").read_text())


def contents(out):
    return [(out / name).read_bytes() for name in OUTPUTS]


# ------------------------------------------------------------------------- models play and judge


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running("chat_server", tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture
def given(server, tmp_path, monkeypatch):
    """Two names of one server are two models under test; the first plays and judges, too."""
    server.forget()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    spec = f"openai:{MODEL}@{server.url}/v1"
    other = spec.replace("127.0.0.1", "localhost")
    cases = str(write_lines(tmp_path / "cases.jsonl", PERSONAS))
    return ["--model", spec, other, "--user-model", spec, "--cases", cases, *SHORT]


def test_models_behind_endpoints(given, server, tmp_path, capsys):
    out = tmp_path / "out"
    copy = tmp_path / "copy.json"
    evaluate([*given, "--out", str(out), "--json", str(copy)])
    shown = capsys.readouterr().out
    found = results_of(out)
    assert found == json.loads(copy.read_text())
    assert found["cases"] == 3 and found["turns"] == 3 and found["judge"] == found["user"]
    first, second = found["models"]
    assert [first["name"], second["name"]] == given[1:3] and first["scores"] == second["scores"]
    assert second["against_first"]["al_last"]["value"] == 0
    assert first["scores"][1] == [None] * 3  # whom the judge mumbles about
    assert (first["missing"], first["judge_unreadable"], first["unscored"]) == (3, 3, 1)
    lines = read_lines(out / "talks.jsonl")
    assert len(lines) == 6
    for line in lines:
        for turn, score in zip(line["turns"], first["scores"][line["case"]], strict=True):
            assert turn["assistant"] == f"You said: {turn['user']}" and turn["score"] == score
            assert score is None or score == 1 + len(turn["assistant"]) % 5
    page = Page(out / "index.html")
    assert "A nurse." in page.outside and "could not be read" in page.outside
    table = shown.split("report: ")[0].splitlines()
    assert f"AL({found['turns']})" in table[0] and max(map(len, table[:9])) <= 80

    asked = len(server.journal(OPENAI))
    before = contents(out)
    evaluate([*given, "--out", str(out)])
    assert len(server.journal(OPENAI)) == asked and contents(out) == before


def test_what_the_judge_did_not_say_is_asked_again(given, server, tmp_path, capsys):
    """The seventh request is the first of the judge: three users, three replies before it."""
    out = tmp_path / "out"
    given = ["--model", given[1], *given[3:], "--concurrency", "1", "--out", str(out)]
    server.plan({"at": OPENAI, "nth": 7, "do": "status", "status": 400})
    evaluate(given)
    assert server.planned() == []
    (first,) = results_of(out)["models"]
    assert first["name"] == f"openai:{MODEL}"  # the address is in the settings
    assert (first["judge_failed"], first["missing"]) == (1, 4) and first["scores"][0][0] is None
    assert "of the judge failed, such as" in capsys.readouterr().out
    asked = len(server.journal(OPENAI))
    evaluate(given)
    assert results_of(out)["models"][0]["missing"] == 3
    assert len(server.journal(OPENAI)) == asked + 1


# ----------------------------------------------------------------------------- the pocket world


@pytest.fixture(scope="module")
def pocket():
    return ["--world", "pocket", "--limit", "4", "--turns", "2", "--bootstrap", "200"]


@pytest.fixture(scope="module")
def evaluated(pocket, tmp_path_factory):
    """The shipped model and a copy of it, played to the end."""
    folder = tmp_path_factory.mktemp("evaluated")
    copy = shutil.copytree(open_weights("pocket", "float32").model.files, folder / "copy")
    given = ["--model", "pocket", str(copy), *pocket, "--max-new-tokens", "16"]
    evaluate([*given, "--out", str(folder / "out")])
    return folder / "out", given


def test_the_pocket_world_plays_and_judges(evaluated):
    found = results_of(evaluated[0])
    first, copy = found["models"]
    assert found["cases"] == 4 and found["user"] == found["judge"] == "pocket"
    assert first["missing"] == 0 and first["right"]["value"] > 0.5
    assert copy["scores"] == first["scores"] and copy["against_first"]["ir"]["value"] == 0
    lines = read_lines(evaluated[0] / "talks.jsonl")
    assert [len(line["turns"]) for line in lines] == [2] * 8
    assert len(lines[0]["traits"]) == 6


def test_one_that_was_killed_ends_as_one_that_was_not(evaluated, tmp_path):
    out, given = evaluated
    data = (out / "cache/turns.jsonl").read_bytes()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/turns.jsonl").write_bytes(data[: int(0.6 * len(data))])
    evaluate([*given, "--out", str(tmp_path)])
    assert (tmp_path / "cache/turns.jsonl").read_bytes() == data
    assert contents(tmp_path) == contents(out)


def test_nothing_is_played_twice(evaluated, tmp_path, monkeypatch):
    """No weights are read where everything is known, nor for the cases of a smaller benchmark."""
    out, given = evaluated
    (tmp_path / "cache").mkdir()
    shutil.copy(out / "cache/turns.jsonl", tmp_path / "cache")
    monkeypatch.setattr(OpenedModel, "load", None)
    evaluate([*given, "--turns", "1", "--out", str(tmp_path)])
    known = [[scores[0]] for scores in results_of(out)["models"][0]["scores"]]
    assert results_of(tmp_path)["models"][0]["scores"] == known


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "given, said",
    [
        ([], "--user-model: which?"),
        (["--world", "pocket", "--judge-model", "x"], "leave out --judge-model"),
        (["--world", "pocket", "--cases", "x"], "leave out --cases"),
        (["--user-model", "x", "--profiles", "p"], "--profiles and --personalities go together"),
        (
            ["--user-model", "x", "--profiles", "p", "--personalities", "q", "--cases", "c"],
            "--cases has both",
        ),
        (["--user-model", "x", "--cases", "gone.jsonl"], "gone.jsonl: cannot be read"),
        (["--world", "pocket", "--turns", "0"], "at least 1"),
        (["--world", "pocket", "--temperature", "-1"], "temperature=-1.0"),
        (["--world", "pocket", "--model", "a", "b", "a"], "'a' is there twice"),
        (["--world", "pocket", "--limit", "1000000"], "asked for 1000000 personas"),
        (["--world", "village"], "there is no such choice"),
        (["--user-model", "openai:x@http://a:b@127.0.0.1"], "an address with a name"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_bad_flags_are_refused(given, said, tmp_path, capsys):
    given = ["--model", "pocket", "--out", str(tmp_path / "out"), *given]
    status, message = outcome(evaluate, given, capsys)
    assert status == 2 and said in message and "Traceback" not in message, message


def test_bad_cases_are_named_by_line(tmp_path, capsys):
    file = write_lines(tmp_path / "cases.jsonl", [PERSONAS[0], {"profile": "A cook."}])
    given = ["--model", "pocket", "--out", str(tmp_path / "out"), "--user-model", "pocket"]
    for more, said in (
        (["--cases", str(file)], f"{file}:2"),
        (["--cases", str(file), "--json", str(file)], f"{file}:2"),
        (["--json", str(tmp_path)], f"--json {tmp_path}"),
    ):
        status, message = outcome(evaluate, [*given, *more], capsys)
        assert status == 2 and said in message, message
