"""``benchmark codec --dictionary``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from test_dictionary import DICTIONARY, make_pages
from test_dictionary_device import call
from test_dictionary_device import file as file

from truezram.engine.errors import UsageError
from truezram.engine.measure import benchmark


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    path = tmp_path / "words.pages"
    path.write_bytes(b"".join(make_pages(70, 30)))
    return path


def test_benchmark(pages: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--pages", str(pages), "--algorithm", "zstd:3", "--algorithm", "lz4", "--against", "libzstd:3"]
    argv += ["--rounds", "1", "--dictionary", str(file)]
    code, out, _ = call(capsys, "benchmark", "codec", *argv, "--json", "-")
    document = json.loads(out)
    assert (code, document["schema"]) == (0, "truezram.benchmark/1")
    ratios = {(item["implementation"], item["algorithm"]): item["ratio"] for item in document["results"]}
    assert set(ratios) == {
        ("truezram", "zstd:3"), ("truezram", "zstd:3+dictionary"), ("truezram", "lz4"), ("libzstd", "zstd:3"),
    }  # fmt: skip
    assert ratios["truezram", "zstd:3+dictionary"] > 1.2 * ratios["truezram", "zstd:3"]
    number = zstandard.ZstdCompressionDict(DICTIONARY).dict_id()
    assert document["dictionary"] == {"file": "words.zdict", "bytes": len(DICTIONARY), "id": number}
    code, out, _ = call(capsys, "benchmark", "codec", *argv)
    assert "zstd:3+dictionary (portable)" in out
    assert f"zstd+dictionary uses the dictionary words.zdict ({len(DICTIONARY):,} bytes" in out


def test_benchmark_without_one_says_nothing_of_it(pages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--pages", str(pages), "--algorithm", "zstd", "--against", "memcpy", "--rounds", "1"]
    _, out, _ = call(capsys, "benchmark", "codec", *argv, "--json", "-")
    assert "dictionary" not in out


def test_benchmark_refuses(pages: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["benchmark", "codec", "--pages", str(pages), "--rounds", "1"]
    code, _, err = call(capsys, *argv, "--algorithm", "lz4", "--dictionary", str(file))
    assert (code, "none of the algorithms is zstd" in err) == (2, True)
    code, _, err = call(capsys, *argv, "--dictionary", "/nonexistent")
    assert (code, "no such file" in err) == (2, True)
    file.write_bytes(DICTIONARY[:8] + b"\xff" * 1000)
    code, _, err = call(capsys, *argv, "--algorithm", "zstd", "--dictionary", str(file))
    assert (code, "its tables are damaged" in err) == (1, True)
    with pytest.raises(UsageError):
        benchmark.run([pages], ["dense"], rounds=1, dictionary=file)
