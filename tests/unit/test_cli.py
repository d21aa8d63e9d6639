"""The command line as a script sees it: output, JSON, exit codes, and what it costs to start."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import HANG, FakeServer, cost, make, wait_until

import truezram
from truezram._native import lib
from truezram.cli import main, verbs
from truezram.cli.output import Column, format_table
from truezram.codec import default_algorithm
from truezram.engine import errors, paths
from truezram.engine.device import control
from truezram.engine.errors import TruezramError, UsageError
from truezram.engine.machine import procfs
from truezram.engine.machine.users import Mounts
from truezram.engine.model import MEMORY, MachineSnapshot


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    code = main.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def call_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, object]]:
    code, out, _ = call(capsys, *argv)
    return code, json.loads(out)


def test_a_life(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "create", "--size", "1.5GiB", "--transport", "local", "--algorithm", "zstd:3")
    assert (code, out, err) == (0, "local:0\n", "")
    code, out, _ = call(capsys, "list")
    header, line = out.splitlines()
    assert header.split()[:6] == ["NAME", "TYPE", "STATE", "ALGORITHM", "DISKSIZE", "DATA"]
    assert line.split()[:6] == ["local0", "local", "live", "zstd:3", "1.5G", "7.8M"]
    assert header.index("TOTAL") + 5 == line.index("1M") + 2
    code, out, _ = call(capsys, "stat", "local:0")
    assert code == 0
    assert "transport local: no node in /dev" in out
    assert "orig_data_size    7.8M" in out
    code, out, _ = call(capsys, "set", "0", "mem_limit=1G", "algorithm=lz4")
    assert (code, out) == (0, "local0: mem_limit none -> 1G\nlocal0: algorithm zstd:3 -> lz4\n")
    code, out, _ = call(capsys, "remove", "local0")
    assert (code, out) == (0, "removed local0\n")
    code, out, _ = call(capsys, "list")
    assert out.startswith("No compressed device.")


def test_a_life_in_json(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, made = call_json(capsys, "create", "--size", "1G", "--transport", "local", "--id", "5", "--json")
    assert code == 0
    assert made == {
        "schema": "truezram.create/1",
        "name": "local5",
        "path": "local:5",
        "transport": "local",
        "id": 5,
        "disksize": 1 << 30,
        "warnings": [],
        "algorithm": default_algorithm(),
        "dictionary": None,
        "dedup": False,
        "policy": "balanced",
        "mode": "balanced",
        "backing": None,
        "backing_encrypted": False,
        "mem_limit": 0,
        "swap": False,
        "priority": None,
        "fs": None,
        "mount": None,
        "enabled": False,
    }
    for argv in (["list", "--json"], ["--json", "list"], ["--json"], ["--no-tui", "--json", "list"]):
        code, found = call_json(capsys, *argv)
        assert found["schema"] == "truezram.list/1"
        assert [item["name"] for item in found["devices"]] == ["local5"]  # type: ignore[index, attr-defined]
    code, found = call_json(capsys, "stat", "5", "--json")
    device = found["devices"][0]  # type: ignore[index]
    assert found["schema"] == "truezram.stat/2"
    assert list(device["memory"]) == [part.key for part in MEMORY] + ["reserve_target"]
    assert list(device["mm_stat"]) == [
        "orig_data_size",
        "compr_data_size",
        "mem_used_total",
        "mem_limit",
        "mem_used_max",
        "same_pages",
        "pages_compacted",
        "huge_pages",
        "huge_pages_since",
    ]
    assert list(device["io_stat"])[:4] == ["failed_reads", "failed_writes", "invalid_io", "notify_free"]
    assert device["mm_stat"]["orig_data_size"] == 2000 * 4096
    assert [queue["num_writes"] for queue in device["queues"]] == [10, 20]
    assert device["write_latency"]["requests"] == 30
    code, found = call_json(capsys, "set", "5", "mem_limit=1M", "--json")
    assert found["changed"] == {"mem_limit": {"before": 0, "after": 1 << 20}}
    code, found = call_json(capsys, "remove", "5", "--json")
    assert found["removed"] == [{"name": "local5", "path": "local:5", "swapped_back": 0, "lost": []}]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["nonsense"], 2, "invalid choice"),
        (["create"], 2, "--size"),
        (["create", "--size", "0"], 2, "zero"),
        (["create", "--size", "-1G"], 2, "expected one argument|negative"),
        (["create", "--size=-1G"], 2, "negative"),
        (["create", "--size", "5P"], 2, "2^52"),
        (["create", "--size", "1.3G"], 2, "whole number of bytes"),
        (["create", "--size", "5000"], 2, "multiple of the 4096-byte page"),
        (["create", "--size", "1G", "--mem-limit", "0"], 2, "zero"),
        (["create", "--size", "1G", "--id", "1.5"], 2, "whole number"),
        (["create", "--size", "1G", "--id=-1"], 2, "id is -1"),
        (["create", "--size", "1G", "--queues", "0"], 2, "queues is 0"),
        (["create", "--size", "1G", "--queues", "٣"], 2, "whole number"),
        (["create", "--size", "1G", "--algorithm", "gzip"], 2, "Choose one of"),
        (["create", "--size", "1G", "--algorithm", "zstd:20"], 2, "-7 to 19"),
        (["create", "--size", "1G", "--algorithm", "zstd:-8"], 2, "-7 to 19"),
        (["create", "--size", "1G", "--algorithm", "zstd:x"], 2, "whole number"),
        (["create", "--size", "1G", "--algorithm", "zstd:"], 2, "whole number"),
        (["create", "--size", "1G", "--algorithm", "lz4:3"], 2, "no levels"),
        (["create", "--size", "1G", "--transport", "iscsi"], 2, "invalid choice"),
        (["create", "--size", "1G", "--swap", "--transport", "nbd"], 2, "only swapping may free"),
        (["create", "--size", "1G", "--priority", "5"], 2, "--swap"),
        (["create", "--size", "1G", "--swap", "--transport", "local"], 2, "local"),
        (["create", "--siz", "1G"], 2, "--size"),
        (["list", "extra"], 2, "unrecognized"),
        (["--replay", "x"], 2, "needs a terminal"),
        (["--record", "x", "list"], 2, "only the app does that, not `list`"),
        (["stat", "local7"], 1, "no device local7"),
        (["stat", "sda"], 2, "not a device name"),
        (["set", "0"], 2, "required"),
        (["set", "0", "mem_limit=1G"], 1, "no device 0"),
        (["remove"], 2, "required"),
        (["remove", "0"], 1, "no device 0"),
        (["remove", "zram0"], 3, "zramctl"),
        (["set", "zswap", "mem_limit=1G"], 3, "truezram tune"),
        (["demo", "--threads", "0"], 2, "threads"),
        (["demo", "--seconds", "-1"], 2, "between 0"),
        (["demo", "--seconds", "nan"], 2, "between 0"),
        (["demo", "--device", "0", "--size", "1G"], 2, "takes no --size"),
        (["demo", "--device", "0", "--seconds", "1"], 1, "no device 0"),
    ],
)
def test_bad_input(
    fake: FakeServer, run_dir: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, words: str
) -> None:
    found, out, err = call(capsys, *argv)
    assert found == code
    assert any(part in err for part in words.split("|"))
    assert err.startswith("truezram: ")
    assert "Traceback" not in err
    assert out == ""
    found, document = call_json(capsys, *argv, "--json")
    assert found == code == document["exit_code"]
    assert document["schema"] == "truezram.error/1"
    error = document["error"]
    assert isinstance(error, dict)
    assert set(error) == {"what", "why", "remedy"}
    assert fake.received == []
    assert not run_dir.exists()


def test_remove_checks_all_names_first(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "create", "--size", "1G", "--transport", "local")
    assert call(capsys, "remove", "local0", "local9")[0] == 1
    assert not [line for line in fake.received if line.startswith("op 3")]
    assert call(capsys, "remove", "local0", "0", "local:0")[0] == 0


def test_exit_codes_of_errors() -> None:
    codes = {kind.__name__: kind.exit_code for kind in TruezramError.__subclasses__()}
    assert codes.items() >= {"Failed": 1, "UsageError": 2, "PermissionDenied": 3, "Unsupported": 3, "Busy": 4}.items()
    assert str(errors.Busy("cannot", "in use", "Wait")) == "cannot: in use. Wait."
    assert str(errors.Failed("cannot")) == "cannot."
    assert control._ERRORS[lib.TZ_E_PERMISSION] is errors.PermissionDenied
    assert type(errors.from_exit_code(3, "a", "b")) is errors.Unsupported


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["--version"], *([name, "--help"] for name in main.verb_names())):
        with pytest.raises(SystemExit) as caught:
            main.main(argv)
        assert caught.value.code == 0
        out = capsys.readouterr().out
        assert out
        assert all(len(line) <= 120 for line in out.splitlines())
    main.build_parser()


def test_the_version_is_written_once() -> None:
    """In meson.build: the package, its metadata and the server have it from there."""
    project = (Path(__file__).parents[2] / "meson.build").read_text()
    version = re.search(r"^project\('truezram', version: '([^']+)'", project, re.MULTILINE)
    assert version
    server = subprocess.run([paths.server_path(), "--version"], capture_output=True, text=True, check=True)
    assert server.stdout == f"truezramd {version[1]}\n"
    assert truezram.__version__ == metadata.version("truezram") == version[1]


def test_every_verb_is_complete() -> None:
    assert {"create", "list", "stat", "set", "remove", "demo"} <= set(main.verb_names())
    for name, module in main.verb_names().items():
        verb = main.load(module)
        assert name == verb.NAME
        assert verb.HELP[0].islower()
        assert verb.HELP[-1] != "."
        assert verb.__doc__


def script(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
    """The program, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "truezram", *argv],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        **options,
    )  # type: ignore[call-overload, no-any-return]


