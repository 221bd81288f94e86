"""Traces the recorded conversations of `counting.py`; run by `path.py` as a program of its own.

Prints JSON: for each conversation the calls of each function of `sidecar`, in order of entry, and
the instances built of each of its classes. An instance counts when the `__init__` or `__new__` of
its own class is entered, or, for classes without one in Python, a wrapper set here. Structs of
msgspec are built in C: their metaclass is replaced before `sidecar` is imported. Not seen are
structs that msgspec decodes, and members of enums, which are not built but looked up.
"""

from __future__ import annotations

import enum
import gc
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, Final

import msgspec
from typing_extensions import override

PACKAGE: Final = "sidecar"
ROOT: Final = Path(__file__).resolve().parents[1]
_SOURCES: Final = f"{ROOT / PACKAGE}/"
_GENERATED: Final = "/_generated/"

_INIT: Final = "__init__"

_built: Counter[str] = Counter()


class _CountedMeta(msgspec.StructMeta):
    @override
    def __call__(cls, *values: Any, **named: Any) -> Any:  # noqa: N805 - of a metaclass
        _note_built(cls)
        return super().__call__(*values, **named)


class _CountedStruct(msgspec.Struct, metaclass=_CountedMeta):
    pass


def main() -> None:
    """Print the traces."""
    vars(msgspec)["Struct"] = _CountedStruct  # before anything of `sidecar` is imported
    from loadtest.counting import of_each_conversation  # noqa: PLC0415 - see above

    json.dump(of_each_conversation(_trace), sys.stdout)


async def _trace(play: Callable[[], Awaitable[None]]) -> dict[str, dict[str, int]]:
    constructors = _watch_constructors()
    calls: Counter[str] = Counter()
    _built.clear()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code in constructors:
            first = frame.f_locals[code.co_varnames[0]]
            cls = first if isinstance(first, type) else type(first)
            if _constructor(cls) is code:  # else it is called by that of a subclass
                _note_built(cls)
        if _is_ours(code):
            calls[f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_qualname}"] += 1

    sys.setprofile(profile)
    try:
        await play()
    finally:
        sys.setprofile(None)
    return {"calls": dict(calls), "objects": dict(_built)}


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_SOURCES) and _GENERATED not in code.co_filename


def _note_built(cls: type) -> None:
    if _is_class_of_ours(cls):
        _built[f"{cls.__module__}.{cls.__qualname__}"] += 1


def _is_class_of_ours(cls: type) -> bool:
    module = str(cls.__module__)  # None for some that are made in C
    return module.startswith(f"{PACKAGE}.") and "._generated" not in module


def _watch_constructors() -> set[CodeType]:
    """Return the constructors in Python of our classes; set one where there is none."""
    constructors: set[CodeType] = set()
    for cls in [one for one in gc.get_objects() if isinstance(one, type)]:
        if not _is_class_of_ours(cls) or issubclass(cls, enum.Enum | msgspec.Struct):
            continue
        code = _constructor(cls)
        if code is None:
            type.__setattr__(cls, _INIT, _counting(getattr(cls, _INIT)))
        else:
            constructors.add(code)
    return constructors


def _constructor(cls: type) -> CodeType | None:
    """Return the code that every new instance of *cls* runs through, once."""
    for name in (_INIT, "__new__"):
        made = getattr(cls, name)
        if isinstance(made, FunctionType):
            return made.__code__
    return None


def _counting(initialise: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *values: Any, **named: Any) -> None:  # noqa: N807 - it stands for one
        initialise(self, *values, **named)

    return __init__


if __name__ == "__main__":
    main()
