"""The examples of docs/library.md, run one after another as they are."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_examples() -> None:
    examples = re.findall(r"^```python\n(.*?)^```", (DOCS / "library.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) == 5
    scope: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "docs/library.md", "exec"), scope)
