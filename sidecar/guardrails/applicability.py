"""Decides which guardrails apply to a request: by route, roll-out share, exemption and model."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Final, assert_never

from sidecar.domain.policy import FULL_ROLLOUT, ExemptLevel, Guardrail, RequestScope
from sidecar.domain.validation import compile_glob

_PLAIN_MODEL: Final = re.compile(r"[A-Za-z0-9._:/@+-]{1,200}")
"""Names that no server trims, folds or unescapes into another, but for their case."""


class Applicability(enum.Enum):
    """Whether a guardrail is for a request."""

    APPLIES = "applies"
    OUT_OF_SCOPE = "out of scope"
    EXEMPT = "exempt"


def applicability_of(guardrail: Guardrail, request_scope: RequestScope) -> Applicability:
    """Return whether *guardrail* is for a request whose model is not known yet."""
    scope, operation = guardrail.scope, request_scope.operation
    if scope.routes is not None and operation is not None and operation not in scope.routes:
        return Applicability.OUT_OF_SCOPE
    if (
        scope.rollout < FULL_ROLLOUT
        and rollout_position(guardrail.name, request_scope.key_id) >= scope.rollout
    ):
        return Applicability.OUT_OF_SCOPE
    for exemption in scope.exceptions:
        match exemption.level:
            case ExemptLevel.KEY:
                is_meant = exemption.name == request_scope.key_id
            case ExemptLevel.TEAM:
                is_meant = exemption.name == request_scope.team
            case _:
                assert_never(exemption.level)
        if is_meant and request_scope.at < exemption.ends_at:
            return Applicability.EXEMPT
    return Applicability.APPLIES


def applies_to_model(guardrail: Guardrail, model: str | None) -> bool:
    """Return whether *guardrail* is for *model*, None if the request names none."""
    globs = guardrail.scope.models
    if globs is None or model is None or _PLAIN_MODEL.fullmatch(model) is None:
        return True
    folded = model.lower()
    return any(compile_glob(glob.lower()).match(folded) is not None for glob in globs)


def rollout_position(guardrail: str, key_id: str) -> int:
    """Return the position of a key in a guardrail's roll-out, from 0 to 9999.

    A key keeps its position, so that a roll-out that grows keeps the keys it has, and a client
    that tries again does not get another answer.
    """
    digest = hashlib.sha256(f"{guardrail}\0{key_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * FULL_ROLLOUT >> 64
