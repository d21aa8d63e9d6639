"""Collects real pages for the device tests: this process's own anonymous memory after it has done some ordinary work.

    python collect_pages.py FILE [MIB]

Swap holds what programs have on their heaps, so that is what the tests swap: objects, strings, syntax trees, tables of
numbers as a Python program makes them. Pages that are all zeros are left out (the kernel does not swap those to a
device).
"""

from __future__ import annotations

import ast
import csv
import io
import json
import sqlite3
import sys
import sysconfig
from pathlib import Path

PAGE = 4096
ZEROS = bytes(PAGE)


def work(target: int) -> list[object]:
    """Fills about ``target`` bytes of heap with the outcome of ordinary work, and returns it."""
    kept: list[object] = []
    database = sqlite3.connect(":memory:")
    database.execute("create table line (file text, number integer, text text)")
    database.execute("create index by_text on line (text)")
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(errors="replace")
        lines = text.splitlines()
        tree = ast.parse(text)
        kept += [text, lines, tree]
        names = {node.id: node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name)}
        kept.append(json.loads(json.dumps(names)))
        rows = [(path.name, number, line) for number, line in enumerate(lines)]
        database.executemany("insert into line values (?, ?, ?)", rows)
        table = io.StringIO()
        csv.writer(table).writerows(rows)
        kept += [table, [float(len(line)) * 0.37 for line in lines]]
        if resident() > target:
            break
    kept.append(database)
    return kept


def resident() -> int:
    """Bytes of this process's anonymous memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def write_pages(path: Path) -> int:
    """Writes every page of private writable memory that is not zeros to ``path``; returns their number."""
    areas = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, mode, *rest = line.split(maxsplit=5)
        name = rest[3] if len(rest) > 3 else ""
        if mode == "rw-p" and not name.startswith("[v"):
            start, end = (int(number, 16) for number in place.split("-"))
            areas.append((start, end))
    count = 0
    with Path("/proc/self/mem").open("rb", buffering=0) as memory, path.open("wb") as out:
        for start, end in areas:
            for address in range(start, end, PAGE):
                memory.seek(address)
                page = memory.read(PAGE)
                if len(page) == PAGE and page != ZEROS:
                    out.write(page)
                    count += 1
    return count


def main() -> int:
    """Collects; prints how many pages."""
    target = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    kept = work(target << 20)
    print(write_pages(Path(sys.argv[1])), "pages of", len(kept), "objects' memory")
    return 0


if __name__ == "__main__":
    sys.exit(main())
