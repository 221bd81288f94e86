"""Globs of model names: `*` is any run of characters, `?` exactly one."""

from __future__ import annotations

import fnmatch
import functools
import re


@functools.lru_cache(maxsize=4096)
def compile_glob(glob: str) -> re.Pattern[str]:
    """Return what matches the whole of a name; all but the two wildcards stands for itself.

    fnmatch builds atomic groups: a long name cannot make a glob of many stars backtrack. A
    bracket would open a character class; within one it stands for itself.
    """
    return re.compile(fnmatch.translate(glob.replace("[", "[[]")))
