from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.domain.http import Headers
from sidecar.domain.limits import Level, Limit, Measure, Reservation, Window
from sidecar.domain.report import Clocks
from sidecar.domain.usage import DecisionKind, JudgedRequest
from sidecar.limits.settlement import unreported
from sidecar.limits.store import Adjustment
from sidecar.settings.serving import Timing
from sidecar.settings.stores import UsageSource
from sidecar.usage.prices import PriceList
from sidecar.worker.usage import PriceCache
from tests.support import envoy_messages as envoy
from tests.support.events import (
    BodyRequired,
    RequestCleared,
    RequestRefused,
    ResponseCleared,
)
from tests.support.pipeline import KEY, NOW, PATIENT, REQUEST_ID, Exchange, World, chat, headers
from tests.support.replies import Refuse

FREE = "name: default\nunscanned: allow\nguardrails: []\n"
STREAM = "f41eb1d4-a357-429f-8d13-bf15e29fb217"
WAITING = """
name: default
guardrails: [{name: tone, type: webhook, action: block, url: "http://127.0.0.1:9/"}]
"""
STRICT = "name: default\nguardrails: [{name: words, type: denied_terms, terms: [Bluebird]}]\n"


def limit(measure: Measure, window: Window = Window.MINUTE, **fields: Any) -> Limit:
    """Return a team's limit."""
    defaults: dict[str, Any] = {"id": measure.value, "level": Level.TEAM, "amount": 100}
    return Limit(measure=measure, window=window, **{**defaults, **fields})


def world(*limits: Limit, policies: str = STRICT, timing: Timing = Timing.METADATA) -> World:
    """Return a world in which the key has these limits."""
    made = World(policies, timing=timing)
    record = made.store.records[KEY.key_id]
    made.store.records[KEY.key_id] = replace(record, limits=limits)
    return made


async def judged(
    made: World,
    body: bytes | None,
    path: str = "/v1/chat/completions",
    metadata: Mapping[str, str] | None = None,
    encoding: str = "identity",
) -> tuple[Exchange, Any]:
    """Judge a request to the end; without a body by its headers alone."""
    exchange = made.exchange(metadata)
    method = "GET" if body is None else "POST"
    sent = headers(path, ("content-encoding", encoding.encode()), method=method)
    verdict: Any = exchange.judge_headers(sent, has_body=body is not None)
    verdict = await verdict if isinstance(verdict, Awaitable) else verdict
    if isinstance(verdict, BodyRequired):
        assert body is not None
        verdict = exchange.judge_body(body)
        verdict = await verdict if isinstance(verdict, Awaitable) else verdict
    return exchange, verdict


def decisions(made: World) -> dict[tuple[str, str], float]:
    """Return how many requests were decided on, by decision and by whose counts."""
    return {
        (sample.labels["decision"], sample.labels["counts"]): sample.value
        for metric in made.registry.collect()
        for sample in metric.samples
        if sample.name == "egret_limit_decisions_total" and sample.value
    }


def costs(made: World) -> list[tuple[str, int]]:
    """Return what the last request asked for."""
    return [(claim.limit.id, claim.cost) for claim in made.limiter.asked[-1]]


async def test_a_key_without_limits_asks_nobody() -> None:
    """The common request pays nothing for them."""
    made = world()
    _, verdict = await judged(made, chat())
    assert isinstance(verdict, RequestCleared)
    assert made.limiter.asked == []


async def test_a_request_without_a_body_is_refused_where_there_is_no_room() -> None:
    """A list of models counts to a limit on requests as any other request."""
    made = world(limit(Measure.REQUESTS))
    made.limiter.short = 0
    _, verdict = await judged(made, None, path="/v1/models")
    assert isinstance(verdict, RequestRefused)
    assert verdict.refusal.status == 429


