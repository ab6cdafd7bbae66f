"""Files with a few bytes changed, or cut off: an error of ours or a counted loss, and no good row
before the damage is lost where the kind of file lets one know where that is."""

import csv
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from interact_jax.data.conversations import read_conversations
from interact_jax.data.parquet_pages import read_groups
from interact_jax.data.records import Loss, Record, read_records
from interact_jax.schema import InputError

COUNT = 40  # cases of each kind
ROWS = 200
seeds = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))]
)
GROUP = 40  # rows of a group of Parquet


def rows(draw: random.Random) -> list[dict[str, str]]:
    """Messages of sessions of four; some with quotes, commas and line breaks."""
    marks = ('"', ",", "\n", " ", "ñ", "🙂")
    return [
        {
            "session": f"s{n // 4}",
            "role": ("user", "assistant")[n % 2],
            "text": f"{n} {draw.choice(marks)}{draw.getrandbits(200):x}{draw.choice(marks)}",
        }
        for n in range(ROWS)
    ]


def as_csv(table: list[dict[str, str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue().encode()


def as_lines(table: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def as_zstd(table: list[dict[str, str]], draw: random.Random) -> bytes:
    """In several frames, so that what stands before the damage is much of it."""
    pack = zstandard.ZstdCompressor(write_checksum=draw.random() < 0.5)
    return b"".join(pack.compress(as_lines(table[i : i + 20])) for i in range(0, ROWS, 20))


def as_parquet(table: list[dict[str, str]], draw: random.Random) -> bytes:
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(table),
        out,
        row_group_size=GROUP,
        compression=draw.choice(["none", "snappy", "zstd", "gzip"]),
        use_dictionary=draw.random() < 0.5,
        data_page_version=draw.choice(["1.0", "2.0"]),
        write_page_checksum=True,
    )
    return out.getvalue()


def damaged(data: bytes, draw: random.Random) -> tuple[bytes, int, bool]:
    """With one thing wrong; where it begins, and whether the file was cut there."""
    at = draw.randrange(1, len(data))
    kind = draw.choice(["cut", "bit", "bit", "bytes"])
    if kind == "cut":
        return data[:at], at, True
    if kind == "bit":
        changed = bytes([data[at] ^ 1 << draw.randrange(8)])
    else:
        changed = draw.randbytes(draw.randrange(1, 30))
    return data[:at] + changed + data[at + len(changed) :], at, False


def check(path, table, data, before: int) -> tuple[list, int]:
    """Both ways of reading end in order; the first rows, `before` of them, come through whole.
    Returns what came through, and how much was lost."""
    path.write_bytes(data)
    for on_error in ("stop", "skip"):
        try:
            read_conversations(str(path), on_error=on_error)
        except InputError as error:
            assert 0 < len(str(error)) < 4000
    found = list(read_records(str(path), "a"))
    values = [item.value for item in found if isinstance(item, Record)]
    assert values[:before] == table[:before]
    return values, sum(item.times for item in found if isinstance(item, Loss))


@seeds
def test_csv(tmp_path, seed):
    """Rows that end before the damage, and those behind it: it costs the rows it stands in."""
    draw = random.Random(seed)
    table = rows(draw)
    data = as_csv(table)
    ends = [len(as_csv(table[: n + 1])) for n in range(ROWS)]
    header = data.index(b"\n")
    for _ in range(COUNT):
        broken, at, cut = damaged(data, draw)
        if at <= header:
            continue
        before = sum(end <= at for end in ends)
        values, lost = check(tmp_path / "a.csv", table, broken, before)
        if not cut:
            assert sum(row not in values for row in table) <= 2
            assert len(values) + lost >= ROWS - 1


@seeds
def test_zstd(tmp_path, seed):
    """All of the frames that end before the damage."""
    draw = random.Random(seed)
    table = rows(draw)
    data = as_zstd(table, draw)
    starts = [i for i in range(len(data)) if data.startswith(b"\x28\xb5\x2f\xfd", i)]
    assert len(starts) == ROWS // 20
    for _ in range(COUNT):
        broken, at, cut = damaged(data, draw)
        whole = sum(start <= at for start in starts) - 1
        _, lost = check(tmp_path / "a.jsonl.zst", table, broken, 20 * whole)
        if cut and at not in starts:
            assert lost == 1


@seeds
def test_parquet(tmp_path, seed):
    """The row groups in which it is not, where the footer is whole; nothing is made up."""
    draw = random.Random(seed)
    table = rows(draw)
    for _ in range(COUNT):
        data = as_parquet(table, draw)
        groups = read_groups(io.BytesIO(data))
        starts = [min(c.get(11) or c[9] for c in group.columns) for group in groups]
        footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        broken, at, cut = damaged(data, draw)
        values, lost = check(tmp_path / "a.parquet", table, broken, 0)
        if cut:
            assert not values and lost == 1
        elif at >= 4 and at + 30 < footer:
            hit = {sum(start <= place for start in starts) - 1 for place in (at, at + 29)}
            assert all(value in table for value in values)
            assert all(row in values for n, row in enumerate(table) if n // GROUP not in hit)
            assert len(values) + lost == ROWS
