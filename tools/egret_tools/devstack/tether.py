"""Become another program that ends when its parent does.

Run by path, `python -I -S tether.py PARENT SIGNAL UID GID KEEP -- PROGRAM ARGUMENTS…`, so that it
costs milliseconds and imports nothing of ours. UID -1 keeps the user. KEEP 1 keeps the right to
pass folders another user may not enter: PostgreSQL refuses to run as root, and root's folders
are often closed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
from typing import Final

# Numbers of Linux' uapi headers: prctl.h, capability.h, securebits.h.
PR_SET_PDEATHSIG: Final = 1
PR_SET_SECUREBITS: Final = 28
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
SECBIT_NO_SETUID_FIXUP: Final = 4
CAPABILITY_VERSION_3: Final = 0x20080522
CAP_DAC_OVERRIDE: Final = 1

PARENT_IS_GONE: Final = 111
NO_SUCH_RIGHT: Final = 112


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, give up rights, and become the program."""
    parent, death_signal, uid, gid, keep = (int(argument) for argument in arguments[:5])
    program = arguments[6:]
    libc = ctypes.CDLL(None, use_errno=True)
    if uid >= 0:
        _become(libc, uid=uid, gid=gid, keeps_passage=keep == 1)
    # After the change of user, which clears it (prctl(2)).
    if sys.platform == "linux":
        libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:  # it died before the signal was ordered
        sys.exit(PARENT_IS_GONE)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execv(program[0], program)  # noqa: S606 - no shell is the point


def _become(libc: ctypes.CDLL, *, uid: int, gid: int, keeps_passage: bool) -> None:
    if keeps_passage and libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) != 0:
        sys.exit(NO_SUCH_RIGHT)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if keeps_passage and not _keep_passage(libc):
        sys.exit(NO_SUCH_RIGHT)


def _keep_passage(libc: ctypes.CDLL) -> bool:
    """Keep one capability over exec and drop all others."""
    mask = 1 << CAP_DAC_OVERRIDE
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    rights = struct.pack("6I", mask, mask, mask, 0, 0, 0)
    if libc.capset(header, rights) != 0:
        return False
    return bool(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_OVERRIDE, 0, 0) == 0)


if __name__ == "__main__":
    main(sys.argv[1:])
