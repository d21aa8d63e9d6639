"""Our lz4 and zstd objects read by liblz4 and libzstd, and theirs by ours (the wheels' own copies of the libraries)."""

from __future__ import annotations

import ctypes
import random

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from pagegen import PAGE, pages, sample

import truezram
from truezram._native import ffi, lib
from truezram.codec import ISAS

LZ4 = [truezram.Compressor("lz4", isa=isa) for isa in ISAS if lib.tz_codec_variant(b"lz4", ISAS.index(isa)) != ffi.NULL]
LEVELS = range(-7, 20)

THEIRS = [
    {"mode": "default"},
    {"mode": "fast", "acceleration": 8},
    {"mode": "high_compression", "compression": 9},
    {"mode": "high_compression", "compression": 12},
]


def liblz4(page: bytes, **how: object) -> bytes:
    return bytes(lz4.block.compress(page, store_size=False, **how))


def check_lz4(page: bytes) -> None:
    for compressor in LZ4:
        blob = compressor.compress(page)
        if len(blob) < PAGE:
            assert lz4.block.decompress(blob, uncompressed_size=PAGE) == page
        for how in THEIRS:
            theirs = liblz4(page, **how)
            if len(theirs) != PAGE:
                assert compressor.decompress(theirs) == page


@settings(deadline=None, max_examples=300)
@given(page=pages())
def test_lz4_both_ways(page: bytes) -> None:
    check_lz4(page)


def test_lz4_both_ways_extremes() -> None:
    for page in sample(600, seed=21):
        check_lz4(page)


def test_lz4_end_of_block_rules() -> None:
    """A match that could reach the end: the last five bytes are literals, no match starts within the last twelve."""
    for tail in range(1, 40):
        page = bytes(range(256)) * 15
        page = (page + bytes(PAGE))[: PAGE - tail] + bytes(range(100, 100 + tail))
        check_lz4(page)
        page = page[: PAGE - tail] + page[:tail]
        check_lz4(page)


def test_lz4_ratio_is_liblz4s() -> None:
    """On these pages together no larger than liblz4's; real pages are the benchmark's matter.

    (``lz4.block.compress`` cannot be the measure: it uses the streaming functions, which hash otherwise.)
    """
    samples = sample(1000, seed=22)
    library = ctypes.CDLL(lz4.block._block.__file__)
    dst = ctypes.create_string_buffer(2 * PAGE)
    theirs = sum(min(library.LZ4_compress_fast(page, dst, PAGE, 2 * PAGE, 1), PAGE) for page in samples)
    for compressor in LZ4:
        assert sum(len(compressor.compress(page)) for page in samples) <= theirs * 1.002


def test_lz4_agrees_with_liblz4_on_damage() -> None:
    """What liblz4 refuses we refuse; what we accept is what liblz4 makes of it."""
    rng = random.Random(23)
    for page in sample(300, seed=24):
        blob = bytearray(LZ4[0].compress(page))
        if len(blob) == PAGE:
            continue
        for _ in range(4):
            blob[rng.randrange(len(blob))] = rng.getrandbits(8)
        try:
            ours = LZ4[0].decompress(blob)
        except truezram.CorruptError:
            continue
        assert ours == lz4.block.decompress(bytes(blob), uncompressed_size=PAGE)


def magicless(**more: object) -> zstandard.ZstdCompressionParameters:
    return zstandard.ZstdCompressionParameters.from_level(
        1,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_checksum=False,
        write_dict_id=False,
        **more,
    )


@pytest.mark.parametrize("level", LEVELS)
def test_zstd_frames_are_readable(level: int) -> None:
    compressor = truezram.Compressor(f"zstd:{level}")
    decoder = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    shrunk = 0
    for page in sample(80, seed=25):
        blob = compressor.compress(page)
        if len(blob) == PAGE:
            continue
        shrunk += 1
        parameters = zstandard.get_frame_parameters(blob, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        assert parameters.content_size in (0, zstandard.CONTENTSIZE_UNKNOWN)
        assert parameters.dict_id == 0
        assert not parameters.has_checksum
        assert decoder.decompress(blob, max_output_size=PAGE) == page
    assert shrunk > 50


def test_zstd_reads_their_frames() -> None:
    """Frames of our kind; those with a content size or a second frame are not ours, and are refused."""
    compressor = truezram.Compressor("zstd")
    encoder = zstandard.ZstdCompressor(compression_params=magicless(write_content_size=False))
    other = zstandard.ZstdCompressor(compression_params=magicless(write_content_size=True))
    read = 0
    for page in sample(80, seed=26):
        blob = encoder.compress(page)
        if len(blob) == PAGE:
            continue
        assert compressor.decompress(blob) == page
        read += 1
        empty = encoder.compress(b"")
        for wrong in (other.compress(page), blob + b"\0", blob + empty, empty + blob):
            with pytest.raises(truezram.CorruptError):
                compressor.decompress(wrong)
    assert read > 50


def test_zstd_levels_differ() -> None:
    """The level reaches libzstd: over these pages -7 is larger than 1, and 1 is larger than 19."""
    data = b"".join(sample(200, seed=27))
    sizes = [len(truezram.Compressor(f"zstd:{level}").compress_pages(data).data) for level in (-7, 1, 19)]
    assert sizes[0] > sizes[1] > sizes[2]
