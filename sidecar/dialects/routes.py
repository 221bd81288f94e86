"""Which request paths are known, and whose API they belong to."""

from __future__ import annotations

import re
from typing import Final

from sidecar.domain.http import HeaderName, Headers
from sidecar.domain.subject import Dialect, Operation, Route, UnknownRoute

_ROUTES: Final = {
    ("POST", "/v1/chat/completions"): Route(Dialect.OPENAI, Operation.CHAT, has_body=True),
    ("POST", "/v1/completions"): Route(Dialect.OPENAI, Operation.TEXT_COMPLETION, has_body=True),
    ("POST", "/v1/embeddings"): Route(Dialect.OPENAI, Operation.EMBEDDINGS, has_body=True),
    ("GET", "/v1/models"): Route(Dialect.OPENAI, Operation.LIST_MODELS, has_body=False),
    ("POST", "/v1/messages"): Route(Dialect.ANTHROPIC, Operation.CHAT, has_body=True),
    ("POST", "/v1/messages/count_tokens"): Route(
        Dialect.ANTHROPIC, Operation.COUNT_TOKENS, has_body=True
    ),
}

_ANTHROPIC_PATH: Final = re.compile(r"/v1/messages(?![\w-])", re.ASCII)

_ONE_MODEL: Final = re.compile(r"/v1/models/[A-Za-z0-9_:-][A-Za-z0-9._:-]*", re.ASCII)
"""A single segment that no server normalises: no escape, no `;`, no dot at its start."""


def recognise(method: str, path: str) -> Route | UnknownRoute:
    """Return the route of an exact path; the query string does not matter.

    Nothing is normalised: a path that a server behind us might read in another way (escapes,
    double or trailing slashes, `;` parameters, dot segments) is unknown, hence unscanned.
    """
    bare = path.partition("?")[0]
    route = _ROUTES.get((method, bare))
    if route is not None:
        return route
    if method == "GET" and _ONE_MODEL.fullmatch(bare):
        return _ROUTES["GET", "/v1/models"]
    return UnknownRoute(guess_dialect(path, Headers()))


def guess_dialect(path: str, headers: Headers) -> Dialect:
    """Return whose words a refusal should be in.

    `GET /v1/models` is served by both; only Anthropic's clients send `anthropic-version`.
    """
    if _ANTHROPIC_PATH.match(path) or headers.first(HeaderName.ANTHROPIC_VERSION) is not None:
        return Dialect.ANTHROPIC
    return Dialect.OPENAI
