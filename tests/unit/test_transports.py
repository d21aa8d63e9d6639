"""The table of transports, and what it makes of nbd devices: their names, what they refuse, what they need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import FakeServer, make

from truezram.cli.main import main
from truezram.engine.device import config, driver, nbd, swap
from truezram.engine.device import create as creating
from truezram.engine.device.client import Client, Entry, candidates
from truezram.engine.device.config import Config
from truezram.engine.device.create import CreateOptions, check_options
from truezram.engine.device.stats_page import TRANSPORT_NAMES
from truezram.engine.errors import PermissionDenied, Unsupported, UsageError
from truezram.engine.machine import modules
from truezram.engine.machine.mappings import device_of
from truezram.engine.model import no_recovery
from truezram.engine.transports import TRANSPORTS, parse_name

KERNEL = "6.1.0-39-amd64"


def test_the_table_has_what_servers_have() -> None:
    """Of the same name; the order here is that of lists."""
    assert set(TRANSPORTS) == set(TRANSPORT_NAMES)
    assert list(TRANSPORTS) == ["ublk", "nbd", "local"]
    assert len({row.prefix for row in TRANSPORTS.values()}) == len(TRANSPORTS)


@pytest.mark.parametrize(
    ("name", "transport", "path"),
    [("ublkb0", "ublk", "/dev/ublkb0"), ("nbd17", "nbd", "/dev/nbd17"), ("local3", "local", "local:3")],
)
def test_names(name: str, transport: str, path: str) -> None:
    """A name says the transport and the number, and both make the path."""
    entry = Entry(Path("/run/truezram"), name)
    assert (entry.transport, entry.path) == (transport, path)
    assert entry.id == int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
    assert entry.is_disk == path.startswith("/dev/")
    assert candidates(name) == (name,)
    assert device_of(f"truezram-{name}-0123abcd") == name


@pytest.mark.parametrize("name", ["nbd", "nbd0p1", "nbdx", "xnbd0", "nbd12345678", "zram0", "nbd٣", "ublkb0 ", ""])
def test_no_names(name: str) -> None:
    assert parse_name(name) is None


def test_a_number_may_be_any_transports() -> None:
    assert candidates("7") == ("ublkb7", "nbd7", "local7")
    assert candidates("/dev/nbd7") == ("nbd7",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"swap": True}, "only swapping may free"),
        ({"queues": 2}, "has one"),
        ({"queue_depth": 129}, "Choose 1 to 128"),
    ],
)
def test_what_an_nbd_device_cannot_be(changes: dict[str, int], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        check_options(CreateOptions(1 << 30, "lz4", transport="nbd", **changes))  # type: ignore[arg-type]


def test_what_an_nbd_device_can_be() -> None:
    """A disk, with or without a filesystem."""
    options = CreateOptions(1 << 30, "lz4", transport="nbd", queues=1, queue_depth=128, fs="ext4")
    assert check_options(options).transport == "nbd"


def test_after_a_restart() -> None:
    """Block devices come back, as what they were."""
    made = Config("nbd1", config.canonical(CreateOptions(1 << 30, "lz4", id=1, transport="nbd", fs="ext4")))
    assert config.parse("nbd1", made.text()) == made
    assert made.summary() == "--size 1G --algorithm lz4 --transport nbd --fs ext4"
    with pytest.raises(UsageError, match="through a socket"):
        config.parse("nbd1", 'size = "1G"\nswap = true')
    with pytest.raises(UsageError, match=r"cannot enable it.*Use ublk"):
        config.canonical(CreateOptions(1 << 30, "lz4", id=1, transport="local"))


def test_create(
    fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is in lists, between those of the other transports, and its number may mean two devices."""
    monkeypatch.setattr(nbd, "need", lambda: None)
    monkeypatch.setattr(nbd, "is_taken", lambda number: number == 0)
    monkeypatch.setattr(swap, "node_ready", lambda path: None)
    monkeypatch.setattr(swap, "check_node", lambda path: None)
    make()
    entry = make(transport="nbd", id=5)
    assert (entry.name, entry.path) == ("nbd5", "/dev/nbd5")
    assert any("--transport nbd" in line for line in fake.received)
    make(id=5)
    with Client() as client:
        assert [one.name for one in client.entries()] == ["nbd5", "local0", "local5"]
        device = client.device(entry)
    assert (device.transport, device.path) == ("nbd", "/dev/nbd5")
    assert device.recovery.startswith("off: ")
    assert main(["set", "5", "mem_limit=1G"]) == 2
    assert "local5 and nbd5" in capsys.readouterr().err
    assert main(["create", "--size", "1G", "--transport", "nbd", "--id", "0"]) == 4
    assert "another program has connected /dev/nbd0" in capsys.readouterr().err
    assert main(["enable", "local5"]) == 2
    assert "not a block device" in capsys.readouterr().err


def test_why_there_is_no_recovery() -> None:
    assert "noswap" in no_recovery("nbd", False, False)
    assert no_recovery("nbd", True, True) == ""


def test_need(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root, and the module, which is loaded unless it is there."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied, match=r"sudo.*--transport local"):
        nbd.need()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(nbd, "_LOADED", tmp_path / "nbd")
    tool = tmp_path / "modprobe"
    tool.write_text(f"#!/bin/sh\necho $* >{tmp_path}/tried\necho 'FATAL: no nbd' >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setattr(swap, "tool", lambda name: str(tmp_path / name))
    with pytest.raises(Unsupported, match=r"no nbd driver \(FATAL: no nbd\).*--transport local"):
        nbd.need()
    assert (tmp_path / "tried").read_text() == "nbd\n"
    tool.write_text(f"#!/bin/sh\nmkdir {tmp_path}/nbd\n")
    nbd.need()
    nbd.need()


@pytest.mark.parametrize("there", [False, True])
def test_the_remedy_where_there_is_no_ublk(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """nbd is named where the kernel has it, and only there."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(driver, "load", lambda name, _: "")
    monkeypatch.setattr(nbd, "may_be_had", lambda: there)
    with pytest.raises(Unsupported, match="--transport local") as caught:
        creating.need_ublk()
    assert ("--transport nbd, for a disk, or" in caught.value.remedy) == there


@pytest.mark.parametrize(
    ("file", "text", "where"),
    [
        ("sys/module/nbd/refcnt", "0", "loaded"),
        (f"lib/modules/{KERNEL}/modules.builtin", "kernel/drivers/block/nbd.ko\n", "builtin"),
        (f"usr/lib/modules/{KERNEL}/modules.dep", "kernel/drivers/block/nbd.ko.xz:\n", "file"),
        (f"lib/modules/{KERNEL}/modules.dep", "kernel/drivers/block/knbd.ko:\n", ""),
    ],
)
def test_where_a_driver_is(tmp_path: Path, file: str, text: str, where: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert modules.where("nbd", KERNEL, tmp_path) == where
