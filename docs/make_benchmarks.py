"""Makes docs/benchmarks.md from the results in docs/benchmarks/*.json and the prose in docs/benchmarks-notes.md.

Commands that made the results (PAGES: any files of raw 4096-byte pages, here a sample of each program's memory):

    truezram benchmark codec --pages PAGES --against liblz4,libzstd:1,lz4hc,memcpy --rounds 9 \
        --json docs/benchmarks/warm.json
    truezram benchmark codec ... --cold --json docs/benchmarks/cold.json
    TRUEZRAM_DISABLE_CPU=avx512 truezram benchmark codec ... --json docs/benchmarks/avx2.json
    truezram benchmark codec --pages PAGES --against liblz4,zram:lz4,zram:lzo-rle --rounds 9 \
        --json docs/benchmarks/zram.json

zen4.json is the same as warm.json, from an older CPU and an older build.

    truezram benchmark store --pages PAGES --threads 1 --threads 2 --json docs/benchmarks/store.json

    truezram benchmark device --pages PAGES --algorithm fast --against null,zram:lz4,zram:zstd --depth 1,4,32 \
        --workload randread,randwrite,mixed,swap --rounds 5 --runtime 2 --size 64M --json docs/benchmarks/device.json

(in User Mode Linux with one CPU, held on one of the host's: taskset -c 1.)

usage: make_benchmarks.py [--check]      (--check: exit code 1 if the page is not up to date)
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "benchmarks.md"
TITLES = {
    "warm": "Warm caches (AMD Zen 5)",
    "cold": "Cold caches, pages in random order",
    "avx2": "Warm caches, without AVX-512 (`TRUEZRAM_DISABLE_CPU=avx512`)",
    "zram": "Compared with kernel zram, as a device (AMD Zen 5)",
    "zen4": "Warm caches, previous CPU generation (AMD Zen 4)",
}
COMMAND = "truezram benchmark codec --pages PAGES --against {against} --rounds {rounds}{cold}"
TOTAL_ONLY = ("zram",)
NOTES = HERE / "benchmarks-notes.md"
"""The page's prose. Lines ``<!-- table KEY -->`` and ``<!-- after the tables -->`` say where the parts go."""


def notes() -> dict[str, str]:
    """The parts of the prose by their marks; the first one is ``head``."""
    head, *rest = re.split(r"^<!-- (.+) -->\n", NOTES.read_text(), flags=re.MULTILINE)
    return {"head": head, **dict(zip(rest[::2], rest[1::2], strict=True))}


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
    """Where ours is behind liblz4, libzstd's level 1 or zram by half a per cent or more; totals first."""
    lines: list[tuple[bool, str]] = []
    for ours in document["results"]:
        if ours["implementation"] != "truezram":
            continue
        same_input = [r for r in document["results"] if r["input"] == ours["input"]]
        for other in same_input:
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
                text = f"- {ours['algorithm']} against {other['algorithm']} of {other['implementation']}, {where}:"
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


def section(key: str, document: dict[str, Any], note: str) -> list[str]:
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
        textwrap.fill(
            f"{host['cpu']}, {host['cores']} cores, {host['isa']}; Linux {host['kernel']}; truezram {host['truezram']};"
            f" {', '.join(versions)}; load {host['load']} at the start; {host['time']}.",
            118,
        ),
        "",
        f"    {command}",
        "",
        *([note, ""] if note else []),
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
    lines += ["### Where truezram is behind", "", *(found or ["Nowhere by half a per cent or more."]), ""]
    return lines


def store_cells(result: dict[str, Any], base: dict[str, Any] | None) -> list[str]:
    """A line of the store's table; `base` is the zram that it is compared with."""

    def packed(usage: dict[str, Any]) -> str:
        return f"{usage['used_bytes'] / usage['compr_bytes']:.3f}"

    def times(value: float, other: float | None) -> str:
        return f"{value / other:.2f}x" if other else ""

    def latency(ns: dict[str, int]) -> str:
        return ", ".join(f"{ns[key] / 1000:.1f}" for key in ("p50", "p99", "p99.9"))

    def ratio(of: dict[str, Any]) -> float:
        return float(of["orig_bytes"] / of["used_bytes"])

    name = f"{result['algorithm']} ({result['implementation']})"
    cells = [f"**{name}**" if result["implementation"] == "truezram" else name, str(result["threads"])]
    cells += [f"{ratio(result):.3f}", times(ratio(result), ratio(base) if base else None), packed(result)]
    freed = result["after_free"]
    cells += [packed(result["after_overwrites"]), f"{packed(freed)} ({freed['seconds']:.1f} s)"]
    for key in ("write_mb_s", "read_mb_s"):
        value = result[key]["median"]
        cells += [f"{value:,.0f}", times(value, base[key]["median"] if base else None)]
    cpu = result["cpu_s_per_gib"]
    return [*cells, latency(result["write_ns"]), latency(result["read_ns"]), f"{cpu['write']:.2f}, {cpu['read']:.2f}"]


