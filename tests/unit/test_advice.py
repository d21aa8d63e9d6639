"""advice.py: what a machine should have, from made-up facts and made-up trees; and that everybody who proposes a size
or a limit says the same."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from truezram.app import plan
from truezram.engine.device import settings
from truezram.engine.device.create import warnings_of
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import Unsupported, UsageError
from truezram.engine.machine import advice, users
from truezram.engine.machine.advice import Facts, advise
from truezram.engine.machine.doctor import Probes
from truezram.engine.model import DeviceSnapshot, MachineSnapshot, SwapArea
from truezram.engine.units import parse_size

GIB = 1 << 30
NEW = Facts(memory=8 * GIB, kernel="7.2", zswap="off", zram=True)


@pytest.mark.parametrize(
    ("facts", "use"),
    [
        (NEW, "truezram"),
        (replace(NEW, zram=False, zswap=""), "truezram"),
        (replace(NEW, no_recovery="tmpfs has no noswap"), "zram"),
        (replace(NEW, no_recovery="tmpfs has no noswap", zram=False), "truezram"),
        (replace(NEW, ublk_why="no ublk_drv"), "zram"),
        (replace(NEW, ublk_why="no ublk_drv", zram=False), "nothing"),
        (replace(NEW, disk_swap=4 * GIB, disk_priority=-2), "zswap"),
        (replace(NEW, disk_swap=4 * GIB, disk_priority=-2, rotating=True), "zswap"),
        (replace(NEW, disk_swap=4 * GIB, disk_priority=-2, zswap="on"), "nothing"),
        (replace(NEW, disk_swap=4 * GIB, disk_priority=-2, zswap=""), "truezram"),
        (replace(NEW, disk_swap=4 * GIB - 4096, disk_priority=-2), "truezram"),
        (replace(NEW, compressed=("/dev/zram0",)), "nothing"),
        (replace(NEW, ratio=1.2), "nothing"),
        (replace(NEW, ratio=1.3), "truezram"),
    ],
)
def test_decision(facts: Facts, use: str) -> None:
    found = advise(facts)
    assert found.use == use
    assert found.reasons
    assert (found.size > 0) == (use in ("truezram", "zram"))
    assert (found.size > 0) == (found.mem_limit > 0) == (found.priority > 0)


def test_reasons_are_of_this_machine() -> None:
    said = " ".join(advise(replace(NEW, ratio=2.5)).reasons)
    assert "2.50 to 1 (measured)" in said
    assert "8G of pages would take 3.2G of it" in said
    assert "Not measured" in " ".join(advise(NEW).reasons)
    assert "turns" in " ".join(advise(replace(NEW, disk_swap=8 * GIB, rotating=True)).reasons)
    assert "too small" in " ".join(advise(replace(NEW, disk_swap=1 * GIB)).reasons)
    assert "has none" in " ".join(advise(replace(NEW, disk_swap=8 * GIB, zswap="")).reasons)
    old = advise(replace(NEW, no_recovery="tmpfs has no option noswap", zram=False))
    assert any("tmpfs has no option noswap" in reason for reason in old.reasons)


@pytest.mark.parametrize("use", ["truezram", "zram", "zswap"])
def test_asked_for(use: str) -> None:
    facts = replace(NEW, disk_swap=8 * GIB, disk_priority=150)
    found = advise(facts, use)
    assert found.use == use
    assert found.reasons[0] == f"You asked for {use}."
    if use != "zswap":
        assert found.priority == 151  # before the disk
        assert any("zswap would fit better" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("facts", "use", "kind", "why"),
    [
        (NEW, "lz4", UsageError, "not in the list"),
        (NEW, "zswap", Unsupported, "no swap on disk"),
        (replace(NEW, zswap="", disk_swap=GIB), "zswap", Unsupported, "no zswap"),
        (replace(NEW, zram=False), "zram", Unsupported, "no module zram"),
        (replace(NEW, ublk_why="no ublk_drv"), "truezram", Unsupported, "no ublk_drv"),
    ],
)
def test_what_cannot_be_had(facts: Facts, use: str, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        advise(facts, use)


def test_sizes() -> None:
    assert advice.mem_limit(8 * GIB) == 4 * GIB
    assert advice.mem_limit(1) == 1 << 20
    assert advice.swap_size(8 * GIB) == advice.swap_size(8 * GIB, 3.7) == 8 * GIB
    assert advice.swap_size(8 * GIB, 1.5) == 6 * GIB
    odd = 7_999_111_168
    assert advice.swap_size(odd) == 7 * GIB
    assert advice.swap_size(odd) % advice.rounded(1) == 0
    assert advice.limit_for(GIB, 8 * GIB) == 0  # it cannot take more anyhow
    assert advice.limit_for(5 * GIB, 8 * GIB) == 4 * GIB


def test_docs_sizing_says_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text()
    rows = re.findall(r"^\| (\d+ [MG]iB) \| (\S+) \| (\S+) \| (\S+) \|$", text, re.MULTILINE)
    assert len(rows) == 8
    for memory_text, *said in rows:
        memory = parse_size(memory_text.replace(" ", ""))
        sizes = advice.mem_limit(memory), advice.swap_size(memory), advice.swap_size(memory, 1.5)
        assert [parse_size(word) for word in said] == list(sizes)
    assert advice.swap_size(8 << 30, 3.0) == advice.swap_size(8 << 30)
    assert f"Below {advice.LEAST_RATIO} to 1" in text


@pytest.mark.parametrize("memory", [512 << 20, 3_981_234_176, 8 * GIB, 65 * GIB + 4096])
def test_everybody_says_the_same(memory: int) -> None:
    found = advise(replace(NEW, memory=memory))
    limit = found.mem_limit
    proposal = plan.swap(memory)  # Create's default, and What if's
    assert (proposal.size, proposal.mem_limit, proposal.swap) == (found.size, limit, True)
    large = DeviceSnapshot(
        name="ublkb0", path="/dev/ublkb0", kind="truezram", transport="ublk", state="live", disksize=2 * memory
    )
    (row,) = (item for item in settings.tunables(large, MachineSnapshot(mem_total=memory)) if item.key == "mem_limit")
    assert parse_size(row.suggested) == limit
    (warning,) = warnings_of(CreateOptions(2 * memory // 4096 * 4096, swap=True), "ublkb0", memory)
    assert parse_size(warning.rpartition("mem_limit=")[2]) == limit


# ---- looking ----


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def machine(root: Path, *swaps: str) -> Path:
    put(root, "proc/swaps", "\n".join(["Filename Type Size Used Priority", *swaps]))
    put(root, "proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB")
    put(root, "proc/sys/kernel/osrelease", "7.2.0")
    put(root, "lib/modules/7.2.0/modules.dep", "kernel/drivers/block/zram/zram.ko: \nkernel/drivers/block/ublk_drv.ko:")
    put(root, "dev/ublk-control", "")
    put(root, "sys/module/ublk_drv/x", "")
    return root


def probes(**changes: object) -> Probes:
    values: dict[str, object] = {
        "ublk_features": lambda: 0xFF,
        "tmpfs_noswap": lambda: True,
        "memlock_limit": lambda: None,
        "server_path": lambda: Path("/opt/truezramd"),
        "euid": 1000,
        "machine": "x86_64",
    }
    return Probes(**(values | changes))  # type: ignore[arg-type]


def test_facts(tmp_path: Path) -> None:
    put(tmp_path, "sys/module/zswap/parameters/enabled", "Y")
    found = advice.facts(machine(tmp_path, "/dev/vda2 partition 2097152 0 -2"), probes())
    assert found.memory == 8 * GIB
    assert (found.disk_swap, found.disk_priority, found.rotating) == (2 * GIB, -2, False)
    assert (found.zswap, found.zram, found.ublk_why, found.compressed) == ("on", True, "", ())


def test_no_root_is_not_held_against_it(tmp_path: Path) -> None:
    """`setup --dry-run` as an ordinary user says what root would get."""
    assert advise(advice.facts(machine(tmp_path), probes())).use == "truezram"
    (tmp_path / "dev/ublk-control").unlink()
    (tmp_path / "sys/module/ublk_drv/x").unlink()
    (tmp_path / "sys/module/ublk_drv").rmdir()
    put(tmp_path, "lib/modules/7.2.0/modules.dep", "kernel/drivers/block/zram/zram.ko:")
    found = advice.facts(tmp_path, probes())
    assert "ublk_drv" in found.ublk_why
    assert advise(found).use == "zram"


@pytest.mark.parametrize("rotational", ["0", "1"])
def test_a_disk_that_turns(tmp_path: Path, rotational: str) -> None:
    """The queue is the disk's, a partition's folder is in the disk's; a swap file is on the disk of its filesystem."""
    file = tmp_path / "swapfile"
    file.touch()
    number = file.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    put(tmp_path, "sys/devices/sda/queue/rotational", rotational)
    (tmp_path / "sys/devices/sda/sda2").mkdir()
    (tmp_path / "sys/dev/block").mkdir(parents=True)
    (tmp_path / f"sys/dev/block/{name}").symlink_to("../../devices/sda/sda2")
    area = SwapArea(path="/swapfile", type="file", size=GIB, used=0, priority=-2)
    assert users.is_rotating(area, tmp_path) == (rotational == "1")
