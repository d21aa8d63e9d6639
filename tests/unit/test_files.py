"""files.py: files of the system are written whole or not at all, several of them as one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from truezram.engine import files
from truezram.engine.errors import Failed


def test_changes_are_taken_back(tmp_path: Path) -> None:
    old, new, gone = tmp_path / "a/old", tmp_path / "b/c/new", tmp_path / "a/gone"
    files.write(old, "before", 0o600)
    files.write(gone, "here")
    with files.Changes() as changes:
        changes.write(old, "after")
        changes.write(new, "made")
        changes.remove(gone)
        assert (old.read_text(), new.read_text(), gone.exists()) == ("after", "made", False)
    assert (old.read_text(), gone.read_text(), new.exists()) == ("before", "here", False)
    assert old.stat().st_mode & 0o777 == 0o600
    with files.Changes() as changes:
        changes.write(new, "made")
        changes.keep()
    assert new.read_text() == "made"
    assert not list(tmp_path.rglob(".*"))


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failed, match=r"No space left.*Free space"):
        files.write(tmp_path / "folder/file", "text")
    assert list(tmp_path.iterdir()) == []
