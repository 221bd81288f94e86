from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from sidecar.domain.cooperative import run_sync
from sidecar.domain.errors import ErrorKind, client_error
from sidecar.domain.http import HeaderMutation, Headers
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.principal import KeyRecord, PolicyBinding
from sidecar.domain.subject import Dialect
from sidecar.domain.usage import DecisionKind
from sidecar.extproc.phases import BodyMode
from sidecar.guardrails.message_table import Entry, MessageTable
from sidecar.guardrails.remote.checks import RemoteVerdict
from sidecar.keys.credentials import ApiKey
from sidecar.pipeline.reply import refusal_of
from sidecar.policy.snapshot import snapshot_steps
from sidecar.settings.serving import Timing
from tests.support import envoy_messages as envoy
from tests.support import replies as do
from tests.support.conversation import message_of
from tests.support.events import (
    BodyRequired,
    RequestCleared,
    RequestRefused,
    ResponseBodyReceived,
    ResponseCleared,
    ResponseHeld,
    ResponseJudged,
)
from tests.support.pipeline import KEY, NOW, PATIENT, REQUEST_ID, Exchange, World, chat, headers
from tests.support.replies import Refuse
from tests.support.reports import SAMPLED, TRACE_ID, UNSAMPLED

REDACTING = """
name: default
guardrails:
  - {name: pii, type: pii, action: redact}
  - {name: secrets, type: secrets, action: block}
"""
WITH_WEBHOOK = """
name: default
guardrails:
  - {name: secrets, type: secrets, action: block}
  - {name: tone, type: webhook, action: block, url: "http://127.0.0.1:9/"}
"""
WITH_OUTPUT_GUARDRAIL = """
name: default
guardrails:
  - {name: secrets, type: secrets, stage: output, action: block}
"""
STRIPPED = HeaderMutation(remove_headers=("authorization",))


def refused(verdict: object) -> tuple[int, str, str]:
    """Return status, code and details of a refusal in OpenAI's words."""
    assert isinstance(verdict, RequestRefused)
    error = json.loads(verdict.refusal.body)["error"]
    return verdict.refusal.status, error["code"], verdict.refusal.details


def metadata_of(cleared: RequestCleared) -> dict[str, str | float]:
    return dict(cleared.mutations.metadata)


async def test_a_good_key_needs_its_body_and_then_goes_on_unchanged() -> None:
    """Only the credential is taken away; the metadata says who and what, and no content."""
    world = World(REDACTING)
    checks = world.exchange()
    assert await checks.judge_headers(headers(), has_body=True) == BodyRequired()
    cleared = await checks.judge_body(chat("hello"))
    assert isinstance(cleared, RequestCleared)
    assert (cleared.mutations.headers, cleared.mutations.body) == (STRIPPED, None)
    assert metadata_of(cleared) == {
        "request_id": REQUEST_ID,
        "verdict": "allowed",
        "model": "gpt-5",
        "key_id": KEY.key_id,
        "team": "search",
        "organization": "acme",
        "priority": "standard",
        "estimated_tokens": "1027",
        "policy": "default",
        "started_us": "1700000000000000",
        "team_id": "team_1",
        "organization_id": "org_1",
        "operation": "chat",
        "provider": "openai",
        "text_bytes": "10",
        "server_timing": "authorize;dur=0.000, guardrails;dur=0.000, egret;dur=0.000",
        "authorize_us": 0,
        "guardrails_us": 0,
        "egret_us": 0,
    }
    await checks.end()
    assert world.counted() == {("allowed", "none"): 1}


async def test_a_request_that_offers_a_billed_tool_is_counted() -> None:
    """Its cost is that of its tokens alone."""
    world = World(REDACTING)
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    body = {"model": "gpt-5", "messages": [], "tools": [{"type": "web_search"}]}
    assert isinstance(await checks.judge_body(json.dumps(body).encode()), RequestCleared)
    await checks.end()

    counted = world.registry.get_sample_value
    assert counted("egret_cost_incomplete_total", {"tool": "web_search"}) == 1


@pytest.mark.parametrize(("traceparent", "told"), [(SAMPLED, TRACE_ID), (UNSAMPLED, None)])
async def test_the_metadata_names_a_trace_that_is_sampled(
    traceparent: str, told: str | None
) -> None:
    """So that the times of the answer can lead to it, which come with Envoy's access log."""
    checks = World(REDACTING).exchange({"traceparent": traceparent})
    await checks.judge_headers(headers(), has_body=True)
    cleared = await checks.judge_body(chat("hello"))
    assert isinstance(cleared, RequestCleared)
    assert metadata_of(cleared).get("trace_id") == told


async def test_a_hot_key_is_judged_without_waiting() -> None:
    """The second exchange of a key gets its verdicts at once, without a task beside it."""
    world = World(REDACTING)
    await world.exchange().judge_headers(headers(), has_body=True)
    checks = world.exchange()
    tasks = len(asyncio.all_tasks())
    assert isinstance(await checks.judge_headers(headers(), has_body=True), BodyRequired)
    assert len(asyncio.all_tasks()) == tasks
    assert isinstance(await checks.judge_body(chat("hello")), RequestCleared)


