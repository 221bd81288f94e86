"""The OpenAPI document of the API: all that holds for every operation is added here, once."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from sidecar.admin_api.access import IN_FORCE_HEADER, SAFE_METHODS, WAIT, WAIT_SECONDS
from sidecar.admin_api.idempotency import HEADER, MAX_KEY_CHARACTERS
from sidecar.admin_api.problems import MEDIA_TYPE
from sidecar.admin_api.sign_in import TOKEN_PREFIX

_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "Problem details (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "hint": {"type": "string", "description": "How to correct the request."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["in", "fault"],
                "properties": {"in": {"type": "string"}, "fault": {"type": "string"}},
            },
        },
    },
}
_WRITE_PARAMETERS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": WAIT,
        "in": "query",
        "description": f"Answer once live workers have the change, or after {WAIT_SECONDS:g} s.",
        "schema": {"type": "boolean", "default": False},
    },
    {
        "name": HEADER.title(),
        "in": "header",
        "description": "A write that is sent again with it within a day happens once.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
    },
)
_IF_MATCH: Final[dict[str, Any]] = {
    "name": "If-Match",
    "in": "header",
    "description": "The ETag of the object as it was read; 412 if it has changed since.",
    "schema": {"type": "string"},
}
_TAGGED_POSTS: Final = frozenset({"apply_policies", "revoke_key", "roll_back", "rotate_key"})
"""Operations that check `If-Match`, beside every PATCH, PUT and DELETE."""
_SHOWS_TAG: Final = frozenset(
    f"{verb}_{kind}"
    for kind in (
        "organization", "team", "key", "organization_limits", "team_limits", "key_limits",
    )
    for verb in ("show", "set" if kind.endswith("limits") else "change")
) | {"show_policy"}  # fmt: skip
"""Operations whose answer has an `ETag`."""
_TAG_HEADER: Final[dict[str, Any]] = {
    "ETag": {"description": "For `If-Match` of a change.", "schema": {"type": "string"}}
}
_WRITE_HEADERS: Final[dict[str, Any]] = {
    IN_FORCE_HEADER.title(): {
        "description": "Workers, and those behind: `workers=4, behind=0`.",
        "schema": {"type": "string"},
    }
}
_DEFAULT_RESPONSE: Final[dict[str, Any]] = {
    "description": "A problem.",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_SECURITY: Final[dict[str, Any]] = {
    "token": {"type": "http", "scheme": "bearer", "bearerFormat": f"{TOKEN_PREFIX}…"},
    "session": {"type": "apiKey", "in": "cookie", "name": "__Host-egret"},
}


def openapi_of(app: FastAPI) -> dict[str, Any]:
    """Return the document, which is made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            separate_input_output_schemas=app.separate_input_output_schemas,
        )
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = _PROBLEM
        components["securitySchemes"] = _SECURITY
        document["security"] = [{name: []} for name in _SECURITY]
        for operations in document["paths"].values():
            for method, operation in operations.items():
                responses = operation["responses"]
                responses.pop("422", None)
                name, is_write = operation["operationId"], method.upper() not in SAFE_METHODS
                headers = (_TAG_HEADER if name in _SHOWS_TAG else {}) | (
                    _WRITE_HEADERS if is_write else {}
                )
                if headers:
                    for response in responses.values():
                        response["headers"] = headers
                responses["default"] = _DEFAULT_RESPONSE
                if not is_write:
                    continue
                operation.setdefault("parameters", []).extend(_WRITE_PARAMETERS)
                if method in {"patch", "put", "delete"} or name in _TAGGED_POSTS:
                    operation["parameters"].append(_IF_MATCH)
        app.openapi_schema = document
    return app.openapi_schema
