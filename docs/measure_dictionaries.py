"""Measures what a trained dictionary does for zstd on pages (docs/benchmarks.md).

usage: measure_dictionaries.py FOLDER [LEVEL [DICTIONARY_BYTES]]

FOLDER holds NAME.train.pages.zst (to train on) and NAME.pages.zst (another run of that program, to measure on) for
several programs. Printed is how many times smaller pages get with a dictionary than without: trained on the program's
own training pages, on those of all programs, and on those of all others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import zstandard

import truezram
from truezram.engine.measure import page_files
from truezram.engine.measure.sampling import is_same_filled

PAGE = 4096


def pages(path: Path) -> list[bytes | bytearray | memoryview]:
    """The pages of a file that are not one 8-byte word repeated."""
    data = page_files.read([path])[0].data
    found = (data[at : at + PAGE] for at in range(0, len(data), PAGE))
    return [bytes(page) for page in found if not is_same_filled(page)]


def compressed(chosen: bytes, level: int, dictionary: bytes | None) -> int:
    return len(truezram.Compressor(f"zstd:{level}", dictionary=dictionary).compress_pages(chosen).data)


def main(argv: list[str]) -> int:
    if not 1 <= len(argv) <= 3:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    level, size = [*map(int, argv[1:]), *(1, 32768)[len(argv) - 1 :]]
    training = {path.name.split(".")[0]: pages(path) for path in sorted(Path(argv[0]).glob("*.train.pages.zst"))}

    def train(names: list[str]) -> bytes:
        chosen = [page for name in names for page in training[name]]
        return zstandard.train_dictionary(size, chosen, level=level).as_bytes()

    everything, sums = train(list(training)), [0] * 4
    for name in training:
        chosen = b"".join(pages(Path(argv[0]) / f"{name}.pages.zst"))
        others = train([other for other in training if other != name])
        sizes = [compressed(chosen, level, dictionary) for dictionary in (None, train([name]), everything, others)]
        sums = [a + b for a, b in zip(sums, sizes, strict=True)]
        print(row(name, sizes), flush=True)
    print(row("total", sums))
    return 0


def row(name: str, sizes: list[int]) -> str:
    without, own, everything, others = sizes
    return f"{name:12} own {without / own:.3f}x   all {without / everything:.3f}x   others {without / others:.3f}x"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