async def test_a_request_asks_for_its_estimate_of_tokens_and_money() -> None:
    """A token for four bytes of text, and what it allows the model to write."""
    made = world(limit(Measure.TOKENS), limit(Measure.COST, Window.DAY), limit(Measure.REQUESTS))
    await judged(made, chat("x" * 396, max_tokens=50))
    # 396 bytes of the message and 5 of the model's name are text.
    tokens = -(-(396 + len("gpt-5")) // 4) + 50
    assert costs(made) == [("tokens", tokens), ("cost", tokens), ("requests", 1)]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"models": ["unpriced"]}),
        ("/v1/chat/completions", {"model": "unpriced", "fallbacks": ["gpt-5"]}),
        ("/v1/chat/completions", {"model": "other", "models": ["unpriced", "gpt-5"]}),
        ("/openai/deployments/gpt-5/chat/completions", {"model": "unpriced"}),
        ("/openai/deployments/unpriced/chat/completions", {"model": "gpt-5"}),
    ],
)
async def test_a_request_that_names_several_models_asks_for_the_money_of_the_dearest(
    path: str, fields: dict[str, Any]
) -> None:
    """Nobody knows which one runs: a name without a price makes none of them free."""
    made = world(limit(Measure.COST, Window.DAY))
    await judged(made, chat(max_tokens=1_000, **fields), path)
    ((_, cost),) = costs(made)
    assert cost >= 1_000


async def test_a_long_prompt_asks_for_the_money_of_a_long_one() -> None:
    """By its estimated tokens, like the rest of the reservation."""
    made = world(limit(Measure.COST, Window.DAY, amount=10**9))
    (price,) = [made.worker.prices.current.price_of("gpt-5", at=datetime.now(UTC))]
    assert price is not None
    long = PriceList([replace(price, above_tokens=100, input_above=Decimal(3))])
    made.worker = replace(made.worker, prices=SimpleNamespace(current=long))
    asked = []
    for count in (396, 4_000):
        await judged(made, chat("x" * (count - len("gpt-5")), max_tokens=50))
        asked += costs(made)
    assert asked == [("cost", 99 + 50), ("cost", 3 * 1_000 + 50)]


@pytest.mark.parametrize("tier", ["priority", {"type": "PRIORITY"}])
async def test_a_request_of_a_tier_asks_for_its_money_and_says_so(tier: object) -> None:
    """The tier is in the metadata, by which usage is priced; another one is as none."""
    made = world(limit(Measure.COST, Window.DAY, amount=10**9))
    price = made.worker.prices.current.price_of("gpt-5", at=datetime.now(UTC))
    assert price is not None
    dear = replace(price, model="gpt-5:priority", output=Decimal(3))
    prices = PriceList([price, dear])
    made.worker = replace(made.worker, prices=SimpleNamespace(current=prices))
    asked = []
    for named in (tier, "default"):
        body = chat("x" * (396 - len("gpt-5")), max_tokens=50, service_tier=named)
        await judged(made, body)
        asked += [(made.usage.noted[-1].service_tier, *costs(made))]
    # The name of the tier is text as well, two tokens of it.
    assert asked == [("priority", ("cost", 101 + 150)), (None, ("cost", 101 + 50))]


ALLOWS = "name: default\nusage: {uncounted: allow}\nguardrails: []\n"


@pytest.mark.parametrize("policies", [STRICT, ALLOWS], ids=["block", "allow"])
@pytest.mark.parametrize(
    ("measure", "window", "path", "body", "param"),
    [
        (Measure.COST, Window.DAY, "/v1/chat/completions", {"model": "unpriced"}, "model"),
        (Measure.TOKENS, Window.MINUTE, "/v1/responses", {"background": True}, "background"),
        (Measure.COST, Window.DAY, "/v1/responses", {"background": True}, "background"),
    ],
    ids=["no price", "tokens in the background", "money in the background"],
)
async def test_use_that_a_limit_cannot_count_is_refused_unless_the_policy_allows_it(
    policies: str, measure: Measure, window: Window, path: str, body: dict[str, Any], param: str
) -> None:
    """A model without a price, or tokens that are stated later, would else be free."""
    made = world(limit(measure, window, amount=10**9), policies=policies)
    _, verdict = await judged(made, chat(input="hello", **body), path)
    if policies is ALLOWS:
        assert isinstance(verdict, RequestCleared)
        return
    assert isinstance(verdict, RequestRefused)
    error = json.loads(verdict.refusal.body)["error"]
    assert (verdict.refusal.status, error["code"], error["param"]) == (
        403, "uncounted_usage", param,
    )  # fmt: skip
    assert made.limiter.asked == []


