"""users.py: who uses a block device, on trees that look like /proc, /sys and /dev. (Real nodes, partitions, loop and
device-mapper devices: tests/device/test_28_users.py.)"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from truezram.engine.device import swap
from truezram.engine.machine import doctor, users, zram
from truezram.engine.model import SwapArea

SECTORS = (64 << 20) // 512


class Machine:
    """A tree below `root`, and what the nodes in it are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.nodes: dict[str, str] = {}
        self.claimed: dict[str, bool | None] = {}
        for folder in ("proc/self", "sys/class/block", "sys/block", "sys/dev/block", "sys/fs/btrfs", "dev"):
            (root / folder).mkdir(parents=True)
        self.write("proc/swaps", "Filename Type Size Used Priority\n")
        self.write("proc/self/mountinfo", "")

    def write(self, path: str, text: str, more: bool = False) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if more else "w") as out:
            out.write(text)

    def disk(self, name: str, number: str, below: str = "", partition: bool = False) -> None:
        """A block device with its node; `below`: what it is on top of or a partition of."""
        blocks = "sys/class/block"
        if partition:
            self.write(f"{blocks}/{below}/{name}/partition", "1\n")
        elif below:
            self.write(f"{blocks}/{below}/holders/{name}", "")
            self.write(f"{blocks}/{name}/slaves/{below}", "")
        self.write(f"{blocks}/{name}/dev", f"{number}\n")
        self.write(f"{blocks}/{name}/size", f"{SECTORS}\n")
        (self.root / "sys/dev/block" / number).symlink_to(f"../../devices/virtual/block/{name}")
        self.nodes[f"{self.root}/dev/{name}"] = number
        self.claimed[name] = False

    def node(self, path: str, number: str) -> None:
        self.nodes[f"{self.root}{path}"] = number

    def swap(self, path: str, used: int = 4, priority: int = 100, size: int = 65532, kind: str = "partition") -> None:
        self.write("proc/swaps", f"{path} {kind} {size} {used} {priority}\n", more=True)

    def mount(self, number: str, point: str, source: str, kind: str = "ext4") -> None:
        self.write("proc/self/mountinfo", f"30 1 {number} / {point} rw - {kind} {source} rw\n", more=True)

    def areas(self, name: str = "ublkb0", size: int = 0) -> list[str]:
        return [area.path for area in users.swap_areas(name, self.root, size)]

    def texts(self, name: str = "ublkb0", size: int = 0) -> list[str]:
        return [user.text for user in users.users(name, self.root, size)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(users, "number_of", lambda path: made.nodes.get(os.path.normpath(path)))
    monkeypatch.setattr(users, "_claimed", lambda disk, root: made.claimed[disk.name])
    made.disk("ublkb0", "259:0")
    return made


def test_no_user(machine: Machine) -> None:
    machine.disk("sda1", "8:1")
    machine.swap("/dev/sda1")
    machine.mount("8:1", "/", "/dev/sda1")
    assert machine.areas() == machine.texts() == []


@pytest.mark.parametrize("path", ["/dev/ublkb0", "/tmp/another", "/dev/disk/by-id/x"])
def test_swap_by_any_name_of_its_number(machine: Machine, path: str) -> None:
    machine.node(path, "259:0")
    machine.swap(path)
    machine.swap("/swapfile", kind="file")
    assert machine.areas() == [path]
    other = "" if path == "/dev/ublkb0" else f" as {path}"
    assert machine.texts() == [f"it is swap{other} (priority 100, 4K swapped out)"]


def test_a_name_alone_says_nothing(machine: Machine) -> None:
    """The path is the device's, the node there is another's."""
    machine.disk("sdb", "8:16")
    machine.node("/dev/ublkb0", "8:16")
    machine.swap("/dev/ublkb0")
    machine.mount("0:50", "/mnt", "/dev/ublkb0", "tmpfs")
    machine.mount("0:51", "/fuse", "/dev/ublkb0", "fuse.liar")
    assert machine.areas() == machine.texts() == []


def test_partitions_and_what_stands_on_it(machine: Machine) -> None:
    machine.disk("ublkb0p1", "259:1", "ublkb0", partition=True)
    machine.disk("dm-0", "253:0", "ublkb0p1")
    machine.disk("dm-1", "253:1", "dm-0")
    machine.disk("md7", "9:7", "ublkb0")
    machine.write("sys/class/block/dm-0/dm/name", "secret\n")
    machine.write("sys/class/block/dm-0/dm/uuid", "CRYPT-LUKS2-1\n")
    machine.write("sys/class/block/dm-1/dm/name", "plain\n")
    machine.disk("ublkb10", "259:9")
    machine.node("/dev/mapper/plain", "253:1")
    machine.swap("/dev/mapper/plain", used=8)
    machine.swap("/dev/ublkb0p1", used=16)
    machine.swap("/dev/ublkb10")
    machine.mount("9:7", "/data", "/dev/md7")
    found = users.users("ublkb0", machine.root)
    assert [user.area.path for user in found if user.area] == ["/dev/mapper/plain", "/dev/ublkb0p1"]
    assert [user.point for user in found if user.point] == ["/data"]
    remedies = [user.remedy for user in found if not user.area and not user.point]
    assert remedies == ["mdadm --stop /dev/md7", "cryptsetup close secret", "dmsetup remove plain"]


def test_loop_devices_by_the_number_they_are_over(machine: Machine) -> None:
    for number in range(3):
        machine.disk(f"loop{number}", f"7:{number}")
    machine.node("/tmp/node", "259:0")
    machine.write("sys/block/loop0/loop/backing_file", "/tmp/node\n")
    machine.write("sys/block/loop1/loop/backing_file", "/some/file\n")
    (machine.root / "sys/block/loop2").mkdir()
    machine.swap("/dev/loop0")
    assert machine.areas() == ["/dev/loop0"]
    assert machine.texts()[1:] == ["the loop device loop0 is on top of it"]


def test_filesystems_without_a_number_of_their_own(machine: Machine) -> None:
    """btrfs is looked up by its source's number, and by the filesystem's other devices."""
    machine.disk("sdb", "8:16")
    machine.node("/tmp/node", "259:0")
    machine.mount("0:40", "/one", "/tmp/node", "btrfs")
    machine.mount("0:41", "/two", "/dev/sdb", "btrfs")
    assert machine.texts() == ["it is mounted on /one"]
    for name in ("sdb", "ublkb0"):
        machine.write(f"sys/fs/btrfs/1234/devices/{name}", "")
    assert machine.texts() == ["it is mounted on /one", "it is mounted on /two"]


def test_a_mount_under_another_is_not_taken_for_the_one_to_unmount(machine: Machine) -> None:
    machine.mount("259:0", "/mnt", "/dev/ublkb0")
    machine.mount("0:50", "/mnt", "tmpfs", "tmpfs")
    (user,) = users.users("ublkb0", machine.root)
    assert user.covered
    assert user.text == "it is mounted on /mnt, under something else that is mounted there"


def test_swap_whose_node_was_removed(machine: Machine) -> None:
    """Whose it is cannot be known, but the device is claimed."""
    machine.swap("/tmp/node\\040(deleted)")
    assert machine.areas() == []
    machine.claimed["ublkb0"] = True
    assert machine.areas() == ["/tmp/node (deleted)"]
    # Once who has claimed it is known, that area is not its.
    machine.mount("259:0", "/mnt", "/dev/ublkb0")
    assert machine.areas() == []


def test_swap_whose_node_was_removed_where_the_kernel_cannot_be_asked(machine: Machine) -> None:
    """The device's own node is the one that is gone."""
    machine.swap("/dev/ublkb0\\040(deleted)")
    machine.claimed["ublkb0"] = None
    assert machine.areas() == ["/dev/ublkb0 (deleted)"]
    machine.claimed["ublkb0"] = False  # an earlier device of that name
    assert machine.areas() == []
    # By another node, which is gone as well: it has room for it, and may be there.
    machine.swap("/tmp/node\\040(deleted)", used=8)
    machine.swap("/dev/ublkb7\\040(deleted)")
    machine.claimed["ublkb0"] = None
    assert machine.areas() == ["/dev/ublkb0 (deleted)", "/tmp/node (deleted)"]


def test_what_is_left_of_a_dead_disk(machine: Machine) -> None:
    """ublkb3 is gone from sysfs; its areas and mounts are not."""
    machine.swap("/dev/ublkb3\\040(deleted)")
    machine.swap("/dev/ublkb3p2\\040(deleted)", used=8)
    machine.swap("/dev/ublkb33\\040(deleted)")
    machine.swap("/dev/sdq\\040(deleted)")
    machine.mount("259:77", "/mnt", "/dev/ublkb3")
    machine.mount("0:50", "/fake", "/dev/ublkb3", "tmpfs")
    machine.mount("259:0", "/alive", "/dev/ublkb3")
    assert machine.areas("ublkb3") == ["/dev/ublkb3 (deleted)", "/dev/ublkb3p2 (deleted)"]
    assert machine.texts("ublkb3")[2:] == ["it is mounted on /mnt"]
    # A node by a name that says nothing, with room for it, may have been its: never say that it is not.
    machine.node("/tmp/node", "259:78")
    machine.swap("/tmp/node")
    assert "/tmp/node" in machine.areas("ublkb3", 64 << 20)
    assert "/tmp/node" not in machine.areas("ublkb3", 32 << 20)


def test_what_stood_on_a_dead_disk(machine: Machine) -> None:
    machine.disk("dm-5", "253:5")
    machine.write("sys/class/block/dm-5/slaves/ublkb3", "")
    machine.swap("/dev/dm-5")
    assert machine.areas("ublkb3") == ["/dev/dm-5"]
    assert machine.texts("ublkb3")[1:] == ["the block device dm-5 is on top of it"]
    assert machine.areas("ublkb0") == []


def test_processes_that_have_it_open(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, name in ((101, "sleep"), (102, "(udev-worker)"), (103, "cat")):
        machine.write(f"proc/{pid}/comm", f"{name}\n")
        (machine.root / f"proc/{pid}/fd").mkdir()
        for number, target in enumerate(("socket:[1]", "/tmp/node", "/etc/passwd")):
            (machine.root / f"proc/{pid}/fd/{number}").symlink_to(target)
    asked: list[str] = []

    def number(link: str) -> str | None:
        asked.append(link)
        return "259:0" if link.endswith("/fd/1") and "/103/" not in link else None

    monkeypatch.setattr(users, "_open_number", number)
    found = [(user.text, user.lasting) for user in users.users("ublkb0", machine.root)]
    assert found == [("sleep (pid 101) has it open", True), ("(udev-worker) (pid 102) has it open", False)]
    assert not [link for link in asked if link.endswith("/0")]


def test_a_file_that_is_open_is_no_block_device(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert users._open_number(f"/proc/self/fd/{file.fileno()}") is None
    assert users._open_number("/proc/self/fd/77777") is None
    disk = next((node for node in Path("/dev").iterdir() if node.is_block_device()), None)
    if disk is not None:  # (a container may have none)
        assert users._open_number(str(disk)) == users.number_of(str(disk))


def test_a_claim_that_nothing_explains(machine: Machine) -> None:
    machine.claimed["ublkb0"] = True
    assert machine.texts() == ["something claims it exclusively (a mount in another namespace, for example)"]
    machine.swap("/dev/ublkb0")
    assert len(machine.texts()) == 1


def test_zram_and_the_doctor_go_by_number_too(machine: Machine) -> None:
    machine.disk("zram0", "252:0")
    (machine.root / "sys/block/zram0").mkdir()
    for name, text in (("dev", "252:0\n"), ("disksize", "1048576\n")):
        machine.write(f"sys/block/zram0/{name}", text)
    machine.node("/tmp/node", "252:0")
    machine.swap("/tmp/node", used=12, priority=9)
    machine.mount("252:0", "/one", "/tmp/node", "ext4")
    machine.mount("0:40", "/two", "/tmp/node", "btrfs")
    (device,) = zram.devices(machine.root)
    assert (device.swap_priority, device.swap_used) == (9, 12 << 10)
    assert device.mountpoints == ("/one", "/two")
    area = SwapArea(path="/tmp/node", type="partition", size=1, used=0, priority=1)
    assert doctor.is_compressed(area, machine.root)
    assert not doctor.is_compressed(
        SwapArea(path="/dev/sdq", type="partition", size=1, used=0, priority=1), machine.root
    )


def test_priority_above_dead_areas() -> None:
    def area(priority: int) -> SwapArea:
        return SwapArea(path="/dev/ublkb0 (deleted)", type="partition", size=1, used=0, priority=priority)

    assert swap.priority_above([]) == 100
    assert swap.priority_above([area(-2)]) == 100
    assert swap.priority_above([area(100), area(7)]) == 101
    assert swap.priority_above([area(32767)]) == 32767
