"""systemd.py: the unit files, by systemd's own checker where it is installed, and what is done with a stand-in
systemctl.

That a unit brings its swap device up at boot, before swap.target, was seen on a real systemd 252 in a virtual
machine."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from truezram.cli.main import build_parser, main
from truezram.cli.verbs import persist
from truezram.engine import paths
from truezram.engine.device import systemd
from truezram.engine.device.create import CreateOptions
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError

SWAP = CreateOptions(64 << 20, "lz4", mem_limit=16 << 20, id=3, swap=True, priority=7)

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$LOG"
case "$1" in
is-enabled) [ -e "$ENABLED/$2" ] && echo enabled || { echo disabled; exit 1; } ;;
is-active) [ -e "$ENABLED/$2.active" ] && echo active || { echo inactive; exit 3; } ;;
enable) touch "$ENABLED/$2" ;;
disable) rm -f "$ENABLED/$2" ;;
start) [ -z "$FAIL" ] || { echo "Job for $2 failed" >&2; exit 1; }; touch "$ENABLED/$2.active" ;;
stop) rm -f "$ENABLED/$2.active" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> Path:
    """A machine with systemd, as far as this module can see; its folder of units."""
    for name in ("bin", "units", "enabled", "run"):
        (tmp_path / name).mkdir(exist_ok=True)
    script = tmp_path / "bin/systemctl"
    script.write_text(SYSTEMCTL)
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("ENABLED", str(tmp_path / "enabled"))
    monkeypatch.setattr(systemd, "UNIT_DIR", tmp_path / "units")
    monkeypatch.setattr(systemd, "RUNNING", tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(paths, "foreign_writer", lambda path: "")  # whichever user runs the tests
    return tmp_path


def calls(machine: Path) -> list[str]:
    """The changes that systemctl was asked for."""
    lines = (machine / "log").read_text().splitlines()
    return [line for line in lines if not line.startswith("is-")]


def test_unit_of_a_swap_device() -> None:
    lines = systemd.unit_text(SWAP).splitlines()
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    arguments = "truezram create --size 64M --algorithm lz4 --mem-limit 16M --id 3 --swap --priority 7"
    assert start.endswith(f"-P -m {arguments}")
    assert "Before=umount.target swap.target dev-ublkb3.swap" in lines
    assert "WantedBy=swap.target" in lines
    assert "KillMode=process" in lines
    # Either would be a cycle: /tmp is ordered after swap.target and before local-fs.target, and so is every tmpfs.
    assert not any(line.startswith("After=") and ("local-fs" in line or ".mount" in line) for line in lines)


def test_the_sandbox_has_no_mount_namespace() -> None:
    """In one, what `create` mounts would be seen by nobody else, and the arenas would be in another /run."""
    lines = systemd.unit_text(SWAP).splitlines()
    service = lines[lines.index("[Service]") : lines.index("[Install]")]
    keys = {line.partition("=")[0] for line in service if line}
    namespaces = ("Protect", "Private", "Read", "Inaccessible", "Bind", "Temporary", "Root", "ProcSubset", "Mount")
    assert not [key for key in keys if key.startswith(namespaces)]
    # A call that is refused must not kill a server.
    assert {"SystemCallFilter", "SystemCallErrorNumber", "NoNewPrivileges", "RestrictNamespaces"} <= keys


def test_unit_of_a_mounted_filesystem() -> None:
    lines = systemd.unit_text(CreateOptions(1 << 30, id=1, fs="ext4", mount="/srv/fast disk")).splitlines()
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert start.endswith('--id 1 --fs ext4 --mount "/srv/fast disk"')
    assert any(line.startswith("ExecStop=") and line.endswith("remove --umount ublkb1") for line in lines)
    assert any(line.startswith("RequiresMountsFor=") and line.endswith(" /srv") for line in lines)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("options", [SWAP, CreateOptions(1 << 30, id=0), CreateOptions(4096, id=12, queues=1)])
def test_systemd_has_nothing_to_say_against_it(tmp_path: Path, options: CreateOptions) -> None:
    path = tmp_path / f"truezram-{options.id}.service"
    path.write_text(systemd.unit_text(options))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "truezram" in line]
    assert said == []


@pytest.mark.parametrize(
    "options",
    [
        CreateOptions(1 << 30),
        CreateOptions(1 << 30, id=1, transport="local"),
        CreateOptions(1000, id=1),
        CreateOptions(1 << 30, id=-1),
        CreateOptions(1 << 30, id=1, priority=5),
        CreateOptions(1 << 30, "nonsense", id=1),
    ],
)
def test_bad_options(options: CreateOptions) -> None:
    with pytest.raises(UsageError):
        systemd.unit_text(options)


@pytest.mark.parametrize(
    ("word", "quoted"),
    [("/a/b-c", "/a/b-c"), ("a b", '"a b"'), ('q"\\', '"q\\"\\\\"'), ("50%", "50%%"), ("$HOME", "$$HOME"), ("", '""')],
)
def test_quoting(word: str, quoted: str) -> None:
    assert systemd._quote([word]) == quoted


def test_a_unit_means_the_same_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths as they were typed would be looked for in /, where units run; one like an option would be one."""
    monkeypatch.chdir(tmp_path)
    for mount in ("mnt", "-m"):
        lines = systemd.unit_text(CreateOptions(1 << 30, id=1, fs="ext4", mount=mount)).splitlines()
        (start,) = (line for line in lines if line.startswith("ExecStart="))
        words = shlex.split(start)
        assert words[-2:] == ["--mount", f"{tmp_path}/{mount}"]
        build_parser().parse_args(words[words.index("create") :])
        (made_by,) = (line for line in lines if line.startswith("# Made by: "))
        assert made_by.endswith(f" --mount {tmp_path}/{mount}")
        assert any(line.startswith("RequiresMountsFor=") and line.endswith(f" {tmp_path}") for line in lines)


