"""``truezram train``: what it makes, measures, says and refuses."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from test_dictionary import PAGE, make_pages
from test_dictionary_device import call

import truezram
from truezram.cli.verbs import train as verb
from truezram.engine.errors import Failed, NotFound, UsageError
from truezram.engine.measure import training
from truezram.engine.measure.training import Measured, Source, Times, Trained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that share words, with same-filled pages in one of them, and one of noise."""
    path = tmp_path / "pages"
    path.mkdir()
    (path / "a.pages").write_bytes(b"".join([bytes(PAGE)] * 30 + make_pages(150, 1)))
    (path / "b.pages").write_bytes(b"".join(make_pages(90, 2)))
    return path


def test_makes_and_measures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.zdict"
    argv = ["train", "--pages", str(folder), "--size", "16K", "--level", "3"]
    code, out, _ = call(capsys, *argv, "--json", str(target))
    document = json.loads(out)
    data = target.read_bytes()
    assert (code, document["schema"], document["file"]) == (0, "truezram.train/1", str(target))
    assert document["bytes"] == len(data) <= 16384
    assert document["id"] == int.from_bytes(data[4:8], "little")
    assert (document["training_pages"], document["total"]["pages"]) == (160, 80)
    assert [(item["name"], item["pages"]) for item in document["inputs"]] == [("a", 50), ("b", 30)]
    assert document["worth_it"]
    assert document["total"]["saved"] > 0.2
    assert document["memory_bytes"] > len(data)
    assert document["pays_from_bytes"] % PAGE == 0
    # What it says is what a compressor makes of new pages of this kind, more or less.
    pages = make_pages(50, 3)
    sizes = [
        sum(len(truezram.Compressor("zstd:3", dictionary=given).compress(page)) for page in pages)
        for given in (None, data)
    ]
    assert 1 - sizes[1] / sizes[0] == pytest.approx(document["total"]["saved"], abs=0.05)
    code, out, _ = call(capsys, *argv, "--force", str(target))
    assert (code, target.read_bytes()) == (0, data)
    for text in ("x.zdict: ", "trained on 160 pages", "zstd:3 on other pages", "\ntotal ", "It saves "):
        assert text in out


def test_negative_levels_and_progress(folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[float, str]] = []
    sources = training.from_files([folder / "b.pages", folder / "a.pages"])
    found = training.train(sources, 8192, -5, lambda fraction, text: steps.append((fraction, text)))
    assert (found.level, len(found.data) <= 8192) == (-5, True)
    fractions = [fraction for fraction, _ in steps]
    assert fractions == sorted(fractions)
    assert any("training on" in text for _, text in steps)
    assert any("measuring on other pages of a" in text for _, text in steps)


def test_noise_is_not_worth_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise.pages"
    order = random.Random(4)
    path.write_bytes(b"".join(order.randbytes(2000) + bytes(PAGE - 2000) for _ in range(150)))
    code, out, _ = call(capsys, "train", "--pages", str(path), "--size", "4K", str(tmp_path / "x"))
    assert (code, (tmp_path / "x").exists()) == (0, True)
    assert "worth it: " in out


def trained(plain: int, with_it: int) -> Trained:
    measured = Measured("a", 100, plain, with_it)
    return Trained(b"\0" * 300, 3, 200, measured, (measured,), Times(1, 1), Times(1, 1), 400_000)


def test_verdicts() -> None:
    assert verb.verdict(trained(100_000, 100_000)).startswith("Not worth it")
    assert verb.verdict(trained(100_000, 99_000)).startswith("Hardly worth it: it saves 1.0%")
    assert verb.verdict(trained(100_000, 95_000)).startswith("It saves 5.0%")
    assert trained(100_000, 101_000).pays_from is None
    assert trained(100_000, 90_000).pays_from == 4000 * PAGE
    assert not trained(100_000, 99_000).is_worth_it
    losing = trained(100_000, 80_000)
    both = Trained(**{
        name: getattr(losing, name)
        for name in ("data", "level", "training_pages", "total", "plain_times", "trained_times", "memory")
    }, sources=(Measured("bad", 10, 100, 110), losing.total))  # fmt: skip
    assert verb.verdict(both).endswith("Not for: bad.")