@pytest.mark.parametrize(
    ("path", "body", "encoding"),
    [
        (
            "/v1/images/generations",
            json.dumps({"prompt": "a heron", "n": 10}).encode(),
            "identity",
        ),
        (
            "/v1/responses",
            json.dumps({"prompt": {"id": "pmpt_1"}, "input": "Hello."}).encode(),
            "identity",
        ),
        ("/v1/chat/completions", b"\x1f\x8b", "gzip"),
    ],
    ids=["picture", "stored prompt", "unread"],
)
async def test_the_money_of_a_request_without_a_known_model_needs_a_price_of_all_models(
    path: str, body: bytes, encoding: str
) -> None:
    """The provider chooses one, and the budget would not count it."""
    made = world(limit(Measure.COST, Window.DAY, amount=10**9), policies=FREE)
    _, verdict = await judged(made, body, path, encoding=encoding)
    assert isinstance(verdict, RequestRefused)
    error = json.loads(verdict.refusal.body)["error"]
    assert (error["code"], error["message"].split(",")[0]) == (
        "uncounted_usage", "No model is known of this request",
    )  # fmt: skip
    price = made.worker.prices.current.price_of("gpt-5", at=datetime.now(UTC))
    assert price is not None
    of_all = PriceList([price, replace(price, model="*")])
    made.worker = replace(made.worker, prices=SimpleNamespace(current=of_all))
    _, verdict = await judged(made, body, path, encoding=encoding)
    assert isinstance(verdict, RequestCleared)
    ((_, cost),) = costs(made)
    assert cost >= 1_024


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/openai/deployments/unpriced/chat/completions?api-version=v1",
            "This model has no price",
        ),
        ("/v1/audio/transcriptions", "Ask for a price of all models (`*`)"),
    ],
)
async def test_a_body_that_is_not_read_is_refused_with_advice_that_its_client_can_follow(
    path: str, message: str
) -> None:
    """A path may name the model, and a recording is never sent as JSON."""
    made = world(limit(Measure.COST, Window.DAY, amount=10**9), policies=FREE)
    _, verdict = await judged(made, b"\x1f\x8b", path, encoding="gzip")
    assert isinstance(verdict, RequestRefused)
    assert message in json.loads(verdict.refusal.body)["error"]["message"]


async def test_a_body_that_the_policy_does_not_let_pass_unread_is_refused_as_such() -> None:
    """A model would be named in vain."""
    made = world(limit(Measure.COST, Window.DAY))
    _, verdict = await judged(made, b"\x1f\x8b", encoding="gzip")
    assert isinstance(verdict, RequestRefused)
    assert json.loads(verdict.refusal.body)["error"]["code"] == "unscanned_content"


async def test_a_model_that_the_key_may_not_use_is_refused_as_such_even_without_a_price() -> None:
    """A price would be set in vain."""
    made = world(limit(Measure.COST, Window.DAY))
    record = made.store.records[KEY.key_id]
    made.store.records[KEY.key_id] = replace(record, allowed_models=("gpt-*",))
    _, verdict = await judged(made, chat(model="unpriced"))
    assert isinstance(verdict, RequestRefused)
    assert json.loads(verdict.refusal.body)["error"]["code"] == "model_not_allowed"


@pytest.mark.parametrize(
    ("one", "path", "body"),
    [
        (limit(Measure.REQUESTS), "/v1/responses", {"background": True}),
        (limit(Measure.TOKENS), "/v1/chat/completions", {"model": "unpriced"}),
        (limit(Measure.TOKENS), "/v1/responses", {"background": False}),
        (limit(Measure.COST, Window.DAY), "/v1/moderations", {"model": "unpriced"}),
        (
            limit(Measure.COST, Window.DAY, models=("gpt-*",)),
            "/v1/chat/completions",
            {"model": "unpriced"},
        ),
    ],
    ids=["requests", "tokens", "at once", "unbilled", "of other models"],
)
async def test_use_that_no_limit_has_to_count_goes_on(
    one: Limit, path: str, body: dict[str, Any]
) -> None:
    """Only a budget needs a price, and only limits on tokens need their count."""
    made = world(one, policies=FREE)
    _, verdict = await judged(made, chat(input="hello", **body), path)
    assert isinstance(verdict, RequestCleared)


