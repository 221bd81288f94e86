from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.domain.subject import Operation
from sidecar.keys.credentials import ApiKey, authorize, is_model_allowed, is_source_allowed
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
    verdict = authorize(record, KEY, now=NOW)

    good = None if record is None else record
    assert verdict == (good if expected is None else expected)


NARROW = replace(
    RECORD, allowed_operations=("chat",), allowed_sources=(ip_network("192.0.2.0/24"),)
)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(NARROW, None, id="within both"),
        pytest.param(
            replace(NARROW, allowed_sources=(ip_network("198.51.100.0/24"),)),
            ErrorKind.SOURCE_NOT_ALLOWED,
            id="elsewhere",
        ),
        pytest.param(
            replace(NARROW, allowed_operations=("embeddings",)),
            ErrorKind.OPERATION_NOT_ALLOWED,
            id="for something else",
        ),
        pytest.param(
            replace(NARROW, allowed_operations=("embeddings",), allowed_sources=()),
            ErrorKind.SOURCE_NOT_ALLOWED,
            id="from where comes first",
        ),
        pytest.param(
            replace(NARROW, allowed_sources=(), revoked_at=1.0),
            ErrorKind.REVOKED_API_KEY,
            id="whether it is good at all comes before",
        ),
        pytest.param(
            replace(NARROW, allowed_operations=()), ErrorKind.OPERATION_NOT_ALLOWED, id="none"
        ),
    ],
)
def test_a_narrow_key_is_good_for_what_it_is_for(
    record: KeyRecord, expected: ErrorKind | None
) -> None:
    """A chat from 192.0.2.7."""
    verdict = authorize(record, KEY, now=NOW, source="192.0.2.7", operation=Operation.CHAT)

    assert verdict == (record if expected is None else expected)


@pytest.mark.parametrize(
    ("source", "networks", "expected"),
    [
        pytest.param(None, None, True, id="no list, no address"),
        pytest.param(None, ("0.0.0.0/0", "::/0"), False, id="no address"),
        pytest.param("", ("0.0.0.0/0",), False, id="an empty one"),
        pytest.param("unix", ("0.0.0.0/0",), False, id="no address at all"),
        pytest.param("192.0.2.7", (), False, id="empty list"),
        pytest.param("192.0.2.7", ("192.0.2.7/32",), True, id="itself"),
        pytest.param("192.0.2.7", ("198.51.100.0/24", "192.0.2.0/24"), True, id="any of the list"),
        pytest.param("192.0.3.0", ("192.0.2.0/24",), False, id="just behind"),
        pytest.param("::ffff:192.0.2.7", ("192.0.2.0/24",), True, id="IPv4 in an IPv6 socket"),
        pytest.param("::ffff:192.0.2.7", ("::/0",), False, id="which is no IPv6 address"),
        pytest.param("2001:db8::7", ("2001:db8::/32",), True, id="IPv6"),
        pytest.param("2001:db8::7", ("0.0.0.0/0",), False, id="which is no IPv4 address"),
        pytest.param("192.0.2.7,10.0.0.1", ("0.0.0.0/0",), False, id="a list of two"),
        pytest.param("0300.0.2.7", ("0.0.0.0/0",), False, id="octal"),
    ],
)
def test_a_source_is_allowed_by_a_network_that_holds_it(
    source: str | None, networks: tuple[str, ...] | None, *, expected: bool
) -> None:
    """What is no address is nowhere."""
    parsed = None if networks is None else tuple(map(ip_network, networks))

    assert is_source_allowed(source, parsed) is expected


@pytest.mark.parametrize("record", [None, RECORD, REVOKED, EXPIRED, EARLY, NARROW])
def test_whoever_lacks_the_secret_learns_nothing(record: KeyRecord | None) -> None:
    """A wrong secret is answered alike whether the key is good, revoked, or not there."""
    assert authorize(record, STRANGER, now=NOW) == ErrorKind.INVALID_API_KEY


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
        pytest.param("GPT-5", ("gpt-5",), True, id="any case"),
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
