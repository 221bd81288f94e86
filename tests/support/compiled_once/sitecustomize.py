"""Compiles equal expressions once in a test run; Python imports this file when it starts.

The built-in policy takes more than a second to compile, and hundreds of processes of the tests
need it: commands, workers, and those that compile for them. The root conftest puts this directory
into PYTHONPATH and names another in `COMPILED_DATABASES`. There the first process keeps the
database of some expressions; the others load it, as workers do from the process that compiled.
Other environments start with this file as well, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

DIRECTORY: Final = "COMPILED_DATABASES"
_MODULE: Final = "sidecar.guardrails.matching.database"
_FEW: Final = 50
"""So few expressions are about as fast to compile as to load."""


class Finder:
    """Wraps `compile_hyperscan` once its module is imported."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the import system's own form
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Find that module as if this finder were not there."""
        if fullname != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_wrap(module: ModuleType) -> None:
                run(module)
                vars(module)["compile_hyperscan"] = _once(module.compile_hyperscan)

            vars(spec.loader)["exec_module"] = run_and_wrap
        return spec


def _once(compile_: Callable[..., Any]) -> Callable[..., Any]:
    import hyperscan  # noqa: PLC0415 - few processes need it

    def compile_once(
        expressions: Sequence[Any],
        *,
        ids: Sequence[int] | None = None,
        mode: int = hyperscan.HS_MODE_STREAM,
    ) -> Any:
        if len(expressions) < _FEW:
            return compile_(expressions, ids=ids, mode=mode)
        parts = [(one.regex, one.unicode, one.counted) for one in expressions]
        key = repr((hyperscan.__file__, parts, ids, mode)).encode()
        file = Path(os.environ[DIRECTORY]) / hashlib.sha256(key).hexdigest()  # noqa: TID251
        if file.exists():
            database = hyperscan.loadb(file.read_bytes(), mode)
            database.scratch = hyperscan.Scratch(database)
            return database
        database = compile_(expressions, ids=ids, mode=mode)
        with contextlib.suppress(OSError):  # the run is over, or the disk is full
            written = file.with_suffix(f".{os.getpid()}")
            written.write_bytes(hyperscan.dumpb(database))
            written.replace(file)
        return database

    return compile_once


if __name__ == "sitecustomize" and DIRECTORY in os.environ:  # noqa: TID251
    sys.meta_path.insert(0, Finder())
