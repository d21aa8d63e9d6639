"""doctor.py: each finding on a made-up machine, the exit codes, and a run on this one."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from truezram.cli.verbs import doctor as verb
from truezram.engine.errors import Unsupported
from truezram.engine.machine import doctor, procfs
from truezram.engine.machine.doctor import Check, Probes, Report, examine
from truezram.engine.model import DeviceSnapshot, SwapArea

ALL_CAPS = f"CapEff:\t{(1 << 41) - 1:016x}\n"
KERNEL = "6.12.95+deb13-amd64"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A machine without fault."""
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 500000 kB\n",
            "proc/swaps": "Filename Type Size Used Priority\n/dev/ublkb0 partition 9 1 100\n/dev/vda2 file 9 0 -2\n",
            "proc/pressure/memory": "some avg10=0.00\nfull avg10=0.00\n",
            "proc/sys/kernel/osrelease": KERNEL + "\n",
            "proc/sys/kernel/io_uring_disabled": "0\n",
            "proc/self/status": "Name:\tx\n" + ALL_CAPS,
            "sys/module/ublk_drv/refcnt": "0",
            "sys/module/zswap/parameters/enabled": "N\n",
            "sys/module/dm_crypt/refcnt": "0",
            "sys/power/state": "freeze mem disk\n",
            "sys/bus/event_source/devices/kprobe/type": "8\n",
            "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
            "sys/kernel/debug/kprobes/enabled": "1\n",
            "dev/ublk-control": "",
            "etc/os-release": 'ID=debian\nVERSION_ID="13"\n',
        },
    )
    return tmp_path


def fails(code: int, text: str) -> Callable[[], NoReturn]:
    """A probe that the kernel refuses."""

    def probe() -> NoReturn:
        raise OSError(code, text)

    return probe


PROBES = Probes(
    ublk_features=lambda: 0x1FE,
    tmpfs_noswap=lambda: True,
    zstd_version=lambda: "1.5.7",
    memlock_limit=lambda: 8 << 20,
    dmsetup=lambda: True,
    server_path=lambda: Path("/x/truezramd"),
    euid=0,
    machine="x86_64",
)


def find(report: Report, name: str) -> Check:
    (found,) = (check for check in report.checks if check.name == name)
    return found


def test_all_well(good: Path) -> None:
    report = examine(good, PROBES)
    assert [check for check in report.checks if check.state != "ok" or check.remedy] == []
    assert report.ublk
    assert report.kernel == KERNEL
    assert "0x1fe (user copy, user recovery, re-issue)" in find(report, "ublk").detail


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("", "has no nbd"),
        ("sys/module/nbd/refcnt", "nbd is there: disks can be made without ublk"),
        (f"lib/modules/{KERNEL}/modules.dep", "nbd is installed, and loaded when it is needed"),
    ],
)
def test_nbd(good: Path, file: str, expected: str) -> None:
    """Whatever it is, nothing is wrong: it is for those who have no ublk."""
    if file:
        write(good, {file: "kernel/drivers/block/nbd.ko:\n"})
    check = find(examine(good, PROBES), "nbd")
    assert check.state == "ok"
    assert expected in check.detail


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("sys/bus/event_source/devices/kprobe/type", None, "no kprobes"),
        ("sys/kernel/security/lockdown", "none integrity [confidentiality]\n", "lockdown"),
        ("sys/kernel/debug/kprobes/enabled", "0\n", "switched off"),
        ("proc/self/status", f"CapEff:\t{(1 << 41) - 1 & ~(1 << 21 | 1 << 39):016x}\n", "CAP_BPF"),
    ],
)
def test_what_is_in_the_way_of_slot_tracking(good: Path, file: str, text: str | None, expected: str) -> None:
    if text is None:
        (good / file).unlink()
    else:
        (good / file).write_text(text)
    check = find(examine(good, PROBES), "slot tracking")
    assert check.state == "warn"
    assert expected in check.detail
    assert check.remedy


