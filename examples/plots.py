"""A recording turned into plots: in the terminal, and as a PNG.

    python examples/plots.py [RECORDING [PNG]]

`sudo truezram --record FILE` records what the app shows. Without RECORDING it takes one of swap filling up that came
with the source. A recording is JSON lines, a snapshot each (with some of the app's questions and answers between);
fields that have their default, mostly 0, are left out.
"""

import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import plotext
from _png import Plot, write

RECORDING = Path(__file__).parents[1] / "tests" / "app" / "recordings" / "swap.jsonl.gz"
MIB = 1 << 20


def snapshots(path: Path) -> list[dict[str, Any]]:
    """The snapshots of a recording, plain or gzipped."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        header = json.loads(file.readline())
        if not header.get("schema", "").startswith("truezram.recording/"):
            raise SystemExit(f"{path} is not a recording of truezram")
        lines = [json.loads(line) for line in file]
    print(f"{path.name}: {header.get('note') or header['origin']}, {len(lines)} lines")
    return [line["snapshot"] for line in lines if "snapshot" in line]


def series(seen: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """For each plot, its lines: what each device stores and takes, its ratio, and what goes in and out."""
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: defaultdict(list) for name in ("MiB", "ratio", "MiB/s")
    }
    before: dict[str, tuple[float, int, int]] = {}
    for snapshot in seen:
        for device in snapshot.get("devices", ()):
            name, at, done = device["name"], device.get("time", 0.0), device.get("total", {})
            stored, takes = device.get("orig_data_size", 0), device.get("mem_used_total", 0)
            plots["MiB"][f"{name} stored"].append((at, stored / MIB))
            plots["MiB"][f"{name} in memory"].append((at, takes / MIB))
            if stored and takes:
                plots["ratio"][name].append((at, stored / takes))
            pages = done.get("pages_written", 0), done.get("pages_read", 0)
            if name in before and at > before[name][0]:
                seconds = at - before[name][0]
                for way, now, then in zip(("written", "read"), pages, before[name][1:], strict=True):
                    plots["MiB/s"][f"{name} {way}"].append((at, (now - then) * 4096 / MIB / seconds))
            before[name] = (at, *pages)
    return {name: dict(lines) for name, lines in plots.items() if lines}


def in_the_terminal(title: str, lines: dict[str, list[tuple[float, float]]]) -> None:
    plotext.clear_figure()
    plotext.plot_size(100, 18)
    plotext.theme("clear")
    plotext.title(title)
    start = min(x for line in lines.values() for x, _ in line)
    for name, line in lines.items():
        plotext.plot([x - start for x, _ in line], [y for _, y in line], label=name, marker="braille")
    plotext.xlabel("seconds")
    plotext.show()


recording = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDING
picture = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("recording.png")
plots = series(snapshots(recording))
for title, lines in plots.items():
    in_the_terminal(title, lines)
write(picture, [Plot(title, lines) for title, lines in plots.items()])
print(f"written: {picture}")
