from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Final

from fastapi import FastAPI

from sidecar.storage.postgres_policies import apply_policy
from tests.support.admin_api import API, pages_of, session_client

ROUNDS: Final = 8
POLICY = "name: strict\nguardrails:\n  - {name: cards, type: pii, mode: shadow}\n"
STRICTER = POLICY + "  - {name: keys, type: secrets}\n"
SECRET = """
name: asks
guardrails:
  - name: remote
    type: webhook
    url: https://guard.example.com/check
    headers: {authorization: "Bearer top-secret"}
"""


async def test_a_policy_goes_through_its_life(app: FastAPI) -> None:
    """Plan, apply, promote, change, compare, bring back; each version with its author."""
    admin = await session_client(app, "admin")

    planned = (await admin.post(f"{API}/policies/plan", json={"documents": POLICY})).json()
    none_yet = await admin.get(f"{API}/policies/strict")
    applied = (
        await admin.post(f"{API}/policies/apply", json={"documents": POLICY, "note": "begin"})
    ).json()
    promoted = await admin.put(
        f"{API}/policies/strict/guardrails/cards/mode", json={"mode": "enforce"}
    )
    await admin.post(f"{API}/policies/apply", json={"documents": STRICTER})
    diff = await admin.get(f"{API}/policies/strict/diff", params={"from": 1})
    back = await admin.post(f"{API}/policies/strict/rollback", json={"to": 1})
    too_far = await admin.post(f"{API}/policies/strict/rollback", json={"to": 99})
    versions = (await admin.get(f"{API}/policies/strict/versions")).json()
    listed = (await admin.get(f"{API}/policies")).json()

    assert (planned[0]["change"], planned[0]["to_version"]) == ("create", 1)
    assert none_yet.status_code == 404
    assert applied == planned
    assert promoted.json()[0]["to_version"] == 2
    assert "+- name: keys" in diff.json()["diff"]
    assert back.json()[0]["to_version"] == 4
    assert (too_far.status_code, "no such version of the policy" in too_far.text) == (404, True)
    assert [(one["version"], one["author"], one["note"]) for one in versions] == [
        (4, "alice@example.com", "rollback to version 1"),
        (3, "alice@example.com", None),
        (2, "alice@example.com", "promote cards"),
        (1, "alice@example.com", "begin"),
    ]
    assert [(one["name"], one["version"]) for one in listed] == [("strict", 4)]


async def test_a_policy_is_not_applied_over_a_version_that_its_author_has_not_seen(
    app: FastAPI,
) -> None:
    """The entity tag is the version's."""
    admin = await session_client(app, "admin")
    await admin.post(f"{API}/policies/apply", json={"documents": POLICY})
    tag = (await admin.get(f"{API}/policies/strict")).headers["etag"]

    codes = [
        (
            await admin.post(
                f"{API}/policies/apply", json={"documents": text}, headers={"if-match": tag}
            )
        ).status_code
        for text in (STRICTER, POLICY)
    ]

    assert codes == [200, 412]


async def test_a_policy_that_is_deleted_and_applied_anew_has_another_version_and_tag(
    app: FastAPI,
) -> None:
    """A tag of the deleted one no longer matches, and the plan names the version to come."""
    admin = await session_client(app, "admin")
    await admin.post(f"{API}/policies/apply", json={"documents": POLICY})
    tag = (await admin.get(f"{API}/policies/strict")).headers["etag"]
    async with app.state.pool.acquire() as connection:
        await connection.execute("DELETE FROM policies")

    planned = (await admin.post(f"{API}/policies/plan", json={"documents": STRICTER})).json()
    applied = (await admin.post(f"{API}/policies/apply", json={"documents": STRICTER})).json()
    shown = await admin.get(f"{API}/policies/strict")
    late = await admin.post(
        f"{API}/policies/apply", json={"documents": POLICY}, headers={"if-match": tag}
    )
    versions = (await admin.get(f"{API}/policies/strict/versions")).json()

    assert applied == planned
    assert (planned[0]["change"], planned[0]["from_version"]) == ("create", 0)
    assert planned[0]["to_version"] == shown.json()["version"] == 2
    assert shown.headers["etag"] != tag
    assert late.status_code == 412
    assert [one["version"] for one in versions] == [2]


async def test_a_mode_changes_nothing_that_another_change_has_added_meanwhile(
    app: FastAPI,
) -> None:
    """Of two people who change a policy at once one wins, and the other is told."""
    admin = await session_client(app, "admin")
    await admin.post(f"{API}/policies/apply", json={"documents": POLICY})
    codes: Counter[int] = Counter()
    for number in range(ROUNDS):
        more = f"{POLICY}  - {{name: keys-{number}, type: secrets}}\n"
        changes = [
            admin.put(f"{API}/policies/strict/guardrails/cards/mode", json={"mode": mode})
            for mode in ("enforce", "shadow")
        ]
        changes.insert(1, admin.post(f"{API}/policies/apply", json={"documents": more}))
        codes.update([one.status_code for one in await asyncio.gather(*changes)])

    versions = (await admin.get(f"{API}/policies/strict/versions")).json()
    names: dict[int, list[str]] = {}
    for one in versions:
        shown = await admin.get(f"{API}/policies/strict", params={"version": one["version"]})
        names[one["version"]] = re.findall(r"name: ([a-z0-9-]+)", shown.json()["document"])

    assert codes.keys() <= {200, 409}
    for one in versions:
        if one["note"] is not None:  # of a mode; those that apply say nothing
            assert names[one["version"]] == names[one["version"] - 1]


