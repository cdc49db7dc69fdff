"""``python -m sharetorch``: the command line."""

from sharetorch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
