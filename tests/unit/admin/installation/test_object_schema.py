from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from sidecar.admin.installation.object_schema import installation_schema, installation_schema_text
from tests.support.alerts import route_text
from tests.support.installation import key, organization, policy, price, team

VALIDATOR = jsonschema.Draft202012Validator(installation_schema())


def faults(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))]


def test_the_schema_is_valid_by_its_draft() -> None:
    """Of the draft that it names, and the same each time."""
    jsonschema.Draft202012Validator.check_schema(installation_schema())
    assert json.loads(installation_schema_text()) == installation_schema()


@pytest.mark.parametrize(
    "text",
    [
        policy(),
        organization(more="limits: [cost/month=2, {limit: tokens/day=5, models: [a]}]\n"),
        team(),
        route_text(more="quiet_hours: 22:00-07:00\nrules: [fail_open]\n"),
        key(more="tags: [a]\npriority: batch\nexpires_at: '2027-01-31T12:00:00Z'\n"),
    ],
)
def test_documents_are_valid(text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            organization(more="polcy: a\n"),
            "Additional properties are not allowed ('polcy' was unexpected)",
        ),
        (
            "kind: Organisation\n",
            (
                "'Organisation' is not one of"
                " ['Policy', 'Price', 'Organization', 'Team', 'Key', 'AlertRoute']"
            ),
        ),
        ("kind: Team\n", "'name' is a required property"),
    ],
)
def test_the_schema_names_the_field_of_a_fault(text: str, expected: str) -> None:
    assert faults(text) == [expected]


def test_the_schema_takes_a_price_that_is_a_number_alone() -> None:
    value = yaml.safe_load(price()) | {"valid_from": "2026-01-01"}

    assert [*VALIDATOR.iter_errors(value)] == []
    assert [*VALIDATOR.iter_errors(value | {"input": "free"})] != []
    long = {"above_tokens": 200_000, "input_above": 6}
    assert [*VALIDATOR.iter_errors(value | long)] == []
