"""Every codec in every variant that this CPU runs, through the Python library: round trips, and damaged objects."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pagegen import PAGE, log_lines, pages, sample

import truezram
from truezram._native import ffi, lib
from truezram.codec import ISAS, KINDS

NAMES = [a.name for a in truezram.algorithms()]
VARIANTS = [
    (name, isa) for name in NAMES for isa in ISAS if lib.tz_codec_variant(name.encode(), ISAS.index(isa)) != ffi.NULL
]
compressors = {(name, isa): truezram.Compressor(name, isa=isa) for name, isa in VARIANTS}

each_variant = pytest.mark.parametrize(("name", "isa"), VARIANTS)
each_name = pytest.mark.parametrize("name", NAMES)
# `auto` decides by the clock.
each_steady_variant = pytest.mark.parametrize(("name", "isa"), [pair for pair in VARIANTS if pair[0] != "auto"])
each_steady_name = pytest.mark.parametrize("name", [name for name in NAMES if name != "auto"])


def test_every_codec_has_a_variant_and_the_best_is_chosen() -> None:
    best = ISAS[lib.tz_cpu_isa()]
    assert NAMES
    for algorithm in truezram.algorithms():
        isas = [isa for name, isa in VARIANTS if name == algorithm.name]
        assert algorithm.isa == max(isas, key=ISAS.index)
        assert "portable" in isas
        assert all(isa in ("portable", best, "avx2") for isa in isas)


@each_variant
def test_extreme_pages(name: str, isa: str) -> None:
    compressor = compressors[name, isa]
    for page in sample(400):
        blob = compressor.compress(page)
        assert 1 <= len(blob) <= PAGE
        assert compressor.decompress(blob) == page
    assert len(compressor.compress(bytes(PAGE))) < 200


@each_variant
@settings(deadline=None, max_examples=150)
@given(page=pages())
def test_round_trip_by_all_variants(name: str, isa: str, page: bytes) -> None:
    blob = compressors[name, isa].compress(page)
    for other in [i for n, i in VARIANTS if n == name]:
        assert compressors[name, other].decompress(blob) == page


@each_steady_variant
def test_same_page_same_object(name: str, isa: str) -> None:
    """What a page becomes does not depend on the pages before it."""
    samples = sample(60, seed=7)
    fresh = [truezram.Compressor(name, isa=isa).compress(page) for page in samples]
    used = truezram.Compressor(name, isa=isa)
    for _ in range(3):
        assert [used.compress(page) for page in samples] == fresh


@pytest.mark.parametrize("isa", [isa for name, isa in VARIANTS if name == "auto"])
def test_auto_is_fast_or_dense(isa: str) -> None:
    """An object is one of the two and its kind; with all the time there is it is never longer than fast's."""
    fast, dense = truezram.Compressor("fast", isa=isa), truezram.Compressor("dense", isa=isa)
    auto, kinds = truezram.Compressor("auto:100", isa=isa), set()
    for page in sample(300, seed=8):
        blob = auto.compress(page)
        if len(blob) == PAGE:
            continue
        kinds.add(blob[-1])
        made = {8: fast, 9: dense}[blob[-1]].compress(page)
        assert blob[:-1] == made
        assert len(made) <= len(fast.compress(page))
    assert kinds == {8, 9}
    with pytest.raises(truezram.CorruptError):
        auto.decompress(fast.compress(bytes(PAGE)) + b"\x05")


@each_variant
def test_shrinks_what_can_be_shrunk(name: str, isa: str) -> None:
    record = random.Random(3).randbytes(64) + bytes(64)
    assert len(compressors[name, isa].compress(record * 32)) < PAGE // 4


@pytest.mark.parametrize("isa", [isa for name, isa in VARIANTS if name == "fast"])
def test_fast_is_no_larger_than_lz4_on_text_that_repeats_itself(isa: str) -> None:
    """Its last byte says what an object is: 0x82 is an LZ4 block, and the bytes before it are lz4's own object."""
    rng = random.Random(12)
    logs = [log_lines(rng, PAGE) for _ in range(50)]
    fast, lz4 = compressors["fast", isa], compressors["lz4", isa]
    blobs, others = [fast.compress(page) for page in logs], [lz4.compress(page) for page in logs]
    assert sum(map(len, blobs)) <= 1.01 * sum(map(len, others))
    blocks = [blob for blob in blobs if blob[-1] == 0x82]
    assert blocks
    assert all(blob[:-1] in others for blob in blocks)


@each_variant
def test_noise_is_stored_raw(name: str, isa: str) -> None:
    page = random.Random(4).randbytes(PAGE)
    assert compressors[name, isa].compress(page) == page


