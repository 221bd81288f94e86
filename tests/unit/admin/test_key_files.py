from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.admin.key_files import FIELDS, Faults, LineFault, read_csv, read_jsonl
from sidecar.domain.subject import Operation

KEY_ID, DIGEST = "AAAAAAAAAAA1", "ab" * 32
FULL: dict[str, object] = {
    "key_id": KEY_ID,
    "secret_sha256": DIGEST,
    "team": "acme/search",
    "name": "laptop",
    "enabled": False,
    "not_before": "2026-01-01T00:00:00Z",
    "expires_at": "2027-01-01T02:00:00+02:00",
    "revoked_at": "2026-06-01",
    "replaced_by": "AAAAAAAAAAA2",
    "policy": "strict",
    "allowed_models": ["gpt-*", "o?"],
    "created_at": "2026-01-01T00:00:00.000001Z",
    "allowed_operations": ["embeddings", "chat"],
    "allowed_sources": ["192.0.2.0/24", "2001:db8::1"],
    "tags": ["env=prod"],
    "priority": "batch",
}
FULL_ROW = (
    *(KEY_ID, bytes.fromhex(DIGEST), "acme/search", "laptop", False),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2027, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    datetime(2026, 6, 1, tzinfo=UTC),
    *("AAAAAAAAAAA2", "strict", ["gpt-*", "o?"]),
    datetime(2026, 1, 1, microsecond=1, tzinfo=UTC),
    ["chat", "embeddings"],
    ["192.0.2.0/24", "2001:db8::1/128"],
    ["env=prod"],
    "batch",
)
LEAST: dict[str, object] = {
    "key_id": KEY_ID,
    "secret_sha256": DIGEST,
    "team": "acme/search",
    "name": "laptop",
}
LEAST_ROW = (KEY_ID, bytes.fromhex(DIGEST), "acme/search", "laptop", True, *[None] * 11)


def csv_of(*rows: dict[str, object], header: tuple[str, ...] = FIELDS) -> list[bytes]:
    lines = [",".join(header)]
    lines += [",".join(_cell(row.get(name)) for name in header) for row in rows]
    return [f"{line}\n".encode() for line in lines]


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case _:
            text = orjson.dumps(value).decode().replace('"', '""')
            return f'"{text}"'


def jsonl_of(*rows: object) -> list[bytes]:
    return [orjson.dumps(row) + b"\n" for row in rows]


def test_every_field_is_read_from_either_format() -> None:
    """Digest as bytes, times with their zone or in UTC, lists as lists; then the line's number."""
    faults = Faults()

    assert list(read_jsonl(jsonl_of(FULL), faults)) == [(1, *FULL_ROW)]
    assert list(read_csv(csv_of(FULL), faults)) == [(2, *FULL_ROW)]
    assert faults == Faults()


def test_what_is_left_out_is_none_and_a_key_is_enabled() -> None:
    """Columns that no row needs may be missing; an empty cell and null are as good as none."""
    faults = Faults()
    nulls = LEAST | {"policy": None, "enabled": None}

    assert list(read_jsonl(jsonl_of(LEAST, nulls), faults)) == [(1, *LEAST_ROW), (2, *LEAST_ROW)]
    assert list(read_csv(csv_of(LEAST, header=tuple(LEAST)), faults)) == [(2, *LEAST_ROW)]
    assert list(read_csv(csv_of(LEAST), faults)) == [(2, *LEAST_ROW)]
    assert faults == Faults()