def test_a_reader_that_goes_away(fake: FakeServer) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "truezram", "list"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (errors.EXIT_BROKEN_PIPE, "")


def test_a_full_disk_behind_stdout(fake: FakeServer) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-P", "-m", "truezram", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupt(fake: FakeServer, run_dir: Path) -> None:
    fake.mode("hang")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "truezram", "create", "--size", "1G", "--transport", "local"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: bool(fake.received))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANG)
    assert (process.returncode, out, err) == (130, "", "truezram: interrupted\n")
    assert not list(run_dir.glob("*.stats"))


def test_without_a_terminal_it_lists(fake: FakeServer) -> None:
    make(id=7)
    done = script()
    assert done.returncode == 0
    assert "local7" in [line.split()[0] for line in done.stdout.splitlines()]


def test_with_a_terminal_it_is_the_app(fake: FakeServer, tmp_path: Path) -> None:
    make(id=7)
    code = (
        "import sys, types; app = types.ModuleType('truezram.app.main');"
        "app.run = lambda record, replay, device: print('the app', record, replay, device) or 7;"
        "sys.modules['truezram.app.main'] = app; from truezram.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for term, argv, text, exit_code in (
        ("xterm", [], b"the app None None \r\n", 7),
        ("xterm", ["--record", "/tmp/x"], b"the app /tmp/x None \r\n", 7),
        ("xterm", ["--no-tui"], b"local7", 0),
        ("xterm", ["list"], b"local7", 0),
        # A terminal that cannot place text.
        ("dumb", [], b"local7", 0),
        ("dumb", ["--record", "/tmp/x"], b"needs a terminal", 2),
    ):
        leader, follower = pty.openpty()
        env = {**os.environ, "TERM": term}
        process = subprocess.Popen([sys.executable, "-P", "-c", code, *argv], stdout=follower, stderr=follower, env=env)
        os.close(follower)
        assert process.wait(HANG) == exit_code
        assert text in os.read(leader, 4096)
        os.close(leader)


