"""Each file of examples/ as a user runs it, and whether what it prints is so. Needs the server, as
test_local_device.py does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HANG, end_servers

import truezram
from truezram.engine import paths
from truezram.engine.errors import TruezramError

EXAMPLES = Path(__file__).parents[2] / "examples"
NUMBER = r"-?\d+(?:\.\d+)?"

try:
    paths.server_path()
except TruezramError as missing:
    pytest.skip(f"{missing}", allow_module_level=True)


@pytest.fixture(autouse=True)
def devices_end(run_dir: Path) -> Iterator[None]:
    yield
    end_servers(run_dir)


def run(name: str, folder: Path, *arguments: str, code: int = 0) -> str:
    """What it prints; it says nothing on stderr, unless it is to fail."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    # As for a user, the folder of a script is on its path.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == bool(code)
    return done.stdout + done.stderr


def numbers(line: str) -> list[float]:
    return [float(found) for found in re.findall(NUMBER, line)]


def row(text: str, name: str) -> list[float]:
    """The numbers of the line that begins with that word."""
    (line,) = re.findall(rf"^{name} (.*)$", text, re.MULTILINE)
    return numbers(line)


def test_each_has_a_test() -> None:
    here = Path(__file__).read_text()
    names = {path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("_")}
    assert len(names) == 5
    for name in names:
        assert f'run("{name}"' in here


def test_algorithms(tmp_path: Path) -> None:
    text = run("algorithms.py", tmp_path)
    for algorithm in truezram.algorithms():
        figures = row(text, algorithm.name)
        zeros, words, objects, noise = figures[0::3]
        assert zeros > objects > 1.5
        assert words > 1
        assert noise == 1
        assert all(figure > 0 for figure in figures)
    assert row(text, "zstd")[3] > row(text, "lz4")[3] > row(text, "turbo")[3]


def test_tiers(tmp_path: Path) -> None:
    text = run("tiers.py", tmp_path)
    written, dense, cold = (row(text, step) for step in ("written", "dense", "cold"))
    memory, ratios = ([step[place] for step in (written, dense, cold)] for place in (0, 1))
    assert memory == sorted(memory, reverse=True)
    assert ratios == sorted(ratios)
    assert [step[2::2] for step in (written, dense, cold)] == [[4096, 0, 0], [0, 4096, 0], [0, 0, 4096]]
    assert "All pages read back as they were written." in text
    assert not [device for device in truezram.devices() if device.kind == "truezram"]


def test_process(tmp_path: Path) -> None:
    text = run("process.py", tmp_path)
    assert re.search(r"\(pid \d+\): \d+\.\dM of memory, \d+ pages sampled", text)
    for algorithm in truezram.algorithms():
        ratio, least, most, takes, gains, *times = row(text, algorithm.name)
        assert 1 < least <= ratio <= most
        assert takes > 0
        assert gains > 0
        assert len(times) == 2
    keep = "kept = bytes(range(256)) * 160000; print('ready', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", keep], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        other = run("process.py", tmp_path, str(child.pid))
        child.communicate(b"\n")
    assert f"(pid {child.pid})" in other
    assert row(other, "zstd")[0] > 5
    assert "no process 999999999" in run("process.py", tmp_path, "999999999", code=1)


def test_live(tmp_path: Path) -> None:
    text = run("live.py", tmp_path)
    device, _, *lines = text.splitlines()
    assert re.match(r"local:0, with |/dev/ublkb\d+, with ", device)
    looks = [numbers(line) for line in lines]
    assert len(looks) == 12
    stored = [look[0] for look in looks]
    assert stored == sorted(stored)
    assert stored[-1] > 0
    for kept, memory, ratio, _, _, same in looks:
        if kept > 20:  # before, it is the reserve that one sees
            assert ratio == pytest.approx(kept / memory, rel=0.02)
            assert memory < kept
            assert same * 8 == pytest.approx(kept * 256, rel=0.02)
    assert sum(look[3] for look in looks) > 0
    assert sum(look[4] for look in looks) > 0
    assert not [found for found in truezram.devices() if found.kind == "truezram"]


def pixels(path: Path) -> list[list[bytes]]:
    """The rows of a PNG without filters, of 8 bits each of red, green and blue."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        chunks[kind] = data[at + 8 : at + 8 + size]
        assert zlib.crc32(kind + chunks[kind]) == int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height = (int.from_bytes(chunks[b"IHDR"][place : place + 4], "big") for place in (0, 4))
    raw = zlib.decompress(chunks[b"IDAT"])
    assert len(raw) == height * (1 + 3 * width)
    rows = [raw[start + 1 : start + 1 + 3 * width] for start in range(0, len(raw), 1 + 3 * width)]
    return [[line[place : place + 3] for place in range(0, 3 * width, 3)] for line in rows]


def test_plots(tmp_path: Path) -> None:
    text = run("plots.py", tmp_path)
    assert "swap.jsonl.gz: swap on a ublk device, 54 lines" in text
    for word in ("MiB", "ratio", "MiB/s", "ublkb0 stored", "ublkb0 in memory", "ublkb0 written", "seconds", "⠤"):
        assert word in text
    rows = pixels(tmp_path / "recording.png")
    assert (len(rows[0]), len(rows)) == (900, 3 * 240)
    # At its end there is more stored (blue) than that takes (orange), about twice as much.
    column = [line[859] for line in rows[30:240]]
    stored, takes = column.index(b"\x00\x72\xb2"), column.index(b"\xd5\x5e\x00")
    assert (180 - stored) / (180 - takes) == pytest.approx(2.05, abs=0.1)
    assert "MiB" in run("plots.py", tmp_path, str(EXAMPLES.parent / "tests/app/recordings/local.jsonl.gz"), "other.png")
    assert pixels(tmp_path / "other.png") != rows
    (tmp_path / "none.json").write_text('{"schema": "else"}\n')
    assert "is not a recording of truezram" in run("plots.py", tmp_path, "none.json", code=1)
