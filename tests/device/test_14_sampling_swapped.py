"""Sampling leaves pages swapped that are: the unit test for it, in a guest whose swap is a truezram device."""

from __future__ import annotations

from pathlib import Path

import pytest
from product import Product

TESTS = Path(__file__).parents[1]


@pytest.mark.either
def test_sampling_leaves_pages_swapped(product: Product) -> None:
    path = product.run("truezram create --size 64M --swap").out.strip()
    done = product.run(
        # (Without plugins and workers, whose start takes longer than the test.)
        f"cd {TESTS.parent} && PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 pytest -q -p no:cacheprovider -o addopts="
        " tests/unit/test_sampling.py -m needs_swap",
    )
    assert "2 passed" in done.out, done.out
    product.remove(path)
