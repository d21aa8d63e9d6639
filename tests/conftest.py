"""For all tests: programs that were installed beside this Python (meson, ninja, truezram) are found, whether or not its
environment was activated; and a Python that a test starts imports the installed package, not the source tree that
happens to be the current folder (which has no compiled modules)."""

from __future__ import annotations

import os
import sysconfig

os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", os.defpath)
os.environ["PYTHONSAFEPATH"] = "1"
