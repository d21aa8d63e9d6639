"""The examples of docs/library.md, run one after another as they are, and the names of docs/reference.md."""

from __future__ import annotations

import re
from pathlib import Path

import truezram

DOCS = Path(__file__).parents[2] / "docs"


def test_examples() -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (DOCS / "library.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 5
    scope: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/library.md", "exec"), scope)


def test_the_reference_has_every_name() -> None:
    """One line for each; what stands below it comes from the docstring when the site is built."""
    named = re.findall(r"^::: truezram\.(\S+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(set(truezram.__all__) - {"__version__"})