@each_variant
@settings(deadline=None, max_examples=300)
@given(blob=st.binary(max_size=PAGE + 300).filter(lambda b: len(b) != PAGE))
def test_arbitrary_bytes(name: str, isa: str, blob: bytes) -> None:
    compressor = compressors[name, isa]
    try:
        page = compressor.decompress(blob)
    except truezram.CorruptError:
        return
    assert len(page) == PAGE


@each_variant
@settings(deadline=None, max_examples=150)
@given(page=pages(), seed=st.integers(0, 1 << 32))
def test_damaged_objects(name: str, isa: str, page: bytes, seed: int) -> None:
    """Flipped, overwritten, cut: an error or some page, and all variants agree on which."""
    rng = random.Random(seed)
    good = compressors[name, isa].compress(page)
    if len(good) == PAGE:
        return
    for _ in range(5):
        blob = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            blob[rng.randrange(len(blob))] = rng.choice((0, 255, rng.getrandbits(8)))
        if rng.random() < 0.3:
            del blob[rng.randrange(len(blob)) :]
        outcomes = set()
        for other in [i for n, i in VARIANTS if n == name]:
            try:
                outcomes.add(compressors[name, other].decompress(blob))
            except truezram.CorruptError:
                outcomes.add(None)
        assert len(outcomes) == 1


@each_name
def test_cut_objects_are_errors(name: str) -> None:
    compressor = truezram.Compressor(name)
    for page in sample(60, seed=5):
        blob = compressor.compress(page)
        if len(blob) == PAGE:
            continue
        for cut in {0, 1, len(blob) // 2, len(blob) - 1}:
            with pytest.raises(truezram.CorruptError):
                compressor.decompress(blob[:cut])


@each_steady_name
def test_batches_equal_single_calls(name: str) -> None:
    samples = sample(200, seed=11)
    compressor = truezram.Compressor(name)
    batch = compressor.compress_pages(b"".join(samples))
    assert [bytes(blob) for blob in batch] == [compressor.compress(page) for page in samples]
    assert list(batch.offsets) == [sum(len(b) for b in list(batch)[:i]) for i in range(len(samples) + 1)]
    assert compressor.decompress_pages(batch.data, batch.offsets) == b"".join(samples)


@each_name
def test_batch_of_none(name: str) -> None:
    compressor = truezram.Compressor(name)
    batch = compressor.compress_pages(b"")
    assert len(batch) == 0
    assert list(batch) == []
    assert bytes(compressor.decompress_pages(batch.data, batch.offsets)) == b""


@each_steady_name
def test_batch_into_a_given_buffer(name: str) -> None:
    samples = b"".join(sample(50, seed=12))
    compressor = truezram.Compressor(name)
    size = len(compressor.compress_pages(samples).data)
    room = bytearray(b"\xaa" * (size + 16))
    view = memoryview(room)
    batch = compressor.compress_pages(samples, out=view[8:-8])
    assert batch.data.obj is room
    assert len(batch.data) == size
    assert room[:8] == room[-8:] == b"\xaa" * 8
    with pytest.raises(ValueError, match=f"out has {size - 1} bytes"):
        compressor.compress_pages(samples, out=bytearray(size - 1))
    out = bytearray(len(samples) + 1)
    assert compressor.decompress_pages(batch.data, batch.offsets, out=out) == samples
    assert out[:-1] == samples
    assert out[-1] == 0


@each_name
def test_batch_names_the_corrupt_object(name: str) -> None:
    compressor = truezram.Compressor(name)
    batch = compressor.compress_pages(b"".join([bytes(PAGE)] * 5))
    offsets = array("Q", batch.offsets)
    offsets[4] -= 1
    with pytest.raises(truezram.CorruptError, match="object 3 of 5") as caught:
        compressor.decompress_pages(batch.data, offsets)
    assert caught.value.index == 3
    for bad in ([0, 1 << 63], [5, 4], [0, len(batch.data) + 1], [1 << 64 - 1, (1 << 64) - 1]):
        with pytest.raises(truezram.CorruptError, match="object 0 of 1"):
            compressor.decompress_pages(batch.data, array("Q", bad))


def test_buffers_are_given_back() -> None:
    """After a call, and after a failed one, the caller can resize or release what it lent."""
    compressor = truezram.Compressor("lz4")
    page, wrong = bytearray(PAGE), bytearray(PAGE - 1)
    blob = bytearray(compressor.compress(page))
    offsets = array("Q", [0, len(blob) - 1])
    with pytest.raises(ValueError, match="a page is exactly") as first:
        compressor.compress(wrong)
    with pytest.raises(truezram.CorruptError) as second:
        compressor.decompress_pages(blob, offsets)
    assert first.value.__traceback__ is not None
    assert second.value.__traceback__ is not None
    for buffer in (page, wrong, blob):
        buffer.append(0)
    offsets.append(0)


def test_threads_may_share_a_compressor() -> None:
    compressor = truezram.Compressor("lz4")
    samples = b"".join(sample(100, seed=13))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                batch = compressor.compress_pages(samples)
                assert compressor.decompress_pages(batch.data, batch.offsets) == samples
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_batch_calls_release_the_gil() -> None:
    """While one thread is inside a long batch call, this one keeps running Python."""
    compressor = truezram.Compressor("zstd:19")
    data = b"".join(sample(400, seed=14))
    thread = threading.Thread(target=compressor.compress_pages, args=(data,))
    thread.start()
    turns = 0
    while thread.is_alive():
        turns += 1
    thread.join()
    assert turns > 1000


def test_two_dimensional_buffers() -> None:
    samples = b"".join(sample(6, seed=15))
    compressor = truezram.Compressor("lz4")
    square = memoryview(samples).cast("B", (6, PAGE))
    batch = compressor.compress_pages(square)
    assert batch.data == compressor.compress_pages(samples).data
    out = memoryview(bytearray(len(samples))).cast("B", (6, PAGE))
    assert compressor.decompress_pages(batch.data, batch.offsets, out=out) == samples


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        ("", 'unknown algorithm "". Use one of: '),
        ("lzma", 'unknown algorithm "lzma". Use one of: '),
        ("lz4 ", 'unknown algorithm "lz4 "'),
        ("lz4:1", 'algorithm "lz4" has no levels'),
        ("zstd:", 'level "" is not a whole number from -7 to 19'),
        ("zstd:20", 'level "20" is not a whole number from -7 to 19'),
        ("zstd:-8", 'level "-8"'),
        ("zstd:1x", 'level "1x"'),
        ("zstd:99999999999999", 'level "99999999999999"'),
        ("x" * 500, "unknown algorithm"),
    ],
)
def test_unknown_algorithms(algorithm: str, text: str) -> None:
    with pytest.raises(truezram.AlgorithmError) as caught:
        truezram.Compressor(algorithm)
    assert text in str(caught.value)


