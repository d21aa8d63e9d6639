"""A device's backing file, up to the server: what is taken and what is refused, what is left of it afterwards, the
settings, and `truezram writeback`. (Encrypted, and with all that can happen to it: tests/device/test_47_backing.py.)"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import LOCAL, FakeServer, kill_server, make

from truezram.cli.main import main
from truezram.cli.verbs.stat import as_json, lines
from truezram.cli.verbs.writeback import said
from truezram.engine.answers import WrittenBack
from truezram.engine.device import backing, cold, config, crypt, removal, systemd
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import create, parse_settings, set_values
from truezram.engine.device.options import CreateOptions, WritebackOptions
from truezram.engine.errors import Busy, Failed, PermissionDenied, TruezramError, UsageError
from truezram.engine.machine import mappings
from truezram.engine.machine.mappings import Mapping
from truezram.engine.model import DeviceSnapshot

MIB = 1 << 20
SIZE = 64 * MIB


def local(file: Path, **more: object) -> CreateOptions:
    options = CreateOptions(SIZE, "lz4", transport="local", backing=str(file), backing_plain=True)
    return replace(options, **more)  # type: ignore[arg-type]


def put(file: Path, data: bytes) -> None:
    """As a file that only its owner may read."""
    file.touch(0o600)
    file.write_bytes(data)


def requests(fake: FakeServer) -> list[str]:
    return [line.split("] ")[1] for line in fake.received if line.startswith("op 2 ")]


class TestWhatIsAskedFor:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("none", None),
            (" NONE ", None),
            ("/a/b", backing.Backing("/a/b")),
            ("/a/../b", backing.Backing("/b")),
            ("plain:/a", backing.Backing("/a", plain=True)),
        ],
    )
    def test_words(self, text: str, found: backing.Backing | None) -> None:
        assert backing.parse(text) == found
        assert parse_settings([f"backing={text}"]) == {"backing": str(found) if found else "none"}

    def test_paths_become_absolute(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        assert backing.parse_setting("plain:x") == f"plain:{tmp_path}/x"
        assert backing.parse_setting("./none") == f"{tmp_path}/none"

    @pytest.mark.parametrize(
        ("text", "limit", "why"),
        [
            ("", 0, "it is empty"),
            ("plain:", 0, "it is empty"),
            ("/a\nb", 0, "control character"),
            ("/" + "a" * 200, 0, "longer than 180 bytes"),
            ("/a", MIB - 4096, "Choose 1M to 256G"),
            ("/a", 1 << 40, "Choose 1M to 256G"),
        ],
    )
    def test_what_it_cannot_be(self, text: str, limit: int, why: str) -> None:
        with pytest.raises(UsageError, match=why):
            backing.parse(text, limit)

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["--backing-limit", "1G"], "--backing-limit is for a backing file"),
            (["--backing-plain"], "--backing-plain is for a backing file"),
            (["--force"], "--force is for a backing file"),
            (["--backend", "tiered"], "it has no backing file. Add --backing PATH"),
            (["--backend", "tiered", "--backing", "/x", "--policy", "off"], "--policy off was given"),
        ],
    )
    def test_create_says_what_does_not_go_together(
        self, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["create", "--size", "64M", "--transport", "local", *words]) == 2
        assert why in capsys.readouterr().err

    def test_tiered_is_balanced_with_a_backing_file(
        self, fake: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["--backend", "tiered", "--backing", str(tmp_path / "f"), "--backing-plain", "--json"]
        assert main(["create", "--size", "64M", "--transport", "local", *words]) == 0
        made = json.loads(capsys.readouterr().out)
        assert (made["policy"], made["backing"]) == ("balanced", str(tmp_path / "f"))
        assert made["backing_encrypted"] is False
        assert "is not encrypted" in made["warnings"][0]

    def test_it_comes_back(self, tmp_path: Path) -> None:
        options = CreateOptions(SIZE, id=3, backing=f"{tmp_path}/f", backing_limit=1 << 20, backing_plain=True)
        item = config.Config("ublkb3", options)
        assert config.parse("ublkb3", item.text()) == item
        there = DeviceSnapshot(
            name="ublkb3", path="/dev/ublkb3", kind="truezram", transport="ublk", state="live", disksize=SIZE,
            algorithm="fast", policy="600:7200:3:72000", backing=f"plain:{tmp_path}/f", backing_limit=1 << 20,
        )  # fmt: skip
        assert config.canonical(config.of_device(there)) == options
        nothing = config.of_device(replace(there, backing="none", backing_limit=0))
        assert (nothing.backing, nothing.backing_limit) == (None, 0)

    def test_a_unit_waits_for_it(self, tmp_path: Path) -> None:
        options = CreateOptions(SIZE, id=3, backing=f"{tmp_path}/f")
        text = systemd._drop_in(config.Config("ublkb3", options))[1]
        assert f"RequiresMountsFor={tmp_path}\n" in text
        assert "After=systemd-remount-fs.service\n" in text
        other = replace(options, backing="/dev/disk/by-id/a-b")
        text = systemd._drop_in(config.Config("ublkb3", other))[1]
        assert "After=dev-disk-by\\x2did-a\\x2db.device\n" in text
        assert "Requires=dev-disk-by\\x2did-a\\x2db.device\n" in text
        with pytest.raises(UsageError, match="at every start"):
            config.canonical(replace(options, force=True))


class TestWhatIsTaken:
    def test_a_new_file(self, fake: FakeServer, tmp_path: Path) -> None:
        made = create(local(tmp_path / "f", backing_limit=8 * MIB))
        found = (tmp_path / "f").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_size) == (0o600, 0)
        assert requests(fake) == [f"backing={8 * MIB}:{tmp_path}/f"]
        with Client() as client:
            device = client.device(made.entry)
        assert (device.backing, device.backing_state) == (f"plain:{tmp_path}/f", "ready")

    @pytest.mark.parametrize("head", [b"", bytes(4096), crypt.NOTE, backing.HEADER])
    def test_an_empty_one_or_one_of_ours(self, fake: FakeServer, tmp_path: Path, head: bytes) -> None:
        """Its size is the limit then."""
        file = tmp_path / "f"
        file.touch(0o600)
        with file.open("wb") as out:
            out.write(head.ljust(4096, b"\0"))
            out.truncate(4 * MIB)
        create(local(file))
        assert requests(fake) == [f"backing={4 * MIB}:{file}"]

    @pytest.mark.parametrize(
        ("make_it", "error", "why"),
        [
            (
                lambda f: put(f, b"a letter"),
                Busy,
                "it is not empty, and was not a backing file before.* --force",
            ),
            (lambda f: put(f, bytes(3 * MIB) + b"x" + bytes(MIB)), Busy, "it is not empty"),
            (lambda f: put(f, b"LUKS\xba\xbe\0\1" + bytes(MIB)), Busy, r"\(crypto_LUKS\)"),
            (lambda f: f.mkdir(), UsageError, "neither a file nor a block device"),
            (lambda f: (f.touch(), f.chmod(0o644)), PermissionDenied, "mode 0600"),
            (lambda f: os.mkfifo(f), UsageError, "neither a file nor a block device"),
        ],
    )
    def test_what_is_refused(
        self, fake: FakeServer, tmp_path: Path, run_dir: Path, make_it: object, error: type[TruezramError], why: str
    ) -> None:
        file = tmp_path / "f"
        make_it(file)  # type: ignore[operator]
        before = file.read_bytes() if file.is_file() else b""
        with pytest.raises(error, match=why):
            create(local(file))
        assert before == (file.read_bytes() if file.is_file() else b"")
        assert not list(run_dir.glob("*.stats"))

    def test_what_has_something_on_it_is_taken_by_force(self, fake: FakeServer, tmp_path: Path) -> None:
        file = tmp_path / "f"
        put(file, b"a letter" + bytes(2 * MIB - 8))
        create(local(file, force=True))
        assert file.stat().st_size == 0
        assert requests(fake) == [f"backing={2 * MIB}:{file}"]

    def test_a_file_that_is_in_use(self, fake: FakeServer, tmp_path: Path) -> None:
        file = tmp_path / "f"
        file.touch(0o600)
        with file.open("rb") as open_here:
            other = subprocess.Popen(["sleep", "600"], stdin=open_here)
        try:
            with pytest.raises(Busy, match=rf"\(pid {other.pid}\) has it open. Choose another file"):
                create(local(file))
        finally:
            other.kill()
            other.wait()
        create(local(file))

    def test_a_file_that_another_creation_has(self, fake: FakeServer, tmp_path: Path) -> None:
        file = tmp_path / "f"
        file.touch(0o600)
        with file.open("rb") as mine:
            fcntl.flock(mine, fcntl.LOCK_EX)
            with pytest.raises(Busy, match="it is the backing file of another device"):
                create(local(file))

    def test_a_limit_beyond_it(self, fake: FakeServer, tmp_path: Path) -> None:
        file = tmp_path / "f"
        file.touch(0o600)
        os.truncate(file, 2 * MIB)
        with pytest.raises(UsageError, match=r"it has 2M, and the limit is 4M.*truncate -s"):
            create(local(file, backing_limit=4 * MIB))

    def test_nothing_is_left_when_it_fails(self, fake: FakeServer, tmp_path: Path, run_dir: Path) -> None:
        fake.mode("no-backing")
        with pytest.raises(UsageError, match="it does not like that file"):
            create(local(tmp_path / "f"))
        assert not (tmp_path / "f").exists()
        assert not list(run_dir.glob("*.stats"))

    def test_only_root_encrypts(self, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(PermissionDenied, match="--backing-plain"):
            backing.check(backing.Backing(str(tmp_path / "f")), "cannot")


@pytest.fixture
def encrypted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What becomes of mappings, which are not made here."""
    done: list[tuple[str, ...]] = []
    open_: list[Mapping] = []

    def make_one(device: str, path: str, size: int, fd: int = -1) -> Mapping:
        mapping = Mapping(f"truezram-{device}-{len(done):08x}", device, "dm-0")
        done.append(("open", device, path, str(size)))
        open_.append(mapping)
        return mapping

    def end_one(mapping: Mapping) -> None:
        done.append(("close", mapping.label))
        open_.remove(mapping)

    def found(device: str = "", root: Path = Path("/")) -> list[Mapping]:
        return [item for item in open_ if device in ("", item.device)]

    monkeypatch.setattr(os, "geteuid", lambda: Path("/proc/self").stat().st_uid)
    monkeypatch.setattr(crypt, "need", lambda: None)
    monkeypatch.setattr(crypt, "open_mapping", make_one)
    monkeypatch.setattr(crypt, "close_mapping", end_one)
    monkeypatch.setattr(crypt, "mappings", found)
    monkeypatch.setattr(mappings, "mappings", found)
    monkeypatch.setattr(mappings, "_below", lambda disk, root: done[0][2])
    return done


