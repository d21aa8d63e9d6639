"""Makes docs/benchmarks.md of the results in docs/benchmarks/*.json.

The results are made with (pages: any files of raw 4096-byte pages, here a sample of each program's memory):

    truezram benchmark codec --pages PAGES --against liblz4,libzstd:1,lz4hc,memcpy --rounds 9 \
        --json docs/benchmarks/warm.json
    truezram benchmark codec ... --cold --json docs/benchmarks/cold.json
    TRUEZRAM_DISABLE_CPU=avx512 truezram benchmark codec ... --json docs/benchmarks/avx2.json
    truezram benchmark codec --pages PAGES --against liblz4,zram:lz4,zram:lzo-rle --rounds 9 \
        --json docs/benchmarks/zram.json

zen4.json is warm.json as an older CPU and an older build made it.

usage: make_benchmarks.py [--check]      (--check: exit code 1 when the page is not what the results make)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "benchmarks.md"
TITLES = {
    "warm": "Warm caches (AMD Zen 5)",
    "cold": "Cold caches, pages in random order",
    "avx2": "Warm caches, without AVX-512 (`TRUEZRAM_DISABLE_CPU=avx512`)",
    "zram": "Beside kernel zram, as a device (AMD Zen 5)",
    "zen4": "Warm caches, the CPU generation before (AMD Zen 4)",
}
COMMAND = "truezram benchmark codec --pages PAGES --against {against} --rounds {rounds}{cold}"
TOTAL_ONLY = ("zram",)
NOTES = {
    "zram": """What stands here of zram is a device of the kernel's: requests of 256 KiB through the block layer, so its
speeds hold what brings the pages to it and back, and truezram's are its codecs alone. A truezram device adds ublk's way
to them. It is the ratio that can be compared as it is.""",
    "zen4": "Made by the build before, which tried fewer distances: four in `turbo`, five in `fast`.",
}

HEAD = """# Benchmarks of the page codecs

Made by `docs/make_benchmarks.py` of the results in `docs/benchmarks/`; do not edit. Measured by the program's own
`truezram benchmark codec`: one thread, all codecs in one process, group of pages by group of pages in turn, every page
verified, the median of the rounds. MB = 10^6 bytes of pages. A page that does not shrink counts as 4096 bytes;
same-filled pages are left out of ratio and speed. Beside each figure stands what it is times liblz4's (fast, default
acceleration) on the same pages. Absolute speeds are this machine's on that day; the multiples travel better.
"""

TAIL = """
## What was aimed at, what is missing, and where the time goes

Beside liblz4, AVX-512, total of all pages, warm, as target, then what Zen 5 and Zen 4 gave. The multiples of speed move
by some percent from run to run with what else the machine does; the ranges are those of four runs one after another on
a machine at rest, the tables' among them.

| codec | ratio | compression: Zen 5, Zen 4 | decompression: Zen 5, Zen 4 |
|---|---|---|---|
| turbo | 1.00x: 1.015x | 3.5x: 5.6x to 6.2x, 5.0x | 6x: 7.6x to 7.7x, 6.0x to 6.1x |
| fast | 1.20x: 1.212x (1) | 2.5x: 3.5x to 3.7x, 2.9x to 3.0x | 3.5x: 4.4x, 3.55x to 3.60x |
| dense | 1.04x of zstd:1: 1.09x | 2x of zstd:1: 2.8x, 2.3x | 4x of zstd:1: 5.1x to 5.2x, 4.4x |
| lz4 | 1.00x: 1.005x (2) | 1.0x: 1.05x to 1.07x, 1.01x | 1.1x: 1.13x to 1.14x, **1.05x** |
| zstd | as libzstd's | calls cost 2 % at most: 0.3 % to 1.2 % | as libzstd's |
| auto | that of fast: 1.005x of it | 0.8x of fast: 0.91x to 0.93x, 0.93x | |
| fast without AVX-512 | | 1.0x: 1.9x, 1.6x | 1.8x: 2.9x, 2.3x |

(1) No program's pages were to be below 1.00x; the least is 1.07x. (2) By 1 % not on three programs. So one figure is
missed, the decompression of `lz4` on Zen 4. What stands here of `turbo` and `fast` on Zen 4 is of the build before; on
Zen 5, in turn with it, `turbo` now compresses 10 % slower and decompresses 2 % to 4 % faster, `fast` 6 % slower and as
fast.

`fast` on what is not a program's memory, files of one kind cut into pages (Zen 5; ratio, compression and decompression
beside liblz4):

