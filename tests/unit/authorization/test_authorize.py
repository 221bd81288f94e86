from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.authorization.api_key import ApiKey
from sidecar.authorization.authorize import Authorized, Refused, is_model_allowed, judge
from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from tests.support.keys import record_of

KEY = ApiKey(key_id="0123456789AB", secret="a" * 43)
STRANGER = ApiKey(key_id="0123456789AB", secret="b" * 43)
NOW = 1000.0
RECORD = record_of(KEY.key_id, digest=KEY.secret_sha256)
REVOKED = replace(RECORD, revoked_at=NOW - 1)
EXPIRED = replace(RECORD, expires_at=NOW)
EARLY = replace(RECORD, not_before=NOW + 1)
NOTHING = replace(RECORD, secret_sha256=b"")

DISABLED = ErrorKind.DISABLED_API_KEY


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(RECORD, None, id="good"),
        pytest.param(replace(RECORD, expires_at=NOW + 0.001), None, id="about to expire"),
        pytest.param(replace(RECORD, not_before=NOW), None, id="just begun"),
        pytest.param(None, ErrorKind.INVALID_API_KEY, id="unknown"),
        pytest.param(NOTHING, ErrorKind.INVALID_API_KEY, id="no digest stored"),
        pytest.param(REVOKED, ErrorKind.REVOKED_API_KEY, id="revoked"),
        pytest.param(
            replace(RECORD, revoked_at=NOW + 60), ErrorKind.REVOKED_API_KEY, id="clocks differ"
        ),
        pytest.param(EXPIRED, ErrorKind.EXPIRED_API_KEY, id="expired this moment"),
        pytest.param(EARLY, DISABLED, id="not yet"),
        pytest.param(replace(RECORD, enabled=False), DISABLED, id="key off"),
        pytest.param(replace(RECORD, team_enabled=False), DISABLED, id="team off"),
        pytest.param(replace(RECORD, organization_enabled=False), DISABLED, id="organization off"),
        pytest.param(
            replace(REVOKED, expires_at=NOW - 1, enabled=False),
            ErrorKind.REVOKED_API_KEY,
            id="revoked before all",
        ),
        pytest.param(
            replace(EXPIRED, enabled=False),
            ErrorKind.EXPIRED_API_KEY,
            id="expired before disabled",
        ),
    ],
)
def test_a_key_is_judged_by_its_record(
    record: KeyRecord | None, expected: ErrorKind | None
) -> None:
    """Good in every respect, or refused for the first reason that holds."""
    verdict = judge(record, KEY, now=NOW)

    good = None if record is None else Authorized(record)
    assert verdict == (good if expected is None else Refused(expected))


@pytest.mark.parametrize("record", [None, RECORD, REVOKED, EXPIRED, EARLY])
def test_whoever_lacks_the_secret_learns_nothing(record: KeyRecord | None) -> None:
    """A wrong secret is answered alike whether the key is good, revoked, or not there."""
    assert judge(record, STRANGER, now=NOW) == Refused(ErrorKind.INVALID_API_KEY)


@pytest.mark.parametrize(
    ("model", "patterns", "expected"),
    [
        pytest.param("gpt-5", None, True, id="no list"),
        pytest.param(None, None, True, id="no list, no model"),
        pytest.param("gpt-5", (), False, id="empty list"),
        pytest.param(None, ("*",), False, id="no model"),
        pytest.param("", ("*",), True, id="star takes nothing as well"),
        pytest.param("gpt-5", ("gpt-5",), True, id="exact"),
        pytest.param("gpt-5-mini", ("gpt-5",), False, id="longer"),
        pytest.param("GPT-5", ("gpt-5",), False, id="case counts"),
        pytest.param("gpt-5-mini", ("claude-*", "gpt-*"), True, id="any of the list"),
        pytest.param("gpt-5", ("gpt-?",), True, id="one character"),
        pytest.param("gpt-", ("gpt-?",), False, id="no character"),
        pytest.param("a/b\nc", ("a*c",), True, id="star takes slash and newline"),
        pytest.param("gpt-5\n", ("gpt-5",), False, id="a newline after it"),
        pytest.param("gpt-5", ("gpt-[0-9]",), False, id="brackets are no class"),
        pytest.param("ft[1]", ("ft[1]",), True, id="brackets stand for themselves"),
        pytest.param("ft[!a]", ("ft[!*]",), True, id="so do marks in them"),
        pytest.param("gptX5", ("gpt.5",), False, id="a dot is a dot"),
    ],
)
def test_a_model_is_allowed_by_a_glob_that_matches_all_of_it(
    model: str | None, patterns: tuple[str, ...] | None, *, expected: bool
) -> None:
    """Only `*` and `?` are special."""
    assert is_model_allowed(model, patterns) is expected


def test_a_long_model_name_does_not_make_a_glob_backtrack() -> None:
    """Twenty stars against a megabyte that nearly matches ends, rather than trying all splits."""
    assert not is_model_allowed("a" * 1_000_000, ("a*" * 20 + "b",))