def test_what_is_in_the_way_of_encryption(good: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(examine(good, replace(PROBES, dmsetup=lambda: False)), "encryption").detail.startswith("dmsetup is not")
    (good / "sys/module/dm_crypt/refcnt").unlink()
    (good / "sys/module/dm_crypt").rmdir()
    assert "has no dm-crypt" in find(examine(good, PROBES), "encryption").detail
    write(
        good, {f"lib/modules/{KERNEL}/modules.dep": "kernel/drivers/md/dm-crypt.ko.xz: kernel/drivers/md/dm-mod.ko.xz"}
    )
    assert find(examine(good, PROBES), "encryption").state == "ok"
    write(good, {f"sys/block/dm-{n}/dm/name": f"truezram-ublkb{n}-0123456{n}\n" for n in (1, 2)})
    write(good, {"sys/block/dm-3/dm/name": "swap-ublkb1-01234567\n", "sys/block/dm-4/dm/uuid": "x\n"})
    run_dir.mkdir(mode=0o700, exist_ok=True)
    (run_dir / "ublkb1.lock").touch()
    check = find(examine(good, PROBES), "encryption")
    assert (check.state, check.remedy) == ("warn", "sudo dmsetup remove truezram-ublkb2-01234562")


def test_slot_tracking_needs_bpf_and_perfmon_only(good: Path) -> None:
    (good / "proc/self/status").write_text(f"CapEff:\t{(1 << 41) - 1 & ~(1 << 21):016x}\n")
    assert find(examine(good, PROBES), "slot tracking").state == "ok"


def test_names_are_unique_and_every_fault_has_a_remedy(good: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    for root in (good, empty):
        for probes in (PROBES, replace(PROBES, euid=1000)):
            report = examine(root, probes)
            names = [check.name for check in report.checks]
            assert len(set(names)) == len(names)
            for check in report.checks:
                assert check.state in doctor.STATES
                assert bool(check.remedy) == (check.state != "ok"), check
                assert check.detail


def test_nothing_known_is_no_ublk(tmp_path: Path) -> None:
    report = examine(tmp_path, PROBES)
    assert not report.ublk
    assert find(report, "kernel").state == "fail"
    assert find(report, "memory").state == "warn"


# What is wrong, the line that says so, its state, a part of the detail, a part of the remedy.
FILES = [
    ({"proc/sys/kernel/osrelease": "5.15.0"}, "kernel", "fail", "6.0", "sudo apt install linux-image-amd64"),
    ({"proc/sys/kernel/io_uring_disabled": "2"}, "io_uring", "fail", "is 2", "io_uring_disabled=0"),
    ({"proc/self/status": "CapEff:\t0000000000000000\n"}, "root", "fail", "CAP_SYS_ADMIN", "--cap-add SYS_ADMIN"),
    ({"proc/self/status": f"CapEff:\t{1 << 21 | 1 << 14:x}\n"}, "root", "warn", "CAP_SYS_RESOURCE", "SYS_RESOURCE"),
    ({"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 99 kB\n"}, "memory", "warn", "10%", "Close programs"),
    ({"sys/module/zswap/parameters/enabled": "Y"}, "zswap", "warn", "before any swap", "tune apply zswap=N"),
    ({"proc/pressure/memory": ""}, "PSI", "warn", "does not measure", "psi=1"),
]


@pytest.mark.parametrize(("files", "name", "state", "detail", "remedy"), FILES)
def test_faults(good: Path, files: dict[str, str], name: str, state: str, detail: str, remedy: str) -> None:
    write(good, files)
    report = examine(good, PROBES)
    check = find(report, name)
    assert (check.state, detail in check.detail, remedy in check.remedy) == (state, True, True), check
    assert report.ublk == (state != "fail")
    others = [item for item in report.checks if item.state == "fail" and item.name != name]
    assert others == []


@pytest.mark.parametrize(
    ("system", "remedy"),
    [
        ("ID=debian\nVERSION_ID=12\n", "bookworm-backports linux-image-amd64"),
        ("ID=ubuntu\nVERSION_ID=24.04\n", f"linux-modules-extra-{KERNEL}"),
        ("ID=void\n", "CONFIG_BLK_DEV_UBLK"),
    ],
)
def test_kernel_without_the_driver(good: Path, system: str, remedy: str) -> None:
    (good / "dev/ublk-control").unlink()
    (good / "sys/module/ublk_drv/refcnt").unlink()
    (good / "sys/module/ublk_drv").rmdir()
    write(good, {"etc/os-release": system})
    check = find(examine(good, PROBES), "ublk")
    assert check.state == "fail"
    assert remedy in check.remedy


@pytest.mark.parametrize(
    ("listing", "euid", "state"),
    [("modules.dep", 0, "warn"), ("modules.dep", 1, "fail"), ("modules.builtin", 0, "fail")],
)
def test_driver_that_is_not_loaded(good: Path, listing: str, euid: int, state: str) -> None:
    (good / "dev/ublk-control").unlink()
    (good / "sys/module/ublk_drv/refcnt").unlink()
    (good / "sys/module/ublk_drv").rmdir()
    write(good, {f"usr/lib/modules/{KERNEL}/{listing}": "kernel/drivers/block/ublk_drv.ko.xz:\n"})
    check = find(examine(good, replace(PROBES, euid=euid)), "ublk")
    assert check.state == state
    assert ("sudo modprobe ublk_drv" in check.remedy) == (listing == "modules.dep")


def test_not_root(good: Path) -> None:
    report = examine(good, replace(PROBES, euid=1000))
    assert not report.ublk
    assert find(report, "root").remedy.startswith("Run it with sudo")
    assert find(report, "ublk").state == "ok"


def test_driver_that_refuses(good: Path) -> None:
    probes = replace(PROBES, ublk_features=fails(1, "cannot set up io_uring"))
    report = examine(good, probes)
    assert find(report, "ublk").detail == "cannot set up io_uring"
    assert not report.ublk


def test_server_missing(good: Path) -> None:
    def missing() -> Path:
        raise Unsupported("cannot start the server", "/x is not there", "Install the package again")

    report = examine(good, replace(PROBES, server_path=missing))
    assert find(report, "server") == Check(
        name="server", state="fail", detail="/x is not there", remedy="Install the package again"
    )


def test_noswap_is_tried_not_guessed(good: Path) -> None:
    assert find(examine(good, replace(PROBES, tmpfs_noswap=lambda: False)), "noswap tmpfs").state == "warn"
    write(good, {"proc/sys/kernel/osrelease": "6.1.0"})
    assert find(examine(good, PROBES), "noswap tmpfs").detail == "available (tried)"
    refused = replace(PROBES, tmpfs_noswap=fails(1, "no"))
    assert find(examine(good, refused), "noswap tmpfs").state == "warn"
    write(good, {"proc/sys/kernel/osrelease": KERNEL})
    assert find(examine(good, refused), "noswap tmpfs").state == "ok"


OLD_TMPFS = "its arena is not on a noswap tmpfs, which Linux has since 6.4"
OLD_UBLK = "it was made without recovery, which ublk has since Linux 6.1"


@pytest.mark.parametrize(
    ("release", "probes", "why"),
    [
        (KERNEL, {}, ""),
        (KERNEL, {"tmpfs_noswap": lambda: False}, OLD_TMPFS),
        (KERNEL, {"ublk_features": lambda: 0x1E6}, OLD_UBLK),
        (KERNEL, {"ublk_features": fails(2, "no ublk-control")}, ""),
        (KERNEL, {"euid": 1000}, ""),
        ("6.4.0", {"ublk_features": lambda: 0}, ""),  # which does not report them
        ("6.1.0", {"ublk_features": lambda: 0, "tmpfs_noswap": lambda: False}, OLD_TMPFS),
        ("6.1.0", {"euid": 1000}, OLD_TMPFS),
        ("6.0.19", {"ublk_features": lambda: 0}, OLD_UBLK),
    ],
)
def test_whether_devices_outlive_their_server(good: Path, release: str, probes: dict[str, Any], why: str) -> None:
    write(good, {"proc/sys/kernel/osrelease": release})
    report = examine(good, replace(PROBES, **probes))
    check = find(report, "recovery")
    assert report.no_recovery == why
    assert check.state == ("warn" if why else "ok")
    assert why in check.detail


def test_a_device_says_the_same_of_itself() -> None:
    device = DeviceSnapshot("ublkb0", "/dev/ublkb0")
    assert device.recovery == f"off: {OLD_TMPFS}"
    assert replace(device, noswap_tmpfs=True).recovery == f"off: {OLD_UBLK}"
    assert replace(device, noswap_tmpfs=True, recoverable=True).recovery == "on"
    assert replace(device, transport="local", noswap_tmpfs=True).recovery == "off: a local device ends with its server"
    assert replace(device, kind="zram").recovery == ""
    states = [(state, able) for state in ("live", "dead", "recovering") for able in (False, True)]
    waiting = [key for key in states if replace(device, state=key[0], recoverable=key[1]).waits]
    assert waiting == [("dead", True), ("recovering", False), ("recovering", True)]


def test_zstd_missing(good: Path) -> None:
    probes = replace(PROBES, zstd_version=fails(2, "no"))
    assert find(examine(good, probes), "libzstd").remedy == "sudo apt install libzstd1"
    write(good, {"etc/os-release": 'ID=rocky\nID_LIKE="rhel centos fedora"\n'})
    assert find(examine(good, probes), "libzstd").remedy == "sudo dnf install libzstd"


def test_memlock(good: Path) -> None:
    write(good, {"proc/self/status": "CapEff:\t0000000000000000\n"})
    assert find(examine(good, PROBES), "memlock").state == "warn"
    assert find(examine(good, replace(PROBES, memlock_limit=lambda: None)), "memlock").state == "ok"
    assert find(examine(good, replace(PROBES, memlock_limit=lambda: 1 << 30)), "memlock").state == "ok"


def swaps(*areas: tuple[str, int]) -> dict[str, str]:
    lines = [f"{path} partition 1000 100 {priority}" for path, priority in areas]
    return {"proc/swaps": "\n".join(["Filename Type Size Used Priority", *lines])}


@pytest.mark.parametrize(
    ("areas", "state", "text"),
    [
        ([], "ok", "no swap area"),
        ([("/dev/vda2", -2)], "ok", "/dev/vda2 (priority -2)"),
        ([("/dev/vda2", -2), ("/dev/ublkb0", 100)], "ok", "/dev/ublkb0 (priority 100), /dev/vda2 (priority -2)"),
        ([("/dev/vda2", 100), ("/dev/ublkb0", 100)], "warn", "in turn with"),
        ([("/swap", 200), ("/dev/zram0", 100)], "warn", "/swap is used before compressed memory"),
    ],
)
def test_swap_order(good: Path, areas: list[tuple[str, int]], state: str, text: str) -> None:
    write(good, swaps(*areas))
    check = find(examine(good, PROBES), "swap")
    assert (check.state, text in check.detail) == (state, True), check
    if state == "warn":
        priority = int(check.remedy.split("--priority ")[1].split()[0])
        assert priority > max(
            p for path, p in areas if not doctor.is_compressed(SwapArea(path=path, type="", size=0, used=0, priority=p))
        )


def test_what_is_read_ahead(good: Path) -> None:
    """By address, unless a swap area turns, or that is switched off."""
    assert find(examine(good, PROBES), "swap readahead").state == "ok"
    number = (good / "dev").stat().st_dev
    disk = f"sys/dev/block/{os.major(number)}:{os.minor(number)}/queue/rotational"
    (good / "dev/vda2").touch()
    write(good, {disk: "1\n"})
    check = find(examine(good, PROBES), "swap readahead")
    assert check.state == "warn"
    assert "/dev/vda2 for one that turns" in check.detail
    assert "swapoff /dev/vda2" in check.remedy
    write(good, {disk: "0\n", "sys/kernel/mm/swap/vma_ra_enabled": "false\n"})
    check = find(examine(good, PROBES), "swap readahead")
    assert (check.state, check.remedy) == ("warn", "echo true | sudo tee /sys/kernel/mm/swap/vma_ra_enabled")
    write(good, {**swaps(("/dev/vda2", -2)), disk: "1\n"})
    assert "no compressed" in find(examine(good, PROBES), "swap readahead").detail


def test_hibernation(good: Path) -> None:
    write(good, swaps(("/dev/ublkb3", 100)))
    assert find(examine(good, PROBES), "hibernation").state == "warn"
    write(good, {"sys/power/state": "freeze mem\n"})
    assert find(examine(good, PROBES), "hibernation").state == "ok"


# ---- this machine ----


def test_libzstd_here() -> None:
    assert doctor.zstd_version()[0].isdigit()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_noswap_here_agrees_with_the_kernels_version() -> None:
    try:
        known = doctor.tmpfs_noswap()
    except PermissionError:
        pytest.skip("root without CAP_SYS_ADMIN")
    assert known == (procfs.kernel_version(os.uname().release) >= (6, 4))


def test_features_here() -> None:
    if Path("/dev/ublk-control").exists() and os.geteuid() == 0:
        assert doctor.ublk_features() >= 0
    else:
        with pytest.raises(OSError, match="ublk-control"):
            doctor.ublk_features()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("usable", [False, True])
def test_verb(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool, usable: bool
) -> None:
    report = examine(good, replace(PROBES, euid=0 if usable else 1000))
    monkeypatch.setattr(doctor, "examine", lambda: report)
    code = verb.run(argparse.Namespace(json=as_json))
    out = capsys.readouterr().out
    assert code == (0 if usable else 3)
    if as_json:
        document = json.loads(out)
        assert document["schema"] == "truezram.doctor/1"
        assert document["ublk"] is usable
        assert {tuple(check) for check in document["checks"]} == {("name", "state", "detail", "remedy")}
    else:
        assert ("-> Run it with sudo" in out) is not usable
        assert ("truezram demo" in out) is not usable
        assert all(check.detail in out for check in report.checks)