async def test_prices_that_were_never_read_refuse_no_model() -> None:
    """A worker may start while PostgreSQL is away, and serve keys that it finds in Valkey."""
    made = world(limit(Measure.COST, Window.DAY))
    unread = PriceCache(nothing).current
    made.worker = replace(made.worker, prices=SimpleNamespace(current=unread))
    _, verdict = await judged(made, chat())
    assert isinstance(verdict, RequestCleared)
    assert costs(made) == [("cost", 0)]


async def nothing() -> PriceList:
    """Read no prices."""
    return PriceList()


async def test_a_request_that_sets_no_bound_is_taken_to_write_as_much_as_is_usual() -> None:
    """The setting says how much."""
    made = world(limit(Measure.OUTPUT_TOKENS))
    await judged(made, chat())
    assert costs(made) == [("output_tokens", 1_024)]


@pytest.mark.parametrize(("choices", "tokens"), [(8, 8_192), (10**30, 10_000_000)])
async def test_each_choice_without_a_bound_takes_as_much_as_is_usual(
    choices: int, tokens: int
) -> None:
    """A hundred choices of one request would else be reserved as one."""
    made = world(limit(Measure.OUTPUT_TOKENS))
    await judged(made, chat(n=choices))
    assert costs(made) == [("output_tokens", tokens)]


async def test_content_that_is_no_text_reserves_tokens_by_its_size() -> None:
    """A client that leaves before the last event would else have its pictures for nothing."""
    made = world(limit(Measure.INPUT_TOKENS), limit(Measure.OUTPUT_TOKENS))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10**6}}
    text = {"type": "text", "text": "What is this?"}
    await judged(made, chat([text, picture]))
    assert 2_000 <= costs(made)[0][1] < 2_100


async def test_an_upload_reserves_tokens_by_its_size() -> None:
    """Not as many as if its bytes were text: a minute of speech would exceed all limits."""
    made = world(limit(Measure.INPUT_TOKENS))
    exchange = made.exchange()
    form = ("content-type", b"multipart/form-data; boundary=x")
    verdict: Any = exchange.judge_headers(headers("/v1/audio/translations", form), has_body=True)
    assert isinstance(await verdict, BodyRequired)
    await exchange.judge_body(b"A" * 10**6)
    assert costs(made) == [("input_tokens", 2_000)]


async def test_embeddings_write_nothing() -> None:
    """Numbers are no tokens."""
    made = world(limit(Measure.OUTPUT_TOKENS), limit(Measure.INPUT_TOKENS))
    body = json.dumps({"model": "embed-1", "input": "x" * 400}).encode()
    await judged(made, body, path="/v1/embeddings")
    assert costs(made)[0] == ("output_tokens", 0)


async def test_a_limit_on_requests_is_judged_by_the_headers_alone() -> None:
    """Where no policy wants the body, no byte of it is waited for."""
    made = world(limit(Measure.REQUESTS), policies=FREE)
    exchange = made.exchange()
    verdict: Any = exchange.judge_headers(headers(), has_body=True)
    verdict = await verdict if isinstance(verdict, Awaitable) else verdict
    assert isinstance(verdict, RequestCleared)
    assert costs(made) == [("requests", 1)]


@pytest.mark.parametrize(
    "one",
    [
        limit(Measure.TOKENS),
        limit(Measure.COST, Window.DAY),
        limit(Measure.REQUEST_BYTES, Window.ONCE),
        limit(Measure.REQUESTS, models=("gpt-*",)),
    ],
    ids=["tokens", "cost", "bytes", "by model"],
)
async def test_a_limit_on_what_is_said_needs_the_body(one: Limit) -> None:
    """Whatever the policy wants."""
    made = world(one, policies=FREE)
    exchange = made.exchange()
    verdict: Any = exchange.judge_headers(headers(), has_body=True)
    verdict = await verdict if isinstance(verdict, Awaitable) else verdict
    assert isinstance(verdict, BodyRequired)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a call"])
