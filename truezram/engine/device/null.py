"""A ublk device of our own server without a store, the floor that requests are compared with (native/server/null.c).

It is in no registry: no verb shows it, and it is gone when the process that made it closes its end, or ends.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
from dataclasses import dataclass

from truezram.engine import paths
from truezram.engine.device.create import need_ublk
from truezram.engine.device.settings import DEFAULT_DATA_MODE
from truezram.engine.errors import Failed, from_exit_code

_PATIENCE = 15.0
_WHAT = "cannot make a device without a store"


@dataclass(frozen=True, slots=True)
class NullDevice:
    """One that can be used. The kernel may have made it with fewer queues than were asked for."""

    path: str
    pid: int
    """Of its server."""
    queues: int
    queue_depth: int


class NullServer:
    """Its server. `close` removes the device."""

    def __init__(self, size: int, queues: int | None, queue_depth: int, data_mode: str = DEFAULT_DATA_MODE) -> None:
        """Starts it. `size` in bytes, a multiple of 4096; `queues` None: as many as a device of ours has;
        `data_mode`: one of `settings.DATA_MODES`. Raises the errors of `need_ublk`, and `TruezramError` with the
        server's reason."""
        need_ublk()
        command = [str(paths.server_path()), "--null", str(size), str(queues or 0), str(queue_depth), data_mode]
        try:
            # A session of its own: Ctrl-C is for us, who then end it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
            )
        except OSError as error:
            raise Failed(_WHAT, f"{command[0]} cannot be run: {error.strerror}", "Install the package again") from None
        assert self._process.stdout is not None
        words: list[str] = []
        if select.select([self._process.stdout], [], [], _PATIENCE)[0]:
            words = self._process.stdout.readline().decode().split()
        if len(words) != 3:
            self._fail()
        path, counts = f"/dev/{words[0]}", [int(word) for word in words[1:]]
        self.device = NullDevice(path, self._process.pid, *counts)

    def _fail(self) -> None:
        try:
            said = self._process.communicate(timeout=_PATIENCE)[1].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Failed(_WHAT, "its server was not ready in time", "See the kernel log (dmesg)") from None
        text = said.splitlines()[-1].removeprefix("truezramd: ") if said else ""
        raise from_exit_code(self._process.returncode, _WHAT, text)

    def close(self) -> None:
        """Removes the device. Raises `Failed` if its server does not end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            why = f"its server (pid {self._process.pid}) did not end within {_PATIENCE:g} s"
            remedy = "See whether something still has it open, and the kernel log (dmesg)"
            raise Failed(f"cannot remove {self.device.path}, made for the measurement", why, remedy) from None
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