def test_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a process that this one starts, so that it may be read."""
    program = (
        "import random, sys; words = [random.Random(i).randbytes(24) for i in range(300)]\n"
        "order = random.Random(1); kept = [b''.join(order.choice(words) for _ in range(170)) for _ in range(2000)]\n"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.readline()
        target = tmp_path / "x"
        code, out, err = call(capsys, "train", "--pid", str(child.pid), "--size", "8K", "--json", str(target))
        assert child.stdin
        child.stdin.close()
    assert code == 0, err
    document = json.loads(out)
    assert document["total"]["pages"] > 100
    assert document["total"]["saved"] > 0.05
    assert target.stat().st_mode & 0o777 == 0o600


def test_too_few_pages() -> None:
    pages = tuple(make_pages(90, 5))
    with pytest.raises(Failed, match=r"60 pages to train on, and 4K needs 64\. Give more pages \(96"):
        training.train([Source("a", pages)], 4096, 3)
    with pytest.raises(Failed, match="0 pages to train on"):
        training.train([], 4096, 3)


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--size", "512"], 2, "its size is 512B. Choose 1K to 128K"),
        (["--size", "129K"], 2, "Choose 1K to 128K"),
        (["--size", "x"], 2, "not a number"),
        (["--level", "20"], 2, "level 20 is out of range"),
        (["--level", "x"], 2, "not a whole number"),
        (["--pages", "/nonexistent"], 2, "no such file or folder"),
        (["--pages", __file__], 1, "cannot take pages"),
        (["--pid", "4194999"], 1, "no process 4194999"),
        (["--pid", "x"], 2, "a pid is a whole number"),
        (["--pid", "1", "--pages", "x"], 2, "not allowed with"),
        (["--nosuch"], 2, "--nosuch"),
    ],
)
def test_bad_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, text: str
) -> None:
    target = tmp_path / "x"
    found, out, err = call(capsys, "train", *argv, str(target))
    assert (found, out) == (code, ""), err
    assert text in err
    assert list(tmp_path.iterdir()) == []


def test_targets(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    for name, text in ((there, "--force"), (folder, "it is a folder"), (tmp_path / "no" / "x", "there is no folder")):
        code, _, err = call(capsys, "train", "--pages", str(folder), str(name))
        assert (code, text in err) == (2, True), err
    assert there.read_text() == "mine"
    code, _, err = call(capsys, "train")
    assert (code, "FILE" in err) == (2, True)


def test_what_is_out_of_range() -> None:
    with pytest.raises(NotFound, match="4194999"):
        training.from_processes(["4194999"])
    for size, level in ((100, 3), (1 << 20, 3), (32 << 10, 99)):
        with pytest.raises(UsageError):
            training.check(size, level)
    training.check(32 << 10, 3)


CHILD = """
import mmap, sys
memory = mmap.mmap(-1, 400 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(400):
    memory[i * 4096 : i * 4096 + 4096] = (b"tz-%09d" % i + bytes(4)) * 256 if i < 300 else b"SAMEWORD" * 512
print("ready", flush=True)
sys.stdin.read()
"""


def test_sources_are_the_pages_of_processes() -> None:
    """Of few enough pages all but the same-filled ones."""
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        (source,) = training.from_processes([str(child.pid)])
        assert source.name == Path(f"/proc/{child.pid}/comm").read_text().strip()
    finally:
        child.communicate(b"")
    assert {len(page) for page in source.pages} == {PAGE}
    assert {page[:12] for page in source.pages if page[:3] == b"tz-"} == {b"tz-%09d" % i for i in range(300)}
    assert not [page for page in source.pages if page == page[:8] * 512]