async def test_a_request_without_room_is_told_which_limit_and_when_to_try_again(
    *, waits: bool
) -> None:
    """In the client's own words, with its headers; its guardrails are not asked."""
    made = world(limit(Measure.REQUESTS))
    made.limiter.short, made.limiter.waits = 0, waits
    _, verdict = await judged(made, chat("Bluebird"))
    assert isinstance(verdict, RequestRefused)
    refusal = verdict.refusal
    told = dict(refusal.headers)
    assert refusal.status == 429
    assert json.loads(refusal.body)["error"] == {
        "message": (
            "The limit of this team is reached: 100 requests a minute, 10 at once."
            f" Try again in 2 s. Request id: {REQUEST_ID}."
        ),
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert told["retry-after"] == b"2"
    assert told["x-ratelimit-remaining-requests"] == b"3"
    assert "x-egret-limits" not in told


@pytest.mark.parametrize(
    "one",
    [limit(Measure.TOKENS, amount=4_000), limit(Measure.REQUESTS, Window.DAY, amount=0)],
    ids=["more than the burst", "a limit of zero"],
)
async def test_a_request_that_can_never_pass_is_not_told_to_try_again(one: Limit) -> None:
    """Each library would wait, try again, and wait once more."""
    made = world(one)
    made.limiter.short = 0
    _, verdict = await judged(made, chat(max_tokens=4_096))
    assert isinstance(verdict, RequestRefused)
    told = dict(verdict.refusal.headers)
    assert told["x-should-retry"] == b"false"
    assert "retry-after" not in told
    message = json.loads(verdict.refusal.body)["error"]["message"]
    assert message.startswith("This request needs more than the limit of this team ever allows: ")


@pytest.mark.parametrize(
    ("window", "waits", "retries"),
    [(Window.MINUTE, b"2", None), (Window.DAY, None, b"false")],
    ids=["minute", "day"],
)
async def test_a_library_is_told_not_to_wait_for_the_next_day(
    window: Window, waits: bytes | None, retries: bytes | None
) -> None:
    """Codex reads `retry-after` alone, and would sleep for as long as it says, without a word."""
    made = world(limit(Measure.REQUESTS, window))
    made.limiter.short = 0
    _, verdict = await judged(made, chat())
    assert isinstance(verdict, RequestRefused)
    told = dict(verdict.refusal.headers)
    assert (told.get("retry-after"), told.get("x-should-retry")) == (waits, retries)
    assert "Try again in 2 s." in json.loads(verdict.refusal.body)["error"]["message"]


async def test_a_budget_that_is_used_up_has_a_code_of_its_own_and_asks_for_no_retry() -> None:
    """A client library would try again for nothing."""
    made = world(limit(Measure.COST, Window.MONTH, amount=2_500_000))
    made.limiter.short, made.limiter.is_local = 0, True
    _, verdict = await judged(made, chat())
    assert isinstance(verdict, RequestRefused)
    error = json.loads(verdict.refusal.body)["error"]
    told = dict(verdict.refusal.headers)
    assert (error["code"], error["type"]) == ("budget_exhausted", "insufficient_quota")
    assert "2.50 US dollars a month" in error["message"]
    assert (told["x-should-retry"], told["x-egret-limits"]) == (b"false", b"local")


async def test_requests_held_against_limits_are_counted_by_what_came_of_them() -> None:
    """And by whose counts; a key without limits is no decision."""
    made = world(limit(Measure.REQUESTS))
    await judged(made, chat())
    await judged(made, chat())
    made.limiter.short, made.limiter.is_local = 0, True
    await judged(made, chat())
    without = world()
    await judged(without, chat())

    assert decisions(made) == {("granted", "shared"): 2, ("refused", "local"): 1}
    assert decisions(without) == {}


@pytest.mark.parametrize(
    ("measure", "body", "status", "code"),
    [
        (Measure.REQUEST_BYTES, chat("x" * 200), 413, "body_too_large"),
        (Measure.MAX_OUTPUT_TOKENS, chat(max_tokens=101), 400, "output_limit_exceeded"),
        (Measure.MAX_OUTPUT_TOKENS, chat(max_tokens=60, n=2), 400, "output_limit_exceeded"),
    ],
)
async def test_one_request_that_asks_for_too_much_is_refused_by_itself(
    measure: Measure, body: bytes, status: int, code: str
) -> None:
    """No count is asked."""
    made = world(limit(measure, Window.ONCE))
    _, verdict = await judged(made, body)
    assert isinstance(verdict, RequestRefused)
    assert verdict.refusal.status == status
    assert json.loads(verdict.refusal.body)["error"]["code"] == code
    assert made.limiter.asked == []


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_a_bound_in_a_text_is_held_against_the_limit_of_one_request(field: str) -> None:
    """A lenient server reads the number in it, while a request without a bound may pass."""
    made = world(limit(Measure.MAX_OUTPUT_TOKENS, Window.ONCE, amount=2_000))
    for text, passes in (("5", True), ("2000", True), ("100000", False)):
        _, verdict = await judged(made, chat(**{field: text}))
        assert isinstance(verdict, RequestCleared) is passes


@pytest.mark.parametrize(("text", "output"), [("5", 1_024), ("100000", 100_000), ("many", 1_024)])
async def test_a_bound_in_a_text_reserves_no_less_than_a_request_without_one(
    text: str, output: int
) -> None:
    """A server that ignores it writes as much as it does without a bound."""
    made = world(limit(Measure.OUTPUT_TOKENS, amount=1_000_000))
    await judged(made, chat(max_tokens=text))
    assert costs(made) == [("output_tokens", output)]


async def test_what_was_taken_goes_with_the_request_to_the_access_log() -> None:
    """Whichever worker hears of its end can put it right."""
    made = world(limit(Measure.TOKENS))
    await judged(made, chat("x" * 395, max_tokens=50))
    (reserved,) = [noted.reserved for noted in made.usage.noted]
    assert reserved == Reservation(100, 50, 150, int(NOW * 1e6))


async def test_a_request_that_nobody_answered_gives_back_what_it_took() -> None:
    """The client left while guardrails looked: no access log will tell of it."""
    slots = limit(Measure.CONCURRENT, Window.ONCE)
    made = world(limit(Measure.TOKENS), slots, policies=WAITING)
    await given_up(made, chat(max_tokens=50))
    ((organization, changes),) = made.limiter.settled
    tokens = costs(made)[0][1]
    assert organization == made.store.records[KEY.key_id].principal.organization_id
    assert changes[0].amount == -tokens
    assert changes[1] == Adjustment(slots, 0, member=made.limiter.members[0])


async def test_requests_with_one_id_hold_a_slot_each() -> None:
    """A client may choose the id, and Envoy may send one request to two workers."""
    made = world(limit(Measure.CONCURRENT, Window.ONCE))
    for second in range(2):
        clocks = Clocks(monotonic=lambda: 0.0, wall=lambda: NOW + second)  # noqa: B023
        made.worker = replace(made.worker, clocks=clocks)
        await judged(made, chat())
    ended = [unreported(noted, is_used=False) for noted in made.usage.noted]
    assert [one.member for one in ended if one is not None] == made.limiter.members
    assert len(set(made.limiter.members)) == 2


@pytest.mark.parametrize("turns", range(6))
async def test_a_client_that_leaves_as_its_units_are_granted_leaves_none_taken(turns: int) -> None:
    """Envoy's reset and the reply of the shared counters may come in the same turn of the loop."""
    slots = limit(Measure.CONCURRENT, Window.ONCE)
    made = world(limit(Measure.TOKENS), slots)
    made.limiter.until = asyncio.Event()
    exchange = made.exchange({"x-egret-stream": STREAM})
    await exchange.judge_headers(headers(), has_body=True)
    exchange.stream.send(envoy.request_body(chat(), ends=True).SerializeToString())
    assert await exchange.replies() == []
    made.limiter.until.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    await exchange.end(is_cancelled=True)
    returned = len(made.limiter.settled) + len(made.verdicts.noted)
    assert returned == made.limiter.granted_late


async def test_units_granted_in_the_turn_in_which_the_budget_ends_are_returned() -> None:
    """The request is refused as late: a slot would else be taken until its lease ends."""
    made = world(limit(Measure.TOKENS), limit(Measure.CONCURRENT, Window.ONCE))
    made.worker = replace(made.worker, budgets=replace(PATIENT, inspect_seconds=0.5))
    made.limiter.until = asyncio.Event()
    exchange = made.exchange({"x-egret-stream": STREAM})
    await exchange.judge_headers(headers(), has_body=True)
    exchange.stream.send(envoy.request_body(chat(), ends=True).SerializeToString())
    assert await exchange.replies() == []
    time.sleep(0.5)  # noqa: ASYNC251 - the loop is late: the reply and the alarm share its next turn
    made.limiter.until.set()
    (refusal,) = await exchange.replies()
    assert isinstance(refusal, Refuse)
    assert (refusal.refusal.status, made.limiter.granted_late) == (503, 1)
    ((_, verdict),) = made.verdicts.noted
    assert verdict.reserved is not None


async def test_a_request_that_was_answered_waits_for_the_access_log() -> None:
    """Only then it is known what it used."""
    made = world(limit(Measure.TOKENS))
    exchange, _ = await judged(made, chat())
    await exchange.end()
    await asyncio.sleep(0)
    assert made.limiter.settled == []


async def test_without_usage_a_slot_is_free_when_the_stream_ends() -> None:
    """No report of the answer's end will come; all else that was reserved stays taken."""
    slots = limit(Measure.CONCURRENT, Window.ONCE)
    made = world(limit(Measure.TOKENS), slots)
    made.worker = replace(made.worker, usage_source=UsageSource.OFF)
    exchange, _ = await judged(made, chat())
    await exchange.end()
    (member,) = made.limiter.members
    assert made.limiter.settled == [("org_1", (Adjustment(slots, 0, member=member),))]


async def test_without_usage_a_request_that_is_refused_returns_all_that_it_reserved() -> None:
    """As with usage."""
    tokens, slots = limit(Measure.TOKENS), limit(Measure.CONCURRENT, Window.ONCE)
    made = world(tokens, slots)
    made.worker = replace(made.worker, usage_source=UsageSource.OFF)
    exchange, _ = await judged(made, chat("Bluebird"))
    await exchange.end()
    (member,) = made.limiter.members
    returned = Adjustment(tokens, -costs(made)[0][1], taken_at=NOW)
    assert made.limiter.settled == [("org_1", (returned, Adjustment(slots, 0, member=member)))]


async def given_up(made: World, body: bytes) -> None:
    """Have a client leave while a remote guardrail is asked."""
    made.remote.until = asyncio.Event()
    exchange = made.exchange({"x-egret-stream": STREAM})
    await exchange.judge_headers(headers(), has_body=True)
    exchange.stream.send(envoy.request_body(body, ends=True).SerializeToString())
    assert await exchange.replies() == []
    await exchange.end(is_cancelled=True)


async def closed(
    made: World, body: bytes, *, stream: str = STREAM
) -> list[tuple[str, JudgedRequest]]:
    """Judge a request whose stream then ends; return which verdicts are remembered."""
    exchange, _ = await judged(made, body, metadata={"x-egret-stream": stream})
    await exchange.end()
    return made.verdicts.noted


async def test_a_verdict_is_remembered_by_envoys_name_of_the_stream() -> None:
    """Envoy may not hear of it, and then knows the request by no other name."""
    made = world(limit(Measure.TOKENS))
    ((stream, request),) = await closed(made, chat(max_tokens=50))
    assert stream == STREAM
    assert request.reserved == made.usage.noted[0].reserved


async def test_a_refusal_is_remembered_where_something_was_taken_before_it() -> None:
    """By a guardrail: its tokens are given back when the log tells of its end."""
    made = world(limit(Measure.TOKENS))
    ((_, request),) = await closed(made, chat("Bluebird"))
    assert request.decision is DecisionKind.DENY
    assert request.reserved is not None


async def test_a_refusal_that_took_nothing_is_not_remembered() -> None:
    """Whoever is refused again and again pushes nobody else out of memory."""
    made = world(limit(Measure.REQUESTS))
    made.limiter.short = 0
    assert await closed(made, chat()) == []


async def test_what_is_given_back_at_once_is_not_remembered() -> None:
    """It would be given back twice."""
    made = world(limit(Measure.TOKENS), policies=WAITING)
    await given_up(made, chat())
    assert made.verdicts.noted == []
    assert len(made.limiter.settled) == 1


async def test_a_stream_without_a_name_is_not_remembered() -> None:
    """An Envoy that tells none has none in its log."""
    made = world(limit(Measure.TOKENS))
    assert await closed(made, chat(), stream="") == []


def limits_told(verdict: RequestCleared) -> dict[str, Any]:
    """Return what Envoy is given to write about limits."""
    told = dict(verdict.mutations.metadata)
    return {name: value for name, value in told.items() if "ratelimit" in name or "x-" in name}


async def test_a_request_that_may_go_on_tells_how_its_limits_stand() -> None:
    """Envoy writes it on the answer: the exchange is over by then."""
    made = world(limit(Measure.REQUESTS), limit(Measure.TOKENS, amount=9_000))
    made.limiter.left = 42
    _, verdict = await judged(made, chat())
    assert limits_told(verdict) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "42",
        "x-ratelimit-reset-requests": "2s",
        "x-ratelimit-limit-tokens": "9000",
        "x-ratelimit-remaining-tokens": "42",
        "x-ratelimit-reset-tokens": "2s",
    }


