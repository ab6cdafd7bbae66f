"""Digests of the files of a directory, stored in it, so that damage is detected and located.

    digests.seal(Path("checkpoints/21"))     when everything is written
    digests.check(Path("checkpoints/21"))    raises Damaged

They are in the format of b2sum (`cd checkpoints/21 && b2sum -c digests-*.b2` checks by hand), and
the last line is the digest of the lines before it. There may be several such files, whose names say
how many: an earlier version meant each process to write one. Now one writes for all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax

from interact_jax import store
from interact_jax.cluster import processes
from interact_jax.schema import InputError
from interact_jax.store import Place

NAME = "digests-{}-of-{}.b2"
NAME_PATTERN = re.compile(r"digests-(\d+)-of-(\d+)\.b2")
LAST_LINE = "# digest of the lines above: "
THREADS = 8
WITHOUT_DIGESTS = "If the other files there are sound, delete {}: they are then taken as they are."


class Damaged(InputError):
    """A file differs from what was written."""


def seal(folder: Place) -> None:
    """Sync the files of a directory to disk, and then write their digests beside them."""
    names = names_in(folder)
    hashes = of_files([folder / name for name in names])
    store.of(folder).sync_tree(folder)
    _write(folder, dict(zip(names, hashes, strict=True)))


def seal_together(folder: Place, kind: str) -> None:
    """`seal`, by all processes of a run, each of which reads its share of the files. They meet
    before, when all files are there, and when the digests are. Directories of one `kind` are sealed
    one after the other, those of others meanwhile. Raises as `processes.exchange`."""
    count, own = jax.process_count(), jax.process_index()
    if count == 1:
        seal(folder)
        return
    # As process 0 sees them: elsewhere the list may be an older one, which a network's file system
    # has kept.
    listed = processes.of_first(f"files of {kind}", json.dumps(names_in(folder)))
    mine = _share(folder, json.loads(listed), own, count)
    hashes = of_files([folder / name for name in mine])
    for name in mine:
        store.of(folder).sync(folder / name)
    found = dict(zip(mine, hashes, strict=True))
    of_all = processes.exchange(f"digests of {kind}", json.dumps(found), processes.LONG_SECONDS)
    if own == 0:
        store.of(folder).sync_tree(folder)
        together = {name: digest for text in of_all for name, digest in json.loads(text).items()}
        left = [name for name in json.loads(listed) if name not in together]
        together |= dict(zip(left, of_files([folder / name for name in left]), strict=True))
        _write(folder, dict(sorted(together.items())))
    processes.meet(f"{kind} sealed")


def _share(folder: Place, names: list[str], own: int, count: int) -> list[str]:
    """A share of the files, of about as many bytes as each other."""
    sizes, mine = [0] * count, list[str]()
    size_of = store.of(folder).sizes(folder, names)
    for name in sorted(names, key=lambda name: (-size_of[name], name)):
        least = sizes.index(min(sizes))
        sizes[least] += size_of[name]
        if least == own:
            mine.append(name)
    return mine


def _write(folder: Place, digest_of: Mapping[str, str]) -> None:
    lines = "".join(f"{digest}  {name}\n" for name, digest in digest_of.items())
    text = f"{lines}{LAST_LINE}{_hash(lines.encode())}\n"
    store.of(folder).write(folder / NAME.format(0, 1), text)


def names_in(folder: Place) -> list[str]:
    """The names of the files that are to be sealed."""
    return [name for name in store.of(folder).names(folder) if not is_own(name)]


def is_own(name: str) -> bool:
    """Whether a file of this name, in whatever directory, has digests of others."""
    return NAME_PATTERN.fullmatch(name.rpartition("/")[2]) is not None


def is_sealed(folder: Place) -> bool:
    """Whether the digests of all processes are there."""
    found = map(NAME_PATTERN.fullmatch, store.of(folder).entries(folder))
    parts = [m.groups() for m in found if m]
    counts = {int(count) for _, count in parts}
    return len(counts) == 1 and len(parts) == counts.pop()


def check(
    folder: Place,
    remedy: str = "",
    needed: bool = True,
    unread: Callable[[str], bool] | None = None,
) -> bool:
    """Whether there are digests, all of which match the files.

    Raises Damaged, which names the first file that does not match; `remedy` is for its message.
    Where the directory may also be read without digests, they are not `needed`: the message then
    says how to do without damaged ones. Files whose names are `unread` are not compared.
    """

    def damaged(name: str, what: str) -> Damaged:
        message = f"{folder} is damaged: {name} {what}"
        return Damaged(f"{message}. {remedy}" if remedy else message)

    if not is_sealed(folder):
        return False
    expected: dict[str, str] = {}
    kept = store.of(folder)
    for name in filter(NAME_PATTERN.fullmatch, kept.entries(folder)):
        lines = _read(folder / name)
        if lines is None:
            remedy = remedy if needed else f"{WITHOUT_DIGESTS.format(name)} {remedy}"
            raise damaged(name, "is not what was written")
        expected |= {n: d for n, d in lines.items() if unread is None or not unread(n)}
    outside = [name for name in expected if _leads_out(folder, name)]
    if outside:
        raise damaged(outside[0], "leads out of it")
    missing = kept.missing(folder, expected)
    if missing:
        raise damaged(missing[0], "is missing")
    try:
        actual = of_files([folder / name for name in expected])
    except OSError as error:
        raise damaged(str(error.filename), f"cannot be read ({error.strerror})") from error
    for (name, old), new in zip(expected.items(), actual, strict=True):
        if old != new:
            raise damaged(name, "is not what was written")
    return True


def _read(file: Place) -> dict[str, str] | None:
    """The digests by name; None where the file itself is damaged."""
    try:
        with store.of(file).open(file) as opened:
            content = opened.read()
        lines, last, own = content.decode().rpartition(LAST_LINE)
    except (OSError, UnicodeDecodeError):
        return None
    if not last or own != _hash(lines.encode()) + "\n":
        return None
    pairs = (line.partition("  ") for line in lines.split("\n")[:-1])
    return {name: digest for digest, _, name in pairs}


def _leads_out(folder: Place, name: str) -> bool:
    """Whether a name is that of a file elsewhere: a stranger's may be one that has no end."""
    if not isinstance(folder, Path):
        return False  # names of objects lead nowhere
    try:
        return not Path(os.path.realpath(folder / name)).is_relative_to(os.path.realpath(folder))
    except ValueError:  # a null byte
        return True


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data).hexdigest()


def of_files(places: Sequence[Place]) -> list[str]:
    """The digest of each file. Computed in threads: hashlib releases the GIL."""

    def hash_file(place: Place) -> str:
        with store.of(place).open(place) as file:
            return hashlib.file_digest(file, hashlib.blake2b).hexdigest()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(hash_file, places))
