"""What holds for every verb (an example that parses, light imports, errors as documented), and the verbs for scripts:
list's columns, stat's kernel files and --watch, find, reset, top. Devices are real ones with the local transport."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import HANG, FakeServer, end_servers, kill, servers

from truezram.cli import main
from truezram.cli.verbs import list_, stat
from truezram.engine import paths
from truezram.engine.device.client import Client, Entry
from truezram.engine.device.create import CreateOptions, create
from truezram.engine.device.local import LocalDevice
from truezram.engine.errors import TruezramError, UsageError
from truezram.engine.machine import zram
from truezram.engine.model import DeviceSnapshot
from truezram.engine.units import PAGE

OPTIONS = CreateOptions(size=64 << 20, algorithm="zstd:5", mem_limit=32 << 20, transport="local")


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr)."""
    code = main.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def real(run_dir: Path) -> Iterator[Entry]:
    """A device of the real server. Whatever a test does, nothing is left running or mounted."""
    try:
        paths.server_path()
    except TruezramError as missing:
        pytest.skip(str(missing))
    try:
        yield create(OPTIONS).entry
    finally:
        end_servers(run_dir)


# --- every verb

COMMANDS = tuple(main.verb_names())
APP_AND_GRAPHS = ("textual", "rich", "plotext", "textual_plotext", "truezram.app")
"""What no verb imports unless it shows the app."""
ON_DEMAND = (
    "asyncio", "ctypes", "decimal", "email", "fractions", "http", "logging", "lz4", "prometheus_client",
    "truezram.engine.measure", "typing_extensions", "urllib.request", "wsgiref", "zstandard",
)  # fmt: skip
"""What none imports before it is used: to build its parser, to print its help."""