def test_a_dollar_is_doubled_in_commands_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/a$b/python")
    lines = systemd.unit_text(CreateOptions(1 << 30, id=1, fs="ext4", mount="/srv/c$d/e")).splitlines()
    found = {key: value for key, _, value in (line.partition("=") for line in lines)}
    assert found["ExecStart"].startswith("/opt/a$b/python -P -m ")
    assert found["ExecStart"].endswith("--mount /srv/c$$d/e")
    mounts = found["RequiresMountsFor"].split()
    assert mounts[0] == "/opt/a$b"
    assert mounts[-1] == "/srv/c$d"


def test_code_that_others_can_change_is_named(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The unit runs it as root at every start."""
    add = ["persist", "add", "--size", "64M", "--id", "4", "--print"]
    assert main(add) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(paths, "foreign_writer", lambda path: "/home/joe belongs to joe")
    monkeypatch.setattr(paths, "private", lambda variable, path: path)
    assert main(add) == 0
    said = capsys.readouterr()
    assert said.err.count("/home/joe belongs to joe") == 1
    assert said.out == systemd.unit_text(CreateOptions(64 << 20, id=4))


def test_quoting_refuses_what_cannot_be_written() -> None:
    with pytest.raises(UsageError):
        systemd._quote(["a\nExecStart=/bin/x"])


def test_add_list_remove(machine: Path) -> None:
    unit = systemd.add(SWAP, start=True)
    assert (unit.id, unit.enabled, unit.active) == (3, "enabled", "active")
    assert unit.path.read_text() == systemd.unit_text(SWAP)
    assert calls(machine) == ["daemon-reload", f"enable {unit.name}", f"start {unit.name}"]
    assert systemd.units() == [unit]
    assert unit.command == SWAP.command()
    assert systemd.free_id() == 0
    with pytest.raises(Busy, match="already"):
        systemd.add(SWAP)
    assert systemd.remove(3, stop=True).id == 3
    assert systemd.units() == []
    assert calls(machine)[3:] == [
        f"stop {unit.name}",
        f"disable {unit.name}",
        "daemon-reload",
        f"reset-failed {unit.name}",
    ]
    with pytest.raises(NotFound):
        systemd.remove(3)


def test_without_now_the_device_is_left_alone(machine: Path) -> None:
    unit = systemd.add(SWAP)
    assert unit.active == "inactive"
    systemd.remove(3)
    assert not any(line.startswith(("start", "stop")) for line in calls(machine))


def test_a_device_that_cannot_be_removed_stays_persistent(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = systemd.add(SWAP, start=True)

    def refuse(name: str, unmount: bool) -> None:
        raise Busy(f"cannot remove {name}", "it is mounted on /mnt")

    monkeypatch.setattr(systemd, "_remove_device", refuse)
    with pytest.raises(Busy, match=r"ublkb3.*mounted"):
        systemd.remove(3, stop=True)
    assert systemd.units() == [unit]
    assert not any(line.startswith("stop") for line in calls(machine))


def test_nothing_is_left_of_what_does_not_start(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "yes")
    with pytest.raises(Failed, match="Job for truezram-3"):
        systemd.add(SWAP, start=True)
    assert systemd.units() == []
    assert list((machine / "enabled").iterdir()) == []


def test_free_ids(machine: Path) -> None:
    for number in (0, 1, 3):
        systemd.add(CreateOptions(1 << 20, id=number))
    assert systemd.free_id() == 2
    (machine / "units/truezram-x.service").write_text("")
    (machine / "units/truezram-2.service").symlink_to("/dev/null")
    assert [unit.id for unit in systemd.units()] == [0, 1, 3]


def test_no_systemd_no_root(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied):
        systemd.add(SWAP)
    monkeypatch.setattr(systemd, "RUNNING", machine / "not-there")
    with pytest.raises(Unsupported, match="not started by systemd"):
        systemd.add(SWAP)
    assert list((machine / "units").iterdir()) == []


# ---- the verb ----


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    args: argparse.Namespace = build_parser("persist").parse_args(["persist", *words])
    assert persist.run(args) == 0
    return capsys.readouterr().out


def test_verb(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No device is persistent" in run(capsys)
    printed = run(capsys, "add", "--size", "1G", "--swap", "--print")
    assert "ExecStart=" in printed
    assert systemd.units() == []
    assert "next start" in run(capsys, "add", "--size", "1G", "--swap")
    assert (machine / "units/truezram-0.service").read_text() == printed
    added = json.loads(run(capsys, "add", "--size", "2G", "--now", "--json"))
    assert added["schema"] == "truezram.persist/1"
    assert (added["devices"][0]["id"], added["devices"][0]["active"]) == (1, "active")
    assert [item["id"] for item in json.loads(run(capsys, "list", "--json"))["devices"]] == [0, 1]
    assert "truezram-1.service" in run(capsys, "list")
    assert json.loads(run(capsys, "remove", "0", "1", "--json"))["removed"][1]["id"] == 1
    assert systemd.units() == []


@pytest.mark.parametrize("words", [["add"], ["add", "--size", "x"], ["remove"], ["remove", "x"], ["destroy"]])
def test_verb_refuses(machine: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(TruezramError):
        run(capsys, *words)
