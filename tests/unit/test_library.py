"""The library, `truezram.NAME`: devices of the local transport with the real server, stores in this process, and the
memory of processes. Without root, as far as it needs none. Needs the server, as test_local_device.py does."""

from __future__ import annotations

import ast
import errno
import inspect
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import HANG, end_servers, wait_until

import truezram
from truezram.engine import paths
from truezram.engine.device.options import CreateOptions
from truezram.engine.errors import TruezramError

PAGE = truezram.PAGE_SIZE
Device = truezram.Device  # loaded before a test is an ordinary user, who may not read where it is installed
needs_server = pytest.mark.usefixtures("devices_end")

try:
    paths.server_path()
except TruezramError as missing:
    pytest.skip(f"{missing}", allow_module_level=True)


@pytest.fixture
def devices_end(run_dir: Path) -> Iterator[None]:
    """Nothing is left running, whatever a test did."""
    yield
    end_servers(run_dir)


def pages(count: int, seed: int = 0) -> bytes:
    """Pages that shrink to about a half."""
    order = random.Random(seed)
    return b"".join(order.randbytes(PAGE // 2) + bytes(PAGE // 2) for _ in range(count))


def local(size: int | str = "64M", **options: object) -> Device:
    return Device.create(size, transport="local", **options)  # type: ignore[arg-type]


# --- the package


def test_type_checkers_see_the_names_that_there_are() -> None:
    assert truezram.__file__
    tree = ast.parse(Path(truezram.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == truezram._MODULE_OF  # type: ignore[attr-defined]
    assert set(truezram.__all__) == {*seen, "__version__"} == set(dir(truezram))
    for name in truezram.__all__:
        assert getattr(truezram, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Devices'"):
        _ = truezram.Devices  # type: ignore[attr-defined]


def loaded(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_names_are_loaded_when_they_are_used() -> None:
    assert not {name for name in loaded("import truezram") if name.startswith("truezram.")} - {"truezram._version"}
    assert not {name for name in loaded("import truezram; truezram.Compressor") if "engine" in name}
    with_devices = loaded("import truezram; truezram.devices()")
    assert "truezram.library.device" in with_devices
    assert not {name for name in with_devices if name.startswith(("truezram.engine.measure", "truezram.app", "lz4"))}


# --- devices


@needs_server
def test_a_device_from_beginning_to_end() -> None:
    with local("64M", algorithm="lz4", mem_limit="32M", dedup=True) as device:
        assert (device.name, device.path, device.transport) == ("local0", "local:0", "local")
        assert repr(device) == "Device('local:0')"
        assert device.warnings == ()
        with device.attach() as content:
            content.write(0, pages(100))
            assert content.read(0, 100) == pages(100)
            content.discard(50, 50)
        now = device.stat()
        assert (now.state, now.disksize, now.algorithm, now.mem_limit) == ("live", 64 << 20, "lz4", 32 << 20)
        assert (now.orig_data_size, now.dedup, now.total.num_writes) == (50 * PAGE, "on", 7)  # of 16 pages at most
    # It is there although nobody holds it, and so it can be opened again, by any name.
    with Device.open("0") as again:
        assert again.stat().orig_data_size == 50 * PAGE
        assert [found.name for found in truezram.devices() if found.kind == "truezram"] == ["local0"]
        gone = again.remove()
    assert (gone.name, gone.swapped_back, gone.lost) == ("local0", 0, ())
    assert not [found for found in truezram.devices() if found.kind == "truezram"]
    for call in (again.stat, again.remove, device.stat):
        with pytest.raises(truezram.NotFound, match=r"no device local0: it was removed"):
            call()


@needs_server
def test_a_temporary_device_goes_with_its_block() -> None:
    def fail(device: Device) -> None:
        with device:
            assert device.stat().state == "live"
            raise KeyError(device.name)

    device = local(temporary=True)
    with pytest.raises(KeyError, match=device.name):
        fail(device)
    with pytest.raises(truezram.NotFound):
        device.stat()
    with local(temporary=True) as device:
        device.remove()  # by hand: leaving the block then removes nothing
    with local(temporary=True) as device, Device.open(device.name) as other:
        other.remove()  # or by somebody else


@needs_server
def test_settings_change() -> None:
    with local(algorithm="lz4") as device:
        changes = device.set(mem_limit="16M", algorithm="zstd:3", dedup=True, cpu_percent=7)
        assert {(change.key, change.before, change.after) for change in changes} == {
            ("mem_limit", "0", str(16 << 20)), ("algorithm", "lz4", "zstd:3"), ("dedup", "off", "on"),
            ("cpu_percent", "3", "7"),
        }  # fmt: skip
        now = device.stat()
        assert (now.mem_limit, now.algorithm, now.dedup, now.cpu_percent) == (16 << 20, "zstd:3", "on", 7)
        device.set(mem_limit=None, dedup=False)
        device.set(mem_limit=32 << 20)
        assert (device.stat().mem_limit, device.stat().dedup) == (32 << 20, "off")
        for wrong, text in (
            ({"frobnicate": 1}, "no such setting"),
            ({}, "nothing to set"),
            ({"algorithm": "gzip"}, "unknown algorithm"),
        ):
            with pytest.raises(truezram.UsageError, match=text) as caught:
                device.set(**wrong)  # type: ignore[arg-type]
            assert caught.value.what
            assert caught.value.remedy
        assert device.stat().mem_limit == 32 << 20


@needs_server
def test_idle_pages_are_recompressed() -> None:
    text = "".join(f"page {number} of a book about pages; " for number in range(40000)).encode()
    text = text[: len(text) // PAGE * PAGE]
    shares: list[float] = []
    with local(algorithm="lz4", policy="off") as device:
        with device.attach() as content:
            content.write(0, text)
        done = device.recompress("dense", 0, max_cpu=100, progress=lambda share, now: shares.append(share))
        assert done.pages == len(text) // PAGE
        assert 0 < done.saved == device.stat().dense_saved
        assert all(0 <= share <= 1 for share in shares)
        device.recompress("cold", "0s", max_cpu=100, wait=False)
        wait_until(lambda: not device.stat().is_recompressing)
        assert device.stat().group_pages > 0
        with device.attach() as content:
            assert content.read(0, len(text) // PAGE) == text
        for wrong in ({"to": "gzip"}, {"idle": "soon"}, {"max_cpu": 0}):
            with pytest.raises(truezram.UsageError):
                device.recompress(**wrong)  # type: ignore[call-overload]


@needs_server
def test_an_interrupt_stops_a_recompression() -> None:
    class Interrupt(BaseException):
        pass

    def interrupt(share: float, now: truezram.DeviceSnapshot) -> None:
        raise Interrupt

    with local("256M", algorithm="lz4", policy="off") as device:
        with device.attach() as content:
            content.write(0, pages(20000))
        with pytest.raises(Interrupt):
            device.recompress("dense", 0, max_cpu=1, progress=interrupt)
        wait_until(lambda: not device.stat().is_recompressing)
        assert device.stat().recompress_stopped == 1


@needs_server
def test_watching() -> None:
    seen = []
    watching = truezram.watch(0.05)
    with local(temporary=True) as device, device.attach() as content:
        for number, snapshot in enumerate(watching):
            (found,) = (one for one in snapshot.devices if one.name == device.name)
            seen.append((found.time, found.total.pages_written))
            if number == 3:
                break
            content.write(0, pages(10))
    assert [written for _, written in seen] == [0, 10, 20, 30]
    # Never closer than asked for, however long it took.
    assert seen[-1][0] - seen[0][0] > 0.1
    assert next(watching).machine.mem_total > 0  # the machine without a device
    watching.close()  # type: ignore[attr-defined]
    assert next(watching, None) is None
    for wrong in (0, -1.0, 1e6):
        with pytest.raises(truezram.UsageError, match=r"between 0\.01 s and a day"):
            truezram.watch(wrong)


@needs_server
def test_what_cannot_be_is_refused_with_what_to_do() -> None:
    with pytest.raises(truezram.UsageError, match="not a multiple of the 4096-byte page"):
        local(5000)
    with pytest.raises(truezram.UsageError, match="cannot be swap"):
        local(swap=True)
    with pytest.raises(truezram.UsageError, match="temporary and to come back"):
        local(temporary=True, enable=True)
    for name, error in (("local7", "NotFound"), ("sda", "UsageError"), ("zram0", "Unsupported")):
        with pytest.raises(getattr(truezram, error)) as caught:
            Device.open(name)
        assert str(caught.value).endswith(f"{caught.value.remedy.removesuffix('.')}.")
        assert caught.value.remedy
    with local(id=3), pytest.raises(truezram.Busy, match="Choose another --id"):
        local(id=3)


def test_no_root_no_block_device(run_dir: Path, ordinary_user: None) -> None:
    with pytest.raises(truezram.PermissionDenied, match="only root may make one") as caught:
        Device.create("64M")
    assert "local" in caught.value.remedy


def test_create_takes_all_options() -> None:
    """As the command does; and with the same defaults."""
    given = {
        name: parameter.default
        for name, parameter in inspect.signature(Device.create).parameters.items()
        if name not in ("size", "temporary")
    }
    assert given == {field.name: field.default for field in fields(CreateOptions) if field.name != "size"}


# --- stores


def test_a_store_holds_pages() -> None:
    data = pages(1000)
    with truezram.Store("64M", "lz4") as store:
        assert (store.pages, store.algorithm) == (16384, "lz4")
        assert repr(store) == "Store(67108864, 'lz4')"
        assert store.read(5) == bytes(PAGE)
        store.write(50, data)
        assert store.read(50, 1000) == data
        assert store.read(49, 2) == bytes(PAGE) + data[:PAGE]
        store.discard(60, 10)
        assert store.read(60, 10) == bytes(10 * PAGE)
        store.write(0, bytes(PAGE) * 4)
        now = store.stats()
    assert (now.name, now.path, now.transport, now.state, now.pid) == ("store", "", "local", "live", os.getpid())
    assert (now.algorithm, now.disksize, now.mem_limit) == ("lz4", 64 << 20, 0)
    assert now.orig_data_size == 994 * PAGE
    assert (now.same_pages, now.huge_pages) == (4, 0)
    assert 990 * PAGE * 0.5 < now.compr_data_size < 990 * PAGE * 0.55
    assert now.compr_data_size < now.object_bytes < now.mem_used_total
    assert now.ratio
    assert now.compression_ratio
    assert 1.8 < now.compression_ratio < 2
    total = now.total
    assert (total.num_writes, total.num_reads, total.num_discards) == (2, 4, 1)
    assert (total.pages_written, total.pages_discarded) == (1004, 10)
    assert sum(total.write_lat) == 2
    assert total.compress_ns > 0
    assert abs(now.created - time.time()) < HANG


def test_a_store_refuses_what_it_cannot_do() -> None:
    for arguments, error in (
        (("5000",), "UsageError"),
        ((0,), "UsageError"),
        (("1M", "gzip"), "UsageError"),
        (("1M", "zstd:99"), "UsageError"),
    ):
        with pytest.raises(getattr(truezram, error)) as caught:
            truezram.Store(*arguments)  # type: ignore[arg-type]
        assert caught.value.why
    for wrong, text in (
        ({"threads": 0}, "Choose 1 to 64"),
        ({"threads": 65}, "Choose 1 to 64"),
        ({"mem_limit": -1}, "negative"),
        ({"mem_limit": "0"}, "Write none"),
        ({"dictionary": b"none", "algorithm": "zstd"}, "dictionary"),
        ({"dictionary": b"x" * 5000, "algorithm": "lz4"}, "dictionary"),
    ):
        with pytest.raises(truezram.UsageError, match=text):
            truezram.Store("1M", **wrong)  # type: ignore[arg-type]
    with truezram.Store("1M") as store:
        for call, number in (
            (lambda: store.read(256), errno.EINVAL),
            (lambda: store.read(255, 2), errno.EINVAL),
            (lambda: store.write(256, pages(1)), errno.EINVAL),
            (lambda: store.discard(1 << 60), errno.EINVAL),
            (lambda: store.read(0, 1 << 50), errno.EINVAL),
        ):
            with pytest.raises(OSError, match="store, page") as failed:
                call()
            assert failed.value.errno == number
        assert store.stats().total.invalid_io == 5
        for wrong_call in (lambda: store.read(-1), lambda: store.read(0, -1), lambda: store.write(0, b"x")):
            with pytest.raises(ValueError, match=r"negative|multiple of 4096"):
                wrong_call()
        with pytest.raises(TypeError, match="data must be"):
            store.write(0, "text")  # type: ignore[arg-type]
        assert store.read(0, 0) == b""
    for closed in (lambda: store.read(0), lambda: store.write(0, pages(1)), store.stats):
        with pytest.raises(ValueError, match="the store was closed"):
            closed()
    store.close()


def test_a_store_is_full_at_its_limit() -> None:
    order = random.Random(1)
    with truezram.Store("64M", "lz4", mem_limit="8M") as store:
        written = 0
        while _takes(store, written, order.randbytes(PAGE)):
            written += 1
        with pytest.raises(OSError, match="store, page 0") as caught:
            store.write(0, order.randbytes(PAGE) * 2)
        assert caught.value.errno == errno.ENOSPC
        assert 1000 < written < 2048
        now = store.stats()
        assert now.mem_used_total <= now.mem_limit == 8 << 20
        assert now.total.enospc == 2
        # What is there can be read, and what is given back can be used.
        order = random.Random(1)
        assert all(store.read(page) == order.randbytes(PAGE) for page in range(written))
        store.discard(0, written)
        wait_until(lambda: _takes(store, 0, pages(100)))


def _takes(store: truezram.Store, page: int, data: bytes) -> bool:
    try:
        store.write(page, data)
    except OSError:
        return False
    return store.read(page, len(data) // PAGE) == data


def test_identical_pages_of_a_store_share_room() -> None:
    with truezram.Store("16M", "lz4", dedup=True) as store:
        for page in range(100):
            store.write(page, pages(1))
        now = store.stats()
    assert now.dedup == "on"
    assert now.dup_pages == 99
    assert now.compr_data_size < PAGE


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_a_store(threads: int) -> None:
    """More of them than it has, and closing it waits for all."""
    wrong: list[int] = []
    started = threading.Barrier(7)

    def work(number: int) -> None:
        data = pages(16, number)
        started.wait(HANG)
        try:
            while True:
                store.write(number * 16, data)
                if store.read(number * 16, 16) != data:
                    wrong.append(number)
                store.stats()
        except ValueError:
            closed.append(number)

    closed: list[int] = []
    store = truezram.Store("16M", "lz4", threads=threads)
    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    started.wait(HANG)
    wait_until(lambda: store.stats().total.num_writes > 10)
    store.close()
    for worker in workers:
        worker.join(HANG)
    assert not wrong
    assert len(closed) == 6


# --- the memory of processes


def test_estimate_of_a_process() -> None:
    """Of a child with 24 MiB, a third each of zeros, of what shrinks to a half, and of what does not shrink."""
    code = (
        "import random, sys\n"
        "order = random.Random(1)\n"
        "kept = [bytearray(8 << 20), bytearray(b''.join(order.randbytes(2048) + bytes(2048) for _ in range(2048))),"
        " bytearray(order.randbytes(8 << 20))]\n"
        "kept[0][::4096] = bytes(2048)\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        done: list[float] = []
        found = truezram.estimate(
            child.pid, algorithms=["lz4", "zstd:3"], pages=2000, progress=lambda share, _: done.append(share)
        )
        several = truezram.estimate([child.pid, os.getpid()], algorithms=["lz4"], pages=200)
        child.communicate(b"")
    assert found.total.bytes > 24 << 20
    assert [one.algorithm for one in found.total.algorithms] == ["lz4", "zstd:3"]
    assert found.groups[0].pid == child.pid
    lz4 = found.total.algorithms[0]
    assert lz4.ratio_low <= lz4.ratio <= lz4.ratio_high
    assert 1.5 < lz4.ratio < 4
    assert found.total.same_filled > 0.15
    assert lz4.resident + lz4.gained == found.total.bytes
    assert done[-1] == pytest.approx(1, abs=0.1)
    assert {group.pid for group in several.groups} == {child.pid, os.getpid()}
    with pytest.raises(truezram.NotFound):
        truezram.estimate(child.pid)


def test_estimate_refuses() -> None:
    with pytest.raises(truezram.UsageError, match="pid and user were given"):
        truezram.estimate(1, user="root")
    with pytest.raises(truezram.UsageError, match="0 pages"):
        truezram.estimate(os.getpid(), pages=0)
    with pytest.raises(truezram.UsageError, match="unknown algorithm"):
        truezram.estimate(os.getpid(), algorithms=["gzip"])
    with pytest.raises(truezram.NotFound, match="nobody-of-that-name"):
        truezram.estimate(user="nobody-of-that-name")
