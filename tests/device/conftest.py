"""Device tests: the installed product on stock kernels in guests.

    pytest tests/device                         both kernels, one after the other
    pytest tests/device -n 2                    both at once (pytest-xdist keeps a kernel's tests on one worker)
    pytest tests/device --device-kernel=7.2     every test on that kernel (may be repeated)

A test marked `either` depends on no kernel: it runs on one of them, unless kernels are named.

A test takes ``guest`` and says what kind it needs with ``@pytest.mark.guest(memory=MIB, cpus=N)``. A guest is booted
once and used by all tests that want its kind; after a test that failed it is thrown away. Every test also fails when it
leaves a warning in the kernel log, or a device, server or registry entry behind. What cannot run is skipped with the
reason, and with CI=true it fails.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from guest import Guest, GuestError, KernelBug, Missing, compile_c, requirements
from kernels import KERNELS, Kernel, KernelError, get_kernel
from product import LEFTOVERS, Product

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WARM_MEMORY = 1024
"""MiB of a guest, at least, for a warm process in it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the device tests."""
    help_ = "only this kernel (may be repeated)"
    parser.addoption("--device-kernel", action="append", choices=list(KERNELS), help=help_)
    help_ = "in test_34_refused_writes.py: so many minutes in each size of guest instead of one or two"
    parser.addoption("--hogs-minutes", type=int, default=0, help=help_)
    help_ = "in test_41_recovery.py: so many kills under fio, and a quarter of that under swap"
    parser.addoption("--kills", type=int, default=0, help=help_)
    help_ = "in test_52_package.py: build the Debian package and test it"
    parser.addoption("--package", action="store_true", help=help_)


def pytest_configure(config: pytest.Config) -> None:
    """Declares the marker."""
    config.addinivalue_line("markers", "guest(memory, cpus, systemd): the kind of guest a device test runs in")
    config.addinivalue_line("markers", "either(kernel): on one kernel is enough, as what it tests is ours")
    config.addinivalue_line("markers", "warm: truezram may be a fork of a process that has imported it (warm.py)")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: one worker for each kernel."""
    return len(KERNELS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """With ``-n``, a kernel's tests stay on one worker."""
    from xdist.scheduler import LoadScopeScheduling

    class ByKernel(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("[")[2].partition("]")[0].partition("-")[0]

    return ByKernel(config, log)


def kernel_for(definition: Any, kernels: list[str]) -> str:
    """One kernel for a test that is marked `either`: the one that the mark names, where that makes the two take equally
    long; else a file's take turns, whichever of them are selected."""
    if named := definition.get_closest_marker("either").args:
        return str(named[0])
    function, file = definition.function, definition.path.name
    marked = [
        name
        for name, other in vars(definition.module).items()
        if any(mark.name == "either" for mark in getattr(other, "pytestmark", []))
    ]
    turn = marked.index(function.__name__) if function.__name__ in marked else 0
    return kernels[(zlib.crc32(file.encode()) + turn) % len(kernels)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that takes a guest runs once on each kernel; if it is marked `either`, on one."""
    if "kernel" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--device-kernel") or list(KERNELS)
        if metafunc.definition.get_closest_marker("either") and not metafunc.config.getoption("--device-kernel"):
            chosen = [kernel_for(metafunc.definition, chosen)]
        metafunc.parametrize("kernel", chosen, indirect=True, scope="session")


def kind_of(item: pytest.Item) -> tuple[int, int, bool]:
    """(memory in MiB, CPUs, whether systemd is its first process) of the guest that a test asks for."""
    marker = item.get_closest_marker("guest")
    kind = marker.kwargs if marker else {}
    return kind.get("memory", 1024), kind.get("cpus", 1), kind.get("systemd", False)


def is_warm(item: pytest.Item) -> bool:
    """Whether a test uses the warm process: it says so, and its guest has the memory for it."""
    return item.get_closest_marker("warm") is not None and kind_of(item)[0] >= WARM_MEMORY


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one kernel and one kind of guest follow each other, so that each kind is booted once; in each those with
    a warm process come last. A test is run again, and reported so, if the kernel has died of a bug of its own."""
    kernels = list(KERNELS)

    def order(item: pytest.Item) -> tuple[int, int, int, bool]:
        callspec = getattr(item, "callspec", None)
        kernel = callspec.params.get("kernel", "") if callspec else ""
        memory, cpus, _ = kind_of(item)
        return kernels.index(kernel) if kernel in kernels else -1, cpus, -memory, is_warm(item)

    items.sort(key=order)
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=7, only_rerun=[KernelBug.__name__]))


def cannot(reason: str) -> NoReturn:
    """Skips, or fails where nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"CI=true, and device tests cannot run: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def program() -> Path:
    """The installed ``truezram``; refuses one that is older than the tree."""
    found = Path(sysconfig.get_path("scripts")) / "truezram"
    try:
        record = importlib.metadata.distribution("truezram").locate_file("truezram/__init__.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.fail(f"truezram is not installed with {sys.executable}: pip install '.[test]'", pytrace=False)
    installed = Path(str(record)).stat().st_mtime
    sources = [ROOT / "meson.build", ROOT / "pyproject.toml", *(ROOT / "truezram").rglob("*.*")]
    newer = [path for path in sources if path.suffix != ".pyc" and path.stat().st_mtime > installed]
    if newer:
        pytest.fail(f"truezram is installed, but {newer[0].relative_to(ROOT)} is newer: pip install .", pytrace=False)
    return found


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with programs (compiled) and ``pages`` (64 MiB of real pages), which guests see too."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("pagetool", "killer", "warmcall"):
        compile_c(name, folder / name)
    compile_c("quiesce", folder / "quiesce", "store/uring.c")
    subprocess.run([sys.executable, str(HERE / "collect_pages.py"), str(folder / "pages")], check=True)
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)  # a guest's ordinary user reads them too
    return folder


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """The kernel to boot, fetched when needed."""
    try:
        requirements()
        return get_kernel(request.param)
    except (Missing, KernelError) as error:
        cannot(str(error))


@dataclass
class Guests:
    """The guest now running, if any: an idle one is not free under emulation."""

    folder: Path
    running: Guest | None = None

    def get(self, kernel: Kernel, memory: int, cpus: int, systemd: bool = False) -> Guest:
        """A guest of this kind; one of another kind is ended."""
        now = self.running
        if now and (now.kernel.id, now.memory, now.cpus, now.systemd) != (kernel.id, memory, cpus, systemd):
            self.close()
        if self.running is None:
            number = len(list(self.folder.iterdir()))
            folder = self.folder / f"{number:02}-{kernel.id}-{memory}M-{cpus}cpu"
            folder.mkdir()
            self.running = Guest(kernel, memory=memory, cpus=cpus, systemd=systemd, folder=folder)
        return self.running

    def discard(self) -> None:
        """Ends a guest that a test has spoilt."""
        if self.running:
            self.running.kill()
        self.running = None

    def close(self) -> None:
        """Ends the guest in order. Raises GuestError if it won't."""
        guest, self.running = self.running, None
        if guest:
            guest.close()


@pytest.fixture(scope="session")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """The guests of this session."""
    guests = Guests(tmp_path_factory.mktemp("guests"))
    yield guests
    guests.close()


@pytest.fixture
def guest(request: pytest.FixtureRequest, kernel: Kernel, guests: Guests) -> Guest:
    """A guest of the kind that the test's marker names (1 GiB and one CPU without one)."""
    guest = guests.get(kernel, *kind_of(request.node))
    guest.mark = guest.log_size()
    return guest


@pytest.fixture
def product(request: pytest.FixtureRequest, guest: Guest, program: Path, tools: Path) -> Product:
    """The product as installed on this machine, in the guest."""
    return Product(guest, program, tools, warm=is_warm(request.node))


def after_test(guest: Guest) -> None:
    """Fails when the test left something behind that no test may leave."""
    result = guest.run(LEFTOVERS, status=None)
    if result.status:
        pytest.fail(f"left behind in the guest:\n{result.out}{result.err}", pytrace=False)
    if bad := guest.bad_log():
        pytest.fail("the kernel log has:\n" + "\n".join(bad) + "\n" + guest.log(guest.mark)[-6000:], pytrace=False)


def discard(item: pytest.Function) -> None:
    """The next test gets a new guest."""
    guests = item.funcargs["guests"]
    assert isinstance(guests, Guests)
    guests.discard()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Looks at the guest after each test as part of the test, and throws it away after a failure."""
    guest = pyfuncitem.funcargs.get("guest")
    try:
        result = yield
        if isinstance(guest, Guest) and guest.spoilt:
            discard(pyfuncitem)
        elif isinstance(guest, Guest):
            after_test(guest)
            if guest.restart_wanted:
                discard(pyfuncitem)
        return result
    except BaseException as error:
        if isinstance(guest, Guest):
            if not isinstance(error, GuestError):
                pyfuncitem.add_report_section("call", "kernel log", guest.log(guest.mark)[-6000:])
            discard(pyfuncitem)
        raise


def pytest_report_header() -> str:
    """Says what the tests run with."""
    return f"device tests: {shutil.which('qemu-system-x86_64') or 'no QEMU'}, kernels {', '.join(KERNELS)}"
