"""Entry point of ``truezram`` and ``python -m truezram``. Nothing heavy is imported here: `truezram list` must be
quick."""

from truezram.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