def store_base(result: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first zram with as many threads."""
    zram = (r for r in results if r["implementation"] == "zram" and r["threads"] == result["threads"])
    return next(zram, None)


def store(document: dict[str, Any] | None, note: str) -> str:
    """The section on the store: its text, and the table once there are results."""
    lines = ["## The store", "", note.rstrip(), ""]
    if document is None:
        return "\n".join(lines)
    host, results = document["host"], document["results"]
    size = results[0]["size"] >> 20
    lines += [
        textwrap.fill(
            f"{host['cpu']}, {host['cores']} cores, {host['isa']}; Linux {host['kernel']}; truezram {host['truezram']};"
            f" {size:,} MiB in each, {document['rounds']} rounds; load {host['load']} at the start; {host['time']}."
            " Next to ratio and speeds: times the first zram with as many threads. Latencies are p50, p99 and p99.9 in"
            " microseconds.",
            118,
        ),
        "",
        "| store | threads | stored ratio | | used/compressed | overwritten | discarded | write MB/s | | read MB/s | |"
        " write | read | CPU write, read |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [f"| {' | '.join(store_cells(result, store_base(result, results)))} |" for result in results]
    left_out = [
        f"- {item['algorithm']} of {item['implementation']}: {item['why']}" for item in document["not_measured"]
    ]
    lines += ["", *(["Not measured:", "", *left_out, ""] if left_out else [])]
    lines += [*(f"{textwrap.fill(note, 118)}\n" for note in document["notes"])]
    return "\n".join(lines)


def device_cells(result: dict[str, Any], results: list[dict[str, Any]]) -> list[str]:
    def times(value: float, other: float | None) -> str:
        return f"{value / other:.2f}x" if other else ""

    keys = ("workload", "block_size", "depth", "jobs")
    null = (r for r in results if r["target"] == "null" and all(r[key] == result[key] for key in keys))
    floor = next((r for r in null if r is not result), None)
    name = f"{result['target']} {result['algorithm'] or ''}".strip()
    latency = result["latency_us"]
    return [
        f"**{name}**" if result["target"] == "truezram" else name,
        result["workload"],
        str(result["depth"]),
        f"{result['iops']:,.0f}",
        times(result["iops"], floor["iops"] if floor else None),
        f"{latency['p50']:,.1f}",
        f"{latency['p99']:,.1f}",
        f"{latency['p99.9']:,.1f}",
        f"{result['verified']:,}" if result["verified"] else "",
    ]


def device(document: dict[str, Any] | None, note: str) -> str:
    """The section on devices: its text, and the table once there are results."""
    lines = ["## Devices", "", note.rstrip(), ""]
    if document is None:
        return "\n".join(lines)
    host, settings, results = document["host"], document["settings"], document["results"]
    rounds, seconds = settings["rounds"], settings["runtime"]
    modes = ", ".join(dict.fromkeys(r["mode"] for r in results if r["mode"]))
    lines += [
        textwrap.fill(
            f"{host['cpu']}, {host['cores']} CPU, {host['isa']}; Linux {host['kernel']}; truezram {host['truezram']};"
            f" {settings['size'] >> 20:,} MiB in each device; {host['time']}. Requests of 4 KiB; ours in the mode"
            f" {modes}. Requests a second are medians of {rounds} rounds of {1000 * seconds / rounds:.0f} ms, also as a"
            " multiple of null's; of swap, they are pages touched. Latencies in microseconds.",
            118,
        ),
        "",
        "| device | workload | depth | requests/s | of null's | p50 | p99 | p99.9 | pages verified |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join([*lines, *(f"| {' | '.join(device_cells(result, results))} |" for result in results), ""])


def results_of(key: str) -> dict[str, Any] | None:
    """Those in docs/benchmarks, if there are any."""
    path = HERE / "benchmarks" / f"{key}.json"
    return json.loads(path.read_text()) if path.exists() else None


def make() -> str:
    text = notes()
    parts = [text["head"]]
    for key in TITLES:
        path = HERE / "benchmarks" / f"{key}.json"
        if path.exists():
            parts.append("\n".join(section(key, json.loads(path.read_text()), text.get(f"table {key}", "").rstrip())))
    parts.append(device(results_of("device"), text["devices"]))
    parts.append(store(results_of("store"), text["the store"]))
    return "\n".join([*parts, text["after the tables"]]).rstrip() + "\n"


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
