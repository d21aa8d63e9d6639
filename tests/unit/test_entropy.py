"""entropy.py and its verb: figures against arithmetic done otherwise and against a device's own cost of a page; what
paths may be; interrupts."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import HANG
from pagegen import noise, records, text

from truezram._native import ffi
from truezram.cli import main
from truezram.codec import Compressor
from truezram.engine.errors import NotFound, PermissionDenied, UsageError
from truezram.engine.measure import entropy as measured
from truezram.engine.measure.entropy import count_bytes, entropy, entropy_of
from truezram.engine.measure.estimate import cost, same_filled_cost
from truezram.engine.measure.sampling import Cancelled
from truezram.engine.units import PAGE


def pages(count: int, seed: int = 3) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.choice((text, records, noise))(rng, PAGE) for _ in range(count))


def by_definition(data: bytes) -> float:
    return -sum(n / len(data) * math.log2(n / len(data)) for n in Counter(data).values())


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 4095, 4096, 100003])
def test_bytes_are_counted(size: int) -> None:
    data = random.Random(size).randbytes(size)
    counts = ffi.new("uint64_t[256]")
    count_bytes(data, counts)
    count_bytes(data[: size // 2], counts)
    expected = Counter(data) + Counter(data[: size // 2])
    assert list(counts) == [expected[value] for value in range(256)]


def test_entropy_of_known_sources() -> None:
    assert entropy_of([5]) == 0
    assert entropy_of([1, 1]) == 1
    assert entropy_of([1] * 256) == 8
    assert entropy_of([3, 1]) == pytest.approx(0.811278, abs=1e-6)


def test_a_file_is_measured_completely(tmp_path: Path) -> None:
    """Sum of what the store's arithmetic says of each page, and the entropy by its definition."""
    data = bytes(2 * PAGE) + pages(20) + b"the last page is not whole"
    (tmp_path / "file").write_bytes(data)
    report = entropy([str(tmp_path / "file")], ["lz4"])
    (item,) = report.paths
    assert (item.kind, item.files, item.bytes) == ("file", 1, len(data))
    assert item.pages == item.sampled == 23
    assert item.entropy == pytest.approx(by_definition(data))
    parts = [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    assert item.page_entropy == pytest.approx(sum(map(by_definition, parts)) / 23)
    assert item.same_filled == 2 / 23
    (lz4,) = item.algorithms
    codec = Compressor("lz4")
    costs = [same_filled_cost(bytes(8))] * 2
    costs += [cost(len(codec.compress(part.ljust(PAGE, b"\0"))) or PAGE) for part in parts[2:]]
    assert lz4.resident == round(sum(costs))
    assert lz4.ratio == lz4.ratio_low == lz4.ratio_high == pytest.approx(23 * PAGE / sum(costs))
    assert report.total.algorithms == item.algorithms


def test_a_sample_is_fair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part of a file, and of a stream: the interval has the whole file's ratio, and not all pages are read."""
    monkeypatch.chdir(tmp_path)  # what is drawn depends on the seed and the path as it is given
    data = pages(1500)
    Path("file").write_bytes(data)
    (whole,) = entropy(["file"], ["lz4"], limit=2000).paths
    (part,) = entropy(["file"], ["lz4"], limit=400, seed=1).paths
    assert (part.pages, part.sampled) == (1500, 400)
    os.mkfifo("fifo")
    with subprocess.Popen(["cp", "file", "fifo"]):
        (stream,) = entropy(["fifo"], ["lz4"], limit=400, seed=1).paths
    assert (stream.kind, stream.files, stream.bytes) == ("stream", 0, len(data))
    assert (stream.pages, stream.sampled) == (1500, 400)
    for item in (part, stream):
        assert item.algorithms[0].ratio_low < whole.algorithms[0].ratio < item.algorithms[0].ratio_high
        assert item.entropy == pytest.approx(whole.entropy, abs=0.15)
    again = entropy(["file"], ["lz4"], limit=400, seed=1).paths[0]
    other = entropy(["file"], ["lz4"], limit=400, seed=2).paths[0]
    assert again.entropy == part.entropy != other.entropy


def test_the_total_is_not_that_of_the_samples(tmp_path: Path) -> None:
    """A large file of which little was read counts as what it is."""
    small, large = bytes(4 * PAGE), random.Random(1).randbytes(400 * PAGE)
    (tmp_path / "small").write_bytes(small)
    (tmp_path / "large").write_bytes(large)
    total = entropy([str(tmp_path / "small"), str(tmp_path / "large")], ["lz4"], limit=40).total
    assert total.entropy == pytest.approx(by_definition(small + large), abs=0.01)
    assert total.page_entropy == pytest.approx(7.95 * 400 / 404, abs=0.01)


def tree(root: Path) -> Path:
    """A folder with files, one below it, a link, and a pipe."""
    (root / "folder/below").mkdir(parents=True)
    (root / "folder/a").write_bytes(pages(3, 1))
    (root / "folder/b").write_bytes(b"")
    (root / "folder/below/c").write_bytes(pages(2, 2))
    (root / "folder/link").symlink_to(root / "folder/a")
    (root / "folder/loop").symlink_to(root / "folder")
    os.mkfifo(root / "folder/pipe")
    return root / "folder"


def test_folders(tmp_path: Path) -> None:
    folder = tree(tmp_path)
    (flat,) = entropy([str(folder)], ["lz4"]).paths
    assert (flat.kind, flat.files, flat.pages) == ("folder", 2, 3)
    report = entropy([str(folder), str(folder / "a")], ["lz4"], recursive=True)
    deep, alone = report.paths
    assert (deep.files, deep.pages) == (3, 5)
    assert (report.total.pages, report.total.files) == (8, 4)
    assert report.total.bytes == 8 * PAGE
    sums = deep.algorithms[0].resident + alone.algorithms[0].resident
    assert report.total.algorithms[0].resident == pytest.approx(sums, abs=1)


def test_what_cannot_be_read_in_a_folder_is_named(tmp_path: Path, ordinary_user: None) -> None:
    folder = tree(tmp_path)
    (folder / "a").chmod(0)
    (folder / "below").chmod(0)
    report = entropy([str(folder)], ["lz4"], recursive=True)
    assert {(item.path, item.why.lower()) for item in report.skipped} == {
        (str(folder / "a"), "permission denied"),
        (str(folder / "below"), "permission denied"),
    }
    with pytest.raises(PermissionDenied, match="cannot read"):
        entropy([str(folder / "a")], ["lz4"])
    (folder / "below").chmod(0o700)


def test_a_file_that_becomes_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there no longer is not in the sample, and nothing is made up for it."""
    path = tmp_path / "file"
    path.write_bytes(pages(10))
    reader = measured._Reader(measured._find(str(path), False, [], lambda: None), 100, 0, [])
    path.write_bytes(pages(4))
    assert [len(part) for part in reader] == [PAGE] * 4


def test_nothing_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").touch()
    assert main.main(["entropy", str(tmp_path / "empty")]) == 0
    assert "empty" in capsys.readouterr().out
    (item,) = entropy([str(tmp_path / "empty")], ["lz4"]).paths
    assert (item.entropy, item.algorithms, item.sampled) == (None, (), 0)
    (tmp_path / "zeros").write_bytes(bytes(PAGE))
    assert main.main(["entropy", str(tmp_path / "zeros"), "--algorithm", "lz4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["total"]["entropy"], document["total"]["entropy_ratio"]) == (0, None)


def test_paths_that_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are looked up before one is read."""
    (tmp_path / "there").write_bytes(pages(1))
    with pytest.raises(NotFound, match="no such file"):
        entropy([str(tmp_path / "there"), str(tmp_path / "gone")])
    with pytest.raises(UsageError, match="without an end"):
        entropy(["/dev/zero"])
    with pytest.raises(UsageError, match="twice"):
        entropy(["-", "-"])
    assert main.main(["entropy", str(tmp_path / "gone")]) == 1
    assert capsys.readouterr().err == (
        f"truezram: cannot read {tmp_path}/gone: there is no such file or folder. Check the path.\n"
    )
    assert main.main(["entropy", str(tmp_path / "there"), "--algorithm", "gzip"]) == 2


def test_cancelled(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pages(600))
    said: list[float] = []
    with pytest.raises(Cancelled):
        entropy([str(tmp_path / "file")], ["lz4"], progress=lambda f, _: said.append(f), cancel=lambda: len(said) > 1)
    assert said[0] == 0
    assert 0 < said[1] < 1


def script(*argv: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "truezram", "entropy", *argv], capture_output=True, timeout=HANG, check=False,
        **options,
    )  # type: ignore[call-overload, no-any-return]  # fmt: skip


