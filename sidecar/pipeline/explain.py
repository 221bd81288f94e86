"""Words a refusal for the client's developer: the cause, the place, and the fix.

All of it runs once a request is refused; a request that is allowed pays nothing for it. No key and
no text of the request is repeated: places are names of the API and numbers, and a path is shown
as far as its segments are plain words.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import orjson

from sidecar.apis.request_schema import declared_unreadable, holds_tokens
from sidecar.apis.routes import recognise
from sidecar.apis.vocabulary import VOCABULARIES
from sidecar.domain.errors import ClientError, ErrorKind
from sidecar.domain.finding import Verdict
from sidecar.domain.http import CREDENTIAL_HEADERS, HeaderName, Headers
from sidecar.domain.policy import Mode
from sidecar.domain.subject import Route, UnscannedReason
from sidecar.extproc.protocol import ExtProcProtocol
from sidecar.jsontext.strict import JsonBound, JsonValue
from sidecar.keys.credentials import PREFIX
from sidecar.pipeline.decide import OPERATOR_ADVICE
from sidecar.pipeline.record import RequestRecord

EXPLAINED: Final = (
    ErrorKind.INVALID_API_KEY,
    ErrorKind.CONFLICTING_CREDENTIALS,
    ErrorKind.UNKNOWN_URL,
    ErrorKind.CONTENT_BLOCKED,
    ErrorKind.UNSCANNED_CONTENT,
)
"""The kinds that have details; the others, such as a missing key, do not pay for the search."""


def explain(error: ClientError, record: RequestRecord, protocol: ExtProcProtocol) -> ClientError:
    """Return *error* with the details that help its reader, as far as its kind has any."""
    match error.kind:
        case ErrorKind.UNKNOWN_URL | ErrorKind.UNSCANNED_CONTENT if (
            HeaderName.UPGRADE in protocol.headers.by_name
        ):
            return replace(error, message=_UPGRADE)
        case ErrorKind.INVALID_API_KEY | ErrorKind.CONFLICTING_CREDENTIALS:
            message = credential_message(error.kind, protocol.headers) or error.message
            return replace(error, message=message)
        case ErrorKind.UNKNOWN_URL:
            return replace(error, message=path_message(record.method or "", record.path))
        case ErrorKind.CONTENT_BLOCKED if record.subject is not None:
            return with_places(error, record, protocol.body())
        case ErrorKind.UNSCANNED_CONTENT:
            declared = declared_unreadable(protocol.headers)
            fix = _FIXES[declared] if declared in record.unscanned else ""
            body = protocol.body() if UnscannedReason.UNKNOWN_SHAPE in record.unscanned else b""
            if len(body) <= MAX_SEARCHED_BYTES:
                with contextlib.suppress(ValueError):
                    fields: JsonValue = orjson.loads(body)
                    if isinstance(fields, dict) and holds_tokens(fields):
                        fix = _TOKENS_FIX
            return replace(error, message=error.message + fix)
        case _:
            return error


_FIXES: Final[Mapping[UnscannedReason | None, str]] = {
    UnscannedReason.ENCODED_BODY: " Send the body without 'content-encoding'.",
    UnscannedReason.CHARSET: " Send JSON in UTF-8.",
    UnscannedReason.UNKNOWN_SHAPE: " Send JSON, with 'content-type: application/json'.",
}
"""By the fault that the headers show. curl sends a form unless a content type is named."""


_UPGRADE: Final = (
    "An upgrade of the connection, such as to a WebSocket, is refused: nothing behind it can be"
    " checked. Use an API over HTTP, such as /v1/responses or /v1beta/models." + OPERATOR_ADVICE
)

_TOKENS_FIX: Final = (
    " Send texts in place of arrays of tokens; LangChain's OpenAIEmbeddings does so with"
    " check_embedding_ctx_length=False."
)


_PROVIDER_KEYS: Final = (
    (b"sk-ant-", "Anthropic"),
    (b"sk-or-", "OpenRouter"),
    (b"sk-", "OpenAI or LiteLLM"),
    (b"AIza", "Google"),
    (b"ya29.", "Google"),
    (b"ABSK", "Amazon Bedrock"),
    (b"bedrock-api-key-", "Amazon Bedrock"),
    (b"gsk_", "Groq"),
    (b"xai-", "xAI"),
    (b"hf_", "Hugging Face"),
)
"""Beginnings of providers' keys, by their documentation; the first that fits counts."""

_AWS_SIGNATURE: Final = re.compile(rb"[ \t]*AWS4-[A-Z0-9-]+[ \t]")


def credential_message(kind: ErrorKind, headers: Headers) -> str | None:
    """Return the message about refused credentials; None if there is no more to say of them."""
    sent = [(name, value) for name, value in headers.fields if name in CREDENTIAL_HEADERS]
    if any(_AWS_SIGNATURE.match(value) for _, value in sent):
        return (
            "AWS signatures are not taken here: set AWS_BEARER_TOKEN_BEDROCK to your Egret key "
            "(egk_…), and set no AWS access key."
        )
    if kind is ErrorKind.CONFLICTING_CREDENTIALS:
        names = [name for name, _ in sent]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            return f"Header '{repeated[0]}' was sent more than once: send exactly one API key."
        if len(names) > 1:
            listed = "', '".join(names)
            return (
                f"Different credentials were sent in the headers '{listed}': send exactly one "
                "API key. A client library may read a second one from its environment."
            )
        return None
    for _, value in sent:
        key = re.sub(rb"(?i)\A[ \t]*bearer[ \t]+", b"", value).strip(b" \t")
        for beginning, provider in _PROVIDER_KEYS:
            if key.startswith(beginning):
                return (
                    f"This API key is not valid. It looks like a key of {provider} "
                    f"({beginning.decode()}…): send your Egret key ({PREFIX}…); the gateway adds "
                    "the provider's."
                )
    return None