def test_list_is_quick_and_light(fake: FakeServer) -> None:
    code = "import sys; from truezram.cli.main import main; main(['list']); print(*sys.modules, file=sys.stderr)"
    # Measured (.ci/quality.py), it would have the modules of coverage as well.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=unmeasured, capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert "truezram.engine.device.client" in modules
    heavy = {"textual", "rich", "plotext", "asyncio", "zstandard", "lz4", "ctypes", "decimal", "logging", "email"}
    heavy |= {"truezram.engine.device.create", "truezram.engine.device.server"}
    assert not modules & heavy
    assert not [name for name in modules if name.startswith("truezram.app")]


def test_verbs_are_found_by_their_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "frobnicate_.py").write_text(
        "NAME = 'frobnicate'\nHELP = 'frob'\nEXAMPLE = 'truezram frobnicate'\n"
        "def add_arguments(parser): pass\ndef run(args): return 5\n"
    )
    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path)])
    assert main.main(["frobnicate"]) == 5
    assert next(iter(main.verb_names())) == "create"


# --- tables

COLUMNS = (Column("NAME"), Column("SIZE", right=True, keep=1), Column("NOTE", keep=2))


def test_tables_align_and_never_cut() -> None:
    rows = [["a", "1", "x"], ["longer", "12345", ""]]
    assert format_table(COLUMNS, rows) == "NAME     SIZE  NOTE\na           1  x\nlonger  12345"
    narrow = format_table(COLUMNS, rows, 14)
    assert narrow == "NAME     SIZE\na           1\nlonger  12345\n(not shown, the terminal is too narrow: NOTE)"
    assert "longer" in format_table(COLUMNS, rows, 1)
    assert format_table(COLUMNS, []) == "NAME  SIZE  NOTE"


