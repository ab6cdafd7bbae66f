"""zstd: all that stands before the damage comes through, in little memory."""

import gzip
import random
import struct
import tracemalloc

import pytest
import zstandard

from interact_jax.data import unpacking
from interact_jax.data.conversations import read_conversations
from interact_jax.data.sources import Source
from interact_jax.schema import InputError
from tests.data.test_records import packed as gzip_of
from tests.logs import good, ids, write

BLOCK = 1 << 17  # bytes of text in a block of zstd


def lines(count: int, seed: int = 0) -> bytes:
    """Lines that do not pack well, so that there are many blocks."""
    draw = random.Random(seed)
    return b"".join(b"%d %x\n" % (i, draw.getrandbits(800)) for i in range(count))


def unpacked(data: bytes) -> tuple[bytes, unpacking.Cut | None]:
    out, cut = [], None
    try:
        for piece in unpacking.unzstd([data[i : i + 999] for i in range(0, len(data), 999)]):
            out.append(piece)
    except unpacking.Broken as broken:
        cut = broken.cut
    return b"".join(out), cut


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl", "a.json.ZST"])
def test_by_bytes_or_by_name(tmp_path, name):
    record = good("a")
    data = zstandard.compress(str(record).replace("'", '"').encode())
    (tmp_path / name).write_bytes(data)
    assert ids(str(tmp_path / name)) == ["a"]
    (tmp_path / name).write_bytes(b"no such thing")
    if name != "a.jsonl":
        with pytest.raises(InputError, match=r"damaged zstd.*no frame begins here.*on_error=skip"):
            read_conversations(str(tmp_path / name))


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("sized", [True, False])
def test_frames_one_behind_the_other(checksum, sized):
    """With the size of what is in them or without, with others between that hold no data."""
    pack = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=sized)
    texts = [lines(5000), b"", b"x" * 10**6, lines(7, 1)]
    skipped = struct.pack("<II", 0x184D2A53, 70_000) + bytes(70_000)
    data = skipped + skipped.join(pack.compress(text) for text in texts) + skipped
    assert unpacked(data) == (b"".join(texts), None)


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_cut_off(at):
    """The last block may be lost, and no more."""
    text = lines(10_000)
    data = zstandard.compress(text)
    out, cut = unpacked(data[: int(at * len(data))])
    assert cut and (cut.reason, cut.detail) == ("damaged zstd", unpacking.CUT_OFF)
    assert text.startswith(out) and len(out) > at * len(text) - 2 * BLOCK


def test_every_place_to_cut_a_short_file():
    data = zstandard.ZstdCompressor(write_checksum=True).compress(b"Hello, hello, hello")
    for end in range(1, len(data)):
        out, cut = unpacked(data[:end])
        assert cut and cut.detail == unpacking.CUT_OFF and out in (b"", b"Hello, hello, hello")
    assert unpacked(data) == (b"Hello, hello, hello", None)


def test_a_wrong_checksum_is_told_after_the_text():
    data = zstandard.ZstdCompressor(write_checksum=True).compress(b"Hello, hello, hello")
    out, cut = unpacked(data[:-1] + bytes([data[-1] ^ 1]))
    assert out == b"Hello, hello, hello" and cut and "checksum" in cut.detail


def test_what_takes_too_much_memory_is_refused():
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=29)
    pack = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = pack.compress(b"Hello") + pack.flush()
    out, cut = unpacked(zstandard.compress(b"before") + data)
    assert out == b"before" and cut and "536,870,912 bytes" in cut.detail
    assert "--long" in cut.remedy


def test_a_dictionary_that_is_not_there(tmp_path):
    trained = zstandard.train_dictionary(1024, [b"%d times a text" % i for i in range(5000)])
    data = zstandard.ZstdCompressor(dict_data=trained).compress(b"7 times a text")
    _, cut = unpacked(data)
    assert cut and cut.reason == "zstd with a dictionary"


def test_what_swells_is_read_up_to_the_bound(tmp_path):
    """A gigabyte in some ten thousand bytes: no more of it is unpacked than asked for."""
    pack = zstandard.ZstdCompressor().compressobj()
    data = b"".join([pack.compress(bytes(1 << 20)) for _ in range(1000)] + [pack.flush()])
    assert len(data) < 100_000
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(data)
    source = Source(str(path), 3_000_000)
    tracemalloc.start()
    size = sum(map(len, source))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size == 3_000_000 and source.cut and source.cut.reason == "file too large"
    assert most < 8_000_000


def test_packed_either_way_it_is_the_same(tmp_path):
    text = gzip.decompress(gzip_of(20, "lines"))
    found = [ids(write(tmp_path, name, text)) for name in ("a.jsonl.gz", "a.jsonl.zst")]
    assert found[0] == found[1] and len(found[0]) == 20
