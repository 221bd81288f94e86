from __future__ import annotations

import pytest

from sidecar.dialects.routes import guess_dialect, recognise
from sidecar.domain.http import Headers
from sidecar.domain.subject import Dialect, Operation, Route, UnknownRoute

OPENAI_MODELS = Route(Dialect.OPENAI, Operation.LIST_MODELS, has_body=False)
ANTHROPIC_VERSION = Headers((("anthropic-version", b"2023-06-01"),))


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/v1/chat/completions", Route(Dialect.OPENAI, Operation.CHAT, has_body=True)),
        (
            "POST",
            "/v1/completions",
            Route(Dialect.OPENAI, Operation.TEXT_COMPLETION, has_body=True),
        ),
        ("POST", "/v1/embeddings", Route(Dialect.OPENAI, Operation.EMBEDDINGS, has_body=True)),
        ("GET", "/v1/models", OPENAI_MODELS),
        ("GET", "/v1/models/gpt-4o", OPENAI_MODELS),
        ("GET", "/v1/models/ft:gpt-4o-mini:acme::Ab12", OPENAI_MODELS),
        ("POST", "/v1/messages", Route(Dialect.ANTHROPIC, Operation.CHAT, has_body=True)),
        (
            "POST",
            "/v1/messages/count_tokens",
            Route(Dialect.ANTHROPIC, Operation.COUNT_TOKENS, has_body=True),
        ),
        (
            "POST",
            "/v1/messages?beta=true",
            Route(Dialect.ANTHROPIC, Operation.CHAT, has_body=True),
        ),
    ],
)
def test_known_paths_are_recognised(method: str, path: str, route: Route) -> None:
    """Every operation of the supported APIs has its route; a query string changes nothing."""
    assert recognise(method, path) == route


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("post", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1//chat/completions"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat/completions;x=1"),
        ("POST", "/v1/chat%2Fcompletions"),
        ("POST", "/v1/./chat/completions"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/v1/chat/completions#part"),
        ("POST", "/v1/chat/completions\n"),
        ("POST", "http://example.com/v1/chat/completions"),
        ("POST", "/v1/responses"),
        ("POST", ""),
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/.."),
        ("GET", "/v1/models/a/b"),
        ("GET", "/v1/models/a;b"),
        ("GET", "/v1/models/a%2e"),
        ("GET", "/v1/models/é"),
        ("GET", "/v1/models/a\n"),
    ],
)
def test_any_other_path_is_unknown(method: str, path: str) -> None:
    """What a server behind us could normalise to a known path is not taken for one."""
    assert recognise(method, path) == UnknownRoute(Dialect.OPENAI)


def test_an_odd_path_under_messages_is_unknown_in_anthropics_words() -> None:
    """The refusal of a slip in an Anthropic path is one its client can read."""
    assert recognise("POST", "/v1/messages/") == UnknownRoute(Dialect.ANTHROPIC)
    assert recognise("POST", "/v1/messages/batches") == UnknownRoute(Dialect.ANTHROPIC)


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", Headers(), Dialect.ANTHROPIC),
        ("/v1/messages/batches", Headers(), Dialect.ANTHROPIC),
        ("/v1/messages?beta=true", Headers(), Dialect.ANTHROPIC),
        ("/v1/messages;x", Headers(), Dialect.ANTHROPIC),
        ("/v1/messages_of_others", Headers(), Dialect.OPENAI),
        ("/v1/models", ANTHROPIC_VERSION, Dialect.ANTHROPIC),
        ("/v1/models", Headers(), Dialect.OPENAI),
        ("/", Headers(), Dialect.OPENAI),
    ],
)
def test_the_dialect_is_guessed_by_path_and_version_header(
    path: str, headers: Headers, dialect: Dialect
) -> None:
    """Refusals before a route is known are worded for the likeliest client."""
    assert guess_dialect(path, headers) is dialect
