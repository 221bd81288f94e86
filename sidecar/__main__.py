"""`python -m sidecar` and the `egret` command."""

from __future__ import annotations

from sidecar.cli.main import run


def main() -> None:
    run()


if __name__ == "__main__":
    main()
