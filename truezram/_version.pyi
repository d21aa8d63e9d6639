"""Made by meson of _version.py.in."""

__version__: str