| text | ratio | compression | decompression | |
|---|--:|--:|--:|---|
| English | 1.12x | 2.2x | 1.8x | |
| Chinese, translations of messages | 1.11x | 2.2x | 2.2x | |
| Python sources | 1.09x | 1.7x | 2.0x | |
| JavaScript | 1.09x | **0.69x** | 1.7x | |
| changelogs | 1.09x | 2.0x | 2.2x | |
| executables | 1.05x | 2.3x | 3.4x | |
| lists of files | 1.04x | **0.47x** | 1.4x | kept by LZ4 to a good part, as are the next four |
| JSON | 1.04x | **0.45x** | 1.4x | |
| XML | 1.04x | **0.63x** | 1.4x | |
| diffs | 1.00x | **0.50x** | 1.7x | |
| a log | **0.99x** | **0.47x** | 1.3x | |
| Python byte code | **0.99x** | 2.2x | 6.8x | |
| Japanese HTML | **0.99x** | 1.4x | 2.0x | |
| Russian, translations of messages | **0.97x** | 4.0x | 3.5x | |
| SVG with braille in it | **0.91x** | **0.53x** | 1.7x | |

Text that repeats itself at length is tried three ways, so its compression is slow. Where a page is not ASCII text,
byte-LZ must save 384 bytes beside block reference, which is read faster: so byte code, and letters outside ASCII, come
out a little larger than they might. Before these files were looked at, logs and JSON had 0.77x and 0.87x of liblz4's
ratio.

A same-filled page in the caches is found to be one in 10 ns on Zen 5, 18 ns without AVX-512 (target: 30), any other
page is passed on in 1.3 ns (target: 3), by a C loop around `tz_same_filled`.

What calls of zstd cost was measured with a C program that calls `ZSTD_compressCCtx` of the same libzstd.so.1 in turn
with what truezram calls (level 1: 1.1 %, level 3: 0.3 %). In the tables the system's libzstd, 1.5.4 of Debian 12,
stands beside 1.5.7 of the Python package, whose level 1 is 4 % and whose level 3 is 10 % faster.

On Zen 4 multiples of decompression hang on the day, for the machine is a virtual one: when its table was made liblz4
decompressed 13 % faster than when the one before was, in all runs of either day; `fast` and `lz4` only 6 %, turbo 2 %,
by the same build. So `lz4`, whose decoder was not changed, fell from 1.12x to 1.05x. What the format costs, a branch
mispredicted per sequence, both pay alike; nothing that was tried in our decoder got around that. What follows was
measured on Zen 4 too, where it does not say otherwise, with five distances and four.

Where the time of `fast`'s encoder goes (AVX-512, about 1.65 µs a page): block reference takes 0.95 µs of every page
but the plain text: choosing the positions to sample 0.17 µs, looking them up and listing candidates 0.25, comparing
and choosing 0.26, settling on references 0.16, packing 0.1. One page in six goes to byte-LZ as well or instead: text,
code, the least regular parts of databases. That takes 3.5 to 4.5 µs, of which the positions' choice is 0.6 and looking
them up with what follows 1.3. The lookups are bound by stores (one a cycle), the comparisons by the masks: a mask of
64 bits takes two cycles from its register to memory, whichever way.

Candidates are kept as 16 bits of where they lie, instead of addresses, and what the lookups find in registers,
instead of memory: on the same pages in turn with the version before, 8 % to 12 % faster for `fast` and 17 % for
turbo. A group's places for candidates that the samples left empty, two of five, held zeros, which were compared for
nothing; since there are fixed distances in them the ratio is 1 % better. Distances of 32 and 64 among them make
that of `fast` no better, and decompression 1 % slower.

Seven distances are tried of every group. Four instead made the ratio of turbo 1.6 % less and its compression 12 %
faster, five that of `fast` 0.5 % less and its compression 4 % faster (Zen 5). Which stand in where the samples find
none hardly matters: the best of 150 sets was 0.13 % better than round ones. 64 among them would make turbo's ratio
0.7 % better, and its decompression 1.5 % slower.

Some of that ratio went into faster decompression. In turbo short distances are replaced by multiples of them, so that
what is read was not written just before: those below 64 by one of 192 or more, those below 96 by the double (ratio
3.5 % less, decompression 12 % faster on Zen 4). To double all below 128 makes the ratio another 2.8 % less, so that it
falls below liblz4's, for 4 % (Zen 5); to do the same in `fast` costs 3.5 % of its ratio for 2 %. In `fast` byte-LZ must
save 384 bytes instead of 192 (ratio 0.6 % less, 3 % faster both ways); with 512 the ratio would be another 0.5 % less.

