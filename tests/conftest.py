"""For all tests: programs that were installed beside this Python (meson, ninja, truezram) are found, whether or not its
environment was activated."""

from __future__ import annotations

import os
import sysconfig

os.environ["PATH"] = sysconfig.get_path("scripts") + os.pathsep + os.environ.get("PATH", os.defpath)
