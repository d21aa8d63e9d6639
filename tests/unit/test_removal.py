"""Removing: who may be in the way, swapoff first, servers that hang; with a stand-in for the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import FakeServer, kill_server, make, servers, wait_until

from truezram.engine.device import create, removal, stats_page, swap
from truezram.engine.device.client import Client, Entry
from truezram.engine.errors import Busy, Failed
from truezram.engine.machine import procfs, users
from truezram.engine.model import MachineSnapshot, SwapArea


def test_remove(fake: FakeServer, run_dir: Path) -> None:
    fake.mode("slow-stop")
    make()
    stages: list[tuple[str, int, int]] = []
    with Client() as client:
        gone = removal.remove(client, "0", progress=lambda *step: stages.append(step))
        assert (gone.name, gone.swapped_back, gone.lost) == ("local0", 0, ())
        assert stages == [("stop", 0, 1), ("stop", 1, 1)]
        assert client.devices() == ()
    assert not servers(run_dir)


def test_remove_of_a_hanging_server_needs_force(
    fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "STOP_TIMEOUT", 0.5)
    monkeypatch.setattr(removal, "TERM_TIMEOUT", 0.5)
    fake.mode("mute")
    make()
    with Client() as client:
        with pytest.raises(Failed, match=r"did not answer within 0\.5 s.*--force"):
            removal.remove(client, "0")
        assert client.devices()[0].state == "live"
        removal.remove(client, "0", force=True)
        assert client.devices() == ()
    assert not servers(run_dir)


def test_remove_of_a_server_that_does_not_end(fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "END_TIMEOUT", 0.5)
    monkeypatch.setattr(removal, "TERM_TIMEOUT", 0.5)
    fake.mode("stuck")
    make()
    with Client() as client:
        with pytest.raises(Failed, match="has not ended"):
            removal.remove(client, "0")
        removal.remove(client, "0", force=True)
    assert not servers(run_dir)


def ublk_entry(run_dir: Path, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A stand-in's ublk device, of a number that no device of this machine has; what needs a real node is left out."""
    monkeypatch.setattr(create, "need_ublk", lambda: None)
    monkeypatch.setattr(swap, "node_ready", lambda path: None)
    return make(transport="ublk", id=987654)


def swaps(monkeypatch: pytest.MonkeyPatch, areas: list[SwapArea], available: int) -> None:
    monkeypatch.setattr(procfs, "machine", lambda: MachineSnapshot(mem_available=available, swaps=tuple(areas)))
    monkeypatch.setattr(procfs, "swaps", lambda root=None: tuple(areas))


def test_swapoff_must_fit(fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ublk_entry(run_dir, fake, monkeypatch)
    swaps(monkeypatch, [SwapArea(path=entry.path, type="partition", size=1 << 30, used=3 << 28, priority=100)], 1 << 28)
    with Client() as client:
        with pytest.raises(Busy, match=r"768M back, and 256M of memory is available"):
            removal.remove(client, entry.name)
        assert "768M is swapped out" in removal.what_force_breaks(entry)[0]
    assert not [line for line in fake.received if line.startswith("op 3")]


def fake_swapoff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    script = tmp_path / "swapoff"
    script.write_text("#!/bin/sh\n" + body)
    script.chmod(0o755)
    monkeypatch.setattr(swap, "tool", lambda name: str(tmp_path / name))


def test_swapoff_comes_first_with_progress(
    fake: FakeServer, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ublk_entry(run_dir, fake, monkeypatch)
    done, enough = tmp_path / "done", tmp_path / "enough"
    fake_swapoff(tmp_path, monkeypatch, f'until [ -e {enough} ]; do sleep 0.05; done; echo "$1" > {done}\n')
    used = iter(range(1000, 0, -50))

    def areas(root: object = None) -> tuple[SwapArea, ...]:
        gone = done.exists()
        left = next(used, 50)
        if left <= 600:
            enough.touch()
        return () if gone else (SwapArea(path=entry.path, type="partition", size=1 << 30, used=left, priority=100),)

    monkeypatch.setattr(procfs, "machine", lambda: MachineSnapshot(mem_available=1 << 30))
    monkeypatch.setattr(procfs, "swaps", areas)
    seen: list[tuple[str, int, int]] = []
    with Client() as client:
        gone = removal.remove(client, entry.name, progress=lambda *step: seen.append(step))
    assert done.read_text() == f"{entry.path}\n"
    amounts = [step[1] for step in seen if step[0] == "swapoff"]
    assert len(amounts) >= 3
    assert amounts == sorted(amounts)
    assert amounts[-1] == gone.swapped_back > 0
    assert seen[-1] == ("stop", 1, 1)


@pytest.mark.parametrize("force", [False, True])
def test_a_device_that_is_still_swap_is_never_stopped(
    fake: FakeServer, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    entry = ublk_entry(run_dir, fake, monkeypatch)
    fake_swapoff(tmp_path, monkeypatch, 'echo "swapoff: Cannot allocate memory" >&2; exit 4\n')
    swaps(monkeypatch, [SwapArea(path=entry.path, type="partition", size=1 << 30, used=4096, priority=100)], 1 << 30)
    with Client() as client, pytest.raises(Failed, match="Cannot allocate memory"):
        removal.remove(client, entry.name, force=force)
    # Nor when swapoff claims to have worked.
    fake_swapoff(tmp_path, monkeypatch, "exit 0\n")
    with Client() as client, pytest.raises(Busy, match="swap"):
        removal.remove(client, entry.name, force=force)
    # Nor when it is dead.
    kill_server(entry)
    with Client() as client, pytest.raises(Busy, match="still swap"):
        removal.remove(client, entry.name, force=force)
    assert not [line for line in fake.received if line.startswith("op 3") or "--cleanup" in line]


def test_swapoff_that_brings_nothing_back_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_swapoff(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 30\n")
    swaps(monkeypatch, [SwapArea(path="/dev/ublkb0", type="partition", size=1 << 30, used=4096, priority=100)], 1 << 30)
    with pytest.raises(Failed, match=r"no page came back for 0\.6 s"):
        swap.disable(procfs.swaps()[0], stall=0.6)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: stats_page.process_state(pid)[0] in ("", "Z"))


def test_holders_refuse_and_force_tells(fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ublk_entry(run_dir, fake, monkeypatch)
    held = [users.User("it is mounted on /mnt/data", True, "umount /mnt/data")]
    monkeypatch.setattr(removal, "holders", lambda entry: held)
    with Client() as client:
        with pytest.raises(Busy, match=r"mounted on /mnt/data\. First umount /mnt/data; or use --force"):
            removal.remove(client, entry.name)
        assert client.devices()[0].state == "live"
        assert "/mnt/data" in removal.what_force_breaks(entry)[0]
        gone = removal.remove(client, entry.name, force=True)
        assert "/mnt/data" in gone.lost[0]
        assert client.devices() == ()


def test_a_passing_look_of_udev_is_waited_for(fake: FakeServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ublk_entry(run_dir, fake, monkeypatch)
    answers = iter([[users.User("systemd-udevd (pid 5) has it open", False, "")]] * 3 + [[]] * 9)
    monkeypatch.setattr(removal, "holders", lambda entry: next(answers))
    with Client() as client:
        assert removal.remove(client, entry.name).lost == ()