async def test_personal_data_is_replaced_and_counted_as_redacted() -> None:
    """The new body differs in the found bytes only."""
    world = World(REDACTING)
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    cleared = await checks.judge_body(chat("mail ann@example.org", user="ann@example.org"))
    assert isinstance(cleared, RequestCleared)
    assert cleared.mutations.body == chat("mail [EMAIL_1]", user="[EMAIL_1]")
    await checks.end()
    assert world.counted() == {("redacted", "none"): 1}


HASHING = """
name: default
guardrails: [{name: pii, type: pii, action: redact, redaction: hash}]
"""


async def _hashed(world: World) -> bytes | None:
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    cleared = await checks.judge_body(chat("ann@example.org"))
    assert isinstance(cleared, RequestCleared)
    return cleared.mutations.body


async def test_hashes_can_be_joined_within_an_organization_and_nowhere_else() -> None:
    """Another tenant that tries out addresses finds other hashes for them."""
    world = World(HASHING)
    assert await _hashed(world) == chat("[EMAIL_1]")
    world.worker = replace(world.worker, redaction_key=b"k" * 32)
    ours = await _hashed(world)
    assert ours != chat("[EMAIL_1]")
    assert await _hashed(world) == ours
    record = world.store.records[KEY.key_id]
    elsewhere = replace(record.principal, organization_id="another")
    other = World(HASHING)
    other.store.records[KEY.key_id] = replace(record, principal=elsewhere)
    other.worker = replace(other.worker, redaction_key=b"k" * 32)
    assert await _hashed(other) not in {ours, None}


def _revoked(record: KeyRecord) -> KeyRecord:
    return replace(record, revoked_at=NOW - 1)


def _expired(record: KeyRecord) -> KeyRecord:
    return replace(record, expires_at=NOW)


def _disabled(record: KeyRecord) -> KeyRecord:
    return replace(record, team_enabled=False)


def _unbound(record: KeyRecord) -> KeyRecord:
    return replace(record, policies=PolicyBinding(key="gone"))


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        pytest.param(_revoked, (401, "revoked_api_key"), id="revoked"),
        pytest.param(_expired, (401, "expired_api_key"), id="expired"),
        pytest.param(_disabled, (401, "disabled_api_key"), id="team disabled"),
        pytest.param(_unbound, (503, "authorization_unavailable"), id="its policy is missing"),
    ],
)
async def test_a_key_that_is_not_good_is_refused_before_its_body(
    change: Callable[[KeyRecord], KeyRecord], answer: tuple[int, str]
) -> None:
    """The record is judged on every hit, and a key without its policy is not let through."""
    world = World(REDACTING)
    world.store.records[KEY.key_id] = change(world.store.records[KEY.key_id])
    checks = world.exchange()
    verdict = await checks.judge_headers(headers(), has_body=True)
    assert refused(verdict)[:2] == answer


@pytest.mark.parametrize("can_be_compiled", [True, False])
async def test_a_request_waits_until_its_policy_is_compiled(*, can_be_compiled: bool) -> None:
    """It is judged by this policy, and by no other; without it, it is refused."""
    world = World(REDACTING)
    ready = world.policies.snapshot
    world.policies.snapshot = run_sync(snapshot_steps([], pending=["default"]))
    world.policies.next = ready if can_be_compiled else None
    checks = world.exchange()
    verdict = await checks.judge_headers(headers(), has_body=True)

    if can_be_compiled:
        assert verdict == BodyRequired()
        verdict = await checks.judge_body(chat("AKIA" + "Z7QK" * 4))
        assert refused(verdict)[:2] == (400, "content_blocked")
    else:
        assert refused(verdict)[:2] == (503, "authorization_unavailable")


@pytest.mark.parametrize("change", [_revoked, _expired, _disabled])
async def test_the_holder_of_a_key_that_has_ended_is_named_to_the_operator(
    change: Callable[[KeyRecord], KeyRecord],
) -> None:
    """The log and usage show who still sends it."""
    world = World(REDACTING)
    world.store.records[KEY.key_id] = change(world.store.records[KEY.key_id])
    checks = world.exchange()
    verdict = await checks.judge_headers(headers(), has_body=True)
    await checks.end()
    assert isinstance(verdict, RequestRefused)
    assert KEY.key_id in repr(verdict.refusal.metadata)
    assert world.uses.noted == [(KEY.key_id, True, NOW)]


async def test_a_wrong_secret_names_nobody_to_the_operator() -> None:
    """The id alone proves nothing."""
    world = World(REDACTING)
    checks = world.exchange()
    key = ApiKey(key_id=KEY.key_id, secret="T" * 43)
    verdict = await checks.judge_headers(headers(key=key), has_body=True)
    await checks.end()
    assert isinstance(verdict, RequestRefused)
    assert KEY.key_id not in repr(verdict.refusal)
    assert world.uses.noted == []