@pytest.mark.skipif(os.geteuid() != 0, reason="only root encrypts")
class TestEncrypted:
    def test_from_creation_to_removal(self, fake: FakeServer, encrypted: list[tuple[str, ...]], tmp_path: Path) -> None:
        file = tmp_path / "f"
        made = create(local(file, backing_plain=False, backing_limit=8 * MIB))
        assert made.warnings == ()
        label = f"truezram-{made.name}-00000000"
        assert encrypted == [("open", made.name, str(file), str(8 * MIB))]
        assert requests(fake) == [f"backing=0:/dev/mapper/{label}"]
        assert file.read_bytes()[:4096] == crypt.NOTE.ljust(4096, b"\0")
        assert file.stat().st_size == 8 * MIB
        with Client() as client:
            device = client.device(made.entry)
            assert (device.backing, device.backing_path) == (str(file), f"/dev/mapper/{label}")
            assert as_json(device)["backing_file"]["encrypted"] is True
        removal.remove_entry(made.entry)
        assert encrypted[1:] == [("close", label)]
        assert file.stat().st_size == 0, "nothing of it is left"

    def test_when_the_server_refuses_it(
        self, fake: FakeServer, encrypted: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        fake.mode("no-backing")
        with pytest.raises(UsageError, match="it does not like that file"):
            create(local(tmp_path / "f", backing_plain=False))
        assert [what for what, *_ in encrypted] == ["open", "close"]
        assert not (tmp_path / "f").exists()

    def test_the_mapping_of_a_dead_one(
        self, fake: FakeServer, encrypted: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        made = create(local(tmp_path / "f", backing_plain=False))
        kill_server(made.entry)
        removal.remove_entry(made.entry)
        assert [what for what, *_ in encrypted] == ["open", "close"]
        assert (tmp_path / "f").stat().st_size == 0


class TestWhileItRuns:
    def test_set(self, fake: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        entry = make()
        one, two = tmp_path / "one", tmp_path / "two"
        assert main(["set", entry.name, f"backing=plain:{one}", "backing_daily=2G", "idle_backing=2d"]) == 0
        out = capsys.readouterr().out
        assert f"backing none -> plain:{one}" in out
        assert "idle_backing 20h -> 2d" in out
        assert requests(fake) == ["backing_daily=2147483648", "idle_backing=172800", f"backing={LOCAL.size}:{one}"]
        with Client() as client:
            # The same one again: the server tries once more.
            set_values(client, entry, {"backing": f"plain:{one}"})
            assert requests(fake)[-1] == requests(fake)[2]
            cold.watch_backing(client, cold.write_back(client, entry, 0, 100))
            assert client.device(entry).backed_pages == 7
            set_values(client, entry, {"backing": f"plain:{two}"})
            assert client.device(entry).backed_pages == 0
            assert requests(fake)[-2] == "backing=none"
            assert requests(fake)[-1].endswith(f":{two}")
            set_values(client, entry, {"backing": "none"})
            assert client.device(entry).backing == "none"

    def test_settings_are_in_force_before_it_is_used(self, fake: FakeServer, tmp_path: Path) -> None:
        """Those that a file in /etc/truezram has: no page goes there before the limits are known."""
        create(local(tmp_path / "f"), {"backing_daily": "4096", "backing_rate": "0"})
        assert requests(fake)[:2] == ["backing_daily=4096", "backing_rate=0"]
        assert requests(fake)[2].startswith("backing=")

    def test_nothing_is_left_of_a_device_whose_settings_are_refused(self, fake: FakeServer, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="unlucky"):
            create(local(tmp_path / "f"), {"mem_limit": str(13 * 4096)})
        assert not (tmp_path / "f").exists()
        with Client() as client:
            assert client.entries() == []

    def test_pages_that_find_no_room_stay(self, fake: FakeServer, tmp_path: Path) -> None:
        fake.mode("no-room")
        entry = make()
        with Client() as client:
            set_values(client, entry, {"backing": f"plain:{tmp_path}/f"})
            cold.write_back(client, entry, 0, 100)
            with pytest.raises(Failed, match=r"7 are still on plain:.*Free memory"):
                set_values(client, entry, {"backing": "none"})
            assert requests(fake)[-1] != "backing=none"

    def test_a_new_one_is_looked_at_before_the_old_one_is_given_up(self, fake: FakeServer, tmp_path: Path) -> None:
        entry = make()
        with Client() as client:
            set_values(client, entry, {"backing": f"plain:{tmp_path}/f"})
            with pytest.raises(UsageError, match="there is no folder"):
                set_values(client, entry, {"backing": "plain:/nonexistent/f"})
            assert requests(fake)[-1].endswith(f"{tmp_path}/f")

    def test_force_is_for_that(self, fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["set", make().name, "mem_limit=1G", "--force"]) == 2
        assert "--force is for backing=PATH" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("setting", "taken"),
        [
            ("backing_daily=none", "0"),
            ("backing_daily=1G", str(1 << 30)),
            ("backing_rate=16M/s", str(16 * MIB)),
            ("idle_backing=20h", "72000"),
            ("idle_backing=off", "0"),
        ],
    )
    def test_values(self, setting: str, taken: str) -> None:
        assert parse_settings([setting]) == {setting.partition("=")[0]: taken}


class TestWriteback:
    @pytest.fixture
    def entry(self, fake: FakeServer, tmp_path: Path) -> Entry:
        return create(local(tmp_path / "f")).entry

    def test_waiting(self, entry: Entry, fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["writeback", entry.name, "--idle", "2h", "--wait", "--json"]) == 0
        done = json.loads(capsys.readouterr().out)
        assert (done["schema"], done["back"], done["waited"]) == ("truezram.writeback/1", False, True)
        wanted = {"pages": 7, "freed_bytes": 700, "written_bytes": 8192, "pages_on_file": 7, "state": "ready"}
        assert {key: done[key] for key in wanted} == wanted
        assert (done["why"], done["stopped"]) == (None, False)
        assert f"op 11 [{7200 * 10**9}, 10, 0, 0] backing" in fake.received
        assert main(["writeback", entry.name, "--back", "--wait"]) == 0
        assert capsys.readouterr().out == f"{entry.name}: pages on the backing file: 7 came back to memory\n"
        assert "op 11 [0, 10, 0, 0] memory" in fake.received

    def test_not_waiting_and_stopping(self, entry: Entry, fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["writeback", entry.name, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["waited"] is False
        assert main(["writeback", entry.name, "--stop", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["stopped"] is False
        assert main(["writeback", entry.name, "--max-cpu", "101"]) == 2

    def test_what_is_said(self) -> None:
        done = WrittenBack(
            pages=5, freed=4096, written=8192, returned=0, on_file=5, used=8192, cpu_ns=2000, stopped=False,
            state="full", why="no room", before=9, after=8, seconds=1.0,
        )  # fmt: skip
        assert said(done, False) == "5 written (8K), which took 4K (2.0µs of CPU); ended early: no room"
        back = replace(done, returned=3, on_file=2, stopped=True)
        assert said(back, True) == "stopped: 3 came back to memory; 2 are still there"

    def test_why_it_has_ended(self, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
        with Client() as client:
            device = client.device(entry)
            monkeypatch.setattr("time.time", lambda: 86400.0 * 9)
            used_up = replace(device, backing_daily=100, backing_day=9, backing_day_bytes=100)
            assert cold._used_up(used_up) == "the 100B of today (backing_daily) are used up"
            assert cold._used_up(replace(used_up, backing_day=8)) == ""
            assert cold._used_up(replace(used_up, backing_daily=0)) == ""

    def test_the_command_that_does_the_same(self) -> None:
        assert WritebackOptions().words("x") == ["writeback", "x"]
        assert WritebackOptions("2h", 5, True).words("x") == [
            "writeback",
            "x",
            "--idle",
            "2h",
            "--max-cpu",
            "5",
            "--back",
        ]


BACKED = DeviceSnapshot(
    "ublkb0",
    "/dev/ublkb0",
    orig_data_size=100 * 4096,
    object_bytes=30000,
    kind_pages=(("lz4", 60), ("backing", 40)),
    kind_bytes=(("lz4", 30000),),
    backing="/var/x",
    backing_path="/dev/mapper/truezram-ublkb0-00000000",
    backing_state="failed",
    backing_text="No space left on device",
    backing_used=20000,
    backing_limit=1 << 30,
    backing_saved=25000,
    backing_daily=MIB,
)


class TestWhatIsShown:
    def test_tiers(self) -> None:
        assert [tuple(tier) for tier in BACKED.tiers] == [
            ("hot", 60, 30000, 0), ("dense", 0, 0, 0), ("cold", 0, 0, 0), ("backing", 40, 20000, 25000),
        ]  # fmt: skip
        assert len(replace(BACKED, backing_state="none").tiers) == 3

    def test_stat(self) -> None:
        found = dict(lines(BACKED))
        assert found["backing file"].startswith("failed: nothing is written to it any more")
        assert found["backing file"].endswith("(No space left on device)")
        assert found["  on it"] == "40 pages in 19.5K of 1G"
        document = as_json(BACKED)
        assert document["backing"] == "/var/x"
        assert document["backing_file"]["reason"] == "No space left on device"
        assert document["tiers"]["backing"] == {"pages": 40, "bytes": 20000, "saved_bytes": 25000}
        assert as_json(replace(BACKED, backing_state="none"))["backing_file"] is None


class TestMappings:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name, file in {
            "dm-1/dm/name": "truezram-ublkb1-0123abcd",
            "dm-1/slaves/loop3/x": "",
            "dm-2/dm/name": "truezram-ublkb11-0123abcd",
            "dm-2/slaves/sda3/x": "",
            "dm-3/dm/name": "truezram-ublkb1",
            "loop3/loop/backing_file": "/var/lib/a b",
        }.items():
            path = tmp_path / "sys/block" / name
            path.parent.mkdir(parents=True)
            path.write_text(f"{file}\n")
        return tmp_path

    def test_whose_they_are(self, root: Path) -> None:
        assert [item.disk for item in mappings.mappings(root=root)] == ["dm-1", "dm-2"]
        assert [item.disk for item in mappings.mappings("ublkb1", root)] == ["dm-1"]
        assert mappings.device_of("truezram-ublkb1-0123abcX") == ""

    def test_what_is_behind(self, root: Path) -> None:
        assert mappings.behind("/dev/mapper/truezram-ublkb1-0123abcd", root) == "/var/lib/a b"
        assert mappings.behind("/dev/mapper/truezram-ublkb11-0123abcd", root) == "/dev/sda3"
        assert mappings.behind("/dev/mapper/truezram-ublkb2-0123abcd", root) == ""
        assert mappings.describe("/dev/sda3") == "plain:/dev/sda3"
        assert mappings.describe("") == "none"
