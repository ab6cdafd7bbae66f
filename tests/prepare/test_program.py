"""launch/prepare_data.py: killed at any moment, it goes on to the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from interact_jax import lock
from interact_jax.data.prepared import PreparedData
from interact_jax.schema import InputError
from launch import prepare_data
from tests.prepare.kill import children_of, finished, has_begun, is_alive
from tests.prepare.little import content, parse_filter, write_logs
from tests.runs import ROOT

pytestmark = pytest.mark.one_device
ALL = ["--filter", "talkative", "--filter", "once", "--filter", "quiet"]


def arguments(logs, out, *more):
    given = ["--data", str(logs), "--out", str(out), "--part-bytes", "6000", *ALL]
    return [*given, "--splits", "train=0.8,test=0.2", "--processes", "1", *more]


class Programs:
    """Starts the program in processes of their own, one after the other."""

    def __init__(self, log):
        self._log, self.process = log, 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.prepare.program", "serve"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, line):
        self._server.stdin.write(f"{line}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def start(self, given, most=None):
        self._log.write_text("")
        line = {"given": given, "log": str(self._log), "most": most}
        self.process = self._ask(json.dumps(line))

    def wait(self):
        """The status of the program, and what it said."""
        return self._ask("wait"), self._log.read_text()

    def close(self):
        self._server.stdin.close()
        assert self._server.wait() == 0


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    found = Programs(tmp_path_factory.mktemp("programs") / "log")
    yield found
    found.close()


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the program in this process; its output."""
    monkeypatch.setattr(prepare_data, "parse_filter", parse_filter)

    def run(*given):
        prepare_data.main([*map(str, given)])
        return capsys.readouterr().out

    return run


def kill_again_and_again(run, programs, tmp_path, kills, files, each, processes):
    """Kill the program so often, each time at a random moment after its work began; how many
    different states it left behind."""
    logs = write_logs(tmp_path / "logs", files, each)
    whole, out = tmp_path / "a" / "out", tmp_path / "b" / "out"
    whole.parent.mkdir()
    out.parent.mkdir()
    began = time.monotonic()
    run(*arguments(logs, whole))
    longest = (time.monotonic() - began) / kills
    rng, done, states = random.Random(kills), {}, set()
    for kill in range(kills):
        began = time.time_ns()
        number = processes[kill % len(processes)]
        programs.start(arguments(logs, out, "--processes", str(number)))
        process = programs.process
        while is_alive(process) and not has_begun(out, began):
            time.sleep(0.002)
        while number > 1 and is_alive(process) and len(children_of(process)) < number:
            time.sleep(0.002)
        time.sleep(rng.random() * longest)
        workers = children_of(process)
        os.kill(process, signal.SIGKILL)
        status, said = programs.wait()
        assert status in (0, -signal.SIGKILL), said
        until = time.monotonic() + 60
        while alive := list(filter(is_alive, workers)):
            assert time.monotonic() < until, f"orphans: {alive}"
            time.sleep(0.01)
        now = finished(out)
        assert {p: now.get(p) for p in done} == done
        done = now
        states.add(frozenset(p.name for p in out.rglob("*")))
    run(*arguments(logs, out))
    assert content(out) == content(whole)
    assert {p: t for p, t in finished(out).items() if p in done} == done
    return len(states)


def test_killed_at_random_moments_it_goes_on_to_the_same_bytes(run, programs, tmp_path):
    assert kill_again_and_again(run, programs, tmp_path, 5, 6, 250, [1]) > 1


def test_killed_while_it_decides(run, programs, tmp_path):
    logs, file = write_logs(tmp_path / "logs"), tmp_path / "wait"
    whole, out = tmp_path / "a" / "out", tmp_path / "b" / "out"
    whole.parent.mkdir()
    out.parent.mkdir()
    more = ("--filter", f"waiting:{file}")
    run(*arguments(logs, whole, *more))
    file.touch()
    programs.start(arguments(logs, out, *more))
    until = time.monotonic() + 60
    while not list(out.glob("parts/.deciding.*/3/half")):
        assert time.monotonic() < until and is_alive(programs.process)
        time.sleep(0.01)
    os.kill(programs.process, signal.SIGKILL)
    assert programs.wait()[0] == -signal.SIGKILL
    assert list(out.glob("parts/.deciding.*")) and not (out / "parts" / "decided.json").exists()
    file.unlink()
    run(*arguments(logs, out, *more))
    assert content(out) == content(whole)


