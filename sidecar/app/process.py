"""What a worker and its supervisor agree on: an exit code, and that a worker ends with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1

CANNOT_START: Final = 2
"""Exit code of a worker that cannot start at all: starting it again would change nothing."""


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when *parent*, who started it, ends, however that happens.

    Linux only (prctl(2)); elsewhere a child of a killed parent has to be ended by hand. The signal
    is tied to the thread that started us, which for every starter of ours is the main one.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # It may have gone before prctl was called. Not «is our parent 1?»: in a container it may be.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
