"""Lines that only grow: what was written is there after a crash."""

from __future__ import annotations

import logging

import pytest

from interact_jax.judges.store import Store, digest
from interact_jax.schema import InputError


def test_what_was_added_is_there_at_once_and_later(tmp_path):
    file = tmp_path / "new/store.jsonl"
    with Store.open(file, "n") as store:
        assert store.get("a") is None
        store.add("a", {"n": "é\n\u2028"})
        assert file.read_bytes().endswith(b"\n") and store.get("a")["n"] == "é\n\u2028"
        store.add("a", {"n": "later"})
    with Store.open(file, "n") as store:
        assert store.get("a") == {"key": "a", "n": "later"}


def test_a_line_that_was_cut_off_is_dropped_and_said(tmp_path, caplog):
    file = tmp_path / "store.jsonl"
    with Store.open(file, "n") as store:
        store.add("a", {"n": 1})
        store.add("b", {"n": 2})
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    with caplog.at_level(logging.WARNING), Store.open(file, "n") as store:
        assert store.get("a") and store.get("b") is None
        store.add("b", {"n": 2})
    assert "cut off" in caplog.text
    assert file.read_bytes() == whole


@pytest.mark.parametrize("broken", [b"{", b"[1]", b'{"n": 1}', b'{"key": "a"}', b"\xff"])
def test_any_other_broken_line_is_named(tmp_path, broken):
    file = tmp_path / "store.jsonl"
    file.write_bytes(b'{"key": "a", "n": 1}\n' + broken + b'\n{"key": "b", "n": 2}\n')
    with (
        pytest.raises(InputError, match=r"store\.jsonl:2: .* Delete the line"),
        Store.open(file, "n"),
    ):
        pass


def test_a_digest_depends_on_everything_but_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert len({digest(x) for x in ([1], ["1"], [[1]], {"1": 1}, [1.5])}) == 5
