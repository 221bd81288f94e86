"""What becomes of a request whose content nobody can read."""

from __future__ import annotations

from sidecar.decision.decide import decide_unscanned
from sidecar.domain.errors import ClientError, ErrorKind, client_error
from sidecar.domain.finding import Deny
from sidecar.domain.policy import UnscannedAction
from sidecar.domain.subject import UnscannedReason
from sidecar.keys.authorize import is_model_allowed


def judge_unread(
    reasons: tuple[UnscannedReason, ...],
    *,
    action: UnscannedAction,
    model: str | None,
    allowed_models: tuple[str, ...] | None,
) -> ClientError | None:
    """Return what the client is told, None where the request may pass.

    Its *model* is known only where the path names it.
    """
    decision = decide_unscanned(reasons, action)
    if isinstance(decision, Deny):
        return decision.error
    if not is_model_allowed(model, allowed_models):
        return client_error(ErrorKind.MODEL_NOT_ALLOWED)
    return None