def loaded(code: str) -> set[str]:
    """The modules that a fresh Python has after that."""
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-P", "-c", script]
    # Measured (.ci/quality.py), it would have the modules of coverage as well.
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(command, env=unmeasured, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def heavy(modules: set[str]) -> list[str]:
    bad = APP_AND_GRAPHS + ON_DEMAND
    return sorted(name for name in modules if any(name == word or name.startswith(word + ".") for word in bad))


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_imports_little(verb: str) -> None:
    code = f"from truezram.cli.main import main\ntry: main([{verb!r}, '--help'])\nexcept SystemExit: pass"
    assert heavy(loaded(code)) == []


def test_the_engine_imports_little() -> None:
    assert heavy(loaded("import truezram.engine, truezram")) == []


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_example_is_a_command_line(verb: str) -> None:
    """It parses, it is of that verb, and help, manual and docs show it."""
    example = main.load(main.verb_names()[verb]).EXAMPLE
    words = shlex.split(example.replace("$(truezram find)", "0"))
    words = words[1:] if words[0] == "sudo" else words
    words = words[: words.index("|")] if "|" in words else words
    assert words[:2] in (["truezram", verb], ["truezram", "create"])
    main.build_parser().parse_args(words[1:])
    (sub,) = [a for a in main.build_parser(verb)._actions if a.dest == "verb"]
    assert isinstance(sub.choices, dict)
    assert f"Example: `{example}`" in sub.choices[verb].format_help().replace("\n", " ")


WRONG: dict[str, tuple[list[str], int]] = {
    "benchmark": (["codec", "--algorithm", "gzip"], 2),
    "boot": (["start"], 2),
    "check": (["local77"], 1),
    "compact": (["local77"], 1),
    "completions": (["tcsh"], 2),
    "config": (["default", "ublkb0"], 2),
    "create": (["--size", "0"], 2),
    "demo": (["--seconds", "-1"], 2),
    "disable": (["local77"], 2),
    "doctor": (["--what"], 2),
    "entropy": (["/nowhere/at/all"], 1),
    "enable": (["local77"], 2),
    "estimate": (["--pid", "99999999"], 1),
    "events": (["--since", "yesterday"], 2),
    "export": (["--listen", "here"], 2),
    "find": (["--transport", "iscsi"], 2),
    "idle": (["local77"], 1),
    "list": (["--columns", "NAME,NOISE"], 2),
    "man": (["--what"], 2),
    "recompress": (["local77"], 1),
    "recover": (["local77"], 1),
    "remove": (["local77"], 1),
    "reset": (["local77"], 1),
    "set": (["local77", "mem_limit=1G"], 1),
    "setup": (["--use", "lz4"], 2),
    "stat": (["--watch", "soon"], 2),
    "top": (["local77"], 1),
    "train": (["--size", "0", "/nowhere/dictionary"], 2),
    "tune": (["nonsense"], 2),
    "upgrade": (["local77"], 1),
    "writeback": (["local77"], 1),
}
"""For each verb, arguments that are wrong, and the exit code."""


@pytest.mark.parametrize("verb", COMMANDS)
def test_errors_are_one_line_and_a_document(run_dir: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """What, why and what to do, on stderr; with --json, before or behind the verb, an object on stdout as well."""
    assert verb in WRONG, "a new verb: give it a line in WRONG"
    argv, expected = WRONG[verb]
    code, out, err = call(capsys, verb, *argv)
    assert (code, out) == (expected, "")
    assert err.startswith("truezram: ")
    assert err.count("\n") == 1
    code, out, again = call(capsys, "--json", verb, *argv)
    assert (code, again) == (expected, err) or "--json" in argv
    document = json.loads(out)
    assert (document["schema"], document["exit_code"]) == ("truezram.error/1", expected)
    error = document["error"]
    assert all(isinstance(error[key], str) for key in ("what", "why", "remedy"))
    assert error["what"]
    assert error["what"] in again
    assert not run_dir.exists()


# --- list

DEVICE = DeviceSnapshot(
    name="ublkb0", path="/dev/ublkb0", algorithm="lz4", disksize=1 << 30, orig_data_size=8 << 20,
    compr_data_size=3 << 20, mem_used_total=4 << 20, mem_used_max=5 << 20, same_pages=7, pages_compacted=9,
    nr_queues=2, mountpoints=("/mnt/a b",), swap_priority=5,
)  # fmt: skip
ZRAMCTL = ("NAME", "DISKSIZE", "DATA", "COMPR", "ALGORITHM", "STREAMS", "ZERO-PAGES", "TOTAL", "MEM-LIMIT", "MEM-USED",
           "MIGRATED", "COMP-RATIO", "MOUNTPOINT")  # fmt: skip


def show(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What `list` prints of `DEVICE` and of one that is unreadable."""
    args = main.build_parser("list").parse_args(["list", *argv])
    devices = [DEVICE, DeviceSnapshot(name="ublkb1", path="/dev/ublkb1", state="unreadable")]
    list_._print(args, devices, list_.choose(args.columns, args.output_all))
    return capsys.readouterr().out


def test_columns_are_zramctls(capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys, "--raw", "--bytes", "-n", "--output", ",".join(ZRAMCTL).lower())
    assert out.splitlines() == [
        r"ublkb0 1073741824 8388608 3145728 lz4 2 7 4194304 - 5242880 9 2.00 /mnt/a\x20b,[SWAP]",
        "ublkb1 - - - - - - - - - - - -",
    ]
    assert show(capsys, "--columns", "DATA,NAME").splitlines()[:2] == ["DATA  NAME", "  8M  ublkb0"]
    assert show(capsys, "--columns", "+migrated").splitlines()[0].split()[-1] == "MIGRATED"
    assert show(capsys, "--output-all").split("\n")[0].split() == [column.title for column in list_.COLUMNS]
    assert set(ZRAMCTL) < {column.title for column in list_.COLUMNS}


def test_columns_have_their_fields() -> None:
    document = list_.as_json(DEVICE)
    for column in list_.COLUMNS:
        assert document.keys() >= set(column.fields), column.title


def test_json_has_the_chosen_columns(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    create(replace(OPTIONS, id=3))
    code, out, _ = call(capsys, "list", "--columns", "NAME,DISKSIZE,MOUNTPOINT", "--json")
    expected = {"name": "local3", "disksize": 64 << 20, "mountpoints": [], "swap_priority": None}
    assert (code, json.loads(out)["devices"]) == (0, [expected])


def test_nothing_to_list_is_nothing_for_a_script(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "list", "--raw") == (0, "", "")
    assert call(capsys, "list", "--noheadings") == (0, "", "")


# --- stat

KERNEL = {
    "mm_stat": ("orig_data_size compr_data_size mem_used_total mem_limit mem_used_max same_pages pages_compacted"
                " huge_pages huge_pages_since"),
    "io_stat": "failed_reads failed_writes invalid_io notify_free",
    "bd_stat": "bd_count bd_reads bd_writes",
}  # fmt: skip
"""The fields in Documentation/admin-guide/blockdev/zram.rst, in their order."""


@pytest.mark.parametrize("file", KERNEL)
def test_kernel_files(real: Entry, capsys: pytest.CaptureFixture[str], file: str) -> None:
    with LocalDevice(real) as device:
        device.write(0, b"text " * PAGE + bytes(PAGE))
        device.discard(1)
    option = f"--{file.replace('_', '-')}"
    code, out, _ = call(capsys, "stat", real.name, option)
    names = KERNEL[file].split()
    with Client() as client:
        now = client.device(real)
    found = dict(zip(names, map(int, out.split()), strict=True))
    assert (code, len(out.splitlines())) == (0, 1)
    assert found == {name: {**stat.mm_stat(now), **stat.io_stat(now)}.get(name, 0) for name in names}
    if file == "mm_stat":
        assert found["orig_data_size"] == 5 * PAGE
        assert found["mem_limit"] == 32 << 20
    assert json.loads(call(capsys, "stat", option, "--json")[1])["devices"] == [{"name": real.name, file: found}]


def test_kernel_files_of_kernel_zram(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own numbers, however many this kernel has; without the file it is an error, not zeros."""
    folder = tmp_path / "sys/block/zram0"
    folder.mkdir(parents=True)
    (folder / "mm_stat").write_text("  409600  100000  131072  0  262144  5  2\n")
    statistics = zram.statistics
    monkeypatch.setattr(zram, "statistics", lambda name, file: statistics(name, file, tmp_path))
    device = DeviceSnapshot(name="zram0", path="/dev/zram0", kind="zram")
    names = KERNEL["mm_stat"].split()[:7]
    expected = dict(zip(names, (409600, 100000, 131072, 0, 262144, 5, 2), strict=True))
    assert stat.kernel_file(device, "mm_stat") == expected
    with pytest.raises(TruezramError, match="no such file"):
        stat.kernel_file(device, "bd_stat")
    with pytest.raises(TruezramError, match="no block device"):
        stat.kernel_file(replace(device, name="zswap", kind="zswap"), "mm_stat")


def test_watch_goes_on_until_it_is_interrupted(fake: FakeServer) -> None:
    create(replace(OPTIONS, id=3))
    command = [sys.executable, "-P", "-m", "truezram", "stat", "local3", "--watch", "0.05", "--json", "--mm-stat"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        documents = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=HANG)
    documents += [json.loads(line) for line in rest.splitlines()]
    assert (process.returncode, err) == (130, "truezram: interrupted\n")
    assert {document["schema"] for document in documents} == {"truezram.stat/2"}
    times = [document["time"] for document in documents]
    assert all(after - before >= 0.04 for before, after in zip(times, times[2:], strict=False))
    assert documents[0]["devices"][0]["name"] == "local3"


def test_a_watched_device_that_goes(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    create(replace(OPTIONS, id=3))
    command = [sys.executable, "-P", "-m", "truezram", "stat", "local3", "--watch", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert main.main(["remove", "local3"]) == 0
        _, err = process.communicate(timeout=HANG)
    assert process.returncode == 1
    assert "no device local3" in err


@pytest.mark.parametrize("text", ["0", "-1", "2d", "soon", "local0", "nan"])
def test_wrong_intervals(text: str) -> None:
    with pytest.raises(UsageError, match="invalid interval"):
        main.build_parser().parse_args(["stat", f"--watch={text}"])


# --- find


def test_find(fake: FakeServer, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = ("find", "--transport", "local")
    assert call(capsys, *local) == (0, "0\n", "")
    assert not run_dir.exists()
    for number in (0, 1, 3):
        create(replace(OPTIONS, id=number))
    assert call(capsys, *local)[1] == "2\n"
    (run_dir / "local2.stats").touch()  # whatever it is: create would not take that number
    assert call(capsys, *local)[1] == "4\n"
    document = json.loads(call(capsys, *local, "--json")[1])
    assert document == {
        "schema": "truezram.find/1", "id": 4, "name": "local4", "path": "local:4", "transport": "local"
    }  # fmt: skip
    create(replace(OPTIONS, id=4))


# --- reset


def fill(entry: Entry, pages: int = 2000) -> None:
    with LocalDevice(entry) as device:
        device.write(0, os.urandom(pages * PAGE))


def test_reset_empties_and_keeps_the_rest(real: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    fill(real)
    with Client() as client:
        before = client.device(real)
    code, out, err = call(capsys, "reset", real.name, "--json")
    with Client() as client:
        after = client.device(real)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["orig_data_size"] == {"before": 2000 * PAGE, "after": 0}
    assert document["mem_used_total"] == {"before": before.mem_used_total, "after": after.mem_used_total}
    assert after.mem_used_total < before.mem_used_total - 1999 * PAGE
    assert after.compr_data_size == after.orig_data_size == 0
    for name in ("name", "pid", "created", "disksize", "algorithm", "mem_limit", "policy", "dedup", "nr_queues"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.total.pages_written == before.total.pages_written
    with LocalDevice(real) as device:
        assert device.read(0, 2000) == bytes(2000 * PAGE)
    assert call(capsys, "reset", real.name)[0] == 0


def interrupted(*argv: str, at: int) -> tuple[int, str, int]:
    """(exit code, stderr, calls of functions): the verb, which gets a SIGINT at that call of a function."""
    script = f"""
import os, signal, sys
from truezram.cli import main
calls, run = 0, main.run
def count(frame, event, arg):
    global calls
    calls += event == "call"
    if calls == {at} and event == "call":
        os.kill(os.getpid(), signal.SIGINT)
def counted(argv):
    sys.setprofile(count)
    try:
        return run(argv)
    finally:
        sys.setprofile(None)
main.run = counted
code = main.main()
print(calls)
sys.exit(code)
"""
    command = [sys.executable, "-P", "-c", script, *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)
    return done.returncode, done.stderr, int(done.stdout.split()[-1])


@pytest.mark.parametrize(
    "verb",
    [
        ["list", "--output-all"],
        ["stat", "--mm-stat"],
        ["find", "--transport", "local"],
        ["entropy", "{file}", "--algorithm", "lz4"],
        ["events"],
        ["export", "--textfile", "{folder}/new.prom"],
    ],
    ids=lambda verb: verb[0],
)
def test_an_interrupt_at_any_point(fake: FakeServer, tmp_path: Path, verb: list[str]) -> None:
    """130 and one line, or it was done already; nothing is left, and no traceback."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "file").write_bytes(b"text " * 10000)
    argv = [word.format(file=tmp_path / "file", folder=folder) for word in verb]
    code, err, calls = interrupted(*argv, at=0)
    assert (code, err) == (0, "")
    made = {path.name for path in folder.iterdir()}
    for part in range(1, 8):
        for path in folder.iterdir():
            path.unlink()
        code, err, _ = interrupted(*argv, at=calls * part // 8)
        assert (code, err) == (130, "truezram: interrupted\n")
        assert {path.name for path in folder.iterdir()} <= made


def test_an_interrupt_in_a_destructor_is_not_lost() -> None:
    script = f"""
import os, signal, sys, time
from truezram.cli import main
class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(10))
def run(argv):
    Ends()
    time.sleep({HANG})
main.run = run
sys.exit(main.main())
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, timeout=HANG, check=False
    )
    assert (done.returncode, done.stderr) == (130, "truezram: interrupted\n")


def test_an_interrupted_reset_can_be_done_again(real: Entry) -> None:
    fill(real, 100)
    code, err, calls = interrupted("reset", real.name, at=0)
    assert (code, err) == (0, "")
    ended = set()
    early, late = (calls * part // 5 for part in range(1, 5)), (calls - 3 * 2**back for back in range(9))
    for at in (*early, *late):
        fill(real, 100)
        code, err, _ = interrupted("reset", real.name, at=at)
        assert code == 130
        assert err.endswith("truezram: interrupted\n")
        assert "Traceback" not in err
        with Client() as client:
            device = client.device(real)
            assert (device.state, device.algorithm, device.mem_limit) == ("live", "zstd:5", 32 << 20)
            ended.add(device.orig_data_size)
            client.ping(real)
    assert ended == {0, 100 * PAGE}, "it was interrupted only before, or only after the work"
    assert interrupted("reset", real.name, at=0)[:2] == (0, "")


def test_reset_of_what_cannot_be(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    entry = create(replace(OPTIONS, id=3)).entry
    kill(servers(entry.directory)[0])
    code, _, err = call(capsys, "reset", "local3")
    assert code == 1
    assert "cannot reset local3: it is dead" in err
    code, _, err = call(capsys, "reset", "zram0")
    assert code == 3
    assert "zramctl" in err


# --- top


def test_top_as_json(fake: FakeServer) -> None:
    create(replace(OPTIONS, id=3))
    command = [sys.executable, "-P", "-m", "truezram", "top", "local3", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=HANG)
    assert process.returncode == 130
    assert (document["schema"], document["device"]["name"]) == ("truezram.top/1", "local3")


def test_top_opens_the_app_on_the_device(fake: FakeServer) -> None:
    create(replace(OPTIONS, id=3))
    create(replace(OPTIONS, id=4))
    code = (
        "import sys, types; app = types.ModuleType('truezram.app.main');"
        "app.run = lambda record, replay, device: print('the app', record, replay, device) or 7;"
        "sys.modules['truezram.app.main'] = app; from truezram.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for argv, said, expected in (
        (["top", "local4"], b"the app None None local4", 7),
        (["top", "9"], b"no device 9", 1),
        (["top", "--no-tui"], b"unrecognized", 2),
        (["--no-tui", "top"], b"needs a terminal", 2),
    ):
        leader, follower = pty.openpty()
        env = {**os.environ, "TERM": "xterm"}
        process = subprocess.Popen([sys.executable, "-P", "-c", code, *argv], stdout=follower, stderr=follower, env=env)
        os.close(follower)
        assert process.wait(HANG) == expected
        assert said in os.read(leader, 4096)
        os.close(leader)
