from __future__ import annotations

from fastapi import FastAPI

from sidecar.storage.postgres_policies import apply_policy
from tests.support.console import STRICT, Visitor

EDITED = (
    STRICT + "  - name: terms\n    type: denied_terms\n    terms: [falcon]\n    action: block\n"
)
REMOTE = """\
name: strict
guardrails:
  - name: hook
    type: webhook
    action: block
    url: http://127.0.0.1:1/check
    headers: {authorization: Bearer s3cret-of-the-server}
"""


async def test_an_edit_shows_its_difference_and_is_applied_with_a_reason(
    console: FastAPI,
) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/policies/strict/edit")
    fields = {"policy": "strict", "version": "1", "document": EDITED}

    page = await visitor.send("/policies/+editor", {**fields, "step": "check"})
    assert "+  - falcon" in page or "- falcon" in page
    assert "Apply version 2" in page
    page = await visitor.send(
        "/policies/+editor", {**fields, "step": "apply", "note": "the project is secret"}
    )

    assert "version 2" in page
    assert "the project is secret" in page
    assert 'hx-get="/in-force?watch=' in page
    assert "strict%3A2" in page


async def test_a_text_with_faults_comes_back_with_their_places(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/policies/+editor")
    wrong = "name: strict\nguardrails:\n  - name: x\n    type: pi\n# <script>\n"

    page = await visitor.send(
        "/policies/+editor", {"policy": "strict", "document": wrong, "step": "apply"}
    )

    assert "line 4" in page
    assert "# &lt;script&gt;" in page


async def test_of_two_who_edit_at_once_the_second_sees_the_new_difference(
    console: FastAPI,
) -> None:
    first, second = [await Visitor.of(console, "admin") for _ in range(2)]
    for one in (first, second):
        await one.get("/policies/strict/edit")
    fields = {"policy": "strict", "version": "1", "step": "apply"}

    await first.send("/policies/+editor", {**fields, "document": EDITED})
    page = await second.send(
        "/policies/+editor", {**fields, "document": STRICT.replace("block", "redact")}
    )

    assert "Another change came into force" in page
    assert "Apply version 3" in page
    assert "falcon" in page


async def test_a_text_is_judged_by_the_policy_in_force_and_by_an_edit(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/policies/strict")
    sample = "mail bob@example.com about <b>falcon</b>"

    page = await visitor.send("/policies/strict/try", {"sample": sample})
    assert 'title="personal-data: ' in page
    assert "Goes on unchanged" in page
    page = await visitor.send(
        "/policies/+editor",
        {"policy": "strict", "document": EDITED, "sample": sample, "step": "try"},
    )
    assert "Refused" in page
    assert '<mark class="block" title="terms: ' in page
    assert "&lt;b&gt;" in page


async def test_a_guardrail_is_promoted_put_back_and_rolled_back(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/policies/strict")

    page = await visitor.send(
        "/policies/strict/mode", {"guardrail": "personal-data", "mode": "enforce"}
    )
    assert "promote personal-data" in page
    assert 'aria-label="Put into shadow: personal-data"' in page
    page = await visitor.send("/policies/strict/rollback", {"version": "1"})
    assert "rollback to version 1" in page
    await visitor.send("/policies/strict/rollback", {"version": "1"}, status=409)
    await visitor.send("/policies/strict/rollback", {"version": "9"}, status=404)
    await visitor.get("/policies/strict/versions/9", status=404)
    await visitor.get(f"/policies/strict/versions/{'9' * 20}", status=422)
    await visitor.send(
        "/policies/strict/mode", {"guardrail": "none", "mode": "shadow"}, status=409
    )


async def test_a_credential_in_a_policy_is_on_no_page(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/policies/+editor")
    fields = {"policy": "strict", "version": "1", "document": REMOTE}

    await visitor.send("/policies/+editor", {**fields, "step": "apply"})
    assert "version 2" in visitor.page

    for path in ("/policies/strict", "/policies/strict/versions/2", "/audit"):
        assert "s3cret" not in await visitor.get(path)
    await visitor.get("/policies/strict/edit", status=409)
    assert "s3cret" not in visitor.page


async def test_an_editor_of_a_deleted_policy_shows_the_difference_from_the_one_applied_anew(
    console: FastAPI,
) -> None:
    """Its first version has no difference from one before."""
    visitor = await Visitor.of(console, "admin")
    await visitor.get("/policies/strict/edit")
    async with console.state.pool.acquire() as connection:
        await connection.execute("UPDATE organizations SET policy_name = NULL")
        await connection.execute("UPDATE teams SET policy_name = NULL")
        await connection.execute("UPDATE api_keys SET policy_name = NULL")
        await connection.execute("DELETE FROM policies WHERE name = 'strict'")
        await apply_policy(connection, "strict", document=STRICT, expected_version=0)

    page = await visitor.send(
        "/policies/+editor",
        {"policy": "strict", "version": "1", "document": EDITED, "step": "apply"},
    )
    assert "Another change came into force" in page
    assert "Apply version 3" in page
    page = await visitor.get("/policies/strict/versions/2")
    assert "Difference from the version before" not in page


async def test_only_people_who_manage_policies_edit_them(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "viewer")

    page = await visitor.get("/policies/strict")

    assert "/policies/strict/edit" not in page
    await visitor.get("/policies/strict/edit", status=403)
    await visitor.send("/policies/+editor", {"document": EDITED, "step": "apply"}, status=403)
    await visitor.send("/policies/strict/rollback", {"version": "1"}, status=403)
    await visitor.get("/policies/strict")
    await visitor.send("/policies/strict/try", {"sample": "hello"})


async def test_a_stored_policy_that_does_not_compile_here_judges_no_text(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "viewer")
    await visitor.get("/policies/strict")
    never = r"patterns: [{name: NONE, regex: '[^\x00-\x{10FFFF}]'}]"
    async with console.state.pool.acquire() as connection:
        await apply_policy(
            connection,
            "strict",
            document=f"name: strict\nguardrails: [{{name: a, type: denied_patterns, {never}}}]\n",
            expected_version=1,
        )

    await visitor.send("/policies/strict/try", {"sample": "hello"}, status=409)

    assert "the policies' expressions cannot be compiled together" in visitor.text
