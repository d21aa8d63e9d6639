"""For all tests: programs that were installed beside this Python (meson, ninja, truezram) are found, whether or not its
environment was activated; a Python that a test starts imports the installed package, not the source tree that happens
to be the current folder (which has no compiled modules); and what a test interrupts is interrupted, though a shell has
its background jobs ignore SIGINT, and theirs after them."""

from __future__ import annotations

import os
import signal
import sysconfig

os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", os.defpath)
os.environ["PYTHONSAFEPATH"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
