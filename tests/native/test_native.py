"""Builds the native tests with meson, in a folder of their own, and runs them.

Marked `slow` (pytest -m slow tests/native), as they take minutes of both cores: with this machine's compiler (gcc on
Debian) and with clang, under ASan and UBSan, under ThreadSanitizer, as aarch64 code under qemu-user, and the fuzzers
(TRUEZRAM_FUZZ_RUNS inputs each, default below). The work of each is an amount, not a time: the limits of time here only
end what hangs.

What a build needs and this machine lacks is a skip; with CI set it is a failure.

Of two workers the first begins with the first four tests, the second with the others: half of the time each, on the
machines that CI has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANITIZE = "-Db_sanitize=address,undefined"
HANG = 3600
"""Seconds after which something hangs, on however busy a machine."""
slow = pytest.mark.slow
# gcc's ASan with detect_stack_use_after_return puts variables of 64-byte alignment at other addresses (gcc bug 110027),
# so only clang's, in the fuzzer, looks for that.
SANITIZER_ENV = {
    "ASAN_OPTIONS": "abort_on_error=1",
    "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
}
FUZZERS = sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.c"))
FUZZ_RUNS = 20000
FEWER_RUNS = {"check": 5000}
"""Of a fuzzer whose inputs take 20 ms each."""


def need(*tools: str) -> None:
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI is set, and these are not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=HANG,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout[-8000:]}"
    return done.stdout


def set_up(folder: Path, *options: str | Path, env: dict[str, str] | None = None) -> None:
    need("meson", "ninja")
    run("meson", "setup", folder, "-Dpython=false", "-Dnative_tests=true", "-Dwerror=true", *options, env=env)


def build(folder: Path, *options: str | Path, env: dict[str, str] | None = None) -> Path:
    set_up(folder, *options, env=env)
    run("meson", "compile", "-C", folder)
    return folder


def run_tests(folder: Path, *options: str, env: dict[str, str] | None = None, least: int = 7) -> None:
    """Runs the tests that were built; `least` of them must have passed, and none failed."""
    output = run("meson", "test", "-C", folder, "--print-errorlogs", "--no-rebuild", *options, env=env)
    passed = re.search(r"^Ok:\s+(\d+)", output, re.MULTILINE)
    assert passed, output
    assert int(passed[1]) >= least, output


@slow
def test_native_aarch64(tmp_path: Path) -> None:
    """NEON and the ARMv8 CRC instructions, compiled for another machine and run under emulation."""
    need("aarch64-linux-gnu-gcc", "qemu-aarch64-static")
    cross = tmp_path / "aarch64.ini"
    cross.write_text(
        "[binaries]\nc = 'aarch64-linux-gnu-gcc'\nar = 'aarch64-linux-gnu-ar'\nstrip = 'aarch64-linux-gnu-strip'\n"
        "exe_wrapper = ['qemu-aarch64-static', '-cpu', 'max', '-L', '/usr/aarch64-linux-gnu']\n"
        "[host_machine]\nsystem = 'linux'\ncpu_family = 'aarch64'\ncpu = 'aarch64'\nendian = 'little'\n"
    )
    folder = build(tmp_path / "build", "--cross-file", cross)
    run_tests(folder, env={"TRUEZRAM_TEST_WITHOUT": "zstd", "TRUEZRAM_TEST_EMULATED": "1"})


@slow
def test_native_threads(tmp_path: Path) -> None:
    """The tests that start threads, under ThreadSanitizer. (clang's: gcc's warns of every fence.)

    It wants its shadow memory where the kernel may have put the program ("unexpected memory mapping", where
    vm.mmap_rnd_bits is high), hence without randomized addresses. In a container that forbids switching them off it
    must do with them."""
    need("clang", "setarch")
    options = ("-Db_sanitize=thread", "-Db_lundef=false", "--buildtype=debugoptimized")
    folder = build(tmp_path / "build", *options, env={"CC": "clang"})
    possible = subprocess.run(["setarch", "-R", "true"], check=False, capture_output=True).returncode == 0
    wrapper = ("--wrapper=setarch -R",) if possible else ()
    run_tests(folder, "--suite=threads", *wrapper, env={"TRUEZRAM_TEST_EMULATED": "1"}, least=5)


@pytest.fixture(scope="module")
def fuzz_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("clang")
    folder = tmp_path_factory.mktemp("fuzz") / "build"
    set_up(
        folder,
        SANITIZE,
        "-Db_lundef=false",
        "-Dc_args=-fsanitize=fuzzer-no-link",
        "--buildtype=debugoptimized",
        env={"CC": "clang"},
    )
    if '"fuzz_codec"' not in run("meson", "introspect", "--targets", folder):
        need("libFuzzer (libclang-rt-dev)")
    run("meson", "compile", "-C", folder, *[f"fuzz_{name}" for name in FUZZERS])
    return folder


@slow
@pytest.mark.parametrize("name", FUZZERS)
def test_fuzz(fuzz_build: Path, name: str, tmp_path: Path) -> None:
    """From the saved seeds. A find is in the message; add its input to the seeds with the repair."""
    runs = int(os.environ.get("TRUEZRAM_FUZZ_RUNS", FEWER_RUNS.get(name, FUZZ_RUNS)))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    seeds = Path(__file__).parent / f"seeds_{name}"
    assert any(seeds.iterdir())
    output = run(
        fuzz_build / f"tests/native/fuzz_{name}",
        f"-runs={runs}",
        "-max_len=4400",
        "-timeout=300",
        "-print_final_stats=1",
        f"-artifact_prefix={tmp_path}/",
        corpus,
        seeds,
        env={**SANITIZER_ENV, "ASAN_OPTIONS": SANITIZER_ENV["ASAN_OPTIONS"] + ":detect_stack_use_after_return=1"},
    )
    done = re.search(r"stat::number_of_executed_units:\s+(\d+)", output)
    assert done, output
    assert int(done[1]) >= runs


@slow
def test_native(tmp_path: Path) -> None:
    need("cc")
    run_tests(build(tmp_path / "build", env={"CC": "cc"}))


@slow
def test_native_sanitized(tmp_path: Path) -> None:
    need("cc")
    folder = build(tmp_path / "build", SANITIZE, "--buildtype=debugoptimized", env={"CC": "cc"})
    run_tests(folder, env=SANITIZER_ENV)


@slow
def test_native_clang(tmp_path: Path) -> None:
    """Those that start threads run under clang's ThreadSanitizer, above."""
    need("clang")
    run_tests(build(tmp_path / "build", env={"CC": "clang"}), "--no-suite=threads")
