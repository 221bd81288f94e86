from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from sidecar.admin_api.access import AccessRoute, Requirement
from tests.support.admin_api import API, client_of, token_client

PUBLIC = {"/healthz", "/login", "/login/link", "/login/oidc", "/login/callback"}


async def test_each_route_declares_one_permission(app: FastAPI) -> None:
    """A new route without one fails here; the pages of the login are the only others."""
    faults, count = [], 0
    for one in iter_route_contexts(app.routes):
        if not isinstance(one.original_route, APIRoute) or one.path in PUBLIC:
            continue
        count += 1
        declared = [
            part
            for part in one.original_route.dependant.dependencies
            if isinstance(part.call, Requirement)
        ]
        if not isinstance(one.original_route, AccessRoute) or len(declared) != 1:
            faults.append(one.path)

    assert (faults, count > 10) == ([], True)


async def test_every_answer_has_the_security_headers(app: FastAPI) -> None:
    """Errors too."""
    client = client_of(app)

    for path in ("/login", "/healthz", "/none", f"{API}/me", f"{API}/none", f"{API}/openapi.json"):
        headers = (await client.get(path)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def test_a_fault_of_the_server_s_own_has_the_security_headers_too(app: FastAPI) -> None:
    """It is counted as every answer is, and repeats nothing of the error."""

    async def broken() -> None:
        raise RuntimeError("a detail")

    app.add_api_route("/broken", broken)
    answer = await client_of(app).get("/broken")
    assert (answer.status_code, "a detail" in answer.text) == (500, False)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    scraper = await token_client(app, "viewer")
    assert 'route="/broken",status="500"} 1.0' in (await scraper.get("/metrics")).text


async def test_the_schema_is_openapi_3_1_and_names_every_path(app: FastAPI) -> None:
    """With an operation id for each, which clients are generated from."""
    schema = (await client_of(app).get(f"{API}/openapi.json")).json()

    assert schema["openapi"].startswith("3.1")
    assert f"{API}/keys/{{key_id}}/rotate" in schema["paths"]
    ids = [
        operation["operationId"]
        for path in schema["paths"].values()
        for operation in path.values()
    ]
    assert len(ids) == len(set(ids))


async def test_a_scraper_with_a_token_reads_requests_and_refused_sign_ins(app: FastAPI) -> None:
    """Routes are counted by their own path: no name, and no method of a stranger, is a label."""
    scraper, other = await token_client(app, "viewer"), await token_client(app, "viewer:acme")
    stranger = client_of(app, authorization="Bearer ega_no_such_token")

    await scraper.get(f"{API}/keys/AAAAAAAAAAA1")
    await stranger.get(f"{API}/keys")
    await client_of(app).post("/login/link", data={"token": "used"})
    await client_of(app).request("BREW", "/coffee")
    page = (await scraper.get("/metrics")).text

    path = f"{API}/keys/{{key_id}}"
    assert f'requests_total{{method="GET",route="{path}",status="200"}} 1.0' in page
    assert 'requests_total{method="other",route="-"' in page
    assert "BREW" not in page
    assert 'egret_admin_sign_ins_refused_total{by="token"} 1.0' in page
    assert 'egret_admin_sign_ins_refused_total{by="link"} 1.0' in page
    assert (await other.get("/metrics")).status_code == 403
    assert (await client_of(app).get("/metrics")).status_code == 303