def test_an_empty_list_of_models_is_a_list() -> None:
    """It allows no model, none allows what the level above does."""
    (row,) = read_csv(csv_of(LEAST | {"allowed_models": []}), Faults())

    assert row[1 + FIELDS.index("allowed_models")] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        pytest.param({"key_id": None}, "key_id is missing", id="no id"),
        pytest.param({"key_id": "egk_x"}, "key_id is not 12 letters and digits", id="no such id"),
        pytest.param(
            {"key_id": "AAAAAAAAAA\u0661\u0661"},
            "key_id is not 12 letters and digits",
            id="digits",
        ),
        pytest.param(
            {"secret_sha256": "hunter2"},
            "secret_sha256 is not the 64 hexadecimal digits of a SHA-256",
            id="a secret instead of its digest is not repeated",
        ),
        pytest.param({"team": "search"}, "team is not ORGANIZATION/TEAM", id="team"),
        pytest.param(
            {"name": "Laptop"},
            "name is no name: lower case letters, digits, dots, dashes and underscores,"
            " at most 63",
            id="name",
        ),
        pytest.param({"enabled": "yes"}, "enabled is not true or false", id="switch"),
        pytest.param(
            {"expires_at": "tomorrow"},
            "expires_at is no time, write for example 2027-01-31T12:00:00Z",
            id="time",
        ),
        pytest.param(
            {"expires_at": "0001-01-01T00:00:00+23:00"},
            "expires_at is not between 1970 and 9998",
            id="a time before all calendars",
        ),
        pytest.param({"replaced_by": "x"}, "replaced_by is not 12 letters and digits", id="other"),
        pytest.param(
            {"allowed_models": "gpt-*"},
            'allowed_models is not a JSON array of strings, write for example ["gpt-*"]',
            id="models that are no list",
        ),
        pytest.param(
            {"allowed_models": ["gpt-*", ""]},
            "allowed_models is wrong: '' is no model: write a name or a glob, such as gpt-*,"
            " of 1 to 200 characters without control characters",
            id="an empty model",
        ),
        pytest.param(
            {"allowed_operations": ["chat", "fly"]},
            "allowed_operations is wrong: there is no operation 'fly'; there are "
            + ", ".join(sorted(operation.value for operation in Operation)),
            id="an operation that there is not",
        ),
        pytest.param(
            {"allowed_sources": ["192.0.2.1/24"]},
            "allowed_sources is wrong: '192.0.2.1/24' is no network, write for example"
            " 192.0.2.0/24 or 2001:db8::/32",
            id="an address within a network",
        ),
        pytest.param(
            {"priority": "high"},
            "priority is none of interactive, standard, batch",
            id="priority",
        ),
        pytest.param(
            {"tags": ["Prod"]},
            "tags is wrong: 'Prod' is no tag: lower case letters, digits and . _ : / = -,"
            " at most 63",
            id="a tag",
        ),
        pytest.param(
            {"tags": [f"t{number}" for number in range(21)]},
            "tags is wrong: a key has at most 20 tags",
            id="too many tags",
        ),
        pytest.param(
            {"allowed_models": [1]},
            'allowed_models is not a JSON array of strings, write for example ["gpt-*"]',
            id="models that are no text",
        ),
        pytest.param(
            {"allowed_models": ["\0"]},
            'allowed_models is not a JSON array of strings, write for example ["gpt-*"]',
            id="a model that no database holds",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_line(change: dict[str, object], problem: str) -> None:
    """The lines around it are read, and no value is repeated."""
    by_csv, by_json = Faults(), Faults()
    rows = (LEAST, LEAST | change, LEAST)

    assert list(read_csv(csv_of(*rows), by_csv)) == [(2, *LEAST_ROW), (4, *LEAST_ROW)]
    assert list(read_jsonl(jsonl_of(*rows), by_json)) == [(1, *LEAST_ROW), (3, *LEAST_ROW)]
    assert by_csv == Faults(1, [LineFault(3, problem)])
    assert by_json == Faults(1, [LineFault(2, problem)])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        pytest.param(b"{nope\n", "is not JSON", id="no JSON"),
        pytest.param(b"[]\n", "is not a JSON object", id="an array"),
        pytest.param(
            b'{"key": "egk_"}\n',
            f"has a field that no key has; there are {', '.join(FIELDS)}",
            id="an unknown field",
        ),
        pytest.param(b'{"key_id": "\xff"}\n', "is not JSON", id="not UTF-8"),
    ],
)
def test_a_line_that_is_no_key_is_named(line: bytes, problem: str) -> None:
    """Blank lines are none."""
    faults = Faults()

    assert list(read_jsonl([b"\n", line], faults)) == []
    assert faults == Faults(1, [LineFault(2, problem)])


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        pytest.param([], 1, "there is no header", id="empty"),
        pytest.param(
            [b"key_id,secret\n"],
            1,
            f"the header may hold these, once each: {', '.join(FIELDS)}",
            id="an unknown column",
        ),
        pytest.param(
            [b"key_id,name,key_id\n"],
            1,
            f"the header may hold these, once each: {', '.join(FIELDS)}",
            id="a column twice",
        ),
        pytest.param(
            [b"key_id,team\n", b"\n"], 1, "the header lacks secret_sha256, name", id="too few"
        ),
        pytest.param(
            [*csv_of(), b"a,b\n"], 2, "has 2 cells where the header has 16", id="a cell missing"
        ),
        pytest.param(
            [*csv_of(), b'"a"b,c\n'], 2, "is not CSV: ',' expected after '\"'", id="a stray quote"
        ),
        pytest.param(
            [*csv_of(header=tuple(LEAST)), b"\xff,b,c,d\n"],
            2,
            "key_id is not 12 letters and digits",
            id="not UTF-8",
        ),
    ],
)
def test_a_table_that_is_none_is_named(lines: list[bytes], line: int, problem: str) -> None:
    """A wrong header is one fault, whatever comes below it."""
    faults = Faults()

    assert list(read_csv(lines, faults)) == []
    assert faults == Faults(1, [LineFault(line, problem)])


def test_a_byte_order_mark_before_the_header_is_no_part_of_it() -> None:
    """Spreadsheets write one."""
    lines = csv_of(LEAST)
    lines[0] = b"\xef\xbb\xbf" + lines[0]

    assert list(read_csv(lines, Faults())) == [(2, *LEAST_ROW)]


def test_faults_past_what_anybody_reads_are_counted() -> None:
    """Memory stays bounded for a file of another kind."""
    faults = Faults()

    assert list(read_jsonl([b"nope\n"] * 10_001, faults)) == []
    assert (faults.count, len(faults.kept), faults.kept[-1].line) == (10_001, 10_000, 10_000)


@given(st.lists(st.one_of(st.binary(), st.just(orjson.dumps(FULL)))))
def test_no_line_of_json_is_lost(lines: list[bytes]) -> None:
    """Whatever it holds, a line is a row or a fault, unless it is blank."""
    faults = Faults()
    rows = list(read_jsonl(lines, faults))

    assert len(rows) + faults.count == sum(not line.isspace() for line in lines)


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"") + b"\n")))
def test_any_bytes_below_a_header_are_rows_or_faults(lines: list[bytes]) -> None:
    """Any bytes after a good header are rows or faults."""
    faults = Faults()
    rows = list(read_csv([*csv_of(LEAST), *lines], faults))

    assert rows[0][1:] == LEAST_ROW
    assert faults.count <= len(lines)
