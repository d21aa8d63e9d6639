"""Entry point: parses the verb; imports the app only when it will be shown."""


def main() -> int:
    raise SystemExit("truezram: not built yet")


if __name__ == "__main__":
    main()
