"""What comes back after a restart: the files in /etc/truezram, what is told to systemd and OpenRC (stand-ins here;
booted for real in tests/device/test_50_enable.py), and that nothing is left of what fails."""

from __future__ import annotations

import inspect
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from truezram.cli.main import build_parser, main
from truezram.engine import files, paths
from truezram.engine.device import boot, config, nbd, openrc, systemd
from truezram.engine.device.config import Config
from truezram.engine.device.options import CreateOptions
from truezram.engine.device.settings import Setting
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, Unsupported, UsageError
from truezram.engine.machine import tune
from truezram.engine.machine.journal import Journal
from truezram.engine.model import DeviceSnapshot
from truezram.engine.transports import TRANSPORTS
from truezram.engine.units import parse_size

SWAP = CreateOptions(64 << 20, "lz4", mem_limit=16 << 20, id=3, swap=True, priority=7)
GIB = 1 << 30

SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$LOG"
case "$1" in
is-enabled) [ -e "$ENABLED/$2" ] && echo enabled || { echo disabled; exit 1; } ;;
is-active) [ -e "$ENABLED/$2.active" ] && echo active || { echo inactive; exit 3; } ;;
enable) [ "$FAIL" != enable ] || { echo "no $2" >&2; exit 1; }; touch "$ENABLED/$2" ;;
disable) rm -f "$ENABLED/$2" ;;
start) [ "$FAIL" != start ] || { echo "Job for $2 failed" >&2; exit 1; }; touch "$ENABLED/$2.active" ;;
stop) rm -f "$ENABLED/$2.active" ;;
esac
"""
RC = """#!/bin/sh
echo "${0##*/} $*" >> "$LOG"
case "$1" in
add) mkdir -p "$LEVELS/boot"; touch "$LEVELS/boot/$2" ;;
del) rm "$LEVELS/boot/$2" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> Path:
    """A machine with systemd, as far as these modules can see, whose files are below a folder."""
    for name in ("bin", "units", "enabled", "run", "levels"):
        (tmp_path / name).mkdir(exist_ok=True)
    for name, text in (("systemctl", SYSTEMCTL), ("rc-update", RC), ("rc-service", RC)):
        script = tmp_path / "bin" / name
        script.write_text(text)
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("ENABLED", str(tmp_path / "enabled"))
    monkeypatch.setenv("LEVELS", str(tmp_path / "levels"))
    monkeypatch.setenv("TRUEZRAM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(systemd, "UNIT_DIR", tmp_path / "units")
    monkeypatch.setattr(systemd, "PACKAGE_UNIT_DIR", tmp_path / "package-units")
    monkeypatch.setattr(systemd, "RUNNING", tmp_path / "run")
    monkeypatch.setattr(openrc, "SCRIPT", tmp_path / "init.d/truezram")
    monkeypatch.setattr(openrc, "RUNNING", tmp_path / "not-there")
    monkeypatch.setattr(openrc, "RUNLEVELS", tmp_path / "levels")
    monkeypatch.setattr(config, "DIRECTORY", tmp_path / "etc/truezram")
    monkeypatch.setattr(boot, "MODULES", tmp_path / "etc/modules-load.d/truezram.conf")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(paths, "foreign_writer", lambda path: "")  # whichever user runs the tests
    return tmp_path


set_to: dict[str, dict[str, str]] = {}
"""The settings of those."""


@pytest.fixture
def made(machine: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, CreateOptions]:
    """Devices that `create` was asked for and `remove` was not, instead of real ones."""
    there: dict[str, CreateOptions] = {}
    set_to.clear()

    def create(options: CreateOptions, settings: dict[str, str] | None = None) -> Any:
        row = TRANSPORTS[options.transport]
        name = f"{row.prefix}{options.id}"
        there[name] = options
        set_to[name] = settings or {}
        entry = SimpleNamespace(name=name, id=options.id, transport=row.name, path=f"/dev/{name}")
        return boot.Created(entry, replace(options, algorithm="lz4", policy="balanced"))  # type: ignore[arg-type]

    monkeypatch.setattr(boot, "create", create)
    monkeypatch.setattr(boot, "remove_entry", lambda entry, **_: there.pop(entry.name))
    monkeypatch.setattr(boot, "_remove_device", lambda name, unmount: there.pop(name, None))
    monkeypatch.setattr(boot, "_is_there", lambda name: name in there)
    return there


def calls(machine: Path) -> list[str]:
    """The changes that the init was asked for."""
    log = machine / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if not line.startswith("is-")]