Which positions byte-LZ looks up with AVX-512 hangs on a factor, the best of some 12,000 tried by the size of the pages
of this corpus, those of the tables above and the training pages among them. The median of those tried made byte-LZ
pages 1.6 % larger. So the ratio of `fast` is in part fitted to these pages; others may give less.

Tried without gain for byte-LZ: noting only every second position that is looked up; a table twice as large; looking up
fewer positions at a time; eight lookups a turn instead of four. For block reference: a sample in each four positions
(ratio 1 % better, 0.35 µs more), of every second position only (ratio 4 % worse); comparing neighbours instead of all
distances to leave out those that come twice; sampling, looking up and making candidates in turns instead of one after
the other, so that they overlap (6 % slower; with the sampling four to twelve groups ahead of the lookups 3 %, with the
comparisons behind them no faster); shifting what was loaded instead of loading it at each of four places (5 % slower);
eight chains instead of four; clang instead of gcc; a part of the masks by way of byte masks of 32 bytes or of general
registers (1 % at most); leaving out groups of zeros (4 % of them, most pages have none); the instructions that gather
and scatter (1.3 and 1.5 cycles an entry, as the lookups take together). For `lz4`: finding a
match's beginning with one comparison instead of byte by byte (10 % slower: what is predicted well costs nothing), two
searches a turn. Byte-LZ with three eighths of the positions looked up instead of half: 3 % faster, ratio 0.9 % less.

The decoders of block reference spent half of their time on loads across what two stores had just written, until each
load was made one of what a single store wrote (turbo 13 %, `fast` 9 % faster). What is left of that is a quarter of
turbo's time. To keep the last two blocks in registers for what refers to them was slower. Byte-LZ pages take 40 % of
`fast`'s decompression: about ten cycles a token, of which a copy's stores and the waiting for them are most.

## zstd with a trained dictionary

What `docs/measure_dictionaries.py` prints for dictionaries of 32 KiB: how many times smaller other runs of the programs
get than without (below 1: larger). "Own": trained on that program's pages; "all": on those of all of these programs,
what a machine that runs just them could have; "others": on those of the other programs only, which is what a
dictionary that comes with a product could be.

| program | level 1: own | all | others | level 3: own | all | others | level 7: own | all | others |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
| chromium | 1.075x | 1.052x | 0.993x | 1.071x | 1.051x | 0.985x | 1.098x | 1.076x | 1.011x |
| java | 1.027x | 1.032x | 0.998x | 1.015x | 1.017x | 0.988x | 1.043x | 1.043x | 1.003x |
| node | 1.063x | 1.051x | 1.005x | 1.060x | 1.046x | 1.001x | 1.122x | 1.087x | 1.015x |
| pyobj | 1.047x | 1.046x | 1.002x | 1.041x | 1.035x | 0.995x | 1.074x | 1.056x | 1.010x |
| qemuguest | 1.019x | 0.995x | 0.992x | 1.017x | 0.990x | 0.988x | 1.043x | 1.005x | 1.002x |
| sqlite | 1.082x | 0.985x | 0.984x | 1.111x | 0.996x | 0.992x | 1.155x | 1.003x | 1.000x |
| total | 1.049x | 1.015x | 0.994x | 1.051x | 1.012x | 0.991x | 1.086x | 1.031x | 1.005x |

So it is worth its trouble for a machine with few programs that are known beforehand, most of all at levels from 6 on,
and for nobody else: none comes with truezram. In one run over these pages (with "all") compression at level 1, 3 and 7
had 0.88, 0.83 and 1.09 of its speed without, decompression 0.94 to 1.02. Without a dictionary `dense` makes these pages
1.02 times smaller than zstd:7 does with one, at eight times its speed: it is where static tables do pay.