def test_algorithm_and_level() -> None:
    assert truezram.Compressor("zstd").level == 1
    assert truezram.Compressor("zstd:-7").level == -7
    assert truezram.Compressor("zstd:+3").level == 3
    assert repr(truezram.Compressor("zstd:19")) == "Compressor('zstd:19', isa='portable')"
    assert truezram.Compressor("lz4").level is None


def test_kinds_and_summaries_are_those_of_the_library() -> None:
    assert KINDS[lib.TZ_KIND_EMPTY] == "empty"
    assert KINDS[lib.TZ_KIND_SAME_U32] == KINDS[lib.TZ_KIND_SAME_U64] == "same"
    assert KINDS[lib.TZ_KIND_RAW] == "huge"
    assert {algorithm.name for algorithm in truezram.algorithms()} < set(KINDS)
    assert all(algorithm.summary for algorithm in truezram.algorithms())


def test_unknown_instruction_sets() -> None:
    with pytest.raises(truezram.AlgorithmError, match="unknown instruction set 'sse'"):
        truezram.Compressor("lz4", isa="sse")
    with pytest.raises(truezram.AlgorithmError, match="no neon code" if os.uname().machine == "x86_64" else "no avx2"):
        truezram.Compressor("lz4", isa="neon" if os.uname().machine == "x86_64" else "avx2")


