"""An answer that nobody judges: it passes here to lose counts its client did not ask for.

Nothing of it is ever refused or held back: what cannot be read goes on as it is.
"""

from __future__ import annotations

from sidecar.apis.response_structure import AnswerForm, answer_form
from sidecar.apis.stream_usage import UsageHider
from sidecar.checks.answer_checks import RequestLine, without_length
from sidecar.domain.http import HeaderMutation, Headers
from sidecar.exchange.events import (
    ResponseCleared,
    ResponseHeld,
    ResponseJudged,
    ResponsePieceJudged,
    ResponseStreamed,
)


class UsageHiding:
    """Stands where `AnswerChecks` does, for the answer of one exchange."""

    def __init__(self, line: RequestLine) -> None:
        self._line = line
        self._hider = UsageHider()

    def judge_headers(
        self, headers: Headers, *, own: HeaderMutation, has_body: bool, may_stream: bool
    ) -> ResponseCleared | ResponseStreamed | ResponseHeld:
        """Say whether there is a stream to take them out of; *own* headers are added."""
        if not has_body or answer_form(headers, path=self._line.path) is not AnswerForm.SSE:
            return ResponseCleared(own)
        return ResponseStreamed(without_length(own, headers)) if may_stream else ResponseHeld()

    def judge_piece(self, body: bytes, *, is_last: bool) -> ResponsePieceJudged:
        """Return what of the stream may go on."""
        return ResponsePieceJudged(self._hider.take(body, is_last=is_last))

    def judge_body(self, body: bytes, *, own: HeaderMutation) -> ResponseJudged:
        """Return a whole stream, as a gateway sends it that collects answers."""
        return ResponseJudged(own, self._hider.take(body, is_last=True))

    def abandon(self) -> None:
        """Nothing was found."""
