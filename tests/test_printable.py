"""What comes from strangers is shown, and never obeyed by a terminal."""

import io
import json
import logging
import sys
import unicodedata

import numpy as np
import pytest
from rich.console import Console

from interact_jax import cli, report
from interact_jax.data.chat import ChatFormat
from interact_jax.printable import count, count_reason, printable
from interact_jax.schema import InputError, Interaction, Message
from interact_jax.signal import Scored
from launch import score
from tests.logs import chat, write
from tests.runs import tiny

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


def test_one_is_singular():
    assert count(1, "reply", "replies") == "1 reply" and count(0, "file") == "0 files"
    assert count_reason(1, "replies cut: too long") == "1 reply cut: too long"
    assert count_reason(2_000, "replies cut: too long") == "2,000 replies cut: too long"
    assert count_reason(1, "field 'x' not used") == "1 field 'x' not used"
    assert count_reason(1, "conversations") == "1 conversation"


EVIL = "a\x1b[31mred\x1b[0m\x07\0\r\x9b2J\u202eback\u200d"


def obeyed(text: str) -> set[str]:
    """Characters that a terminal may take for more than text."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t"}


def test_every_character_is_shown():
    """As it is, or as an escape that says which it was."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(everything)
    assert not obeyed(shown)
    assert shown.encode()  # halves of surrogate pairs are whole text now
    assert printable("Grüße \u00a0 שלום 🙂\té\n") == "Grüße \u00a0 שלום 🙂\té\n"
    assert printable("\x1b[2J\0\ud83d\u202e") == "\\x1b[2J\\x00\\ud83d\\u202e"
    assert printable(shown) == shown


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny(directory)
    return directory


def test_logs_and_errors(capsys):
    cli.log_to_stderr()
    logging.getLogger("interact_jax.x").warning("id %s", EVIL)

    def stops():
        raise InputError(EVIL)

    def breaks():
        raise RuntimeError(EVIL)

    for ends, status in ((stops, 2), (breaks, 1)):
        with pytest.raises(SystemExit) as ended:
            cli.run(ends)
        assert ended.value.code == status
    cli.show(EVIL, "second")
    said = capsys.readouterr()
    assert not obeyed(said.err) and not obeyed(said.out)
    assert said.err.count("\\x1b[31mred") >= 3 and said.out.endswith("\nsecond\n")


@pytest.mark.parametrize("name", ["chat[/v2]", "[bold]x", "[link=http://a]", EVIL])
def test_the_token_table(model, name):
    """Ids are no markup, and messages no escapes."""
    tokens = ChatFormat.load(model)
    y = Message("assistant", "Paris " + EVIL)
    ids = np.asarray([*tokens.encode(y.content), tokens.eos_id])
    one = Scored(name, ids, np.zeros(len(ids)), np.zeros(len(ids)))
    user, o = Message("user", EVIL), Message("user", "[/] " + EVIL)
    console = Console(width=200, file=io.StringIO())
    console.print(report.token_table(one, Interaction(name, (user,), y, o), tokens))
    text = console.file.getvalue()
    assert not obeyed(text) and printable(name)[:7] in text and "[/] a\\x1b" in text


def test_a_whole_program(model, tmp_path, capfd):
    """Ids, keys, messages, counts, trees: all of it is shown, in every place."""
    good = chat(f"id {EVIL}", f"Q {EVIL}", f"A {EVIL}", f"P {EVIL}")
    good["messages"][0][f"key {EVIL}"] = 1
    data = write(tmp_path, "a\x1b[31m.jsonl", [good, good, chat(EVIL, "Q"), {EVIL: 1}, [EVIL]])
    given = ["--model", model, "--data", data, "--out", tmp_path / "out.jsonl"]
    given = [*map(str, given), "--show", "2", "--show-trees", "1"]
    for more, status in (["--on-error", "skip"], 0), ([], 2):
        with pytest.raises(SystemExit) as ended:
            cli.run(lambda more=more: score.main([*given, *more]))
        said = capfd.readouterr()
        assert ended.value.code == status, said.err
        assert said.out if status == 0 else said.err
        assert not obeyed(said.out) and not obeyed(said.err)
    names = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert names == [f"id {EVIL}_1", f"id {EVIL}~2_1"]  # as they are, for programs