async def test_an_anthropic_client_is_told_in_its_own_words() -> None:
    """By the API it speaks."""
    made = world(limit(Measure.INPUT_TOKENS))
    made.limiter.left = 7
    _, verdict = await judged(made, chat(max_tokens=5), path="/v1/messages")
    told = limits_told(verdict)
    assert set(told) == {
        f"anthropic-ratelimit-input-tokens-{what}" for what in ("limit", "remaining", "reset")
    }
    assert told["anthropic-ratelimit-input-tokens-remaining"] == "7"


@pytest.mark.parametrize(
    ("left", "passed"), [(51, None), (50, "50"), (11, "80"), (6, "90"), (0, "95")]
)
async def test_a_client_is_told_which_part_of_a_budget_is_used(
    left: int, passed: str | None
) -> None:
    """A threshold, and neither amount nor whose it is."""
    made = world(limit(Measure.COST, Window.MONTH))
    made.limiter.left = left
    _, verdict = await judged(made, chat())
    assert limits_told(verdict) == ({} if passed is None else {"x-egret-budget": passed})


async def test_a_share_of_a_worker_says_nothing_of_a_budget() -> None:
    """What is told then is that it was a share."""
    made = world(limit(Measure.COST, Window.MONTH))
    made.limiter.left, made.limiter.is_local = 1, True
    _, verdict = await judged(made, chat())
    assert limits_told(verdict) == {"x-egret-limits": "local"}