def test_wrong_arguments() -> None:
    compressor = truezram.Compressor("lz4")
    with pytest.raises(ValueError, match="page has 4095 bytes: a page is exactly 4096"):
        compressor.compress(bytes(4095))
    with pytest.raises(ValueError, match="pages has 5000 bytes: not a multiple of 4096"):
        compressor.compress_pages(bytes(5000))
    with pytest.raises(TypeError, match="page must be a C-contiguous buffer"):
        compressor.compress("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="page must be a C-contiguous buffer"):
        compressor.compress(memoryview(bytes(8192))[::2])
    with pytest.raises(TypeError, match="out must be a writable"):
        compressor.compress_pages(bytes(4096), out=bytes(4096))
    with pytest.raises(ValueError, match="offsets must be"):
        compressor.decompress_pages(b"", array("I", [0]))
    with pytest.raises(ValueError, match="offsets must be"):
        compressor.decompress_pages(b"", array("Q"))
    with pytest.raises(ValueError, match="out has 4095 bytes: 1 pages need 4096"):
        compressor.decompress_pages(b"", array("Q", [0, 0]), out=bytearray(4095))


LESSER = (
    "import truezram, sys; sys.path.insert(0, sys.argv[1]); from pagegen import sample;"
    "from truezram._native import lib, ffi;"
    "pages = sample(100);"
    "print(lib.tz_cpu_isa(), lib.tz_crc32c(0, b'123456789', 9), lib.tz_crc32c(7, pages[2], 4096),"
    " sum(lib.tz_same_filled(p, ffi.new('uint64_t *')) for p in pages), [a.isa for a in truezram.algorithms()]);"
    "cs = [truezram.Compressor(a.name) for a in truezram.algorithms()];"
    "assert all(c.decompress(c.compress(p)) == p for c in cs for p in pages)"
)


def run_with(disable: str) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", LESSER, str(Path(__file__).parent)],
        env={**os.environ, "TRUEZRAM_DISABLE_CPU": disable},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split(maxsplit=4), done.stderr


def test_disable_cpu_reaches_every_lesser_path() -> None:
    (isa, *results, isas), errors = run_with("")
    assert int(isa) == lib.tz_cpu_isa()
    assert not errors
    for disable, bound in (("avx512", 1), ("avx2,neon", 0), ("avx2,crc,neon", 0), ("avx512,crc", 1)):
        (isa, *lesser, isas), errors = run_with(disable)
        assert int(isa) <= bound
        assert lesser == results
        assert not errors
        assert ISAS[2] not in isas


def test_disable_cpu_reports_unknown_names() -> None:
    _, errors = run_with("avx521,avx2")
    assert '"avx521" is not a name it knows' in errors


def test_missing_libzstd_says_what_to_install(tmp_path: os.PathLike[str]) -> None:
    code = "import truezram; truezram.Compressor('lz4'); truezram.Compressor('zstd')"
    for library, text in (
        ("/nonexistent/libzstd.so.1", "/nonexistent/libzstd.so.1 cannot be opened. Install it (Debian"),
        ("libm.so.6", "libm.so.6 lacks ZSTD_versionNumber. Install libzstd 1.4.0 or newer"),
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "TRUEZRAM_LIBZSTD": library},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert 'AlgorithmError: algorithm "zstd" is not available: ' + text in done.stderr


def test_importing_truezram_imports_no_textual() -> None:
    code = "import sys, truezram; truezram.Compressor('lz4'); assert 'textual' not in sys.modules, 'textual'"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_same_filled_and_fill() -> None:
    word = ffi.new("uint64_t *")
    page = bytearray(PAGE)
    view = ffi.from_buffer("uint8_t[]", page)
    for value in (0, 1, 0x0123456789ABCDEF, (1 << 64) - 1):
        lib.tz_fill(view, value)
        assert page == value.to_bytes(8, "little") * 512
        assert lib.tz_same_filled(view, word)
        assert word[0] == value
        for position in range(PAGE):
            page[position] ^= 0x80
            assert not lib.tz_same_filled(view, word)
            page[position] ^= 0x80


def reference_crc32c(seed: int, data: bytes) -> int:
    crc = ~seed & 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF


@settings(deadline=None)
@given(data=st.binary(max_size=1500), seed=st.integers(0, (1 << 32) - 1))
def test_crc32c(data: bytes, seed: int) -> None:
    assert lib.tz_crc32c(seed, data, len(data)) == reference_crc32c(seed, data)


def test_crc32c_known_values() -> None:
    """RFC 3720, appendix B.4."""
    assert lib.tz_crc32c(0, b"", 0) == 0
    assert lib.tz_crc32c(0, b"123456789", 9) == 0xE3069283
    assert lib.tz_crc32c(0, bytes(32), 32) == 0x8A9136AA
    assert lib.tz_crc32c(0, b"\xff" * 32, 32) == 0x62A8AB43
    assert lib.tz_crc32c(0, bytes(range(32)), 32) == 0x46DD794E


def test_crc32c_goes_on_from_a_seed() -> None:
    data = random.Random(6).randbytes(5000)
    whole = lib.tz_crc32c(0, data, len(data))
    for cut in (0, 1, 7, 63, 64, 65, 191, 192, 193, 300, 1300, 4096, 4999):
        assert lib.tz_crc32c(lib.tz_crc32c(0, data[:cut], cut), data[cut:], len(data) - cut) == whole
