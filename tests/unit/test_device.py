"""Create, set and remove, and everything that can go wrong with the server meanwhile; with a stand-in for it."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import socket
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG, LOCAL, FakeServer, kill_server, make, servers, wait_until

from truezram.cli.verbs import create as create_verb
from truezram.engine.device import control, filesystem, removal, server, swap
from truezram.engine.device import create as creating
from truezram.engine.device.client import Client, Entry, candidates
from truezram.engine.device.create import (
    CreateOptions,
    check_options,
    create,
    parse_settings,
    set_values,
    warnings_of,
    without_recovery,
)
from truezram.engine.errors import Busy, Failed, NotFound, PermissionDenied, TruezramError, Unsupported, UsageError
from truezram.engine.model import DeviceSnapshot


def test_create_passes_on_what_was_asked_and_no_more(fake: FakeServer, run_dir: Path) -> None:
    made = create(replace(LOCAL, mem_limit=12345, id=7, queues=3, queue_depth=32))
    assert (made.name, made.path) == ("local7", "local:7")
    words = fake.received[0].split()[1:]
    ready = words.index("--ready-fd")
    assert (
        words[:ready]
        == (
            "--size 1073741824 --algorithm lz4 --policy 600:7200:3:72000 --mode balanced --mem-limit 12345 --id 7"
            f" --queues 3 --queue-depth 32 --transport local --run-dir {run_dir}"
        ).split()
    )
    make()
    assert "--queues" not in fake.received[1]
    assert "--id" not in fake.received[1]
    with Client() as client:
        first, second = client.devices()
    assert (first.name, first.state, first.nr_queues, first.mem_limit) == ("local0", "live", 2, 0)
    assert (second.name, second.nr_queues, second.queue_depth, second.mem_limit) == ("local7", 3, 32, 12345)


def test_a_data_mode_is_of_ublk() -> None:
    words = " ".join(check_options(CreateOptions(1 << 30, data_mode=" Driver-Copy")).server_words())
    assert " --data-mode driver-copy " in words
    assert "--data-mode" not in check_options(CreateOptions(1 << 30)).server_words()
    with pytest.raises(UsageError, match=r"there is no data mode 'zero-copy'.*auto, user-copy, driver-copy"):
        check_options(CreateOptions(1 << 30, data_mode="zero-copy"))
    with pytest.raises(UsageError, match="a data mode is for ublk"):
        check_options(replace(LOCAL, data_mode="auto"))


def test_a_policy_is_asked_for_by_name(fake: FakeServer) -> None:
    make(policy="Dense")
    assert " --policy 180:2340:10:21780 " in fake.received[0]
    with pytest.raises(UsageError, match=r"there is no policy 'eager'.*off, gentle, balanced, dense"):
        make(policy="eager")
    made = create(replace(LOCAL, policy="0060:7200:5"))
    assert " --policy 0060:7200:5:0 " in fake.received[1]
    assert made.options.policy == "0060:7200:5:0"
    fake.mode("no-zstd")
    with_groups, without = create(LOCAL), create(replace(LOCAL, policy="off"))
    assert [text for text in with_groups.warnings if "does not pack idle pages in groups" in text]
    assert without.warnings == ()


def test_the_server_is_a_session_of_its_own_without_our_files(fake: FakeServer) -> None:
    entry = make()
    pid = server.server_of(entry)
    assert pid is not None
    assert os.getsid(pid) == pid
    assert str(Path(f"/proc/{pid}/cwd").readlink()) == "/"

    def pipes() -> list[str]:
        files = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        return [name for name in files if name.startswith("pipe:")]

    # Once it has closed the pipe of its message there is none.
    wait_until(lambda: not pipes())


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (CreateOptions(9 << 30, swap=True), 1),
        (CreateOptions(8 << 30, swap=True), 0),
        (CreateOptions(9 << 30, swap=True, mem_limit=4 << 30), 0),
        (CreateOptions(9 << 30), 0),
    ],
)
def test_swap_larger_than_memory_without_a_limit_is_warned_of(options: CreateOptions, count: int) -> None:
    warnings = warnings_of(options, "ublkb0", 8 << 30)
    assert len(warnings) == count
    assert all("truezram set ublkb0 mem_limit=4G" in warning for warning in warnings)


def test_a_device_that_does_not_outlive_its_server_is_warned_of() -> None:
    device = DeviceSnapshot("ublkb0", "/dev/ublkb0", noswap_tmpfs=False)
    (warning,) = without_recovery(device)
    assert warning.startswith("ublkb0 does not outlive its server (recovery off: its arena is not on a noswap tmpfs")
    assert without_recovery(replace(device, noswap_tmpfs=True, recoverable=True)) == []
    assert without_recovery(replace(device, transport="local")) == []


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"state": "dead"}, "Remove it: truezram remove local0"),
        ({"state": "dead", "recoverable": True}, "Recover it: truezram recover local0"),
        ({"state": "recovering", "recoverable": True}, "Wait until another server has taken over"),
    ],
)
def test_what_to_do_when_it_cannot_be_set(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], remedy: str
) -> None:
    entry = make()
    with Client() as client:
        device = replace(client.device(entry), **change)
        monkeypatch.setattr(client, "device", lambda entry: device)
        with pytest.raises(Failed) as caught:
            set_values(client, entry, {"mem_limit": "0"})
        assert caught.value.remedy == remedy


def test_command_preview_gives_the_same_options() -> None:
    swapping = CreateOptions(3 << 29, "zstd:3", 1 << 29, 4, 2, 64, "ublk", True, 10, dictionary="/a b", dedup=True)
    swapping = replace(swapping, policy="gentle", mode="low-latency", data_mode="driver-copy")
    swapping = replace(swapping, backing="/b", backing_limit=1 << 30, backing_plain=True, force=True)
    assert swapping.command() == (
        "truezram create --size 1536M --algorithm zstd:3 --dictionary '/a b' --dedup --policy gentle"
        " --mode low-latency --data-mode driver-copy"
        " --mem-limit 512M --backing /b --backing-limit 1G --backing-plain --force"
        " --id 4 --queues 2 --queue-depth 64 --swap --priority 10"
    )
    mounted = CreateOptions(1 << 30, transport="local", fs="ext4", mount="-m", enable=True)
    parser = argparse.ArgumentParser()
    create_verb.add_arguments(parser)
    given = set()
    for options in (swapping, mounted, CreateOptions(1 << 30, id=0)):
        assert create_verb.options_of(parser.parse_args(options.words()[1:])) == options
        given |= {field.name for field in fields(options) if getattr(options, field.name) != field.default}
    assert given == {field.name for field in fields(CreateOptions)}


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("die", Failed, ["exit code 1", "arena cannot be made: Cannot allocate memory"]),
        ("killed", Failed, ["killed by SIGKILL"]),
        ("fail", Unsupported, ["the kernel has no ublk"]),
        ("garbage-ready", Failed, ["before it was ready|not understood"]),
    ],
)
def test_a_server_that_fails_leaves_nothing(
    fake: FakeServer, run_dir: Path, mode: str, kind: type[TruezramError], words: list[str]
) -> None:
    fake.mode(mode)
    with pytest.raises(kind) as caught:
        make(id=3)
    for word in words:
        assert any(part in str(caught.value) for part in word.split("|"))
    assert not list(run_dir.glob("*.stats"))
    assert not list(run_dir.glob("*.sock"))
    assert not servers(run_dir)


def test_a_server_that_hangs_is_ended_in_time(fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.mode("hang")
    monkeypatch.setattr(server, "start", lambda launch, run_dir: START(launch, run_dir, timeout=0.5))
    with pytest.raises(Failed, match=r"not ready within 0\.5 s"):
        make(id=3)
    assert not servers(run_dir)


START = server.start


def test_an_interrupt_while_waiting_leaves_nothing(
    fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.mode("hang")
    timer = threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        make(id=3)
    assert not servers(run_dir)


def test_an_id_in_use(fake: FakeServer) -> None:
    make(id=3)
    with pytest.raises(Busy, match=r"in use by truezramd \(pid \d+\)"):
        make(id=3)
    assert len([line for line in fake.received if line.startswith("argv")]) == 1


def test_two_creates_of_one_id_at_once(fake: FakeServer) -> None:
    results: list[object] = []

    def one() -> None:
        try:
            results.append(make(id=3).name)
        except TruezramError as error:
            results.append(type(error))

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == sorted(map(str, ["local3", Busy, Busy, Busy]))
    with Client() as client:
        assert [found.state for found in client.devices()] == ["live"]


def test_many_creates_at_once_get_ids_of_their_own(fake: FakeServer) -> None:
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(make().name)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"local{i}" for i in range(5)]


def test_a_dead_entry_is_shown_and_stays_until_it_is_removed(fake: FakeServer) -> None:
    entry = make(id=3)
    kill_server(entry)
    with Client() as client:
        assert [found.state for found in client.devices()] == ["dead"]
    # A create with its number does not destroy what it left.
    with pytest.raises(Busy, match=r"although its server died\. First: truezram remove local3"):
        make(id=3)
    assert not any("--cleanup" in line for line in fake.received)
    with Client() as client:
        assert removal.remove(client, "local3").name == "local3"
        assert any("--cleanup" in line and "--id 3" in line for line in fake.received)
        assert client.devices() == ()
    make(id=3)


def test_unreadable_entries_are_rows(fake: FakeServer, run_dir: Path) -> None:
    make()
    (run_dir / "local5.stats").write_bytes(b"garbage" * 1000)
    (run_dir / "ublkb1.stats").mkdir()
    (run_dir / "notes.stats").write_text("not a device")
    with Client() as client:
        found = client.devices()
        assert [(item.name, item.state) for item in found] == [
            ("ublkb1", "unreadable"),
            ("local0", "live"),
            ("local5", "unreadable"),
        ]
        assert "magic" in found[2].last_error
        assert removal.remove(client, "local5").name == "local5"
        assert [item.name for item in client.devices()] == ["ublkb1", "local0"]


def test_a_device_made_anew_is_mapped_anew(fake: FakeServer) -> None:
    with Client() as client:
        entry = make(id=3)
        assert client.devices()[0].disksize == 1 << 30
        removal.remove(client, "local3")
        make(id=3, size=1 << 29)
        assert client.devices()[0].disksize == 1 << 29
        assert client.resolve("3") == entry


def test_names(fake: FakeServer) -> None:
    make(id=3)
    with Client() as client:
        for text in ("3", "local3", "local:3", "03"):
            assert client.resolve(text).name == "local3"
        for text in ("4", "ublkb3", "/dev/ublkb3"):
            with pytest.raises(NotFound, match="local3"):
                client.resolve(text)
        for text in ("", "x", "-1", "local", "/dev/sda", "3 ", "99999999999", "local3\n", "../local3"):
            with pytest.raises(UsageError):
                client.resolve(text)
        with pytest.raises(Unsupported, match="zramctl"):
            client.resolve("/dev/zram0")
    assert candidates("5") == ("ublkb5", "nbd5", "local5")


def test_a_number_of_two_devices_is_refused(fake: FakeServer, run_dir: Path) -> None:
    make(id=3)
    (run_dir / "ublkb3.stats").write_bytes(b"")
    with Client() as client, pytest.raises(UsageError, match="local3 and ublkb3"):
        client.resolve("3")


# --- settings


def test_set(fake: FakeServer) -> None:
    entry = make()
    with Client() as client:
        changes = set_values(client, entry, parse_settings(["mem_limit=512M", "algorithm=lz4"]))
        assert [(c.key, c.before, c.after) for c in changes] == [
            ("mem_limit", "0", str(512 << 20)),
            ("algorithm", "lz4", "lz4"),
        ]
        assert client.device(entry).mem_limit == 512 << 20
        set_values(client, entry, parse_settings(["mem_limit=none"]))
        assert client.device(entry).mem_limit == 0


def test_set_is_all_or_nothing(fake: FakeServer) -> None:
    entry = make(algorithm="lz4")
    with Client() as client:
        client.set(entry, "algorithm", "before")
        with pytest.raises(UsageError, match=r"unlucky.*algorithm was put back"):
            set_values(client, entry, {"algorithm": "lz4", "mem_limit": str(13 * 4096)})
        assert client.device(entry).algorithm == "before"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "no KEY=VALUE"),
        (["mem_limit"], "not KEY=VALUE"),
        (["size=1G"], "no such setting"),
        (["mem_limit=1G", "mem_limit=2G"], "twice"),
        (["mem_limit=0"], "zero"),
        (["mem_limit=-1G"], "negative"),
        (["mem_limit=5P"], "2^52"),
        (["mem_limit="], "empty"),
        (["algorithm=nope"], "unknown algorithm"),
        (["algorithm="], "no name"),
        (["algorithm=lz4:1"], "no levels"),
        (["algorithm=lz4", "mem_limit=x"], "not a number"),
    ],
)
def test_bad_settings(words: list[str], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(words)
    assert why in caught.value.why


def test_set_on_a_dead_device(fake: FakeServer) -> None:
    entry = make()
    kill_server(entry)
    with Client() as client, pytest.raises(Failed, match="it is dead"):
        set_values(client, entry, {"mem_limit": "4096"})


# --- options


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"size": 0}, "size"),
        ({"size": -4096}, "size"),
        ({"size": 4097}, "size"),
        ({"size": (1 << 44) + 4096}, "size must be a multiple of 4096 bytes, up to 16T"),
        ({"mem_limit": -1}, "limit"),
        ({"id": -1}, "id"),
        ({"id": 1 << 20}, "id"),
        ({"queues": 0}, "queues"),
        ({"queues": 65}, "queues"),
        ({"queue_depth": 0}, "depth"),
        ({"queue_depth": 65}, "depth"),
        ({"queue_depth": 4097, "transport": "ublk"}, "depth"),
        ({"queues": 64, "transport": "ublk"}, "one per CPU"),
        ({"transport": "iscsi"}, "transport"),
        ({"swap": True}, "local"),
        ({"priority": 5}, "priority"),
        ({"swap": True, "transport": "ublk", "priority": 32768}, "priority"),
        ({"swap": True, "transport": "ublk", "priority": -1}, "priority"),
        ({"fs": "ext4"}, "local"),
        ({"fs": "ext4", "swap": True, "transport": "ublk"}, "swap and hold a filesystem"),
        ({"fs": "ntfs", "transport": "ublk"}, "does not know"),
        ({"fs": "xfs", "transport": "ublk", "size": 299 << 20}, "xfs needs at least 300"),
        ({"mount": "/mnt"}, "for a filesystem"),
        ({"fs": "ext4", "mount": "/a\nb", "transport": "ublk"}, "control character"),
        ({"algorithm": "gzip"}, "unknown algorithm"),
        ({"algorithm": ""}, "no name"),
    ],
)
def test_bad_options_touch_nothing(fake: FakeServer, run_dir: Path, changes: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError) as caught:
        make(**changes)
    assert why in caught.value.why
    assert fake.received == []
    assert not run_dir.exists()


def test_defaults() -> None:
    options = check_options(CreateOptions(1 << 30, "lz4", swap=True))
    assert options.priority == 100
    assert check_options(CreateOptions(1 << 30, "lz4")).priority is None


def test_a_full_or_foreign_registry(fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir.mkdir()
    run_dir.chmod(0o777)
    with pytest.raises(PermissionDenied, match="can write to"):
        make()
    run_dir.rmdir()
    run_dir.symlink_to("/tmp")
    with pytest.raises(PermissionDenied, match="not a folder"):
        make()
    monkeypatch.setenv("TRUEZRAM_RUN_DIR", str(run_dir / "missing" / "deep"))
    with pytest.raises(Failed, match="No such file"):
        make()


def test_no_server(run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRUEZRAM_SERVER", str(tmp_path / "none"))
    with pytest.raises(Unsupported, match="is not there"):
        make()
    (tmp_path / "none").write_text("")
    with pytest.raises(Unsupported, match=r"not executable.*chmod"):
        make()
    (tmp_path / "none").write_text("#!/nonexistent/interpreter\n")
    (tmp_path / "none").chmod(0o755)
    with pytest.raises(Failed, match="cannot be run"):
        make()


def test_ublk_without_root_or_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied, match=r"sudo.*--transport local"):
        creating.need_ublk()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(creating, "CONTROL", tmp_path / "ublk-control")
    tried = tmp_path / "tried"
    fake_tool = tmp_path / "modprobe"
    fake_tool.write_text(f"#!/bin/sh\necho $* > {tried}\necho 'FATAL: no module' >&2\nexit 1\n")
    fake_tool.chmod(0o755)
    monkeypatch.setattr(swap, "tool", lambda name: str(tmp_path / name))
    with pytest.raises(Unsupported, match=r"FATAL: no module.*--transport local"):
        creating.need_ublk()
    assert tried.read_text() == "ublk_drv\n"
    (tmp_path / "ublk-control").touch()
    creating.need_ublk()


# --- requests


def test_requests(fake: FakeServer) -> None:
    entry = make()
    with Client() as client:
        client.ping(entry)
        assert client.trim(entry) == 12345
        regions = client.page_map(entry, 0, 4096, 16).regions
        assert [row[5] for row in regions] == list(range(16))
        for bad in ((0, 4096, 0), (0, 4096, 257), (-1, 4096, 4), (0, 3, 4)):
            with pytest.raises(UsageError):
                client.page_map(entry, *bad)
        assert client.page_map(entry, 0, 4096, 16, "age").by == "age"
    assert "op 5 [0, 4096, 16, 0] " in fake.received
    assert "op 5 [0, 4096, 16, 1] " in fake.received


def test_a_server_that_has_no_map_by_age(fake: FakeServer) -> None:
    """It answers with one by kind, and does not say that it is by age."""
    fake.mode("ageless")
    entry = make()
    with Client() as client:
        assert client.page_map(entry, 0, 4096, 16).by == "kind"
        with pytest.raises(Unsupported, match=r"no map by age.*truezram upgrade local0"):
            client.page_map(entry, 0, 4096, 16, "age")


def test_mute_garbage_and_missingservers(fake: FakeServer, run_dir: Path) -> None:
    fake.mode("mute")
    mute = make()
    fake.mode("garbage")
    garbage = make()
    with Client() as client:
        with pytest.raises(control.NoAnswer, match=r"within 0\.3 s"):
            client.ping(mute, timeout=0.3)
        with pytest.raises(Failed, match="not understood"):
            client.ping(garbage)
        with pytest.raises(control.NoAnswer, match="does not listen"):
            client.ping(Entry(run_dir, "local9"))
        # Whatever the server does, its row is there.
        assert [item.state for item in client.devices()] == ["live", "live"]


def test_long_text_is_refused(fake: FakeServer) -> None:
    entry = make()
    with Client() as client:
        for value in ("x" * 300, "a\0b"):
            with pytest.raises(UsageError):
                client.set(entry, "algorithm", value)


def test_socket_path_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.open(folder, os.O_PATH)
    listener.bind(f"/proc/self/fd/{fd}/local0.sock")
    listener.listen()
    with pytest.raises(control.NoAnswer, match=r"within 0\.2 s"):
        control.request(folder / "local0.sock", control.Op.PING, what="x", timeout=0.2)


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    """A server that has more clients waiting than the kernel queues is busy, not dead."""
    path = tmp_path / "local0.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind(str(path))
        listener.listen(1)
        error = 0
        while not error:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            waiting.setblocking(False)
            error = waiting.connect_ex(str(path))
        assert error == errno.EAGAIN
        with pytest.raises(control.NoAnswer, match=r"did not accept a connection within 0\.2 s"):
            control.request(path, control.Op.PING, what="x", timeout=0.2)
        threading.Timer(0.1, listener.accept).start()
        assert control.peer(path, "x", timeout=HANG) == (os.getpid(), os.getuid())


# --- swap


def test_create_with_swap_undoes_everything_when_it_fails(
    fake: FakeServer, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "need_ublk", lambda: None)
    monkeypatch.setattr(swap, "node_ready", lambda path: None)
    script = tmp_path / "mkswap"
    script.write_text("#!/bin/sh\necho mkswap: no space >&2\nexit 1\n")
    script.chmod(0o755)
    (tmp_path / "swapoff").symlink_to(script)
    monkeypatch.setattr(swap, "tool", lambda name: str(tmp_path / name))
    with pytest.raises(Failed, match="mkswap: no space"):
        make(transport="ublk", swap=True)
    assert not list(run_dir.glob("*.stats"))
    assert not servers(run_dir)


def test_create_with_a_filesystem_undoes_everything_when_it_cannot_be_mounted(
    fake: FakeServer, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "need_ublk", lambda: None)
    monkeypatch.setattr(swap, "node_ready", lambda path: None)
    log = tmp_path / "said"
    for name, end in (("mkfs.ext4", "exit 0"), ("umount", "exit 0"), ("mount", "echo mount: not today >&2; exit 32")):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n{end}\n')
        script.chmod(0o755)
    monkeypatch.setattr(filesystem, "tool", lambda name, *words: str(tmp_path / name))
    with pytest.raises(Failed, match="mount: not today"):
        make(transport="ublk", fs="ext4", mount=str(tmp_path))
    said = [line for line in log.read_text().splitlines() if line.startswith(("mkfs", "mount -t", "umount"))]
    assert [line.split()[0] for line in said] == ["mkfs.ext4", "mount"]
    assert said[1].startswith("mount -t ext4 -o discard,noatime ")
    assert not list(run_dir.glob("*.stats"))
    assert not servers(run_dir)


@pytest.mark.parametrize(("missing", "package"), [("mkfs.ext4", "e2fsprogs"), ("mount", "mount")])
def test_create_with_a_filesystem_needs_its_tools_first(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, package: str
) -> None:
    monkeypatch.setattr(swap.shutil, "which", lambda name, path: None if name == missing else f"/sbin/{name}")
    with pytest.raises(Unsupported, match=missing) as caught:
        make(transport="ublk", fs="ext4", mount=str(tmp_path))
    assert package in caught.value.remedy
    assert fake.received == []


def test_who_keeps_a_filesystem_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "umount"
    script.write_text("#!/bin/sh\necho umount: target is busy >&2\nexit 32\n")
    script.chmod(0o755)
    monkeypatch.setattr(filesystem, "tool", lambda name, *words: str(tmp_path / name))
    folder = tmp_path / "mounted"
    folder.mkdir()
    with (folder / "file").open("w"), pytest.raises(Busy, match=f"pid {os.getpid()}"):
        filesystem.unmount(str(folder))


def test_create_with_swap_needs_its_tools_first(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap.shutil, "which", lambda name, path: None)
    with pytest.raises(Unsupported, match="mkswap"):
        make(transport="ublk", swap=True)
    assert fake.received == []
