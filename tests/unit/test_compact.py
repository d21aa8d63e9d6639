"""`truezram compact`: what it gains, and that it goes on in the server whatever becomes of who asked for it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import HANG, FakeServer, kill_server, make, wait_until
from pagegen import sample

from truezram.cli.main import main
from truezram.engine import paths
from truezram.engine.device import removal
from truezram.engine.device.check import check_device
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.compaction import compact_entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.local import LocalDevice
from truezram.engine.errors import Failed, TruezramError
from truezram.engine.model import DeviceSnapshot

PAGES = 2400


def test_compact(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After most of it was discarded, what is left takes hardly more than it must; and it is sound."""
    try:
        paths.server_path()
    except TruezramError:
        pytest.skip("the server is not built here")
    pages = sample(PAGES, seed=1)
    device = create(CreateOptions(16 << 20, "lz4", transport="local")).entry
    rest = set(random.Random(7).sample(range(PAGES), PAGES // 4))
    seen: list[float] = []
    with LocalDevice(device) as disk, Client() as client:
        disk.write(0, b"".join(pages))
        for page in range(PAGES):
            if page not in rest:
                disk.discard(page)
        done = compact_entry(client, device, lambda share, _: seen.append(share))
        snapshot = client.device(device)
        assert done.after == snapshot.mem_used_total
        assert done.gained == max(0, done.before - done.after)
        assert all(0 <= share < 1 for share in seen)
        assert snapshot.segment_bytes - snapshot.object_bytes <= 4 * (128 << 10)
        assert snapshot.reserve_bytes <= 1 << 20
        for page in rest:
            assert disk.read(page) == pages[page]
    assert check_device(device).sound
    assert main(["compact", "local0"]) == 0
    assert capsys.readouterr().out.startswith("local0: ")
    assert main(["compact", "0", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert (body["schema"], body["name"]) == ("truezram.compact/1", "local0")
    sizes = body["mem_used_total"]
    assert sizes["gained"] == max(0, sizes["before"] - sizes["after"])
    removal.remove_entry(device)


def test_compaction_goes_on_when_it_is_interrupted(fake: FakeServer) -> None:
    fake.mode("endless")
    make()
    command = [sys.executable, "-P", "-m", "truezram", "compact", "local0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(line.startswith("op 7") for line in fake.received))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out) == (130, "")
    assert err == "truezram: local0: its server goes on compacting\ntruezram: interrupted\n"


def test_a_server_that_dies_while_it_compacts(fake: FakeServer) -> None:
    fake.mode("endless")
    entry = make()

    def progress(share: float, device: object) -> None:
        kill_server(entry)

    with Client() as client, pytest.raises(Failed, match="cannot compact local0: it is dead"):
        compact_entry(client, entry, progress)
    removal.remove_entry(entry, force=True)


def test_another_server_knows_nothing_of_it(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a death or an upgrade: its tickets begin anew, and this one's is never done."""
    fake.mode("endless")
    entry = make()
    read = Client.device
    pids = iter([1, 1, 1, 2])

    def of_another(client: Client, entry: Entry) -> DeviceSnapshot:
        return replace(read(client, entry), pid=next(pids))

    monkeypatch.setattr(Client, "device", of_another)
    with Client() as client, pytest.raises(Failed, match="cannot compact local0: its server has ended, and another"):
        compact_entry(client, entry)
    monkeypatch.undo()
    removal.remove_entry(entry, force=True)
