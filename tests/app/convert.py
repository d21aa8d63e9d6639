"""Rewrites recordings of an earlier version in today's form: ``python tests/app/convert.py FILE...``."""

from __future__ import annotations

import sys
from pathlib import Path

from truezram.app.backend.recording import Recorder, load
from truezram.app.backend.upgrade import upgraded


def convert(path: Path) -> None:
    """Rewrites one file, if it is not in today's form. Snapshots keep their place before the answers."""
    old = load(path)
    new = upgraded(old)
    if new == old and not old.header.converted:
        return
    recorder = Recorder(path, new.header)
    for snapshot in new.snapshots:
        recorder.snapshot(snapshot)
    for answer in new.answers:
        recorder.answer(answer.call, answer.args, answer.result)
    recorder.close()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        convert(Path(name))
