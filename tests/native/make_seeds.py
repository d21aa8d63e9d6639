"""Writes the seeds of fuzz_codec.c: small objects and pages of every codec that the library has, one per file.

usage: python tests/native/make_seeds.py [NAME...]      (codecs; default all; existing seeds of theirs are replaced)

``dictionary`` is zstd with one. The fuzzer trains another than this does: its objects are only a beginning.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "unit"))

import zstandard  # noqa: E402
from pagegen import KINDS, PAGE, build, log_lines, sample  # noqa: E402

import truezram  # noqa: E402
from truezram._native import lib  # noqa: E402


def seed_pages() -> dict[str, bytes]:
    rng = random.Random(42)
    pages = {kind.__name__: kind(rng, PAGE) for kind in KINDS if kind.__name__ != "noise"}
    pages["sparse"] = bytes(100) + b"word" + bytes(PAGE - 104)
    pages["half"] = rng.randbytes(PAGE // 2) + bytes(PAGE // 2)
    pages["copies"] = (rng.randbytes(300) * 20)[:PAGE]
    pages["log"] = log_lines(rng, PAGE)
    pages["mixed"] = build([(i, 400, 100 * i, 150) for i in range(len(KINDS))], 1)
    return pages


def open_codec(name: str) -> tuple[truezram.Compressor, int]:
    """A codec, and the kind of its objects."""
    if name != "dictionary":
        return truezram.Compressor(name), lib.tz_codec_by_name(name.encode()).kind
    trained = zstandard.train_dictionary(4096, [*sample(300, seed=1)]).as_bytes()
    return truezram.Compressor("zstd:7", dictionary=trained), lib.TZ_KIND_ZSTD_DICT


def main() -> None:
    target = HERE / "seeds_codec"
    pages = seed_pages()
    for name in sys.argv[1:] or [*(a.name for a in truezram.algorithms()), "dictionary"]:
        compressor, kind = open_codec(name)
        for old in target.glob(f"{name}-*"):
            old.unlink()
        for label, page in pages.items():
            (target / f"{name}-{label}").write_bytes(bytes([kind, 0]) + compressor.compress(page))
        for isa in range(4):
            start = random.Random(isa).randbytes(40) + b"some text, some text" * 3 + bytes(50)
            (target / f"{name}-page{isa}").write_bytes(bytes([kind | 128, isa]) + start)
            # Not text alone, or byte-LZ would have it without block reference.
            text = pages["text"][:1500] + random.Random(isa).randbytes(200)
            (target / f"{name}-words{isa}").write_bytes(bytes([kind | 128, isa]) + text)


if __name__ == "__main__":
    main()