# --- mounts


def test_mounts_are_those_of_this_machine() -> None:
    mounts = Mounts()
    try:
        table = mounts.table()
        assert [mount.kind for _, mount in table if mount.point == "/proc"][:1] == ["proc"]
        with open("/proc/self/mountinfo") as file:  # noqa: PTH123
            assert len(table) == len(file.readlines())
        assert mounts.of("ublkb77", ()) == ()
        # Unchanged: the parsed table is used again.
        assert mounts.table() is table
    finally:
        mounts.close()


def test_octal_in_mount_points() -> None:
    assert procfs.unescape(r"/mnt/a\040b\134c") == r"/mnt/a b\c"


def test_snapshot_is_cheap(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 devices at 4 Hz within 1 % of a CPU is 2.5 ms a time, 12 of `cost`'s units; it takes 6. (The machine's own
    figures are measured elsewhere.)"""
    from truezram.engine.device.client import Client
    from truezram.engine.device.create import CreateOptions, create

    for _ in range(8):
        create(CreateOptions(1 << 30, "lz4", transport="local"))
    machine = MachineSnapshot()
    monkeypatch.setattr(procfs, "machine", lambda: machine)
    with Client() as client:
        assert len(client.snapshot().devices) == 8
        assert cost(client.snapshot) < 9


def test_parser_errors_are_usage_errors() -> None:
    with pytest.raises(UsageError):
        main.build_parser().parse_args(["list", "--no-such-option"])


def test_ctrl_c_again_and_again() -> None:
    """Whoever is in a hurry gets the same last words and exit code."""
    script = """
import sys, time
from truezram.cli import main
main.run = lambda argv: (print("ready", flush=True), time.sleep(100))
sys.exit(main.main())
"""
    for times in range(1, 13):
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(times):
                process.send_signal(signal.SIGINT)
                time.sleep(times * 0.0002)
            _, said = process.communicate()
        assert (process.returncode, said) == (130, "truezram: interrupted\n")
    # One that comes in the midst of being ignored: Python has a word on that, which nobody needs to read.
    main._lost(SimpleNamespace(exc_value=OSError("Signal 2 ignored due to race condition")))
