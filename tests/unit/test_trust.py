"""What others may have written decides nothing: which process is ended, which program runs as root, what is mapped."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NOBODY, FakeServer, make, servers, wait_until

from truezram._native import ffi, lib
from truezram.engine import paths
from truezram.engine.device import control, removal, swap
from truezram.engine.device.client import Client
from truezram.engine.device.create import CreateOptions
from truezram.engine.device.local import LocalDevice
from truezram.engine.device.stats_page import StatsPage, Unreadable
from truezram.engine.errors import Failed, PermissionDenied
from truezram.engine.machine import procfs
from truezram.engine.machine.journal import state_dir

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def refuses_registry() -> None:
    with pytest.raises(PermissionDenied, match=r"others can write|belongs to|can write to"):
        Client()


# --- the registry


def test_a_registry_that_others_can_write_to_is_not_read(run_dir: Path) -> None:
    run_dir.mkdir()
    Client().close()
    for mode in (0o777, 0o720, 0o702):
        run_dir.chmod(mode)
        refuses_registry()


def test_a_registry_behind_a_link_is_not_read(run_dir: Path) -> None:
    real = run_dir.with_name("real")
    real.mkdir()
    run_dir.symlink_to(real)
    refuses_registry()


def test_a_registry_whose_arena_is_a_link_is_not_used(run_dir: Path, fake: FakeServer) -> None:
    run_dir.mkdir(mode=0o700)
    (run_dir / "arena").symlink_to("/etc")
    refuses_registry()
    with pytest.raises(PermissionDenied, match="arena"):
        make()


@root_only
def test_a_registry_of_another_user_is_not_read(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o700)
    os.chown(run_dir, NOBODY, -1)
    refuses_registry()


def test_the_folder_without_a_runtime_folder(
    ordinary_user: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where anybody may have made it before."""
    theirs = tmp_path / "truezram-1000"
    monkeypatch.delenv("TRUEZRAM_RUN_DIR", raising=False)
    monkeypatch.setattr(paths, "own_run_dir", lambda: theirs)
    assert paths.run_dirs() == (theirs, paths.SYSTEM_RUN_DIR)
    theirs.mkdir(mode=0o700)
    assert paths.run_dirs()[0] == theirs
    theirs.chmod(0o777)
    with pytest.raises(PermissionDenied, match=r"truezram-1000 .* others can write to it"):
        paths.run_dirs()


# --- which process is ended


def crafted(run_dir: Path, fake: FakeServer, pid: int) -> None:
    """The statistics page of a device whose server does not answer, naming that process."""
    entry = make()
    start = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    data = bytearray(entry.stats.read_bytes())
    head = ffi.from_buffer("struct tz_stats *", data)
    head.pid, head.pid_start = pid, start
    ffi.release(head)
    entry.stats.write_bytes(data)


@pytest.fixture
def bystander() -> object:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_page_does_not_decide_which_process_is_ended(
    fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch, bystander: subprocess.Popen[bytes]
) -> None:
    monkeypatch.setattr(removal, "TERM_TIMEOUT", 0.5)
    fake.mode("mute")
    crafted(run_dir, fake, bystander.pid)
    with Client() as client, pytest.raises(Failed, match=r"which is 'sleep' of user .* No process was signalled"):
        removal.remove(client, "0", force=True)
    assert bystander.poll() is None


