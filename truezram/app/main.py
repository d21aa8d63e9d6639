"""Starts the app: settings, recording or replay, then the screen. Called by the command line when a terminal is
there."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from truezram.app import config as configuration
from truezram.app.backend.jobs import coming_first
from truezram.app.backend.protocol import Engine
from truezram.app.backend.recording import Header, Recorder, load
from truezram.engine import paths


def run(record: Path | None = None, replay: Path | None = None, device: str = "") -> int:
    """Shows the app until the user quits; the exit code. `record`: file to record into; `replay`: recording to play.
    `device`: the name of one that it opens on.

    Raises `TruezramError` when a recording cannot be read or begun.
    """
    from truezram.app.app import TruezramApp

    engine: Engine
    if replay is not None:
        from truezram.app.backend.replay import Replay

        engine = Replay(load(replay))
    else:
        from truezram.app.backend.real import RealEngine

        engine = RealEngine()
    recorder = (
        Recorder(record, Header("recorded", f"{os.uname().nodename}, Linux {os.uname().release}")) if record else None
    )
    path = configuration.folder() / "config.toml"
    config, problem = configuration.load(path)
    state = paths.state_folder() if replay is None else None
    app = TruezramApp(
        engine,
        config=config,
        config_path=path,
        problems=[problem] if problem else [],
        recorder=recorder,
        state=state,
        device=device,
    )
    # A hang-up (ssh gone, terminal closed) ends the app like a quit; devices are served by processes of their own.
    signal.signal(signal.SIGHUP, lambda *_: app.exit(0))
    if sys.__stderr__ is not None and not sys.__stderr__.isatty() and sys.stdout.isatty():
        # Textual draws on stderr: when that goes elsewhere (2>log), the screen is where stdout is.
        sys.__stderr__ = sys.__stdout__  # type: ignore[misc]
    with coming_first():
        code = app.run() or 0
    _drop_unwritten()
    return code


def _drop_unwritten() -> None:
    """Where the terminal is gone, what was still to be drawn goes nowhere: Python would try again at its end, and exit
    with 120."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
