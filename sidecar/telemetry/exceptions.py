"""Exceptions as log fields: their types and where in our code, never their text.

The text of an exception often quotes what was being handled (a JSON error its document, a driver
its parameters), and local variables hold prompts and keys.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

MAX_FRAMES: Final = 12
MAX_CAUSES: Final = 6
OUR_PACKAGE: Final = "sidecar"


def exception_fields(error: BaseException) -> dict[str, object]:
    """Return the fields `error_type`, `frames` (innermost first) and, if any, `causes`."""
    fields: dict[str, object] = {
        "error_type": type_name(error),
        "frames": _our_frames(error.__traceback__),
    }
    if causes := _causes(error):
        fields["causes"] = causes
    return fields


def type_name(error: BaseException) -> str:
    """Return the class of an exception with its module, bare for built-in ones."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _our_frames(traceback: TracebackType | None) -> list[str]:
    frames: list[str] = []
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] == OUR_PACKAGE:
            frames.append(f"{module}:{traceback.tb_lineno}")
        traceback = traceback.tb_next
    return frames[::-1][:MAX_FRAMES]


def _causes(error: BaseException) -> list[str]:
    seen: list[BaseException] = []
    waiting = _reasons(error)
    while waiting and len(seen) < MAX_CAUSES:
        cause = waiting.pop(0)
        if cause is not error and not any(cause is one for one in seen):
            seen.append(cause)
            waiting.extend(_reasons(cause))
    return [type_name(cause) for cause in seen]


def _reasons(error: BaseException) -> list[BaseException]:
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    reason = error.__cause__
    if reason is None and not error.__suppress_context__:
        reason = error.__context__
    return inner if reason is None else [*inner, reason]