async def test_a_key_without_limits_is_told_nothing() -> None:
    """And nothing is worked out for it."""
    made = world()
    made.limiter.left = 1
    _, verdict = await judged(made, chat())
    assert limits_told(verdict) == {}


async def test_where_egret_writes_headers_itself_it_replaces_those_of_the_provider() -> None:
    """Beside ours, a client could not tell which are whose; nothing is given to Envoy as well."""
    made = world(limit(Measure.REQUESTS), timing=Timing.MUTATION)
    made.limiter.left = 42
    exchange, verdict = await judged(made, chat())
    answer = Headers(
        (("x-ratelimit-remaining-tokens", b"9"), ("x-egret-limits", b"none"), ("server", b"x"))
    )
    cleared = await exchange.judge_response_headers(answer)
    assert isinstance(cleared, ResponseCleared)
    assert limits_told(verdict) == {}
    assert cleared.headers.remove_headers == ("x-ratelimit-remaining-tokens", "x-egret-limits")
    assert dict(cleared.headers.set_headers)["x-ratelimit-remaining-requests"] == b"42"


async def test_a_request_that_a_guardrail_refuses_tells_how_its_limits_stand() -> None:
    """It has taken of them."""
    made = world(limit(Measure.REQUESTS))
    made.limiter.left = 42
    _, verdict = await judged(made, chat("Bluebird"))
    assert isinstance(verdict, RequestRefused)
    assert dict(verdict.refusal.headers)["x-ratelimit-remaining-requests"] == b"42"
    assert verdict.refusal.status != 429