def test_nor_does_a_servers_name(
    fake: FakeServer, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another device's server is one, and not this one's."""
    (tmp_path / "other").mkdir()
    program = tmp_path / "other" / "truezramd"
    program.symlink_to("/bin/sleep")
    bystander = subprocess.Popen([program, "60"])
    wait_until(lambda: procfs.identity(bystander.pid) == ("truezramd", os.getuid()))
    monkeypatch.setattr(removal, "TERM_TIMEOUT", 0.5)
    fake.mode("mute")
    crafted(run_dir, fake, bystander.pid)
    with Client() as client, pytest.raises(Failed, match="neither listens on its socket nor holds its lock"):
        removal.remove(client, "0", force=True)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_the_kernel_knows_who_listens_and_who_locks(fake: FakeServer, run_dir: Path) -> None:
    fake.mode("mute")
    entry = make()
    (pid,) = servers(run_dir)
    assert control.peer(entry.sock, "x") == (pid, os.geteuid())
    assert procfs.lock_holder(run_dir / f"{entry.name}.lock") == pid
    assert procfs.lock_holder(run_dir / f"{entry.name}.stats") is None
    assert procfs.identity(pid) == ("truezramd", os.getuid())


# --- what is mapped


@root_only
def test_a_statistics_page_of_another_user(fake: FakeServer) -> None:
    entry = make()
    os.chown(entry.stats, NOBODY, -1)
    with pytest.raises(Unreadable, match="does not belong to the owner of the registry"):
        StatsPage(entry.stats)
    with Client() as client:
        assert [device.state for device in client.devices()] == ["unreadable"]


def test_a_statistics_page_that_is_cut_short_is_an_error_and_no_sigbus(fake: FakeServer) -> None:
    entry = make()
    page = StatsPage(entry.stats)
    page.snapshot()
    os.truncate(entry.stats, 0)
    with pytest.raises(Unreadable, match="cut short"):
        page.read()
    page.close()


def ring(seals: int) -> int:
    file = os.memfd_create("ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, 1 << 20)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


@pytest.mark.parametrize(
    ("seals", "expected"), [(0, "EPERM"), (fcntl.F_SEAL_GROW, "EPERM"), (fcntl.F_SEAL_SHRINK, "EINVAL")]
)
def test_a_ring_that_can_shrink_is_not_mapped(seals: int, expected: str) -> None:
    import errno

    file, error = ring(seals), ffi.new("int *")
    try:
        assert lib.tz_local_attach(file, error) == ffi.NULL
    finally:
        os.close(file)
    assert error[0] == -getattr(errno, expected)


def test_a_ring_that_can_shrink_says_so(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make()
    reply = control.Reply((0, 0, 0, 0), "", (), (ring(0),))
    monkeypatch.setattr("truezram.engine.device.local.request", lambda *args, **more: reply)
    with pytest.raises(Failed, match="not sealed against shrinking"):
        LocalDevice(entry)


# --- what runs as root


@root_only
def test_who_can_change_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    file = folder / "file"
    file.touch()
    assert paths.foreign_writer(file) == ""
    assert paths.foreign_writer(folder / "missing") == ""
    file.chmod(0o666)
    assert paths.foreign_writer(file) == f"everyone can write to {file}"
    file.chmod(0o644)
    os.chown(folder, NOBODY, -1)
    assert paths.foreign_writer(file) == f"{folder} belongs to nobody"
    os.chown(folder, 0, -1)
    folder.chmod(0o777)
    assert paths.foreign_writer(file) == f"everyone can write to {folder}"
    folder.chmod(0o1777)
    assert paths.foreign_writer(file) == ""
    # A link is as good as what it leads to.
    link = tmp_path / "link"
    link.symlink_to("a/file")
    assert paths.foreign_writer(link) == ""
    os.chown(file, NOBODY, -1)
    assert paths.foreign_writer(link) == f"{file} belongs to nobody"
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert paths.foreign_writer(loop) == ""


@root_only
def test_a_group_counts_when_others_are_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    file.chmod(0o664)
    monkeypatch.setattr(paths, "_others_in", lambda gid: "")
    assert paths.foreign_writer(file) == ""
    monkeypatch.setattr(paths, "_others_in", lambda gid: "staff")
    assert paths.foreign_writer(file) == f"the group staff can write to {file}"


@root_only
def test_root_runs_no_server_that_others_can_change(fake: FakeServer, tmp_path: Path) -> None:
    assert paths.server_path() == tmp_path / "truezramd"
    os.chown(tmp_path / "truezramd", NOBODY, -1)
    with pytest.raises(PermissionDenied, match=r"TRUEZRAM_SERVER as root: .*/truezramd belongs to nobody"):
        make()
    assert fake.received == []


@root_only
@pytest.mark.parametrize(
    ("variable", "ask"), [("TRUEZRAM_RUN_DIR", paths.own_run_dir), ("TRUEZRAM_STATE_DIR", state_dir)]
)
def test_root_uses_no_folder_that_others_can_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, ask: object
) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    assert callable(ask)
    assert ask() == tmp_path
    os.chown(tmp_path, NOBODY, -1)
    with pytest.raises(PermissionDenied, match=f"will not use {variable} as root"):
        ask()


@root_only
def test_root_runs_no_tool_that_others_can_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mkswap, mkfs, mount, swapoff, modprobe, systemctl: found by PATH, which may be another user's."""
    program = tmp_path / "mkswap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert swap.tool("mkswap") == str(program)
    os.chown(program, NOBODY, -1)
    with pytest.raises(PermissionDenied, match=r"will not run .*/mkswap as root: .* belongs to nobody"):
        swap.tool("mkswap")
    os.chown(program, 0, -1)
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionDenied, match="everyone can write to"):
        swap.tool("mkswap")


@root_only
def test_root_loads_no_libzstd_that_others_can_change(tmp_path: Path) -> None:
    code = "from truezram.codec import Compressor; Compressor('zstd:1')"
    library = tmp_path / "libzstd.so.1"
    library.write_bytes(b"no library")

    def said() -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "TRUEZRAM_LIBZSTD": str(library)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode
        return done.stderr

    assert "cannot be opened" in said()
    os.chown(library, NOBODY, -1)
    assert "can be changed by others than root" in said()
    os.chown(library, 0, -1)
    tmp_path.chmod(0o777)
    assert "can be changed by others than root" in said()


def test_a_value_like_an_option_is_written_so_that_it_is_none() -> None:
    command = CreateOptions(1 << 20, fs="ext4", mount="-m", priority=None).command()
    assert command.endswith("--fs ext4 --mount=-m")
