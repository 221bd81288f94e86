from __future__ import annotations

import pytest

from sidecar.admin.policy_plan import Change, plan_policies
from sidecar.policy.parse import parse_documents
from sidecar.storage.postgres_policies import StoredPolicy

STRICT = "name: strict\nguardrails:\n- {name: a, type: secrets}\n"


def test_a_policy_is_compared_by_its_meaning() -> None:
    """A comment or a default that is written out is no change."""
    text = f"# why\n{STRICT}".replace("secrets}", "secrets, action: block}")

    (planned,) = plan_policies(
        parse_documents(text), stored=[StoredPolicy("strict", 4, STRICT)], deleted={"strict": 9}
    )

    assert (planned.change, planned.version, planned.diff) == (Change.NONE, 4, "")
    assert planned.new_version == 4


def test_the_first_default_is_compared_with_the_built_in_one() -> None:
    """Guardrails that it drops are named."""
    (planned,) = plan_policies(
        parse_documents("name: default\nguardrails: []\n"), stored=[], deleted={}
    )

    assert planned.change is Change.CREATE
    assert planned.diff.startswith("--- default built in\n+++ default version 1\n")
    assert planned.lost


def test_a_stored_policy_that_cannot_be_read_is_replaced_as_a_whole() -> None:
    stored = [StoredPolicy("strict", 2, "name: strict\nguardrails: [{name: a, type: later}]\n")]

    (planned,) = plan_policies(parse_documents(STRICT), stored=stored, deleted={})

    assert (planned.change, planned.version) == (Change.UPDATE, 2)
    assert planned.diff.startswith("--- strict version 2\n+++ strict version 3\n@@ -0,0")


@pytest.mark.parametrize("stored", [[], [StoredPolicy("strict", 2, STRICT)]])
def test_a_change_makes_a_version_that_no_deleted_policy_of_the_name_had(
    stored: list[StoredPolicy],
) -> None:
    """Also where a former Egret began again at 1."""
    text = STRICT.replace("secrets", "pii")

    (planned,) = plan_policies(parse_documents(text), stored=stored, deleted={"strict": 5})

    assert planned.new_version == 6
    assert "+++ strict version 6\n" in planned.diff