async def test_a_policy_with_a_fault_changes_nothing_and_has_its_place(app: FastAPI) -> None:
    """Line and column; also for an expression, which is compiled apart."""
    admin = await session_client(app, "admin")
    pattern = "name: p\nguardrails: [{name: a, type: denied_patterns, patterns: [{regex: '('}]}]\n"

    answers = [
        await admin.post(f"{API}/policies/apply", json={"documents": text})
        for text in ("name: [", "name: a\nguardrails: [{name: x, type: dance}]", pattern, "")
    ]

    assert [one.status_code for one in answers] == [422] * 4
    assert answers[1].json()["errors"][0]["in"].startswith("line 2")
    assert (await admin.get(f"{API}/policies")).json() == []


async def test_values_of_headers_are_masked_and_a_mask_is_not_taken_for_a_value(
    app: FastAPI,
) -> None:
    """The text that is shown cannot be applied: a credential would become `***`."""
    admin = await session_client(app, "admin")
    await admin.post(f"{API}/policies/apply", json={"documents": SECRET})

    shown = await admin.get(f"{API}/policies/asks")
    again = await admin.post(f"{API}/policies/apply", json={"documents": shown.json()["document"]})

    assert "top-secret" not in shown.text
    assert again.status_code == 422
    assert "is not shown" in again.json()["errors"][0]["fault"]


async def test_a_text_is_tried_by_a_stored_policy_or_by_one_that_is_sent(app: FastAPI) -> None:
    """A viewer may try the former; the text itself is in no answer."""
    admin, viewer = await session_client(app, "admin"), await session_client(app, "viewer")
    text = {"text": "write to bob@example.com"}

    built_in = await viewer.post(f"{API}/policies/try", json={"policy": "default", **text})
    sent = await admin.post(f"{API}/policies/try", json={"document": POLICY, **text})
    refused = await viewer.post(f"{API}/policies/try", json={"document": POLICY, **text})
    neither = await admin.post(f"{API}/policies/try", json=text)
    two = {"document": f"{POLICY}---\nname: lax\nguardrails: []\n", **text}
    several = await admin.post(f"{API}/policies/try", json=two)
    misspelt = {"policy": "default", "role": "sytem", **text}
    by_none = await admin.post(f"{API}/policies/try", json=misspelt)

    assert built_in.status_code == 200
    found = sent.json()["guardrails"][0]["findings"]
    assert [(one["type"], one["start"], one["end"]) for one in found] == [("EMAIL", 9, 24)]
    assert "bob@" not in sent.text
    assert [one.status_code for one in (refused, neither, several, by_none)] == [
        403,
        422,
        422,
        422,
    ]


async def test_versions_come_page_by_page_if_a_caller_asks_for_pages(app: FastAPI) -> None:
    """The latest first, as in the whole list."""
    admin = await session_client(app, "admin")
    for text in (POLICY, STRICTER, POLICY):
        await admin.post(f"{API}/policies/apply", json={"documents": text})

    pages = await pages_of(admin, "/policies/strict/versions", limit=2)
    unknown = await admin.get(f"{API}/policies/other/versions", params={"limit": 2})
    wrong = await admin.get(f"{API}/policies/strict/versions", params={"after": "x"})
    beyond = await admin.get(f"{API}/policies/strict/versions", params={"after": "-9" * 40})

    assert [[one["version"] for one in page] for page in pages] == [[3, 2], [1]]
    assert (unknown.status_code, wrong.status_code) == (404, 422)
    assert beyond.status_code == 422


async def test_a_stored_policy_that_does_not_compile_here_judges_no_text(app: FastAPI) -> None:
    """As on the console's page: the answer says why, and nothing of an expression."""
    text = r"""
name: strict
guardrails:
  - name: a
    type: denied_patterns
    patterns: [{name: NONE, regex: '[^\x00-\x{10FFFF}]'}]
"""
    async with app.state.pool.acquire() as connection:
        await apply_policy(connection, "strict", document=text, expected_version=0)
    viewer = await session_client(app, "viewer")

    answer = await viewer.post(f"{API}/policies/try", json={"policy": "strict", "text": "hello"})

    assert answer.status_code == 409
    assert answer.json()["detail"] == "the policies' expressions cannot be compiled together"
    assert answer.json()["hint"] == "write fewer or simpler expressions"