@pytest.mark.parametrize(
    ("key", "more", "code"),
    [
        pytest.param(None, (), "missing_api_key", id="no key"),
        pytest.param(None, (("x-api-key", b"sk-1"),), "invalid_api_key", id="malformed"),
        pytest.param(KEY, (("api-key", b"other"),), "conflicting_credentials", id="two"),
        pytest.param(
            ApiKey(key_id="zzzzzzzzzzzz", secret="S" * 43), (), "invalid_api_key", id="unknown"
        ),
        pytest.param(
            ApiKey(key_id=KEY.key_id, secret="T" * 43), (), "invalid_api_key", id="wrong secret"
        ),
    ],
)
async def test_a_bad_credential_is_refused_with_timing(
    key: ApiKey | None, more: tuple[tuple[str, bytes], ...], code: str
) -> None:
    """401 in the client's dialect, with the headers every refusal carries."""
    world = World(REDACTING)
    checks = world.exchange()
    verdict = await checks.judge_headers(
        headers("/v1/chat/completions", *more, key=key), has_body=True
    )
    assert refused(verdict) == (401, code, f"egret_{code}")
    assert isinstance(verdict, RequestRefused)
    assert [name for name, _ in verdict.refusal.headers] == [
        "content-type",
        "x-should-retry",
        "x-request-id",
        "x-egret-request-id",
        "x-response-time",
        "server-timing",
    ]
    await checks.end()
    assert world.counted() == {("refused", code): 1}


async def test_an_unreachable_store_is_a_503_with_retry_after() -> None:
    """Nobody can tell whether the key is good: not 401, and try again."""
    world = World(REDACTING)
    world.store.is_down = True
    verdict = await world.exchange().judge_headers(headers(), has_body=True)
    assert refused(verdict)[:2] == (503, "authorization_unavailable")
    assert isinstance(verdict, RequestRefused)
    assert ("retry-after", b"2") in verdict.refusal.headers


async def test_without_policies_no_good_key_passes() -> None:
    """Policies that could not be loaded yet are not an empty policy."""
    world = World(REDACTING)
    world.policies.snapshot = None
    verdict = await world.exchange().judge_headers(headers(), has_body=True)
    assert refused(verdict)[:2] == (503, "authorization_unavailable")


@pytest.mark.parametrize(
    ("unscanned", "path", "method", "has_body", "expected"),
    [
        pytest.param(
            "block", "/v1/audio", "POST", True, (404, "unknown_url"), id="unknown route, block"
        ),
        pytest.param("flag", "/v1/audio", "POST", True, None, id="unknown route, flag"),
        pytest.param("allow", "/v1/audio", "POST", True, None, id="unknown route, allow"),
        pytest.param("block", "/v1/models", "GET", False, None, id="models need no body"),
        pytest.param(
            "block", "/v1/models", "GET", True, (403, "unscanned_content"), id="a GET with a body"
        ),
    ],
)
async def test_what_cannot_be_read_goes_the_policy_s_way(
    *, unscanned: str, path: str, method: str, has_body: bool, expected: tuple[int, str] | None
) -> None:
    """Unknown routes and unexpected bodies are refused unless the policy says otherwise."""
    world = World(f"{REDACTING}unscanned: {unscanned}\n")
    verdict = await world.exchange().judge_headers(headers(path, method=method), has_body=has_body)
    if expected is None:
        assert isinstance(verdict, RequestCleared)
    else:
        assert refused(verdict)[:2] == expected


@pytest.mark.parametrize(
    ("path", "is_guarded"),
    [
        pytest.param("/v1/chat/completions", True, id="text of a model"),
        pytest.param("/v1/embeddings", False, id="vectors"),
        pytest.param("/v1/audio", False, id="an unknown route"),
    ],
)
async def test_the_answer_of_an_allowed_unknown_route_passes_without_egret(
    path: str, *, is_guarded: bool
) -> None:
    """`unscanned: allow` lets request and answer pass, even if the policy guards answers.

    Egret requests no phase of an answer whose form it does not know, or which has no text of a
    model, and the stream ends with the request.
    """
    checks = World(f"{WITH_OUTPUT_GUARDRAIL}unscanned: allow\n").exchange()
    verdict = await checks.judge_headers(headers(path), has_body=True)
    if isinstance(verdict, BodyRequired):
        verdict = await checks.judge_body(chat("hello"))
    assert isinstance(verdict, RequestCleared)
    assert verdict.judges_answer is is_guarded
    added = dict(verdict.mutations.headers.set_headers)
    assert (added.get("accept-encoding") == b"identity") is is_guarded
    assert checks.task.done() is not is_guarded


