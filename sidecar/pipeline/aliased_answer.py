"""Names the alias in an answer, where its client requested a model by one.

Of OpenAI's and Anthropic's answers, whole and streamed: in other APIs the path names the model.
"""

from __future__ import annotations

from typing import Final

import orjson

from sidecar.apis.frames import SseFramer, with_payload_in_place
from sidecar.apis.response_structure import AnswerForm, answer_form
from sidecar.apis.response_text import load_event
from sidecar.apis.stream_usage import members
from sidecar.domain.cooperative import SHORT_BYTES, Cooperative, pieces_of, run_sync
from sidecar.domain.errors import ClientError
from sidecar.domain.http import HeaderName, Headers
from sidecar.extproc.stream import ExtProcStream
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.jsontext.strict import JsonValue
from sidecar.pipeline.answer import AnswerPlan, Handling, RequestLine
from sidecar.pipeline.answer_judgement import Released
from sidecar.pipeline.metered_answer import MAX_WHOLE_BYTES

_MODEL: Final = b"model"
_NAMED: Final = b'"model"'
_HOLDERS: Final = (b"response", b"message")
"""Members of an event that hold an answer: OpenAI's responses, the first of Anthropic's."""


class AliasedAnswer:
    """An answer that names the alias as its model, judged by *inner* if that is given.

    Nothing of it is refused but by *inner*: an event that cannot be read goes on as it is. A whole
    answer is held until it is here, since its length changes; too long a one goes on as it is too.
    """

    def __init__(
        self, line: RequestLine, inner: AnswerPlan | None, *, alias: str, runner: GuardrailRunner
    ) -> None:
        self.is_judged = inner is not None and inner.is_judged
        self._line = line
        self._inner = inner
        self._alias = orjson.dumps(alias)
        self._runner = runner
        self._form: AnswerForm | None = None
        self._framer = SseFramer()
        self._is_beyond = False

    def begin(self, headers: Headers, *, may_stream: bool) -> Handling | ClientError:
        """Choose as *inner* does, and by whether there is an answer that names its model."""
        handling: Handling | ClientError = Handling.PASS
        if self._inner is not None:
            handling = self._inner.begin(headers, may_stream=may_stream)
        form = answer_form(headers, path=self._line.path)
        is_success = headers.text(HeaderName.STATUS)[:1] in {"2", ""}
        if not is_success or form not in {AnswerForm.SSE, AnswerForm.JSON}:
            return handling
        self._form = AnswerForm(form)
        if handling is not Handling.PASS:
            return handling
        self._inner, self.is_judged = None, False
        return Handling.STREAM if may_stream and form is AnswerForm.SSE else Handling.HOLD

    def take(self, body: bytes, *, is_last: bool) -> Released:
        """Return the bytes that may leave, once the next piece of a stream is here."""
        if self._inner is None:
            return run_sync(self._named(Released(body), is_last=is_last))[0]
        released = self._inner.take(body, is_last=is_last)
        return run_sync(self._named(released, is_last=is_last))[0]

    def steps(self, body: bytes, *, is_last: bool) -> Cooperative[tuple[Released]]:
        """Do the same as `take` in slices."""
        released = Released(body)
        if self._inner is not None:
            (released,) = yield from self._inner.steps(body, is_last=is_last)
        return (yield from self._named(released, is_last=is_last))

    async def judge_whole(self, body: bytes, stream: ExtProcStream) -> Released:
        """Return the body that may leave, of an answer that is here as a whole."""
        released = Released(body)
        if self._inner is not None:
            released = await self._inner.judge_whole(body, stream)
        if released.error is not None:
            return released
        if self._form is AnswerForm.JSON:
            is_long = len(released.body) > MAX_WHOLE_BYTES
            return released if is_long else Released(restore_alias(released.body, self._alias))
        steps = self._runner.run_cooperatively(self._named(released, is_last=True))
        return (await stream.outcome_of(steps))[0]

    def end(self, error: ClientError) -> Released:
        """Return the end of a stream that is broken off, in the form of its API."""
        released = Released(b"", error) if self._inner is None else self._inner.end(error)
        return run_sync(self._named(released, is_last=True))[0]

    def abandon(self) -> None:
        """Record the findings of an answer that did not come to its end."""
        if self._inner is not None:
            self._inner.abandon()

    def _named(self, released: Released, *, is_last: bool) -> Cooperative[tuple[Released]]:
        body = released.body
        if self._form is not AnswerForm.SSE or self._is_beyond:
            return (released,)
        shown: list[bytes] = []
        is_end = is_last or released.error is not None
        for piece, is_last_piece in pieces_of(body, is_last=is_end):
            if self._is_beyond:
                shown.append(piece)
                continue
            frames = self._framer.feed(piece)
            if is_last_piece:
                frames += self._framer.finish()
            for frame in frames:
                if frame.payload is None or _NAMED not in frame.payload:
                    shown.append(frame.raw)
                else:
                    payload = restore_alias(frame.payload, self._alias)
                    shown.append(with_payload_in_place(frame, payload))
            if self._framer.fault is not None:
                self._is_beyond = True
                shown.append(self._framer.rest())
            if len(body) > SHORT_BYTES:
                yield
        return (Released(b"".join(shown), released.error),)


def restore_alias(payload: bytes, alias: bytes) -> bytes:
    """Return JSON text with *alias* as its model, or as that of an answer within."""
    try:
        document: JsonValue = load_event(payload)
    except (ValueError, RecursionError):
        return payload
    if not isinstance(document, dict):
        return payload
    found = {one.name: one for one in members(payload, 0)}
    for name in _HOLDERS:
        if _MODEL not in found and isinstance(document.get(name.decode()), dict):
            found |= {one.name: one for one in members(payload, found[name].start)}
    model = found.get(_MODEL)
    if model is None or not payload[model.start : model.end].startswith(b'"'):
        return payload
    return payload[: model.start] + alias + payload[model.end :]
