"""Which policy a command is about: one of a file, of the store, or the built-in one."""

from __future__ import annotations

from pathlib import Path

from sidecar.cli.database import on_connection
from sidecar.cli.output import fail
from sidecar.cli.policy_change import check_expressions, read_documents
from sidecar.guardrails.policy_document import (
    DEFAULT_POLICY_NAME,
    PolicyDocument,
    default_policy_text,
    parse_documents,
)
from sidecar.storage.postgres_policies import load_policy


def chosen_document(name: str | None, file: Path | None) -> PolicyDocument:
    """Return the policy *name* of *file*, or its first, or that of the store, or the built-in.

    Exits where there is none, or where it cannot be compiled.
    """
    if file is not None:
        documents = read_documents(file)
        check_expressions(documents, stored=(), source=str(file))
        for document in documents:
            if name in {None, document.policy.name}:
                return document
        fail(f"{file} holds no policy {name}", mend="name one of it, or none for the first")
    if name is None:
        return parse_documents(default_policy_text(), expressions="trust")[0]
    stored = on_connection(lambda connection: load_policy(connection, name))
    if stored is None and name != DEFAULT_POLICY_NAME:
        fail(f"there is no policy {name}", mend="see `egret policy list`")
    text = default_policy_text() if stored is None else stored.document
    return parse_documents(text, expressions="trust")[0]