@pytest.mark.parametrize("unscanned", ["block", "allow"])
async def test_an_upgrade_goes_the_policy_s_way(unscanned: str) -> None:
    """Also at a path that is known: what follows it is no answer of this API."""
    checks = World(f"{REDACTING}unscanned: {unscanned}\n").exchange()
    asked = headers("/v1/models", ("upgrade", b"websocket"), method="GET")
    verdict = await checks.judge_headers(asked, has_body=True)  # it has no end
    if unscanned == "allow":
        assert isinstance(verdict, RequestCleared)
        return
    assert refused(verdict)[:2] == (403, "unscanned_content")
    assert isinstance(verdict, RequestRefused)
    assert (
        b"An upgrade of the connection, such as to a WebSocket, is refused" in verdict.refusal.body
    )


async def test_a_model_list_holds_even_for_a_body_that_cannot_be_read() -> None:
    """Otherwise a compressed body would be a way around the list."""
    world = World(f"{REDACTING}unscanned: allow\nallowed_models: [gpt-5]\n")
    checks = world.exchange()
    zipped = headers("/v1/chat/completions", ("content-encoding", b"gzip"))
    await checks.judge_headers(zipped, has_body=True)
    assert refused(await checks.judge_body(b"\x1f\x8b"))[:2] == (403, "model_not_allowed")


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        pytest.param(b"", (400, "invalid_body"), id="empty"),
        pytest.param(b"{", (400, "invalid_body"), id="not JSON"),
        pytest.param(
            b'{"model":"m","model":"m","messages":[]}', (400, "invalid_body"), id="twice"
        ),
        pytest.param(chat("AKIAIOSFODNN7EXAMPLA"), (400, "content_blocked"), id="a secret"),
    ],
)
async def test_a_bad_body_is_refused(body: bytes, answer: tuple[int, str]) -> None:
    """400 that names the fault, and nothing of the body."""
    checks = World(REDACTING).exchange()
    await checks.judge_headers(headers(), has_body=True)
    assert refused(await checks.judge_body(body))[:2] == answer


async def test_a_policy_without_guardrails_costs_no_body_phase() -> None:
    """The request goes on from its headers."""
    world = World("name: default\nguardrails: []\n")
    verdict = await world.exchange().judge_headers(headers(), has_body=True)
    assert isinstance(verdict, RequestCleared)


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        pytest.param("pass", None, id="passes"),
        pytest.param("block", (400, "content_blocked"), id="blocks"),
    ],
)
async def test_a_remote_guardrail_is_waited_for(
    verdict: RemoteVerdict, expected: tuple[int, str] | None
) -> None:
    """Its answer decides like a local one's."""
    world = World(WITH_WEBHOOK)
    world.remote.verdict = verdict
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    answer = await checks.judge_body(chat("hello"))
    assert (None if isinstance(answer, RequestCleared) else refused(answer)[:2]) == expected


@pytest.mark.parametrize("turns", [1, 2], ids=["new", "known"])
async def test_a_remote_guardrail_judges_long_conversations(turns: int) -> None:
    """All of their text, though a local one knows the messages of earlier turns."""
    world = World(WITH_WEBHOOK, messages=MessageTable(max_bytes=1 << 20, secret=bytes(32)))
    messages = [{"role": "user", "content": "a plain word " * 400} for _ in range(turns)]
    if turns > 1:
        await cleared_by(world, json.dumps({"messages": messages[:1]}).encode())
    world.remote.verdict = "block"
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    answer = await checks.judge_body(json.dumps({"messages": messages}).encode())
    assert refused(answer)[:2] == (400, "content_blocked")
    assert len(world.remote.asked[-1].subject.parts) == turns


IMAGE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


@pytest.mark.parametrize("allowed", [None, ("gpt-*",)], ids=["any model", "an allowed model"])
async def test_an_image_is_refused_where_the_policy_blocks_unscanned_content(
    allowed: tuple[str, ...] | None,
) -> None:
    """Whatever its text holds, and however good its model is."""
    world = World(REDACTING + "unscanned: block\n")
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, allowed_models=allowed)
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": IMAGE}]}
    answer = await checks.judge_body(json.dumps(body).encode())
    assert refused(answer)[:2] == (403, "unscanned_content")


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        pytest.param({"model": "gpt-5"}, None, id="allowed"),
        pytest.param({"model": "o3"}, (403, "model_not_allowed"), id="another"),
        pytest.param({}, (403, "model_not_allowed"), id="none"),
        pytest.param(
            {"model": "gpt-5", "models": ["o3"]}, (403, "model_not_allowed"), id="one of several"
        ),
    ],
)
async def test_a_body_may_name_allowed_models_only(
    models: dict[str, object], expected: tuple[int, str] | None
) -> None:
    """Each of several, since it is not known which of them runs."""
    world = World("name: default\nguardrails: []\n")
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, allowed_models=("gpt-*",))
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    answer = await checks.judge_body(json.dumps({"messages": [], **models}).encode())
    assert (None if isinstance(answer, RequestCleared) else refused(answer)[:2]) == expected


