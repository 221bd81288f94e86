"""`python -m sidecar` and the `egret` command."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

_INTERRUPTED: Final = 130
"""The exit code that shells have for SIGINT."""


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # During imports an exception could surface as another one; `run` sets it back.
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from sidecar.cli.main import run  # noqa: PLC0415

    try:
        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
