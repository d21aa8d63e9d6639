"""zstd with a dictionary, as a library. (Devices: test_dictionary_device.py; the codec under guard pages:
tests/native/test_dictionary.c.)"""

from __future__ import annotations

import random

import pytest
import zstandard

import truezram

PAGE = 4096
MAGICLESS = zstandard.FORMAT_ZSTD1_MAGICLESS
WORDS = [random.Random(i).randbytes(24) for i in range(2000)]
"""What pages are made of: they hardly repeat it, a dictionary has it."""


def make_pages(count: int, seed: int, words: list[bytes] = WORDS) -> list[bytes]:
    """Pages of words that all pages share, and of noise."""
    order = random.Random(seed)
    found = []
    for _ in range(count):
        parts = b"".join(order.choice(words[:300]) + order.randbytes(6) for _ in range(200))
        found.append(parts[:PAGE])
    return found


def train(seed: int = 1, words: list[bytes] = WORDS, size: int = 16384) -> bytes:
    samples: list[bytes | bytearray | memoryview] = [*make_pages(200, seed, words)]
    return zstandard.train_dictionary(size, samples).as_bytes()


DICTIONARY = train()
OTHER = train(2, WORDS[1000:])


# ---- the library ----


@pytest.mark.parametrize("level", [-7, 1, 3, 5, 6, 9, 19])
def test_round_trip_and_gain(level: int) -> None:
    pages = make_pages(40, 7)
    plain = truezram.Compressor(f"zstd:{level}")
    trained = truezram.Compressor(f"zstd:{level}", dictionary=DICTIONARY)
    blobs = [trained.compress(page) for page in pages]
    assert [trained.decompress(blob) for blob in blobs] == pages
    batch = trained.compress_pages(b"".join(pages))
    assert list(batch) == blobs
    assert trained.decompress_pages(batch.data, batch.offsets) == b"".join(pages)
    assert sum(map(len, blobs)) < 0.8 * sum(len(plain.compress(page)) for page in pages)
    assert (trained.name, trained.level, trained.isa) == ("zstd", level, "portable")
    assert repr(trained) == f"Compressor('zstd:{level}', isa='portable', dictionary=<{len(DICTIONARY)} bytes>)"


def test_levels_read_each_other() -> None:
    """Below 6 objects are made with the dictionary's content alone, from 6 on with its tables."""
    low, high = (truezram.Compressor(f"zstd:{level}", dictionary=DICTIONARY) for level in (1, 9))
    for page in make_pages(20, 8):
        first, second = low.compress(page), high.compress(page)
        assert (first[1] & 7, second[1] & 7) == (1, 2)
        assert high.decompress(first) == low.decompress(second) == page


def test_objects_are_frames_that_zstd_reads() -> None:
    for level, kind in ((1, zstandard.DICT_TYPE_RAWCONTENT), (9, zstandard.DICT_TYPE_FULLDICT)):
        compressor = truezram.Compressor(f"zstd:{level}", dictionary=DICTIONARY)
        theirs = zstandard.ZstdCompressionDict(DICTIONARY, dict_type=kind)
        decoder = zstandard.ZstdDecompressor(dict_data=theirs, format=MAGICLESS)
        for page in make_pages(20, 9):
            blob = compressor.compress(page)
            assert zstandard.get_frame_parameters(blob, format=MAGICLESS).dict_id == 0
            assert decoder.decompress(blob, max_output_size=PAGE) == page


def test_with_and_without_are_kept_apart() -> None:
    plain, trained = truezram.Compressor("zstd"), truezram.Compressor("zstd", dictionary=DICTIONARY)
    for page in [*make_pages(20, 10), bytes(PAGE)]:
        with pytest.raises(truezram.CorruptError, match="or made by another algorithm or dictionary"):
            plain.decompress(trained.compress(page))
        with pytest.raises(truezram.CorruptError, match="not a valid zstd object made with this dictionary"):
            trained.decompress(plain.compress(page))


@pytest.mark.parametrize("level", [1, 9])
def test_a_wrong_dictionary_or_damage_does_no_harm(level: int) -> None:
    """An error, or another page; tests/native has it under sanitizers and against guard pages."""
    right, wrong = (truezram.Compressor(f"zstd:{level}", dictionary=data) for data in (DICTIONARY, OTHER))
    order, others = random.Random(11), 0
    for page in make_pages(60, 11):
        blob = right.compress(page)
        damaged = bytearray(blob)
        for _ in range(3):
            damaged[order.randrange(len(damaged))] = order.randrange(256)
        noise = bytes([0, order.choice((0x11, 0x12))]) + order.randbytes(order.randrange(1, 2000))
        for bad in (blob, bytes(damaged), noise):
            try:
                others += wrong.decompress(bad) != page
            except truezram.CorruptError:
                others += 1
    assert others == 180


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it is empty"),
        (DICTIONARY[:255], "fewer than 256 bytes"),
        (DICTIONARY[:4] + bytes(128 << 10), "more than 128 KiB"),
        (b"just some text " * 100, "does not begin with 37 a4 30 ec"),
        (DICTIONARY[:8] + b"\xff" * 1000, "its tables are damaged"),
    ],
)
def test_what_is_no_dictionary(data: bytes, text: str) -> None:
    with pytest.raises(truezram.AlgorithmError, match=f"cannot use this dictionary of {len(data)} bytes: .*{text}"):
        truezram.Compressor("zstd:3", dictionary=data)


def test_sizes() -> None:
    assert range(256, 131073) == truezram.DICTIONARY_SIZES
    largest = train(size=131072)
    page = make_pages(1, 3)[0]
    for level in (-7, 19):
        compressor = truezram.Compressor(f"zstd:{level}", dictionary=bytearray(largest))
        assert compressor.decompress(compressor.compress(page)) == page


@pytest.mark.parametrize("name", [a.name for a in truezram.algorithms() if a.name != "zstd"])
def test_other_algorithms_refuse_one(name: str) -> None:
    with pytest.raises(truezram.AlgorithmError, match=f"'{name}' takes no dictionary. Use zstd"):
        truezram.Compressor(name, dictionary=DICTIONARY)


def test_wrong_types() -> None:
    for wrong in ("text", 5, memoryview(DICTIONARY)[::2]):
        with pytest.raises(TypeError, match="dictionary must be"):
            truezram.Compressor("zstd", dictionary=wrong)  # type: ignore[arg-type]
    with pytest.raises(truezram.AlgorithmError, match="no avx2 code"):
        truezram.Compressor("zstd", isa="avx2", dictionary=DICTIONARY)
