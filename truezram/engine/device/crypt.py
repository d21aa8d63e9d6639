"""Encrypts a backing file with a key that nobody knows: dm-crypt, over a loop device where it is a file.

The key is random, goes to dmsetup through a pipe, and is nowhere else: in no argument, environment or file. Only the
kernel has it, until the mapping is removed; what was written is then unreadable for good. dmsetup comes with every
libdevmapper, so it is there wherever cryptsetup is, and one way is enough.

The loop device detaches itself when its last user, the mapping, is gone (autoclear). It keeps the open file that it was
given, and with that the lock that `backing.py` has on it.

The first 4096 bytes are not encrypted: they say what the rest is, to people, and to `backing.py` the next time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import subprocess
import time
from pathlib import Path

from truezram.engine.device.swap import tool
from truezram.engine.errors import Failed, TruezramError, Unsupported
from truezram.engine.machine import procfs
from truezram.engine.machine.mappings import PREFIX, Mapping, mappings
from truezram.engine.machine.users import number_of

CIPHER = "aes-xts-plain64"
"""What cryptsetup takes, too."""
KEY_BYTES = 64
"""Two keys of 256 bits each, as XTS needs."""
HEAD = 4096
"""Bytes before the encrypted ones."""
NOTE = b"truezram backing file. The rest is encrypted, with a key that was in memory only.\n"
"""What these begin with."""
_SECTOR = 512
_TIMEOUT = 60.0
_REMEDY = "To write it unencrypted: --backing-plain, or set DEVICE backing=plain:PATH"

_LOOP_CONFIGURE, _LOOP_CTL_GET_FREE = 0x4C0A, 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_CONFIG = struct.Struct("=II 5Q 4I 64s 64s 32s 2Q 8Q")
"""struct loop_config of <linux/loop.h>: descriptor, size of a block, struct loop_info64, reserved."""
_CONTROL = Path("/dev/loop-control")


def need() -> None:
    """Returns when dm-crypt can be used. Raises `Unsupported` with the remedy."""
    what = "cannot encrypt the backing file"
    done = _run([_dmsetup(), "targets"], what)
    if done.returncode == 0 and "crypt" not in done.stdout.split():
        with contextlib.suppress(TruezramError):
            _run([tool("modprobe", "kmod"), "dm_crypt"], what)
        done = _run([_dmsetup(), "targets"], what)
    if done.returncode:
        raise Unsupported(what, f"the kernel has no device mapper ({_said(done)})", _REMEDY)
    if "crypt" not in done.stdout.split():
        why = "this kernel has no dm-crypt (modprobe dm_crypt did not help)"
        raise Unsupported(what, why, f"Install the kernel's modules. {_REMEDY}")


def open_mapping(device: str, path: str, size: int, fd: int = -1) -> Mapping:
    """Makes a mapping for `device` over the first `size` bytes of a block device at `path`, or of a file, of which `fd`
    is open; nothing of the first `HEAD` bytes is in it. Raises `TruezramError`, with nothing left behind."""
    loop, below = _attach_loop(fd, path) if fd >= 0 else (-1, path)
    try:
        label = f"{PREFIX}-{device}-{secrets.token_hex(4)}"
        sectors = (size - HEAD) // _SECTOR
        _dm_create(label, f"0 {sectors} crypt {CIPHER} ", f" 0 {below} {HEAD // _SECTOR} 1 allow_discards\n")
    finally:
        if loop >= 0:
            os.close(loop)
    found = next((mapping for mapping in mappings(device) if mapping.label == label), None)
    if found is None:
        raise Failed(f"cannot encrypt {path}", f"{label} did not appear in sysfs", "See the kernel log (dmesg)")
    try:
        _wait_for_node(found)
    except BaseException:
        with contextlib.suppress(TruezramError):
            close_mapping(found)
        raise
    return found


def _wait_for_node(mapping: Mapping) -> None:
    """Returns when its node leads to it. A server that was given the path too early would make a file there, which is
    not encrypted. Raises `Failed`."""
    what = f"cannot encrypt the backing file of {mapping.device}"
    number = (procfs.read_text(f"/sys/block/{mapping.disk}/dev") or "").strip()
    deadline = time.monotonic() + 5
    while number_of(mapping.path) != number or not number:
        if time.monotonic() > deadline:
            raise Failed(what, f"{mapping.path} did not appear, or is another one", "See whether udev runs")
        _run([_dmsetup(), "mknodes", mapping.label], what)  # where udev does not
        time.sleep(0.02)


def close_mapping(mapping: Mapping) -> None:
    """Removes it, which its user must have closed; the key is gone with it. Raises `Failed`."""
    what = f"cannot remove the mapping {mapping.label}"
    # udev looks at what was written to; dmsetup tries again for as long as that takes.
    done = _run([_dmsetup(), "remove", "--retry", mapping.label], what)
    if done.returncode and mapping in mappings(mapping.device):
        raise Failed(what, _said(done), f"Later: dmsetup remove {mapping.label}")


def close_all(device: str, but: str = "") -> None:
    """Removes the mappings of a device that no longer uses them, except the one with the node `but`. Raises `Failed`
    for the first that could not be, after all were tried."""
    failed: list[TruezramError] = []
    for mapping in mappings(device):
        if mapping.path != but:
            try:
                close_mapping(mapping)
            except TruezramError as error:
                failed.append(error)
    if failed:
        raise failed[0]


def _attach_loop(fd: int, path: str) -> tuple[int, str]:
    """A loop device over an open file: its descriptor, while which is open it stays, and its node. Raises
    `TruezramError`."""
    what = f"cannot make a loop device for {path}"
    if not _CONTROL.exists():
        with contextlib.suppress(TruezramError):
            _run([tool("modprobe", "kmod"), "loop"], what)
    name = os.fsencode(path)[-63:]
    config = _CONFIG.pack(fd, 0, 0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR | _DIRECT_IO, name, b"", b"", *(0,) * 10)
    deadline = time.monotonic() + 10
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        why = f"{_CONTROL}: {error.strerror}"
        raise Unsupported(what, why, f"Load the module: modprobe loop. {_REMEDY}") from None
    try:
        while True:
            try:
                node = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                loop = _configured(node, config)
                if loop >= 0:
                    return loop, node
                why = f"others take each one that is free ({node})"
            except FileNotFoundError:
                why = f"{node} does not appear"  # a new node is made by udev or devtmpfs
            except OSError as error:
                raise Failed(what, error.strerror or str(error)) from None
            if time.monotonic() > deadline:
                raise Failed(what, why)
            time.sleep(0.02)
    finally:
        os.close(control)


def _configured(node: str, config: bytes) -> int:
    """The descriptor of the loop device; -1: somebody else was faster."""
    loop = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(loop, _LOOP_CONFIGURE, config)
    except OSError as error:
        os.close(loop)
        if error.errno != errno.EBUSY:
            raise
        return -1
    return loop


def _dm_create(label: str, before: str, after: str) -> None:
    """dmsetup create, with a new key between the two parts of the table."""
    what = "cannot encrypt the backing file"
    table = bytearray(before.encode())
    key = bytearray(KEY_BYTES)
    try:
        with open("/dev/urandom", "rb", buffering=0) as random:  # noqa: PTH123
            if random.readinto(key) != KEY_BYTES:
                raise Failed(what, "/dev/urandom gave no key")
        for byte in key:
            table += b"%02x" % byte
        table += after.encode()
        # A pipe holds all of it, so this does not wait; and no copy of the key stays in this process's memory.
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            os.write(write, table)
        finally:
            os.close(write)
        try:
            done = _run([_dmsetup(), "create", label], what, read)
        finally:
            os.close(read)
    finally:
        key[:] = bytes(len(key))
        table[:] = bytes(len(table))
    if done.returncode:
        raise Failed(what, f"dmsetup: {_said(done)}", f"The kernel log (dmesg) may say more. {_REMEDY}")


def _dmsetup() -> str:
    return tool("dmsetup", "dmsetup", "write the backing file unencrypted: --backing-plain")


def _run(command: list[str], what: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise Failed(what, f"{Path(command[0]).name} did not end within {_TIMEOUT:g} s") from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """The first line: those after it say that the command has failed."""
    return next((line.strip() for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