async def test_what_a_local_rule_blocks_is_not_told_to_a_remote_check() -> None:
    """A secret that is blocked here does not leave for a third party."""
    world = World(WITH_WEBHOOK)
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    answer = await checks.judge_body(chat("AKIAIOSFODNN7EXAMPLA"))
    assert (refused(answer)[1], world.remote.asked) == ("content_blocked", [])


async def test_refusals_speak_the_client_s_dialect() -> None:
    """An Anthropic client gets Anthropic's error object."""
    checks = World(REDACTING).exchange()
    verdict = await checks.judge_headers(headers("/v1/messages", key=None), has_body=True)
    assert isinstance(verdict, RequestRefused)
    assert json.loads(verdict.refusal.body) == {
        "type": "error",
        "error": {
            "type": "authentication_error",
            "message": (
                "No API key: send it as 'Authorization: Bearer egk_…' or 'x-api-key: egk_…'."
                f" Request id: {REQUEST_ID}."
            ),
        },
        "request_id": REQUEST_ID,
    }


async def test_a_request_id_that_could_carry_text_is_replaced() -> None:
    """It would end in logs and headers."""
    checks = World(REDACTING).exchange()
    strange = headers(key=None)
    fields = tuple((k, b"my card 4111" if k == "x-request-id" else v) for k, v in strange.fields)
    verdict = await checks.judge_headers(replace(strange, fields=fields), has_body=True)
    assert isinstance(verdict, RequestRefused)
    assert ("x-egret-request-id", b"made-up-by-egret") in verdict.refusal.headers


async def test_timing_by_mutation_overwrites_the_upstream_s_own() -> None:
    """The response-headers phase sets the three timing headers; metadata timing sets none."""
    checks = World(REDACTING, timing=Timing.MUTATION).exchange()
    await checks.judge_headers(headers(), has_body=True)
    changed = await checks.judge_response_headers(headers())
    assert isinstance(changed, ResponseCleared)
    assert [name for name, _ in changed.headers.set_headers] == [
        "x-egret-request-id",
        "x-response-time",
        "server-timing",
    ]
    unchanged = World(REDACTING).exchange()
    await unchanged.judge_headers(headers(), has_body=True)
    assert await unchanged.judge_response_headers(headers()) == ResponseCleared(HeaderMutation())


@pytest.mark.parametrize(
    ("is_cancelled", "outcome"),
    [pytest.param(True, "aborted", id="client left"), pytest.param(False, "failed", id="ours")],
)
async def test_an_exchange_without_an_answer_is_not_counted_as_allowed(
    *, is_cancelled: bool, outcome: str
) -> None:
    """Whoever left, no verdict was given."""
    world = World(REDACTING)
    checks = world.exchange()
    await checks.judge_headers(headers(), has_body=True)
    await checks.end(is_cancelled=is_cancelled)
    assert world.counted() == {(outcome, "none"): 1}


async def test_a_body_before_its_headers_is_refused() -> None:
    """Silence would be a pass; a request_header_mode of SKIP is a hole in the configuration."""
    checks = World(REDACTING).exchange()
    opening = envoy.opening(envoy.request_body(chat("hello"), ends=True))
    checks.stream.send(opening.SerializeToString())
    (refusal,) = await checks.replies()
    assert isinstance(refusal, Refuse)
    assert refusal.refusal.status == 500


@pytest.mark.parametrize("kind", ErrorKind)
def test_every_kind_of_failure_has_words(kind: ErrorKind) -> None:
    """Each refusal says something, with the status of its kind."""
    error = client_error(kind)
    refusal = refusal_of(error, dialect=Dialect.OPENAI, headers=(), metadata=b"")
    verdict = RequestRefused(refusal)
    assert refused(verdict) == (kind.spec.status, kind.value, f"egret_{kind.value}")
    assert error.message


async def test_a_use_of_a_key_is_noted_once_at_the_end() -> None:
    """Who used it, whether it was refused, and when; a key that was not good is no use of it."""
    world = World(REDACTING)
    for text in ("hello", "AKIAIOSFODNN7EXAMPLA"):
        checks = world.exchange()
        await checks.judge_headers(headers(), has_body=True)
        await checks.judge_body(chat(text))
        await checks.end()
    stranger = world.exchange()
    await stranger.judge_headers(headers(key=None), has_body=True)
    await stranger.end()
    assert world.uses.noted == [(KEY.key_id, False, NOW), (KEY.key_id, True, NOW)]


async def test_a_request_is_noted_before_it_goes_on_and_a_refused_one_is_not() -> None:
    """So that it is known to have been sent, whatever dies from here on."""
    world = World(REDACTING)
    for body in (chat("mail ann@example.org", stream=True), b"not json"):
        checks = world.exchange()
        await checks.judge_headers(headers(), has_body=True)
        await checks.judge_body(body)

    (noted,) = world.usage.noted
    assert (noted.request_id, noted.key_id) == (REQUEST_ID, KEY.key_id)
    assert (noted.decision, noted.guardrails) == (DecisionKind.REDACT, {"pii": "redact"})
    assert (noted.model, noted.is_streamed) == ("gpt-5", True)


