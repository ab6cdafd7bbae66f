"""Digests: whatever happens to a sealed directory is noticed, and the file is named."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest

from interact_jax import digests
from interact_jax.digests import Damaged
from interact_jax.schema import InputError

OWN = digests.NAME.format(0, 1)


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "21"
    (folder / "state/d").mkdir(parents=True)
    (folder / "state/d/array").write_bytes(bytes(range(256)))
    (folder / "empty").touch()
    digests.seal(folder)
    return folder


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def test_what_is_sealed_is_sound(sealed):
    assert digests.check(sealed)
    digests.seal(sealed)
    assert digests.check(sealed)
    assert sorted(p.name for p in sealed.iterdir()) == [OWN, "empty", "state"]


def test_a_name_may_have_what_python_takes_for_the_end_of_a_line(tmp_path):
    (tmp_path / "a\u2028b\x0c.jinja").touch()
    digests.seal(tmp_path)
    assert digests.check(tmp_path)


@pytest.mark.parametrize(
    "name, damage, what",
    [
        ("state/d/array", flip, "is not what was written"),
        ("state/d/array", lambda file: os.truncate(file, 255), "is not what was written"),
        ("state/d/array", lambda file: file.unlink(), "is missing"),
        ("state/d/array", lambda file: shutil.rmtree(file.parents[1]), "is missing"),
        ("empty", lambda file: file.write_text(" "), "is not what was written"),
        (OWN, flip, "is not what was written"),
        (OWN, lambda file: os.truncate(file, 0), "is not what was written"),
        (OWN, lambda file: os.truncate(file, file.stat().st_size - 1), "is not what was written"),
        (OWN, lambda file: file.write_bytes(file.read_bytes() * 2), "is not what was written"),
    ],
)
def test_damage_is_named(sealed, name, damage, what):
    damage(sealed / name)
    with pytest.raises(Damaged, match=rf"21 is damaged: {name} {what}\. Mend it\.$") as found:
        digests.check(sealed, "Mend it.")
    assert isinstance(found.value, InputError)


def test_every_bit_of_the_digests_counts(sealed):
    """Of the file of digests itself, too: nobody looks for a fault in a sound file."""
    original = (sealed / OWN).read_bytes()
    for at in range(0, len(original), 5):
        data = bytearray(original)
        data[at] ^= 1 << at % 8
        (sealed / OWN).write_bytes(data)
        with pytest.raises(Damaged, match=f"damaged: {OWN} "):
            digests.check(sealed)


def test_without_digests_nothing_is_known(sealed):
    (sealed / OWN).unlink()
    assert not digests.is_sealed(sealed)
    assert not digests.check(sealed)


@pytest.mark.parametrize("name", ["/proc/version", "../22/array", "state/link", "a\0"])
def test_what_leads_out_of_the_directory_is_not_read(sealed, name, monkeypatch):
    (sealed / "state/link").symlink_to("/proc/version")
    lines = f"{'0' * 128}  {name}\n"
    own = hashlib.blake2b(lines.encode()).hexdigest()
    (sealed / OWN).write_text(f"{lines}{digests.LAST_LINE}{own}\n")
    monkeypatch.delattr(digests, "of_files")
    with pytest.raises(Damaged, match=r"21 is damaged: .* leads out of it"):
        digests.check(sealed)


def test_it_is_sealed_when_every_process_has_sealed_its_own(sealed):
    """As an earlier version meant several processes to do."""
    own = (sealed / OWN).rename(sealed / digests.NAME.format(1, 2))
    assert not digests.is_sealed(sealed)
    shutil.copyfile(own, sealed / digests.NAME.format(0, 2))
    assert digests.check(sealed)
    flip(sealed / digests.NAME.format(1, 2))
    with pytest.raises(Damaged, match=r"digests-1-of-2\.b2"):
        digests.check(sealed)


def test_b2sum_reads_them(sealed):
    """A line a file: 128 hexadecimal digits of BLAKE2b, two spaces, the name; # is a comment."""
    *lines, last = (sealed / OWN).read_text().splitlines()
    assert last.startswith("#")
    found = dict(reversed(line.split("  ")) for line in lines)
    assert sorted(found) == ["empty", "state/d/array"]
    for name, digest in found.items():
        assert digest == hashlib.blake2b((sealed / name).read_bytes()).hexdigest()
