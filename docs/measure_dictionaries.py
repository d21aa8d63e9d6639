"""Measures what a trained dictionary would do for zstd on pages: why truezram has none (docs/benchmarks.md).

usage: measure_dictionaries.py FOLDER [LEVEL [DICTIONARY_BYTES]]

FOLDER holds NAME.train.pages.zst (to train on) and NAME.pages.zst (to measure on) for several programs. Printed is how
many times smaller pages get with a dictionary: trained on all programs' training pages, and on those of all others.
"""

from __future__ import annotations

import sys
from pathlib import Path

import zstandard

PAGE = 4096
EVERY = 4
"""One page in so many is taken: training takes minutes otherwise."""


def pages(path: Path) -> list[bytes]:
    """The pages of a file that are not one 8-byte word repeated."""
    with path.open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read()
    found = [data[at : at + PAGE] for at in range(0, len(data), EVERY * PAGE)]
    return [page for page in found if page[:8] * (PAGE // 8) != page]


def compressed(chosen: list[bytes], level: int, dictionary: zstandard.ZstdCompressionDict | None) -> int:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=PAGE,
        dict_size=len(dictionary) if dictionary else 0,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=0,
        write_dict_id=0,
    )
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    return sum(min(PAGE, len(compressor.compress(page))) for page in chosen)


def main(argv: list[str]) -> int:
    if not 1 <= len(argv) <= 3:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    level, size = [*map(int, argv[1:]), *(1, 32768)[len(argv) - 1 :]]
    training = {path.name.split(".")[0]: pages(path) for path in sorted(Path(argv[0]).glob("*.train.pages.zst"))}
    sums = [0, 0, 0]
    for name in training:
        chosen = pages(Path(argv[0]) / f"{name}.pages.zst")
        same = zstandard.train_dictionary(size, [page for of in training.values() for page in of], level=level)
        others = [page for other, of in training.items() if other != name for page in of]
        foreign = zstandard.train_dictionary(size, others, level=level)
        sizes = [compressed(chosen, level, dictionary) for dictionary in (None, same, foreign)]
        sums = [a + b for a, b in zip(sums, sizes, strict=True)]
        print(f"{name:12} all {sizes[0] / sizes[1]:.3f}x   others {sizes[0] / sizes[2]:.3f}x", flush=True)
    print(f"{'total':12} all {sums[0] / sums[1]:.3f}x   others {sums[0] / sums[2]:.3f}x")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
