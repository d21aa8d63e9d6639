"""The examples of docs/library.md, run one after another as they are; the names of docs/reference.md, and the figures
of docs/visualisation.md. Needs the server, as test_local_device.py does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import end_servers

import truezram
from truezram.engine import paths
from truezram.engine.errors import TruezramError
from truezram.engine.model import IO_STAT, DeviceSnapshot

DOCS = Path(__file__).parents[2] / "docs"

try:
    paths.server_path()
except TruezramError as missing:
    pytest.skip(f"{missing}", allow_module_level=True)


def test_examples(run_dir: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (DOCS / "library.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 11
    scope: dict[str, object] = {}
    try:
        for example in examples:
            exec(compile(example, "docs/library.md", "exec"), scope)
    finally:
        end_servers(run_dir)


def test_the_reference_has_every_name() -> None:
    """One line for each; what stands below it comes from the docstring when the site is built."""
    named = re.findall(r"^::: truezram\.(\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(set(truezram.__all__) - {"__version__"})


def test_figures_have_their_names() -> None:
    table = re.findall(r"^\| (.*?) \|", (DOCS / "visualisation.md").read_text(), re.MULTILINE)
    names = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert len(names) > 10
    assert names <= {*DeviceSnapshot.__dataclass_fields__, *(counter.name for counter in IO_STAT)}
