from __future__ import annotations

from sidecar.admin_api.application import create_app
from sidecar.settings.process import Settings


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
            assert ("If-Match" in names) == (method in {"patch", "put", "delete"})
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert {"token": []} in document["security"]
