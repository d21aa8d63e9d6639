"""Makes dense_tables.h, the prefix codes of the ``dense`` codec, from dense_stats.txt, the training statistics.

usage: make_dense_tables.py [--check]           write dense_tables.h, or say whether it is what would be written
       make_dense_tables.py --gather FILE...    make dense_stats.txt from files of 4096-byte pages (raw, or .zst)

A table is made from its cluster's symbol counts, with a little of the whole class's mixed in, because pages of
programs that were not trained on have symbols that the cluster never saw. Everything here is integer arithmetic: the
same statistics give the same tables everywhere.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
STATS = HERE / "dense_stats.txt"
TABLES = HERE / "dense_tables.h"
CLASSES = ("W", "M", "L")
TABLES_EACH = 32
MAX_BITS = 10
UNIT = 1 << 30  # what a table's counts are scaled to

HEADER = """\
/* dense_tables.h - code lengths of the dense codec, made by make_dense_tables.py from
 * dense_stats.txt: do not edit. A line is a table; a character is the code length of a symbol in
 * bits, 'a' = 1. */
static const char dn_lengths[DN_TABLES][257] = {
"""


def code_lengths(weights: list[int], max_bits: int = MAX_BITS) -> list[int]:
    """Lengths of an optimal prefix code of at most ``max_bits`` bits for positive weights (package-merge)."""
    leaves = sorted((weight, (symbol,)) for symbol, weight in enumerate(weights))
    packages: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(max_bits):
        merged = sorted(leaves + packages)
        packages = [
            (merged[i][0] + merged[i + 1][0], merged[i][1] + merged[i + 1][1]) for i in range(0, len(merged) - 1, 2)
        ]
    lengths = [0] * len(weights)
    for _, symbols in packages[: len(weights) - 1]:
        for symbol in symbols:
            lengths[symbol] += 1
    return lengths


def smooth(counts: list[int], whole: list[int]) -> list[int]:
    """A cluster's counts scaled to UNIT, plus 1/64 of the class's, plus a floor under every symbol."""
    own, all_ = max(sum(counts), 1), max(sum(whole), 1)
    return [c * UNIT // own + w * UNIT // all_ // 64 + UNIT // (1 << 14) for c, w in zip(counts, whole, strict=True)]


def read_stats(text: str) -> dict[str, list[list[int]]]:
    """The clusters' counts by class, 256 counts each."""
    stats: dict[str, list[list[int]]] = {name: [] for name in CLASSES}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in CLASSES:
            stats[words[0]].append([int(word) for word in words[2:]])
    for name in CLASSES:
        if len(stats[name]) != TABLES_EACH or any(len(counts) != 256 for counts in stats[name]):
            raise SystemExit(f"{STATS.name}: class {name} has not {TABLES_EACH} lines of 256 counts; gather it again")
    return stats


def make_tables(text: str) -> str:
    """dense_tables.h from the text of dense_stats.txt."""
    lines = [HEADER]
    for name, clusters in read_stats(text).items():
        whole = [sum(column) for column in zip(*clusters, strict=True)]
        for counts in clusters:
            lengths = code_lengths(smooth(counts, whole))
            code = "".join(chr(ord("a") - 1 + length) for length in lengths)
            lines.append(f"\t/* {name} */\n" if counts is clusters[0] else "")
            lines.extend(f'\t"{code[i : i + 64]}"{"," if i == 192 else ""}\n' for i in range(0, 256, 64))
    return "".join([*lines, "};\n"])


def gather(files: list[str]) -> str:
    """Builds dense_gather.c with the C compiler, runs it over the pages, returns what it counted."""
    import zstandard

    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "dense_gather"
        source = HERE / "dense_gather.c"
        options = ["-std=gnu11", "-O3", "-D_GNU_SOURCE", "-fno-strict-aliasing", f"-I{HERE.parent}"]
        subprocess.run([os.environ.get("CC", "cc"), *options, "-o", program, source, "-lm"], check=True)
        names = []
        for file in files:
            data = Path(file).read_bytes()
            name = Path(file).name
            if name.endswith(".zst"):
                name = name.removesuffix(".zst")
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            (Path(folder) / name).write_bytes(data)
            names.append(name)
        run = subprocess.run([program, *names], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout


def main(arguments: list[str]) -> int:
    """Exit code: 0 done or equal, 1 different, 2 wrong usage."""
    if arguments[:1] == ["--gather"] and len(arguments) > 1:
        STATS.write_text(gather(arguments[1:]))
        return 0
    if arguments not in ([], ["--check"]):
        sys.stderr.write(__doc__ or "")
        return 2
    made = make_tables(STATS.read_text())
    if not arguments:
        TABLES.write_text(made)
        return 0
    if TABLES.read_text() != made:
        sys.stderr.write(f"{TABLES.name} is not what {STATS.name} makes; run {Path(__file__).name}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
