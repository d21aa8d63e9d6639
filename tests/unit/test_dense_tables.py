"""The code tables of the ``dense`` codec are what make_dense_tables.py makes from the statistics next to it."""

from __future__ import annotations

import importlib.util
import itertools
import random
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DENSE = Path(__file__).parents[2] / "truezram" / "native" / "codecs" / "dense"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_dense_tables", DENSE / "make_dense_tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lengths_in(header: str) -> list[list[int]]:
    text = "".join(re.findall(r'"([a-z]*)"', header))
    codes = [ord(letter) - ord("a") + 1 for letter in text]
    return [codes[i : i + 256] for i in range(0, len(codes), 256)]


def test_tables_are_made_from_the_statistics(maker: ModuleType) -> None:
    stats = (DENSE / "dense_stats.txt").read_text()
    assert (DENSE / "dense_tables.h").read_text() == maker.make_tables(stats)


def test_statistics_name_their_pages() -> None:
    stats = (DENSE / "dense_stats.txt").read_text()
    named = re.findall(r"^pages (\d+) (\S+)$", stats, re.MULTILINE)
    assert len(named) >= 5
    assert all(int(pages) > 1000 for pages, _ in named)
    assert (DENSE / "dense_stats.txt").stat().st_size < 200_000


def test_other_statistics_make_other_tables(maker: ModuleType) -> None:
    stats = (DENSE / "dense_stats.txt").read_text()
    line = next(line for line in stats.splitlines() if line.startswith("L 0 "))
    counts = line.split()
    changed = stats.replace(line, " ".join([*counts[:2], *reversed(counts[2:])]))
    assert maker.make_tables(changed) != maker.make_tables(stats)


def test_codes_are_complete_and_short(maker: ModuleType) -> None:
    tables = lengths_in((DENSE / "dense_tables.h").read_text())
    assert len(tables) == 96
    for lengths in tables:
        assert len(lengths) == 256
        assert min(lengths) >= 1
        assert max(lengths) <= maker.MAX_BITS
        assert sum(1 << (maker.MAX_BITS - length) for length in lengths) == 1 << maker.MAX_BITS
    limit = re.search(r"#define DN_MAX_BITS (\d+)", (DENSE / "dense_impl.h").read_text())
    assert limit
    assert int(limit[1]) == maker.MAX_BITS


def test_package_merge_is_optimal(maker: ModuleType) -> None:
    """Against all length-limited complete codes of six symbols."""
    rng = random.Random(7)
    limit = 4
    every = itertools.product(range(1, limit + 1), repeat=6)
    codes = [code for code in every if sum(1 << limit - n for n in code) == 1 << limit]
    assert len(codes) > 100
    for _ in range(40):
        weights = [rng.choice([1, 1, 2, 3, 10, 100, 1000]) for _ in range(6)]
        cost = [sum(w * n for w, n in zip(weights, code, strict=True)) for code in codes]
        made = maker.code_lengths(weights, limit)
        assert tuple(made) in codes
        assert sum(w * n for w, n in zip(weights, made, strict=True)) == min(cost)


def test_check_tells_a_difference(tmp_path: Path) -> None:
    for name in ("make_dense_tables.py", "dense_stats.txt", "dense_tables.h"):
        (tmp_path / name).write_bytes((DENSE / name).read_bytes())
    command = [sys.executable, str(tmp_path / "make_dense_tables.py"), "--check"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    header = tmp_path / "dense_tables.h"
    header.write_text(header.read_text().replace("k", "j", 1) + "\n")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "dense_stats.txt" in done.stderr


def test_gather_counts_pages(maker: ModuleType, tmp_path: Path) -> None:
    """--gather compiles, runs, is deterministic, and its result makes tables."""
    rng = random.Random(3)
    words = [rng.randbytes(rng.choice([2, 4, 8])).ljust(8, b"\0") for _ in range(300)]
    pages = b"".join(b"".join(rng.choices(words, k=512)) for _ in range(80)) + bytes(4096)
    (tmp_path / "some.pages").write_bytes(pages)
    gathered = maker.gather([str(tmp_path / "some.pages")])
    assert gathered.startswith("pages 80 some.pages\n")
    assert gathered == maker.gather([str(tmp_path / "some.pages")])
    assert len(lengths_in(maker.make_tables(gathered))) == 96
