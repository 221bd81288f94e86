from __future__ import annotations

import jsonschema
from fastapi import FastAPI

from sidecar.admin_api.application import create_app
from sidecar.settings.process import Settings
from tests.support.admin_api import session_client


def test_every_operation_documents_its_problems_and_every_write_its_headers() -> None:
    """And none has the validation error of the framework, which no route returns."""
    document = create_app(Settings()).openapi()

    for operations in document["paths"].values():
        for method, operation in operations.items():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert "422" not in operation["responses"]
            names = {one["name"] for one in operation.get("parameters", ())}
            is_write = method != "get"
            assert ({"wait", "Idempotency-Key"} <= names) == is_write
            assert ("If-Match" in names) == (
                method in {"patch", "put", "delete"}
                or operation["operationId"]
                in {"apply_policies", "revoke_key", "roll_back", "rotate_key"}
            )
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert {"token": []} in document["security"]


async def test_every_object_is_read_as_documented(app: FastAPI) -> None:
    """Its status, media type and content, and whether it has an `ETag`."""
    admin, document = await session_client(app, "admin"), app.openapi()
    objects = {
        "organization": "acme",
        "team": "search",
        "key_id": "AAAAAAAAAAA1",
        "policy": "default",
        "message_id": "none",
    }

    for path, operations in document["paths"].items():
        if (operation := operations.get("get")) is None:
            continue
        answer = await admin.get(
            path.format(**objects), params={"from": 1} if "diff" in path else {}
        )
        status = str(answer.status_code)
        shown = operation["responses"].get(status, operation["responses"]["default"])
        schema = shown["content"][answer.headers["content-type"].partition(";")[0]]["schema"]
        if "json" in answer.headers["content-type"]:
            whole = {"allOf": [schema], "components": document["components"]}
            jsonschema.validate(answer.json(), whole)
        assert ("etag" in answer.headers) == ("ETag" in shown.get("headers", {})), path