async def test_a_request_that_asks_no_model_is_not_noted() -> None:
    """Listing models uses nothing that could be lost."""
    world = World()
    checks = world.exchange()
    listing = headers("/v1/models", method="GET")
    assert isinstance(await checks.judge_headers(listing, has_body=False), RequestCleared)

    assert world.usage.noted == []


COUNTING = """
name: default
usage: {streams: pass}
guardrails: []
"""


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (
            chat("hi", stream=True),
            chat("hi", stream=True)[:-1] + b',"stream_options":{"include_usage":true}}',
        ),
        (chat("hi", stream=True, stream_options={"include_usage": True}), None),
        (chat("hi"), None),
    ],
    ids=["a stream", "a stream that asks", "no stream"],
)
async def test_a_stream_is_made_to_tell_its_counts_where_the_policy_wants_them(
    body: bytes, changed: bytes | None
) -> None:
    """Though no guardrail needs the body."""
    checks = World(COUNTING).exchange()
    assert isinstance(await checks.judge_headers(headers(), has_body=True), BodyRequired)
    cleared = await checks.judge_body(body)

    assert isinstance(cleared, RequestCleared)
    assert cleared.mutations.body == changed
    assert not cleared.judges_answer


HIDING = COUNTING.replace("pass", "hide")
GUARDED = HIDING.replace("[]", "[{name: pii, type: pii, stage: output, action: redact}]")
ASKING = chat("hi", stream=True)[:-1] + b',"stream_options":{"include_usage":true}}'
EVENTS = Headers(((":status", b"200"), ("content-type", b"text/event-stream")))
ASKED = (
    b'data: {"choices":[{"index":0,"delta":{"content":"hi. "}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
)
UNASKED = b'data: {"choices":[{"index":0,"delta":{"content":"hi. "}}]}\n\ndata: [DONE]\n\n'
NO_CHANGE = HeaderMutation()


async def cleared_by(
    world: World, body: bytes, *, may_judge_answer: bool = True, buffers: bool = False
) -> tuple[Exchange, RequestCleared]:
    """Judge a request with this body up to its answer; *buffers*: Envoy keeps both bodies."""
    request = BodyMode.BUFFERED if buffers or not may_judge_answer else BodyMode.NONE
    response = BodyMode.BUFFERED if buffers else BodyMode.NONE
    checks = world.exchange(request=request, response=response)
    assert isinstance(await checks.judge_headers(headers(), has_body=True), BodyRequired)
    cleared = await checks.judge_body(body)
    assert isinstance(cleared, RequestCleared)
    return checks, cleared


@pytest.mark.parametrize("policy", [HIDING, GUARDED], ids=["alone", "with a guardrail"])
async def test_counts_that_the_policy_hides_are_asked_for_and_taken_out(policy: str) -> None:
    """The answer of that stream passes here for it, readable and of no fixed length."""
    checks, cleared = await cleared_by(World(policy), chat("hi", stream=True))
    assert (cleared.mutations.body, cleared.judges_answer) == (ASKING, True)
    assert ("accept-encoding", b"identity") in cleared.mutations.headers.set_headers

    assert await checks.judge_response_headers(EVENTS) == ResponseCleared(NO_CHANGE)
    assert (await checks.judge_response_piece(ASKED, is_last=True)).body == UNASKED
    await checks.end()