def test_standard_input() -> None:
    data = pages(5)
    done = script("-", "--json", "--algorithm", "lz4", "--algorithm", "dense", input=data)
    document = json.loads(done.stdout)
    assert document["schema"] == "truezram.entropy/1"
    (item,) = document["paths"]
    assert (item["path"], item["kind"], item["bytes"]) == ("-", "stream", len(data))
    assert item["entropy"] == pytest.approx(by_definition(data))
    assert [algorithm["algorithm"] for algorithm in item["algorithms"]] == ["lz4", "dense"]
    closed = script("-", preexec_fn=lambda: os.close(0))
    assert closed.returncode == 1
    assert b"cannot read standard input" in closed.stderr


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise").write_bytes(random.Random(1).randbytes(40 * PAGE))
    (tmp_path / "text").write_bytes(b"the same again " * 10000)
    argv = ["entropy", str(tmp_path / "noise"), str(tmp_path / "text"), "--algorithm", "zstd:1", "--pages", "20"]
    assert main.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["PATH", "SIZE", "METHOD", "BITS/BYTE", "RATIO", "±", "TAKES"]
    assert [line.split()[0] for line in lines[1:7]] == [
        str(tmp_path / "noise"), "zstd:1", str(tmp_path / "text"), "zstd:1", "total", "zstd:1"
    ]  # fmt: skip
    bars = [line.count("#") for line in lines[1:5]]
    assert bars[:2] == [30, 30]
    assert bars[3] < bars[2] < 20
    assert f"20 of 40 of {tmp_path}/noise" in lines[-1]


def test_an_interrupt_ends_it(tmp_path: Path) -> None:
    """While it waits for input: it writes nothing and leaves nothing."""
    command = [sys.executable, "-P", "-m", "truezram", "entropy", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin is not None
        process.stdin.write(pages(40))  # more than a pipe holds: it reads
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"truezram: interrupted\n"
    assert not list(tmp_path.iterdir())