def left(machine: Path) -> list[str]:
    """All files that there are of ours."""
    folders = [machine / name for name in ("etc", "units", "enabled", "init.d", "levels")]
    return sorted(str(path.relative_to(machine)) for folder in folders for path in folder.rglob("*") if path.is_file())


ENABLED_3 = [
    "enabled/truezram@ublkb3.service",
    "enabled/truezram@ublkb3.service.active",
    "etc/modules-load.d/truezram.conf",
    "etc/truezram/ublkb3.toml",
    "units/truezram@.service",
]


# ---- the files ----


def test_a_setting_of_the_table_is_kept_without_more(
    machine: Path, made: dict[str, CreateOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is new in the table: it is in the file, is checked, and is set at the start."""
    new = Setting(
        key="nr_queues", about="", hint="", parse=lambda text: f"{int(text):03}", write=lambda text: str(int(text))
    )
    monkeypatch.setitem(config._KEPT, "nr-queues", new)
    device = DeviceSnapshot(name="ublkb4", path="/dev/ublkb4", algorithm="lz4", disksize=GIB, nr_queues=7)
    item = Config("ublkb4", config.of_device(device), config.kept_of(device))
    assert item.text().splitlines()[-1] == 'nr-queues = "7"'
    assert config.parse("ublkb4", item.text()) == item
    assert config.values(item)["nr-queues"] == 7
    boot.enable(item)
    assert boot.start("ublkb4") == "made"
    assert set_to["ublkb4"] == {"nr_queues": "007"}


def test_limits_of_the_backing_file_come_back(
    machine: Path, made: dict[str, CreateOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    device = DeviceSnapshot(
        name="ublkb4", path="/dev/ublkb4", algorithm="lz4", disksize=GIB, backing="/var/lib/b", backing_state="ready",
        backing_limit=GIB, backing_daily=2 * GIB, backing_rate=0,
    )  # fmt: skip
    assert config.kept_of(replace(device, backing="none", backing_state="none")) == ()
    item = Config("ublkb4", config.of_device(device), config.kept_of(device))
    assert item.text().splitlines()[-2:] == ['backing-daily = "2G"', 'backing-rate = "none"']
    boot.enable(item)
    assert main(["config", "check"]) == 0
    capsys.readouterr()
    assert main(["config", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["enabled"][0]["values"]
    assert (values["backing-daily"], values["backing-rate"]) == (2 * GIB, 0)
    assert main(["config"]) == 0
    assert "backing-daily=2G" in capsys.readouterr().out.replace("\n", "")
    assert boot.start("ublkb4") == "made"
    assert set_to["ublkb4"] == {"backing_daily": str(2 * GIB), "backing_rate": "0"}


def test_files_of_others_are_not_used(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(Config("ublkb3", SWAP).path, Config("ublkb3", SWAP).text())
    assert config.read("ublkb3").options == SWAP
    monkeypatch.setattr(paths, "foreign_writer", lambda path: f"everyone can write to {path}")
    with pytest.raises(PermissionDenied, match="everyone"):
        config.read("ublkb3")


# ---- systemd ----


def test_templates() -> None:
    lines = systemd.template(swap=True).splitlines()
    assert "Before=umount.target swap.target dev-%i.swap" in lines
    assert "WantedBy=swap.target" in lines
    assert "KillMode=process" in lines
    found = {key: value for key, _, value in (line.partition("=") for line in lines)}
    assert found["ExecStart"].endswith("-P -m truezram boot start %i")
    assert found["ExecStop"].endswith("-P -m truezram boot stop %i")
    for key in ("ExecStart", "ExecStop"):
        words = shlex.split(found[key].replace("%i", "ublkb0"))
        build_parser().parse_args(words[words.index("boot") :])
    # Either would be a cycle: /tmp is ordered after swap.target and before local-fs.target, and so is every tmpfs.
    assert not any(line.startswith("After=") and ("local-fs" in line or ".mount" in line) for line in lines)
    disks = systemd.template(swap=False).splitlines()
    assert "Before=umount.target local-fs.target" in disks
    assert "WantedBy=local-fs.target" in disks


@pytest.mark.parametrize("swap", [True, False])
def test_the_sandbox_has_no_mount_namespace(swap: bool) -> None:
    """In one, what `create` mounts would be seen by nobody else, and the arenas would be in another /run."""
    lines = systemd.template(swap).splitlines()
    service = lines[lines.index("[Service]") : lines.index("[Install]")]
    keys = {line.partition("=")[0] for line in service if line}
    namespaces = ("Protect", "Private", "Read", "Inaccessible", "Bind", "Temporary", "Root", "ProcSubset", "Mount")
    assert not [key for key in keys if key.startswith(namespaces)]
    # A call that is refused must not kill a server.
    assert {"SystemCallFilter", "SystemCallErrorNumber", "NoNewPrivileges", "RestrictNamespaces"} <= keys


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize(
    "name", ["truezram@ublkb0.service", "truezram@machine.service", "truezram-disk@ublkb1.service"]
)
def test_systemd_has_nothing_to_say_against_it(tmp_path: Path, name: str) -> None:
    template = tmp_path / (name.partition("@")[0] + "@.service")
    template.write_text(systemd.template("disk" not in name))
    (tmp_path / name).symlink_to(template.name)
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "truezram" in line] == []


@pytest.mark.parametrize(
    ("word", "quoted"),
    [("/a/b-c", "/a/b-c"), ("a b", '"a b"'), ('q"\\', '"q\\"\\\\"'), ("50%", "50%%"), ("$HOME", "$$HOME"), ("", '""')],
)
def test_quoting(word: str, quoted: str) -> None:
    assert systemd._quote([word]) == quoted


def test_quoting_refuses_what_cannot_be_written() -> None:
    with pytest.raises(UsageError):
        systemd._quote(["a\nExecStart=/bin/x"])


def test_a_dollar_is_doubled_in_commands_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/a$b/python")
    lines = systemd.template(swap=True).splitlines()
    found = {key: value for key, _, value in (line.partition("=") for line in lines)}
    assert found["ExecStart"].startswith("/opt/a$b/python -P -m ")
    assert found["RequiresMountsFor"].split()[0] == "/opt/a$b"


def test_a_mount_point_and_its_folder(machine: Path, made: dict[str, CreateOptions], tmp_path: Path) -> None:
    """A relative one would be looked for in /, where units run."""
    where = tmp_path / "fast disk"
    wanted = Config("ublkb1", config.canonical(CreateOptions(GIB, id=1, fs="ext4", mount=str(where))))
    boot.enable(wanted)
    (drop_in,) = (machine / "units").glob("truezram-disk@ublkb1.service.d/*.conf")
    assert drop_in.read_text() == f"[Unit]\nRequiresMountsFor={tmp_path}\n"
    assert f'mount = "{where}"' in wanted.path.read_text()
    boot.disable("ublkb1")
    assert left(machine) == ["enabled/truezram-disk@ublkb1.service.active"]


# ---- enabling and disabling ----


def test_enable_and_disable(machine: Path, made: dict[str, CreateOptions]) -> None:
    done = boot.enable(Config("ublkb3", SWAP))
    assert (done.unit, done.enabled, done.active) == ("truezram@ublkb3.service", "enabled", "active")
    assert left(machine) == ENABLED_3
    assert "ublk_drv" in boot.MODULES.read_text()
    assert boot.listed() == [done]
    assert [item.config.options for item in boot.listed()] == [SWAP]
    made["ublkb3"] = SWAP
    boot.enable(Config("machine", settings=(("swappiness", "150"),)))
    boot.disable("ublkb3")
    assert made == {"ublkb3": SWAP}  # it goes on
    assert "ublk_drv" not in boot.MODULES.read_text()
    assert (machine / "units/truezram@.service").exists()  # the machine's
    boot.disable("machine")
    assert [name for name in left(machine) if not name.endswith(".active")] == []
    with pytest.raises(NotFound, match="not enabled"):
        boot.disable("ublkb3")


def test_a_template_that_a_package_has_brought(machine: Path, made: dict[str, CreateOptions]) -> None:
    """It is used, and not hidden by one of ours; one of another truezram is."""
    template = machine / "units/truezram@.service"
    boot.enable(Config("ublkb3", SWAP))
    assert template.exists()
    packaged = machine / "package-units/truezram@.service"
    packaged.parent.mkdir()
    packaged.write_text(systemd.template(swap=True))
    boot.enable(Config("ublkb3", SWAP))
    assert not template.exists()
    packaged.write_text("[Unit]\n")
    boot.enable(Config("ublkb3", SWAP))
    assert template.read_text() == systemd.template(swap=True)
    boot.disable("ublkb3")
    assert not template.exists()


def test_disable_now_removes_it_first(machine: Path, made: dict[str, CreateOptions]) -> None:
    boot.create_enabled(replace(SWAP, enable=True))
    assert list(made) == ["ublkb3"]
    boot.disable("ublkb3", now=True)
    assert made == {}
    assert left(machine) == []


def test_what_cannot_be_removed_stays_enabled(
    machine: Path, made: dict[str, CreateOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    boot.create_enabled(SWAP)

    def refuse(name: str, unmount: bool) -> None:
        raise Busy(f"cannot remove {name}", "it is mounted on /mnt")

    monkeypatch.setattr(boot, "_remove_device", refuse)
    with pytest.raises(Busy, match=r"ublkb3.*mounted"):
        boot.disable("ublkb3", now=True)
    assert left(machine) == ENABLED_3


@pytest.mark.parametrize("step", ["enable", "start", "create", "interrupt"])
def test_nothing_is_left_of_what_fails(
    machine: Path, made: dict[str, CreateOptions], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("FAIL", step)
    kind: type[BaseException] = KeyboardInterrupt if step == "interrupt" else Failed

    def create(options: CreateOptions) -> None:
        raise kind("no server")

    if step in ("create", "interrupt"):
        monkeypatch.setattr(boot, "create", create)
    with pytest.raises(kind):
        boot.create_enabled(SWAP)
    assert made == {}
    assert left(machine) == []
    assert not (machine / "etc/truezram").exists()


def test_what_was_enabled_before_stays_so(
    machine: Path, made: dict[str, CreateOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another configuration for it fails."""
    boot.enable(Config("ublkb3", SWAP))
    monkeypatch.setenv("FAIL", "enable")
    with pytest.raises(Failed):
        boot.enable(Config("ublkb3", replace(SWAP, priority=8)))
    monkeypatch.delenv("FAIL")
    assert config.read("ublkb3").options == SWAP


def test_a_disk_that_becomes_swap(machine: Path, made: dict[str, CreateOptions]) -> None:
    boot.enable(Config("ublkb3", CreateOptions(GIB, id=3)))
    assert "enabled/truezram-disk@ublkb3.service" in left(machine)
    boot.enable(Config("ublkb3", SWAP))
    assert [name for name in left(machine) if not name.endswith(".active")] == ENABLED_3[:1] + ENABLED_3[2:]


def test_a_name_that_is_taken(machine: Path, made: dict[str, CreateOptions]) -> None:
    boot.create_enabled(SWAP)
    with pytest.raises(UsageError, match="there already"):
        boot.create_enabled(SWAP)
    assert boot.free_id() == 0
    boot.enable(Config("ublkb0", CreateOptions(GIB, id=0)))
    assert boot.free_id() == 1


def test_a_disk_on_nbd(machine: Path, made: dict[str, CreateOptions], monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a ublk device of that number; with numbers of its own, of which other programs have some."""
    monkeypatch.setattr(nbd, "is_taken", lambda number: number == 0)
    boot.enable(Config("ublkb1", SWAP))
    boot.create_enabled(CreateOptions(GIB, transport="nbd"))
    assert made["nbd1"].transport == "nbd"
    assert boot.free_id("nbd") == 2
    assert boot.MODULES.read_text().splitlines()[1:] == ["nbd", "ublk_drv"]
    assert config.names() == ["nbd1", "ublkb1"]
    assert boot.canonical_name("/dev/nbd1") == "nbd1"
    made.clear()
    assert boot.start("nbd1") == "made"
    assert made["nbd1"].transport == "nbd"
    assert (boot.disable("nbd1", now=True).name, made) == ("nbd1", {})
    assert boot.MODULES.read_text().splitlines()[1:] == ["ublk_drv"]


def test_no_root_no_init(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied, match="only root"):
        boot.enable(Config("ublkb3", SWAP))
    monkeypatch.setattr(systemd, "RUNNING", machine / "not-there")
    with pytest.raises(Unsupported, match=r"neither systemd nor OpenRC.*boot start --all"):
        boot.enable(Config("ublkb3", SWAP))
    assert left(machine) == []
    assert boot.why_not()


def test_a_folder_that_cannot_be_written(machine: Path, made: dict[str, CreateOptions]) -> None:
    (machine / "etc").write_text("a file is in the way")
    with pytest.raises(Failed, match="Not a directory"):
        boot.create_enabled(SWAP)
    assert made == {}
    assert calls(machine) == ["daemon-reload", "reset-failed truezram@ublkb3.service"]


@pytest.mark.parametrize(
    "options",
    [
        CreateOptions(GIB, id=1, transport="local"),
        CreateOptions(1000, id=1),
        CreateOptions(GIB, id=-1),
        CreateOptions(GIB, id=1, priority=5),
        CreateOptions(GIB, "nonsense", id=1),
    ],
)
def test_bad_options(machine: Path, made: dict[str, CreateOptions], options: CreateOptions) -> None:
    with pytest.raises(UsageError):
        boot.create_enabled(options)
    assert left(machine) == []


# ---- OpenRC ----


@pytest.fixture
def rc(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same machine, started by OpenRC."""
    (machine / "rc").mkdir()
    monkeypatch.setattr(systemd, "RUNNING", machine / "not-there")
    monkeypatch.setattr(openrc, "RUNNING", machine / "rc")
    return machine


def test_openrc(rc: Path, made: dict[str, CreateOptions]) -> None:
    """One service for all: added with the first, deleted with the last."""
    assert boot.enable(Config("ublkb3", SWAP)).unit == "truezram"
    boot.enable(Config("machine", settings=(("swappiness", "150"),)))
    assert calls(rc) == ["rc-update add truezram boot", "rc-service truezram start", "rc-service truezram start"]
    assert (rc / "init.d/truezram").stat().st_mode & 0o777 == 0o755
    boot.disable("machine")
    assert "init.d/truezram" in left(rc)
    boot.disable("ublkb3", now=True)
    assert left(rc) == []
    assert calls(rc)[-2:] == ["rc-service truezram zap", "rc-update del truezram boot"]


def test_the_script_of_openrc(tmp_path: Path) -> None:
    """Its functions, called as openrc-run does."""
    script = tmp_path / "truezram"
    program = tmp_path / "a program"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    text = openrc.script().replace(shlex.quote(sys.executable), shlex.quote(str(program)))
    script.write_text(text)
    code = f". {script}; ebegin() {{ :; }}; eend() {{ return $1; }}; start && stop"
    done = subprocess.run(["sh", "-eu", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-P -m truezram boot start --all", "-P -m truezram boot stop --all"]
    assert text.startswith("#!/sbin/openrc-run\n")


# ---- the start and the end of the machine ----


def test_start_and_stop(machine: Path, made: dict[str, CreateOptions], capsys: pytest.CaptureFixture[str]) -> None:
    boot.enable(Config("ublkb3", SWAP))
    boot.enable(Config("ublkb0", CreateOptions(GIB, id=0)))
    assert main(["boot", "start", "--all"]) == 0
    assert made == {"ublkb3": SWAP, "ublkb0": CreateOptions(GIB, id=0)}
    assert boot.start("ublkb3") == "is there already"
    assert main(["boot", "stop", "--all"]) == 0
    assert made == {}
    assert "ublkb0: made" in capsys.readouterr().out
    assert boot.stop("ublkb3") == "removed"  # it is not there: nothing to do


def test_one_that_fails_does_not_keep_others(
    machine: Path, made: dict[str, CreateOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    boot.enable(Config("ublkb0", CreateOptions(GIB, id=0)))
    boot.enable(Config("ublkb3", SWAP))
    (config.DIRECTORY / "ublkb0.toml").write_text("nonsense")
    assert main(["boot", "start", "--all"]) == 2
    assert list(made) == ["ublkb3"]
    assert "ublkb0" in capsys.readouterr().err
    assert main(["boot", "start"]) == 2
    assert main(["boot", "start", "--all", "ublkb3"]) == 2
    boot.disable("ublkb0", now=True)  # it can still be disabled
    assert config.names() == ["ublkb3"]


def _below(tree: Path, call: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with another root unless it is given one."""

    def called(*args: Any, **more: Any) -> Any:
        given = inspect.signature(call).bind_partial(*args, **more)
        given.arguments.setdefault("root", tree)
        return call(*given.args, **given.kwargs)

    return called


@pytest.fixture
def values(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The machine's settings, in files of the test's."""
    tree = machine / "root"
    for name, value in (
        ("proc/sys/vm/swappiness", "60"),
        ("proc/sys/vm/page-cluster", "3"),
        ("proc/sys/kernel/osrelease", "7.2"),
        ("proc/sys/kernel/random/boot_id", "boot"),
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(value + "\n")
    for name in ("tunables", "apply", "undo", "history", "parse"):
        monkeypatch.setattr(tune, name, _below(tree, getattr(tune, name)))
    return lambda key: (tree / "proc/sys/vm" / key).read_text().strip()


def test_settings_come_back_and_go(machine: Path, values: Callable[[str], str]) -> None:
    boot.enable(Config("machine", settings=(("swappiness", "150"),)))
    assert "swappiness=150" in boot.start("machine")
    assert values("swappiness") == "150"
    assert boot.start("machine") == "nothing to change"
    assert not Journal().path.exists()  # early on, only /run can be written to
    boot.disable("machine", now=True)
    assert values("swappiness") == "60"


def test_a_setting_that_is_not_there_does_not_keep_others(machine: Path, values: Callable[[str], str]) -> None:
    boot.enable(Config("machine", settings=(("zswap", "N"), ("swappiness", "150"))))
    with pytest.raises(Failed, match=r"not all settings.*zswap"):
        boot.start("machine")
    assert values("swappiness") == "150"


def test_enable_machine_takes_what_tune_changed(machine: Path, values: Callable[[str], str]) -> None:
    with pytest.raises(NotFound, match="nothing to enable"):
        boot.of_device("machine")
    tune.apply(["swappiness=120"])
    assert boot.of_device("machine").settings == (("swappiness", "120"),)


# ---- the other verbs ----


def test_verbs(machine: Path, made: dict[str, CreateOptions], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    assert "Nothing is enabled" in capsys.readouterr().out
    assert main(["create", "--size", "1G", "--swap", "--enable", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["enabled"] is True
    assert main(["config", "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)["enabled"]
    assert (item["name"], item["enabled"], item["values"]) == ("ublkb0", "enabled", {"size": GIB, "swap": True})
    assert main(["config", "show", "ublkb0"]) == 0
    assert 'size = "1G"' in capsys.readouterr().out
    assert main(["config", "show", "ublkb7"]) == 1
    capsys.readouterr()
    assert main(["disable", "0", "--now", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["now"] is True
    assert made == {}
    assert main(["disable", "0"]) == 1
    assert main(["disable", "local0"]) == 2
    assert main(["disable", "--all"]) == 0


def test_a_file_written_by_hand(
    machine: Path, made: dict[str, CreateOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    """`config default`, edited, checked, enabled: the device is made."""
    assert main(["config", "default"]) == 0
    text = capsys.readouterr().out
    size = parse_size(text.partition('size = "')[2].partition('"')[0])
    files.write(config.DIRECTORY / "ublkb0.toml", text)
    assert main(["config", "check"]) == 0
    assert main(["enable", "ublkb0", "--print"]) == 0
    assert left(machine) == ["etc/truezram/ublkb0.toml"]
    assert main(["enable", "ublkb0"]) == 0
    assert config.read("ublkb0").options is not None
    assert boot.start("ublkb0") == "made"
    assert made["ublkb0"].size == size
    files.write(config.DIRECTORY / "ublkb1.toml", "size = 5\n")
    files.write(config.DIRECTORY / "notes.toml", "")
    capsys.readouterr()
    assert main(["config", "check", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert sorted(Path(item["file"]).name for item in document["files"] if item["error"]) == [
        "notes.toml",
        "ublkb1.toml",
    ]
    assert main(["config", "check", "ublkb0"]) == 0


def test_code_that_others_can_change_is_named(
    machine: Path, made: dict[str, CreateOptions], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs as root at every start."""
    files.write(Config("ublkb3", SWAP).path, Config("ublkb3", SWAP).text())
    monkeypatch.setattr(boot, "code_writers", lambda: ["/home/joe belongs to joe"])
    assert main(["enable", "ublkb3"]) == 0
    assert capsys.readouterr().err.count("/home/joe belongs to joe") == 1
