"""Whatever is found is gone, nothing else has changed, and it can be turned back."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.apis.request_text import read_request
from sidecar.domain.cooperative import run_sync
from sidecar.domain.finding import Allow, Finding, Redact
from sidecar.domain.http import Headers
from sidecar.domain.policy import RedactionStyle
from sidecar.domain.subject import Malformed, Subject
from sidecar.guardrails.remote.checks import RequestInfo
from sidecar.guardrails.runner import GuardrailRunner
from sidecar.jsontext.strict import JsonValue, parse
from sidecar.pipeline.decide import decide
from sidecar.redaction.redact import Redacted, RedactionRules, redact
from tests.support.guardrails import ScriptedChecks, effective, policy
from tests.support.json_rendering import render, text_of
from tests.support.routes import route_of
from tests.support.secrets import SECRETS

POLICY = effective(
    policy(
        "  - {name: secrets, type: secrets, action: redact}\n"
        "  - {name: pii, type: pii, action: redact, regions: [US, DE]}\n"
    )
)
RUNNER = GuardrailRunner(remote=ScriptedChecks({}), clock=lambda: 0.0)
ABOUT = RequestInfo(request_id="", key_id="")

PLAIN = st.text(st.sampled_from('ab é\u200b"\\\n{[]}:,.@-0123456789(x'), max_size=12)
CARDS = st.sampled_from(
    ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005", "\uff14111111111111111"]
)
PERSONAL = st.sampled_from(
    ["bob.builder@example.com", "a@b.example", "+1 415 555 2671", "DE89 3704 0044 0532 0130 00"]
)
KEYS = st.sampled_from([context + secret for _, context, secret in SECRETS])
PEM_WITH_ESCAPES = next(secret for _, _, secret in SECRETS if r"\n" in secret)
PLANTED = st.one_of(CARDS, PERSONAL, KEYS, st.sampled_from(["[EMAIL_1]", "[CREDIT_CARD_2]"]))
TEXTS = st.lists(st.one_of(PLAIN, PLANTED), max_size=4).map("".join) | st.lists(
    st.one_of(PLAIN, PLANTED), max_size=4
).map(" ".join)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    st.one_of(TEXTS, st.sampled_from([4111111111111111, 5, True, None])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
STYLES = st.integers(0, 2**32).map(random.Random)
BLOCKS = {
    "/v1/chat/completions": "text",
    "/openai/deployments/d/chat/completions": "text",
    "/v1/messages": "text",
    "/v1/responses": "input_text",
    "/v1beta/models/g:generateContent": None,
    "/model/m/converse": None,
}


def _body(path: str, parts: list[list[str]], more: JsonValue) -> dict[str, JsonValue]:
    """Return a request in the terms of the API at *path*: a message a list of texts."""
    kind = BLOCKS[path]
    messages: list[JsonValue] = [
        {
            "role": "user",
            "parts" if "generateContent" in path else "content": [
                {"text": text} if kind is None else {"type": kind, "text": text} for text in texts
            ],
        }
        for texts in parts
    ]
    name = {"/v1/responses": "input", "/v1beta/models/g:generateContent": "contents"}
    return {"x": more, name.get(path, "messages"): messages, "metadata": {"note": more}}


BODIES = st.builds(
    lambda path, parts, more: (path, _body(path, parts, more)),
    st.sampled_from(sorted(BLOCKS)),
    st.lists(st.lists(TEXTS, max_size=3), max_size=2),
    VALUES,
)
SPLIT = st.builds(
    lambda path, secret, cut, more: (
        path,
        _body(path, [[secret[: cut % len(secret)], secret[cut % len(secret) :]]], more),
    ),
    st.sampled_from(sorted(BLOCKS)),
    PLANTED,
    st.integers(0, 99),
    VALUES,
)
REDACTION = st.sampled_from(RedactionStyle)
MARK = re.compile(rb"\[[A-Z][A-Z0-9_]*_(?:[0-9]+|h_[0-9a-f]{16})\]|0[0-9 -]{11,}[0-9]")
"""What stands for a value, in any style."""


def _read(path: str, raw: bytes) -> Subject:
    subject = read_request(route_of(path), Headers(), raw)
    assert isinstance(subject, Subject)
    return subject


def _found(subject: Subject) -> tuple[Finding, ...]:
    results = RUNNER.inspect(POLICY, subject, about=ABOUT)
    assert isinstance(results, tuple)
    decision = decide(results)
    if isinstance(decision, Allow):
        return ()
    assert isinstance(decision, Redact)
    return decision.findings


def _redacted(path: str, raw: bytes, style: RedactionStyle, *, restore: bool) -> Redacted:
    subject = _read(path, raw)
    guardrails = {
        one.name: replace(one, redaction=style, restore=restore) for one in POLICY.guardrails
    }
    rules = RedactionRules(guardrails, b"k" * 32)
    return run_sync(redact(raw, subject.parts, _found(subject), rules=rules))


def _strings(value: JsonValue) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield key
                yield from _strings(item)
        case list():
            for item in value:
                yield from _strings(item)
        case _:
            yield str(value)


@given(body=st.one_of(BODIES, SPLIT), style=STYLES, redaction=REDACTION)
@example(
    # A quote without its end: what stands for the key is as long as a key.
    body=(
        "/v1/messages",
        _body("/v1/messages", [['API_KEY="3jFpmXKWlm8Dn7ckYdd8RIdZCAGb0Zi6']], []),
    ),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.HASH,
)
@example(  # a value over two texts, each with what stands for its part of it
    body=(
        "/model/m/converse",
        _body(
            "/model/m/converse",
            [['"private_key_id": "c', "f702bffb76b3857801669e5afe49073b4654fc0"]],
            [],
        ),
    ),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.PLACEHOLDER,
)
@example(  # one key is a placeholder already, the other would become it
    body=("/v1/messages", _body("/v1/messages", [], {"a [EMAIL_1]": 1, "a a@b.example": 2})),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.PLACEHOLDER,
)
@example(  # so too, and the value has no other hash
    body=(
        "/v1/messages",
        _body("/v1/messages", [], {"[EMAIL_h_d9708b998ae517d1]": 1, "a@b.example": 2}),
    ),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.HASH,
)
def test_nothing_that_was_found_is_left_and_the_body_stays_json(
    body: tuple[str, dict[str, JsonValue]], style: random.Random, redaction: RedactionStyle
) -> None:
    """Redacting what is redacted changes nothing: no placeholder and no rest is found again."""
    path, document = body
    raw = text_of(render(document, style)).encode()
    once = _redacted(path, raw, redaction, restore=False).body
    assert not isinstance(parse(once), Malformed)
    assert _found(_read(path, once)) == ()
    assert _redacted(path, once, redaction, restore=False).body == once


@given(body=BODIES, style=STYLES, redaction=REDACTION)
@example(
    # Seventeen digits that pass as a card, the first of them apart.
    body=("/model/m/converse", _body("/model/m/converse", [["2 4111 1111 1111 1111"]], [])),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.FORMAT_PRESERVING,
)
@example(
    body=("/v1/messages", _body("/v1/messages", [['{"n": [4111111111111111 ]}']], [])),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.PLACEHOLDER,
)
def test_every_other_byte_stays(
    body: tuple[str, dict[str, JsonValue]], style: random.Random, redaction: RedactionStyle
) -> None:
    """The body that came is the body that goes, with something else in place of each mark."""
    path, document = body
    raw = text_of(render(document, style)).encode()
    redacted = _redacted(path, raw, redaction, restore=False).body
    between = [re.escape(piece) for piece in MARK.split(redacted)]
    # A number that was redacted stands in quotes now, in JSON text in a string in escaped ones.
    quote = rb'\A(?:\\\\)*"|(?:\\\\)*"\Z'
    kept = b"(?s:.+?)".join(re.sub(quote, rb'(?:\\\\*")?', piece) for piece in between)
    assert re.fullmatch(kept, raw)


@given(body=BODIES, style=STYLES, redaction=REDACTION)
@example(
    body=("/v1/messages", _body("/v1/messages", [['{"n": [4111111111111111 ]}']], [])),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.PLACEHOLDER,
)
@example(  # begins as JSON text does, and is none
    body=("/v1/messages", _body("/v1/messages", [["[EMAIL_1]" + PEM_WITH_ESCAPES]], [])),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.PLACEHOLDER,
)
@example(  # so too, and what is found begins within an escape of it
    body=("/v1/messages", _body("/v1/messages", [["[\\4111 1111 1111 1111"]], [])),
    style=random.Random(0),  # noqa: S311 - the same in every run
    redaction=RedactionStyle.PLACEHOLDER,
)
def test_what_was_taken_out_can_be_put_back(
    body: tuple[str, dict[str, JsonValue]], style: random.Random, redaction: RedactionStyle
) -> None:
    """String by string, keys included; a number comes back as a string."""
    path, document = body
    raw = text_of(render(document, style)).encode()
    redacted = _redacted(path, raw, redaction, restore=True)
    restored = [
        redacted.restoration.restore(text.encode()).decode()
        for text in _strings(json.loads(redacted.body))
    ]
    assert list(map(_unquoted, restored)) == list(map(_unquoted, _strings(json.loads(raw))))


def _unquoted(text: str) -> str:
    """Return a text without its quotes: of a number in JSON text they are new."""
    return re.sub(r'\\*"', "", text)
