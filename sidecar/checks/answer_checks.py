"""Third step: what becomes of the answer to a cleared request."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final

from sidecar.apis.error_body import stream_error
from sidecar.apis.response_structure import AnswerForm, answer_form
from sidecar.checks.answer_judgement import AnswerJudgement, AnswerSetting, Released
from sidecar.checks.ledger import Ledger
from sidecar.decision.decide import decide_unscanned
from sidecar.domain.errors import ClientError
from sidecar.domain.finding import Deny
from sidecar.domain.http import HeaderMutation, HeaderName, Headers
from sidecar.domain.policy import StreamMode
from sidecar.domain.subject import RequestForm, Route, Unreadable
from sidecar.exchange.events import (
    ResponseCleared,
    ResponseHeld,
    ResponseJudged,
    ResponsePieceJudged,
    ResponseStreamed,
)

IDENTITY: Final = ((HeaderName.ACCEPT_ENCODING, b"identity"),)
"""Asked of the provider where answers are judged: what is compressed cannot be read."""


@dataclass(frozen=True, slots=True)
class RequestLine:
    """What of a request its answer depends on."""

    path: str
    route: Route


class AnswerChecks:
    """Judges the answer of one exchange. A `ClientError` refuses it as a whole."""

    def __init__(self, line: RequestLine, setting: AnswerSetting, *, ledger: Ledger) -> None:
        self._line = line
        self._setting = setting
        self._ledger = ledger
        self._form = AnswerForm.JSON
        self._judgement: AnswerJudgement | None = None
        self._has_left = False

    def judge_headers(
        self, headers: Headers, *, own: HeaderMutation, has_body: bool, may_stream: bool
    ) -> ResponseCleared | ResponseStreamed | ResponseHeld | ClientError:
        """Say whether the answer streams, is held, or cannot be read; *own* headers are added."""
        if not has_body:
            return ResponseCleared(own)
        form = answer_form(headers, path=self._line.path)
        if isinstance(form, Unreadable):
            self._ledger.answer_unscanned = (form.reason,)
            decision = decide_unscanned((form.reason,), self._setting.unscanned, subject="answer")
            return decision.error if isinstance(decision, Deny) else ResponseCleared(own)
        self._form = form
        is_success = headers.text(HeaderName.STATUS)[:1] in {"2", ""}
        self._judgement = AnswerJudgement(form, self._setting, is_success=is_success)
        if not may_stream or not form.is_streamed:
            return ResponseHeld()
        if self._setting.policy.streams is StreamMode.BUFFER:
            return ResponseHeld()
        return ResponseStreamed(without_length(own, headers))

    def judge_piece(self, body: bytes, *, is_last: bool) -> ResponsePieceJudged:
        """Judge the next piece of a stream; an error ends it in the words of its API."""
        judgement = self._begun()
        released = judgement.take(body, is_last=is_last)
        self._has_left = self._has_left or bool(released.body)
        if released.error is None:
            if is_last:
                self._note(judgement)
            return ResponsePieceJudged(released.body)
        self._note(judgement)
        self._ledger.refuse_answer(released.error.kind)
        end = stream_error(
            self._form,
            released.error,
            dialect=self._line.route.dialect,
            is_typed=self._line.route.form is RequestForm.RESPONSES,
            follows_element=self._has_left,
        )
        return ResponsePieceJudged(
            released.body + end, ends=True, metadata=self._ledger.metadata()
        )

    def judge_body(
        self, body: bytes, *, own: HeaderMutation
    ) -> ResponseJudged | ClientError | Awaitable[ResponseJudged | ClientError]:
        """Judge a whole answer; awaits remote guardrails only."""
        released = self._begun().judge_whole(body)
        if isinstance(released, Released):
            return self._concluded(released, body, own)
        return self._conclude_later(released, body, own)

    def abandon(self) -> None:
        """Keep what was found of an answer that nobody takes to its end."""
        if self._judgement is not None:
            self._note(self._judgement)

    async def _conclude_later(
        self, released: Awaitable[Released], body: bytes, own: HeaderMutation
    ) -> ResponseJudged | ClientError:
        return self._concluded(await released, body, own)

    def _concluded(
        self, released: Released, body: bytes, own: HeaderMutation
    ) -> ResponseJudged | ClientError:
        self._note(self._begun())
        if released.error is not None:
            return released.error
        changed = None if released.body == body else released.body
        return ResponseJudged(own, changed, self._ledger.metadata())

    def _begun(self) -> AnswerJudgement:
        if self._judgement is None:
            raise AssertionError("the body of an answer was judged before its headers")
        return self._judgement

    def _note(self, judgement: AnswerJudgement) -> None:
        self._ledger.take_answer(
            judgement.results(), judgement.reasons, is_redacted=judgement.is_redacted
        )


def without_length(own: HeaderMutation, headers: Headers) -> HeaderMutation:
    """A stream may grow or shrink; its length would then cut it, or never come to its end."""
    if headers.first(HeaderName.CONTENT_LENGTH) is None:
        return own
    return HeaderMutation(own.set_headers, (*own.remove_headers, HeaderName.CONTENT_LENGTH))


def asking_for_identity(headers: HeaderMutation) -> HeaderMutation:
    """Return the changes to a request whose answer must be readable."""
    return HeaderMutation((*headers.set_headers, *IDENTITY), headers.remove_headers)