@pytest.mark.slow
def test_its_workers_end_with_it(run, programs, tmp_path):
    """They would write for a program that is not there any more."""
    kill_again_and_again(run, programs, tmp_path, 1, 4, 60, [2])


@pytest.mark.slow
def test_killed_many_times(run, programs, tmp_path):
    kill_again_and_again(run, programs, tmp_path, 20, 8, 400, [1, 2])


def test_a_full_disk_is_reported_and_waited_for(run, programs, tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    given = arguments(logs, out)
    programs.start(given, most=1 << 16)
    status, said = programs.wait()
    assert status == 1 and "Traceback" not in said
    assert "File too large. Make room, and start the same command again" in said
    assert not list(out.rglob("*.tmp"))
    assert run(*given).endswith(f"prepared: {out}\n")


def test_what_it_says_fits_the_terminal(run, tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    text = run(*arguments(logs, out, "--license", "CC0-1.0", "--source", "our shop"))
    assert text.startswith("read 3 files, 120 records: 120 conversations\n  talkative: dropped ")
    assert all(len(line) <= 80 for line in text.splitlines()[:-1])
    card = json.loads((out / "card.json").read_text())
    assert (card["license"], card["source"]) == ("CC0-1.0", "our shop")
    assert card["command"].startswith("interact prepare-data --data ")
    assert run(*arguments(logs, out, "--license", "CC0-1.0", "--source", "our shop")) == text


def test_shares_of_machines(run, tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    whole = run(*arguments(logs, tmp_path / "whole"))
    first = run(*arguments(logs, out, "--process-index", 1, "--process-count", 2))
    assert "3 parts of other machines are not yet" in first
    last = run(*arguments(logs, out, "--process-index", 0, "--process-count", 2))
    assert last.splitlines()[-2] == whole.splitlines()[-2]


def test_a_dry_run_writes_nothing(run, tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    text = run(*arguments(logs, out, "--dry-run", "--limit", 4))
    assert "would keep" in text and not out.exists()


@pytest.mark.parametrize(
    "more, said",
    [
        (["--filter", "chatty"], "--filter chatty: there is no such filter"),
        (["--name", "My-Logs"], "--name My-Logs: expected small letters"),
        (["--splits", "train=2"], "--splits train=2: "),
        (["--limit", "3"], "--limit 3: only with --dry-run"),
        (["--process-index", "2", "--process-count", "2"], "the first machine is 0"),
        (["--processes", "x"], "--processes: x: expected a whole number"),
        (["--data", "absent"], "absent: no such file"),
        (["--data", "-"], "standard input cannot be read again"),
        (["--tokenizer", "a b"], "no such directory"),
        (["--dry-run", "--tokenizer", "a b"], "no such directory"),
        (["--part-byte", "3"], "--part-byte: there is no such option. Did you mean --part-bytes?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_are_refused(more, said, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logs = write_logs(tmp_path / "logs")
    with pytest.raises(InputError) as error:
        run(*arguments(logs, tmp_path / "out", *more))
    assert said in str(error.value)


def test_two_at_once_are_refused(run, tmp_path):
    logs, out = write_logs(tmp_path / "logs"), tmp_path / "out"
    with lock.hold(out), pytest.raises(InputError, match="another run is active"):
        run(*arguments(logs, out))


CSV = """chat,at,who,body
a,2024-01-01T10:00:09,customer,Thanks a lot
a,2024-01-01T10:00:05,agent,Hello
a,2024-01-01T10:00:00,customer,Hi
"""
COLUMNS = """session = "chat"
time = "at"
role = "who"
text = "body"
[roles]
customer = "user"
agent = "assistant"
"""


def test_rows_with_a_message_each(tmp_path):
    (tmp_path / "log.csv").write_text(CSV)
    mapping = tmp_path / "columns.toml"
    mapping.write_text(COLUMNS)
    given = ["--data", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out")]
    given += ["--mapping", str(mapping), "--part-bytes", "10", "--processes", "1"]
    prepare_data.main([*given, "--splits", "train=1"])
    (one,) = PreparedData(tmp_path / "out")
    assert [message.content for message in one.messages] == ["Hi", "Hello", "Thanks a lot"]
    mapping.write_text(COLUMNS.replace('"agent', '"bot'))
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        prepare_data.main([*given, "--mapping", str(tmp_path / "none.toml")])
    mapping.write_text(f"{COLUMNS}# of another shop\n")
    with pytest.raises(InputError, match=r"--mapping: was .*columns\.toml \(content"):
        prepare_data.main([*given, "--splits", "train=1"])