@pytest.mark.parametrize("size", [200, 1 << 18], ids=["small pieces", "one large piece"])
async def test_other_requests_get_their_turns_while_a_stream_that_came_at_once_is_judged(
    size: int,
) -> None:
    """A turn for every 32 KB, though the judgement has to wait for nothing."""
    event, _, end = UNASKED.partition(b"data: [DONE]")
    body = event * ((1 << 19) // len(event)) + b"data: [DONE]" + end
    checks, _ = await cleared_by(World(GUARDED), chat("hi", stream=True))
    await checks.judge_response_headers(EVENTS)
    turns = 0
    for start in range(0, len(body), size):
        piece = ResponseBodyReceived(body[start : start + size], start + size >= len(body))
        checks.stream.send(message_of(piece).SerializeToString())
    while not checks.task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > len(body) // (1 << 15)
    sent = [one for one in await checks.replies() if isinstance(one, do.StreamResponseBody)]
    assert b"".join(one.body for one in sent) == body


@pytest.mark.parametrize(
    ("body", "may_judge_answer"),
    [
        (chat("hi", stream=True, stream_options={"include_usage": True}), True),
        (chat("hi"), True),
        (chat("hi", stream=True), False),
    ],
    ids=["a stream that asks", "no stream", "a gateway that does not send answers"],
)
async def test_what_needs_no_hiding_or_cannot_have_it_stays_as_it_is(
    body: bytes, *, may_judge_answer: bool
) -> None:
    """Neither the request nor its answer is touched, and the answer does not come here."""
    _, cleared = await cleared_by(World(HIDING), body, may_judge_answer=may_judge_answer)
    assert (cleared.mutations.body, cleared.judges_answer) == (None, False)


@pytest.mark.parametrize(
    ("policy", "measure", "hides"),
    [
        (REDACTING, Measure.TOKENS, True),
        (REDACTING, Measure.INPUT_TOKENS, True),
        (REDACTING, Measure.OUTPUT_TOKENS, True),
        (REDACTING, Measure.COST, True),
        (REDACTING, Measure.REQUESTS, False),
        (REDACTING, Measure.CONCURRENT, False),
        (COUNTING.replace("pass", "estimate"), Measure.TOKENS, False),
    ],
)
async def test_where_the_policy_is_silent_limits_on_tokens_and_money_want_exact_counts(
    policy: str, measure: Measure, *, hides: bool
) -> None:
    """They are settled by them; other keys' answers go past us."""
    world = World(policy)
    one = Limit(id="1", level=Level.TEAM, measure=measure, window=Window.DAY, amount=10**9)
    record = world.store.records[KEY.key_id]
    world.store.records[KEY.key_id] = replace(record, limits=(one,))
    _, cleared = await cleared_by(world, chat("hi", stream=True))
    assert cleared.judges_answer is hides
    assert cleared.mutations.body == (ASKING if hides else None)


@pytest.mark.parametrize(
    "answer",
    [
        Headers(((":status", b"429"), ("content-type", b"application/json"))),
        Headers(((":status", b"200"), ("content-type", b"text/event-stream"),
                 ("content-encoding", b"gzip"))),
        Headers(((":status", b"200"),)),
    ],
    ids=["an error", "compressed", "of no type"],
)  # fmt: skip
async def test_an_answer_without_counts_to_hide_goes_on_whatever_it_is(answer: Headers) -> None:
    """Nobody judges it: nothing of it is unscanned."""
    checks, _ = await cleared_by(World(HIDING), chat("hi", stream=True))
    assert await checks.judge_response_headers(answer) == ResponseCleared(NO_CHANGE)
    assert (await checks.judge_response_piece(ASKED, is_last=True)).body == ASKED
    await checks.end()


async def test_a_gateway_that_collects_answers_gets_the_stream_without_counts() -> None:
    """In one piece."""
    checks, _ = await cleared_by(World(HIDING), chat("hi", stream=True), buffers=True)
    held = await checks.judge_response_headers(EVENTS)
    assert held == ResponseCleared(NO_CHANGE)  # BUFFERED holds headers that have their answer
    judged = await checks.judge_response_body(ASKED)
    length = ("content-length", str(len(UNASKED)).encode())
    assert judged == ResponseJudged(HeaderMutation((length,)), UNASKED)


@pytest.mark.parametrize("status", [b"200", b"502", b"odd"])
async def test_a_blocked_answer_names_its_provider_s_status(status: bytes) -> None:
    """So that what was produced is charged, and an error is not."""
    checks, _ = await cleared_by(
        World(GUARDED.replace("redact", "block")), chat("hi", stream=True)
    )
    answer = Headers(((":status", status), ("content-type", b"application/json")))
    assert await checks.judge_response_headers(answer) == ResponseHeld()
    verdict = await checks.judge_response_body(b'{"text":"ann@example.org"}')
    assert refused(verdict)[:2] == (400, "content_blocked")
    assert isinstance(verdict, RequestRefused)
    wanted = status.decode() if status.isdigit() else "0"
    assert do.pairs_of(verdict.refusal.metadata)["answer_status"] == wanted


async def test_an_answer_that_is_too_long_to_be_held_is_refused_as_an_answer() -> None:
    """Its client read that the request could not be checked, and changed that in vain."""
    world = World(GUARDED)
    checks, _ = await cleared_by(world, chat("hi", stream=True))
    answer = Headers(((":status", b"200"), ("content-type", b"application/json")))
    assert await checks.judge_response_headers(answer) == ResponseHeld()
    verdict = await checks.judge_response_body(b" " * (world.worker.max_body_bytes + 1))
    assert refused(verdict)[:2] == (403, "unscanned_content")
    assert isinstance(verdict, RequestRefused)
    message = json.loads(verdict.refusal.body)["error"]["message"]
    assert message.startswith("The answer is longer than this gateway can check")


COUNTED = """
name: default
guardrails:
  - {name: pii, type: pii, stage: both, action: redact}
  - {name: keys, type: secrets, mode: shadow, action: block}
"""


async def test_findings_are_noted_by_type_and_role_when_the_request_has_ended() -> None:
    """Of the request and of its answer, and those of guardrails in shadow."""
    world = World(COUNTED)
    messages = [
        {"role": "user", "content": "ann@example.org, bob@example.org and ghp_" + "a1B2c3D4e" * 4},
        {"role": "tool", "content": "ann@example.org", "tool_call_id": "1"},
    ]
    body = json.dumps({"model": "gpt-5", "messages": messages}).encode()
    checks, _ = await cleared_by(world, body)
    answer = Headers(((":status", b"200"), ("content-type", b"application/json")))
    await checks.judge_response_headers(answer)
    content = {"role": "assistant", "content": "eve@example.org"}
    await checks.judge_response_body(json.dumps({"choices": [{"message": content}]}).encode())
    await checks.end()
    assert sorted(world.findings.noted) == [
        ("default", "keys", "GITHUB_TOKEN", "user", "block", 1),
        ("default", "pii", "EMAIL", "answer", "redact", 1),
        ("default", "pii", "EMAIL", "tool", "redact", 1),
        ("default", "pii", "EMAIL", "user", "redact", 2),
    ]


async def test_a_request_without_findings_notes_none() -> None:
    world = World(COUNTED)
    checks, _ = await cleared_by(world, chat("hello"))
    await checks.end()
    assert world.findings.noted == []


@pytest.mark.parametrize("verdict", ["redact", "flag"])
async def test_findings_in_known_messages_are_noted_with_each_turn(verdict: str) -> None:
    """Also where the text of known messages is not read again."""
    policy = REDACTING.replace("redact", verdict)
    world = World(policy, messages=MessageTable(max_bytes=1 << 20, secret=bytes(32)))
    turns = [
        {"role": "user", "content": "ann@example.org " + "and a plain word " * 300},
        {"role": "assistant", "content": "eve@example.org"},
        {"role": "user", "content": "bob@example.org"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "thanks"},
    ]
    for end in (2, 3, 5):
        body = json.dumps({"model": "gpt-5", "messages": turns[:end]}).encode()
        checks, _ = await cleared_by(world, body)
        await checks.end()
    assert sorted(world.findings.noted) == [
        *[("default", "pii", "EMAIL", "assistant", verdict, 1)] * 3,
        ("default", "pii", "EMAIL", "user", verdict, 1),
        *[("default", "pii", "EMAIL", "user", verdict, 2)] * 2,
    ]


async def test_text_that_is_known_as_a_whole_counts_as_many_bytes_as_before() -> None:
    """A request that is sent again is charged and reported alike."""
    world = World(messages=MessageTable(max_bytes=1 << 20, secret=bytes(32)))
    turns = [{"role": role, "content": "a plain word " * 400} for role in ("user", "assistant")]
    for _ in range(2):
        checks, _ = await cleared_by(world, json.dumps({"messages": turns}).encode())
        await checks.end()
    assert [one.text_bytes for one in world.usage.noted] == [2 * 400 * len("a plain word ")] * 2


async def test_a_turn_that_is_searched_as_a_whole_notes_the_roles_of_all_its_findings() -> None:
    policy = REDACTING.replace("redact", "flag")
    policy += "  - {name: long, type: max_input, action: flag, max_characters: 5000}\n"
    world = World(policy, messages=MessageTable(max_bytes=1 << 20, secret=bytes(32)))
    turns = [
        {"role": "system", "content": "and a plain word " * 250},
        {"role": "user", "content": "ann@example.org"},
        {"role": "assistant", "content": "and a plain word " * 100},
    ]
    for end in (2, 3):
        body = json.dumps({"model": "gpt-5", "messages": turns[:end]}).encode()
        checks, _ = await cleared_by(world, body)
        await checks.end()
    assert [one[1:4] for one in sorted(world.findings.noted)] == [
        ("long", "MAX_INPUT", "assistant"),
        *[("pii", "EMAIL", "user")] * 2,
    ]


async def test_a_beginning_that_other_workers_share_is_awaited_within_the_budget() -> None:
    """The stream is read meanwhile, and the request is not held by a store that never answers."""

    class Silent:
        """Shares entries, and never answers."""

        async def last_of(self, digests: Sequence[bytes]) -> tuple[int, Entry] | None:
            assert digests
            await asyncio.Event().wait()
            return None

        def put(self, digest: bytes, entry: Entry) -> None:
            raise AssertionError(digest, entry)

    table = MessageTable(max_bytes=1 << 20, secret=bytes(32), shared=Silent())
    world = World(REDACTING, messages=table)
    world.worker = replace(world.worker, budgets=replace(PATIENT, inspect_seconds=0.05))
    exchange = world.exchange()
    await exchange.judge_headers(headers(), has_body=True)
    said = [{"role": role, "content": "a" * 10_000} for role in ("user", "assistant", "user")]
    body = json.dumps({"model": "gpt-5", "messages": said}).encode()
    exchange.stream.send(envoy.request_body(body, ends=True).SerializeToString())
    await asyncio.wait_for(exchange.task, 60)
    (refusal,) = await exchange.replies()
    assert isinstance(refusal, Refuse)
    assert refusal.refusal.status == 503