As zstd itself uses a dictionary (`zstd -D`), levels up to 5 lose by it: pages of these programs came out 1.01 times
*larger* in total at level 1 with "all", and 1.03 times with "others". The fast strategies take its entropy tables for
what they find in a page without asking whether they fit. truezram gives them the dictionary's content without the
tables ([formats](formats.md)).
"""


def name(result: dict[str, Any]) -> str:
    kind = result["isa"] if result["implementation"] == "truezram" else result["implementation"]
    text = f"{result['algorithm']} ({kind})"
    return f"**{text}**" if result["implementation"] == "truezram" else text


def figures(result: dict[str, Any]) -> tuple[float, float, float]:
    return result["ratio"], result["compress_mb_s"]["median"], result["decompress_mb_s"]["median"]


def table(results: list[dict[str, Any]]) -> list[str]:
    base = next(figures(r) for r in results if (r["implementation"], r["algorithm"]) == ("liblz4", "lz4"))
    lines = ["| codec | ratio | | compress MB/s | | decompress MB/s | |", "|---|--:|--:|--:|--:|--:|--:|"]
    for result in results:
        cells = []
        for index, (value, other) in enumerate(zip(figures(result), base, strict=True)):
            cells += [f"{value:,.0f}" if index else f"{value:.3f}", f"{value / other:.2f}x"]
        lines.append(f"| {name(result)} | {' | '.join(cells)} |")
    return lines


WHAT = ("ratio", "compression", "decompression")


def losses(document: dict[str, Any]) -> list[str]:
    """Where ours is behind by half a percent or more, beside liblz4, libzstd's level 1 and zram; totals first."""
    lines: list[tuple[bool, str]] = []
    for ours in document["results"]:
        if ours["implementation"] != "truezram":
            continue
        beside = [r for r in document["results"] if r["input"] == ours["input"]]
        for other in beside:
            known = (("liblz4", "lz4"), ("libzstd", "zstd:1"))
            if other["implementation"] != "zram" and (other["implementation"], other["algorithm"]) not in known:
                continue
            behind = [
                f"{what} {a / b:.3f}x"
                for what, a, b in zip(WHAT, figures(ours), figures(other), strict=True)
                if a < 0.995 * b
            ]
            if behind:
                where = "in total" if ours["input"] == "total" else f"on {ours['input']}"
                text = f"- {ours['algorithm']} beside {other['algorithm']} of {other['implementation']} {where}:"
                lines.append((ours["input"] != "total", f"{text} {', '.join(behind)}"))
    return [line for _, line in sorted(lines, key=lambda item: item[0])]


def against(document: dict[str, Any]) -> str:
    """What ``--against`` was given."""
    names = {"liblz4": "{0}", "libzstd": "libzstd:{1}", "libc": "{0}", "zram": "zram:{0}"}
    found = []
    for result in document["results"]:
        if result["implementation"] in names:
            algorithm, _, level = result["algorithm"].partition(":")
            text = names[result["implementation"]].format(algorithm, level)
            found.append("liblz4" if text == "lz4" else text)
    return ",".join(dict.fromkeys(found))


def section(key: str, document: dict[str, Any]) -> list[str]:
    host = document["host"]
    document["results"] = [r for r in document["results"] if r["input"] == "total" or key not in TOTAL_ONLY]
    versions = dict.fromkeys(
        f"{'zstd by' if r['implementation'] == 'truezram' else r['implementation']} {r['version']}"
        for r in document["results"]
        if "version" in r
    )
    cold = " --cold" if document["cold"] else ""
    command = COMMAND.format(against=against(document), rounds=document["rounds"], cold=cold)
    lines = [
        f"## {TITLES[key]}",
        "",
        f"{host['cpu']}, {host['cores']} cores, {host['isa']}; Linux {host['kernel']}; truezram {host['truezram']};"
        f" {', '.join(versions)}; load {host['load']} at the start; {host['time']}.",
        "",
        f"    {command}",
        "",
        *([NOTES[key], ""] if key in NOTES else []),
    ]
    names = ["total", *(item["name"] for item in document["inputs"])]
    for item in names:
        results = [result for result in document["results"] if result["input"] == item]
        if not results:
            continue
        chosen = [entry for entry in document["inputs"] if item in ("total", entry["name"])]
        pages, same = (sum(entry[key] for entry in chosen) for key in ("pages", "same_filled"))
        lines += [f"### {item}: {pages - same:,} pages, and {same:,} same-filled", "", *table(results), ""]
    found = losses(document)
    lines += ["### Where truezram is behind", "", *(found or ["Nowhere, by half a percent or more."]), ""]
    return lines


def make() -> str:
    parts = [HEAD]
    for key in TITLES:
        path = HERE / "benchmarks" / f"{key}.json"
        if path.exists():
            parts.append("\n".join(section(key, json.loads(path.read_text()))))
    return "\n".join([*parts, TAIL]).rstrip() + "\n"


def main(argv: list[str]) -> int:
    text = make()
    if argv == ["--check"]:
        return 0 if PAGE.read_text() == text else 1
    if argv:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
