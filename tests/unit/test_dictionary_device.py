"""Dictionaries as files, devices that have one (local transport, the real server), and units that keep one."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from conftest import HANG, FakeServer
from test_boot import machine as machine
from test_dictionary import DICTIONARY, OTHER, make_pages
from test_local_device import devices as devices

from truezram.cli import main
from truezram.cli.verbs import stat
from truezram.engine import paths
from truezram.engine.device import boot, config, dictionary
from truezram.engine.device.client import Client
from truezram.engine.device.config import Config
from truezram.engine.device.create import CreateOptions, create, parse_settings, set_values
from truezram.engine.device.local import LocalDevice
from truezram.engine.errors import Failed, PermissionDenied, TruezramError, UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "words.zdict"
    path.write_bytes(DICTIONARY)
    return path


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


# ---- files ----


def test_files(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = dictionary.load("words.zdict")
    assert (found.path, found.data) == (file, DICTIONARY)
    assert found.id == zstandard.ZstdCompressionDict(DICTIONARY).dict_id()
    os.mkfifo(tmp_path / "pipe")
    for name, kind, text in (
        ("none", UsageError, "there is no such file"),
        ("pipe", UsageError, "it is not a regular file"),
        (".", Failed, "directory"),
        (__file__, Failed, "37 a4 30 ec"),
    ):
        with pytest.raises(kind, match=text):
            dictionary.load(name)


def test_unreadable(file: Path, ordinary_user: None) -> None:
    file.chmod(0)
    with pytest.raises(PermissionDenied, match="cannot read the dictionary"):
        dictionary.load(file)


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    dictionary.write(path, b"one", False)
    with pytest.raises(FileExistsError):
        dictionary.write(path, b"two", False)
    assert path.read_bytes() == b"one"
    dictionary.write(path, b"three")
    assert path.read_bytes() == b"three"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


# ---- devices ----


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--algorithm", "lz4", "--dictionary", "FILE"], 2, "lz4 takes no dictionary"),
        (["--algorithm", "zstd:3", "--dictionary", "/nonexistent"], 2, "there is no such file"),
        (["--algorithm", "zstd:3", "--dictionary", "/dev/zero"], 2, "it is not a regular file"),
        (["--algorithm", "zstd:3", "--dictionary", "DAMAGED"], 1, "its tables are damaged"),
    ],
)
def test_create_refuses(
    fake: FakeServer,
    run_dir: Path,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    text: str,
) -> None:
    damaged = file.with_name("damaged")
    damaged.write_bytes(DICTIONARY[:8] + b"\xff" * 1000)
    argv = [{"FILE": str(file), "DAMAGED": str(damaged)}.get(word, word) for word in words]
    found, out, err = call(capsys, "create", "--size", "64M", "--transport", "local", *argv)
    assert (found, out) == (code, "")
    assert text in err
    assert not run_dir.exists()


def test_the_server_is_told(
    fake: FakeServer, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    words = ["--size", "64M", "--transport", "local", "--algorithm", "zstd:3", "--dictionary", file.name, "--json"]
    code, out, _ = call(capsys, "create", *words)
    assert code == 0
    assert json.loads(out)["dictionary"] == str(file)
    assert f"--dictionary {file}" in fake.received[0]


@pytest.fixture
def server() -> Iterator[None]:
    try:
        paths.server_path()
    except TruezramError as missing:
        pytest.skip(str(missing))
    return


def test_a_device_with_a_dictionary(server: None, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = create(CreateOptions(64 << 20, "zstd:3", transport="local", queues=2, dictionary=str(file)))
    assert made.options.dictionary == str(file)
    file.unlink()  # it has a copy
    data = b"".join(make_pages(50, 20))
    with LocalDevice(made.entry) as device, Client() as client:
        for turn, algorithm in enumerate(("zstd:3", "lz4", "zstd:9", "dense", "zstd:-3")):
            set_values(client, made.entry, parse_settings([f"algorithm={algorithm}"]))
            device.write(100 * turn, data)
            for earlier in range(turn + 1):
                assert device.read(100 * earlier, 50) == data
        found = client.device(made.entry)
        kinds = dict(found.kind_pages)
        assert (kinds["zstd_dict"], "zstd" in kinds) == (150, False)
        assert sum(row[10] for row in client.page_map(made.entry, 0, 500, 5).regions) == 150
        assert found.dictionary_size == len(DICTIONARY) < found.dictionary_memory
        assert found.dictionary_id == zstandard.ZstdCompressionDict(DICTIONARY).dict_id()
        assert stat.as_json(found)["dictionary"]["bytes"] == len(DICTIONARY)
        assert f"id {found.dictionary_id}; with its tables" in dict(stat.lines(found))["dictionary"]


def test_a_device_without_one(server: None) -> None:
    made = create(CreateOptions(64 << 20, "zstd:3", transport="local"))
    with LocalDevice(made.entry) as device, Client() as client:
        device.write(0, b"".join(make_pages(5, 20)))
        found = client.device(made.entry)
        assert (dict(found.kind_pages), found.dictionary_size) == ({"zstd": 5}, 0)
        assert stat.as_json(found)["dictionary"] is None
        assert "dictionary" not in dict(stat.lines(found))


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("/nonexistent", 3, "No such file"),
        ("/", 2, "not a regular file"),
        (__file__, 2, "37 a4 30 ec"),
        ("damaged", 2, "its tables are damaged"),
    ],
)
def test_the_server_looks_for_itself(
    server: None, run_dir: Path, tmp_path: Path, name: str, code: int, text: str
) -> None:
    """What it is given may have changed since create looked at it."""
    (tmp_path / "damaged").write_bytes(DICTIONARY[:8] + b"\xff" * 1000)
    argv = [str(paths.server_path()), "--transport", "local", "--size", "1048576", "--algorithm", "zstd"]
    argv += ["--run-dir", str(run_dir), "--dictionary", str(tmp_path / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert not run_dir.exists() or list(run_dir.iterdir()) == []


# ---- enabled devices ----


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where dictionaries are kept."""
    monkeypatch.setenv("TRUEZRAM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state" / "dictionaries"


def options(file: Path, number: int = 3) -> CreateOptions:
    return CreateOptions(64 << 20, "zstd:3", id=number, swap=True, dictionary=str(file))


def enabled(file: Path, number: int = 3) -> Config:
    return Config(f"ublkb{number}", config.canonical(options(file, number)))


def test_a_file_keeps_a_copy(machine: Path, kept: Path, file: Path) -> None:
    done = boot.enable(enabled(file)).config
    (copy,) = kept.iterdir()
    assert copy.read_bytes() == DICTIONARY
    assert f'dictionary = "{copy}"' in done.path.read_text()
    (drop_in,) = (machine / "units").glob("truezram@ublkb3.service.d/*.conf")
    assert f"RequiresMountsFor={kept}\n" in drop_in.read_text()
    file.unlink()
    assert dictionary.load_for(copy, "zstd:3").data == DICTIONARY
    # Another device with the same dictionary shares the copy; the last one takes it away.
    boot.enable(enabled(copy, 4))
    boot.disable("ublkb3")
    assert list(kept.iterdir()) == [copy]
    boot.disable("ublkb4")
    assert list(kept.iterdir()) == []


def test_a_copy_that_is_gone_or_changed_is_an_error(machine: Path, kept: Path, file: Path) -> None:
    boot.enable(enabled(file))
    (copy,) = kept.iterdir()
    copy.write_bytes(OTHER)
    with pytest.raises(Failed, match="changed since it was kept"):
        boot.start("ublkb3")
    copy.unlink()
    with pytest.raises(UsageError, match="no such file"):
        boot.start("ublkb3")
    boot.disable("ublkb3")


@pytest.mark.parametrize("step", ["enable", "start"])
def test_nothing_is_kept_for_what_fails(
    machine: Path, kept: Path, file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("FAIL", step)
    with pytest.raises(Failed):
        boot.enable(enabled(file))
    assert list(kept.iterdir()) == []
    assert file.exists()


def test_only_printed(machine: Path, kept: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = enabled(file)
    config.DIRECTORY.mkdir(parents=True)
    made.path.write_text(made.text())
    code, out, _ = call(capsys, "enable", "ublkb3", "--print")
    assert (code, f'dictionary = "{file}"' in out, kept.exists()) == (0, True, False)
    file.unlink()
    code, _, err = call(capsys, "enable", "ublkb3", "--print")
    assert (code, "no such file" in err) == (2, True)


def test_a_broken_file_does_not_matter(machine: Path, kept: Path, file: Path) -> None:
    boot.enable(enabled(file))
    (config.DIRECTORY / "ublkb9.toml").write_text("nonsense")
    boot.disable("ublkb3")
    assert list(kept.iterdir()) == []