MAX_SEGMENTS: Final = 10
_SEGMENT: Final = re.compile(r"(?!egk_|sk-)[A-Za-z0-9._:-]{0,40}")
_METHOD: Final = re.compile(r"[A-Z]{1,10}")
_ROOTS: Final = ("", "/v1", "/openai", "/openai/v1")
_APIS: Final = (
    " It reads /v1/chat/completions, /v1/responses and others of OpenAI, /v1/messages (Anthropic),"
    " /v1beta (Gemini), /openai (Azure), /model (Bedrock), /v1/projects (Vertex AI)."
)
_OTHER_METHODS: Final = ("POST", "GET", "DELETE")


def path_message(method: str, path: str) -> str:
    """Return the message about a path that is not known, with the one that was meant."""
    bare = path.partition("?")[0]
    segments = bare.split("/")[: MAX_SEGMENTS + 2]
    shown = "/".join(
        [one if _SEGMENT.fullmatch(one) else "…" for one in segments[: MAX_SEGMENTS + 1]]
    )
    if len(segments) > MAX_SEGMENTS + 1:
        shown += "/…"
    named = f"{method if _METHOD.fullmatch(method) else '…'} {shown}"
    meant = suggested_path(method, [one for one in segments if one]) if shown == bare else None
    if meant is not None:
        return f"{named} is not an API that this gateway knows. Did you mean {meant}?"
    return (
        f"{named} is not an API that this gateway knows, so its content cannot be checked."
        + _APIS
        + OPERATOR_ADVICE
    )


def suggested_path(method: str, segments: list[str]) -> str | None:
    """Return a known path like this one: under another root, in the plural, by another method."""
    if not segments:
        return None
    paths = [
        f"{root}/{'/'.join(segments[dropped:])}{end}"
        for dropped in range(min(3, len(segments)))
        for end in ("", "s")
        for root in _ROOTS
    ]
    for path in paths:
        if isinstance(recognise(method, path), Route):
            return path
    # A name such as `m:batchGenerateContent` can be that of a model, and is mostly none.
    for other in () if ":" in segments[-1] else _OTHER_METHODS:
        if isinstance(recognise(other, paths[0]), Route):
            return f"{other} {paths[0]}"
    return None


MAX_PLACES: Final = 3
MAX_PLACE_CHARACTERS: Final = 120
MAX_SEARCHED_BYTES: Final = 2 * 1024 * 1024
"""A larger body is not read a second time: it would keep the worker for tens of milliseconds."""
_SEARCHED: Final = JsonBound(containers=5_000, commas=10_000)
"""Nor is one of more values, each of which takes half a microsecond."""


def with_places(error: ClientError, record: RequestRecord, body: bytes) -> ClientError:
    """Return *error* with the places that the first blocking guardrail has found something in."""
    subject, route = record.subject, record.route
    blocking = next(
        (
            result
            for result in record.results
            if result.verdict is Verdict.BLOCK and result.guardrail.mode is not Mode.SHADOW
        ),
        None,
    )
    if blocking is None or subject is None or not isinstance(route, Route):
        return error
    parts = sorted({finding.part for finding in blocking.findings})
    locations = [subject.parts[part].location for part in parts if part < len(subject.parts)]
    names = VOCABULARIES[route.dialect].field_names
    places = list(dict.fromkeys(places_of(body, locations[:MAX_PLACES], names=names)))
    if not places:
        return error
    more = f" and {len(locations) - MAX_PLACES} more" if len(locations) > MAX_PLACES else ""
    message = f"{error.message} Found in: {', '.join(places)}{more}."
    return replace(error, message=message, param=places[0])


def places_of(
    body: bytes, locations: Iterable[tuple[int, ...]], *, names: frozenset[str]
) -> list[str]:
    """Return the places of text parts in a JSON body, such as `messages[2].content`.

    *locations* are those of `TextPart`. A field that is not among the *names* of the API is shown
    as `*`, since its name may be content.
    """
    wanted = {location[0] for location in locations}
    if not wanted or len(body) > MAX_SEARCHED_BYTES or _SEARCHED.is_exceeded_by(body):
        return []
    strings, numbers = itertools.count(), itertools.count(-1, -1)
    path: list[str | int] = []
    found: list[str] = []

    def check(index: int) -> None:
        if index in wanted:
            steps = [
                f"[{step}]" if isinstance(step, int) else f".{step if step in names else '*'}"
                for step in path
            ]
            found.append("".join(steps).removeprefix(".")[:MAX_PLACE_CHARACTERS])

    def visit(value: JsonValue) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                path.append(key)
                check(next(strings))
                visit(inner)
                path.pop()
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                path.append(index)
                visit(inner)
                path.pop()
        elif isinstance(value, str):
            check(next(strings))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            check(next(numbers))

    try:
        visit(orjson.loads(body))
    except ValueError:  # read before by a more lenient parser
        return []
    return found
