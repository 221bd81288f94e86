from __future__ import annotations

import dataclasses
import hmac
from ipaddress import ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.limits import Level, Priority
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.keys.ports import SharedRecord
from sidecar.limits.serialization import read_limits
from sidecar.storage.valkey_keys import SharedRecordCodec
from sidecar.telemetry.key_metrics import SharedOutcome

SECRET = "a secret of thirty-two characters"
CODEC = SharedRecordCodec(SECRET)

texts = st.text(max_size=40)
times = st.none() | st.floats(0, 4e9)
networks = st.ip_addresses().map(ip_network)
records = st.builds(
    KeyRecord,
    principal=st.builds(Principal, st.just("AAAAAAAAAAA1"), texts, texts, texts, texts),
    secret_sha256=st.binary(min_size=32, max_size=32),
    enabled=st.booleans(),
    team_enabled=st.booleans(),
    organization_enabled=st.booleans(),
    not_before=times,
    expires_at=times,
    revoked_at=times,
    allowed_models=st.none() | st.lists(texts, max_size=4).map(tuple),
    policies=st.builds(PolicyBinding, st.none() | texts, st.none() | texts, st.none() | texts),
    allowed_operations=st.none() | st.lists(texts, max_size=4).map(tuple),
    allowed_sources=st.none() | st.lists(networks, max_size=4).map(tuple),
)
shared_records = st.builds(
    SharedRecord,
    records,
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**62),
    st.integers(1, 2**62),
    st.floats(0, 4e9),
)


@given(shared_records)
def test_a_record_comes_back_as_it_was_written(shared: SharedRecord) -> None:
    """Every field, whatever it holds."""
    assert CODEC.decode("AAAAAAAAAAA1", CODEC.encode(shared)) == shared


@given(shared_records, st.data())
def test_no_part_of_a_value_can_be_changed_or_left_out(
    shared: SharedRecord, data: st.DataObject
) -> None:
    """A flipped bit or a cut anywhere is seen, and nothing raises."""
    value = CODEC.encode(shared)
    place = data.draw(st.integers(0, len(value) - 1))
    flipped = bytearray(value)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))

    told = [CODEC.decode("AAAAAAAAAAA1", spoilt) for spoilt in (bytes(flipped), value[:place])]

    assert all(isinstance(each, SharedOutcome) for each in told)


@given(st.binary(max_size=300))
def test_bytes_that_somebody_made_up_are_no_record(value: bytes) -> None:
    """Of any kind, and nothing raises."""
    assert isinstance(CODEC.decode("AAAAAAAAAAA1", value), SharedOutcome)


@pytest.mark.parametrize(
    ("codec", "key_id"),
    [
        pytest.param(CODEC, "AAAAAAAAAAA2", id="another key's"),
        pytest.param(SharedRecordCodec(SECRET + "!"), "AAAAAAAAAAA1", id="another secret"),
    ],
)
@given(shared=shared_records)
def test_a_value_is_good_for_its_key_and_secret_alone(
    codec: SharedRecordCodec, key_id: str, shared: SharedRecord
) -> None:
    """Copied elsewhere or written by someone else, it is not believed."""
    assert codec.decode(key_id, CODEC.encode(shared)) is SharedOutcome.UNAUTHENTIC


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no MessagePack"),
        pytest.param(msgspec.msgpack.encode([1, 2, 3]), id="too few fields"),
        pytest.param(msgspec.msgpack.encode({"timeline": 1}), id="another shape"),
        pytest.param(b"\x91" * 100_000, id="nested without end"),
    ],
)
def test_what_is_authentic_and_no_record_is_unreadable(payload: bytes) -> None:
    """Written by an Egret that had a fault, or by one with the same version and other fields."""
    name = b"AAAAAAAAAAA1"
    text = b"egret shared key record 3\0" + b"\x00\x0c" + name + payload
    tag = hmac.digest(SECRET.encode(), text, "sha256")

    told = CODEC.decode("AAAAAAAAAAA1", b"\x03" + tag + payload)

    is_huge = len(payload) > 16 * 1024
    assert told is (SharedOutcome.UNAUTHENTIC if is_huge else SharedOutcome.UNREADABLE)


@given(shared_records)
def test_a_value_of_a_newer_version_is_left_alone(shared: SharedRecord) -> None:
    """During an upgrade both versions run; neither reads the other's."""
    newer = b"\x04" + CODEC.encode(shared)[1:]

    assert CODEC.decode("AAAAAAAAAAA1", newer) is SharedOutcome.NEWER


@given(shared_records)
def test_a_value_of_an_older_version_is_not_believed(shared: SharedRecord) -> None:
    """It is no miss without a word: whoever reads it writes it anew, and it is counted."""
    older = b"\x02" + CODEC.encode(shared)[1:]

    assert CODEC.decode("AAAAAAAAAAA1", older) is SharedOutcome.UNAUTHENTIC


TEAM_LIMITS = '[{"measure":"requests","window":"minute","amount":60}]'


def test_the_format_of_version_3_stays_as_it_is() -> None:
    """Workers of two releases share a cache while one replaces the other."""
    record = KeyRecord(
        principal=Principal("AAAAAAAAAAA1", "team_1", "search", "org_1", "acme"),
        secret_sha256=bytes(32),
        enabled=True,
        team_enabled=True,
        organization_enabled=False,
        not_before=None,
        expires_at=1.5,
        revoked_at=None,
        allowed_models=("gpt-*",),
        policies=PolicyBinding(team="strict"),
        allowed_operations=("chat",),
        allowed_sources=(ip_network("192.0.2.0/24"),),
        limits=read_limits(TEAM_LIMITS, level=Level.TEAM, owner="team_1"),
        priority=Priority.BATCH,
    )
    shared = SharedRecord(record, timeline=1, horizon=750, settled=740, read_at=2.5)

    value = CODEC.encode(shared)

    assert (value[:1], msgspec.msgpack.decode(value[33:])) == (
        b"\x03",
        [
            *(1, 750, 740, 2.5, "AAAAAAAAAAA1", "team_1", "search", "org_1", "acme", bytes(32)),
            *(True, True, False, None, 1.5, None, ["gpt-*"], [None, "strict", None]),
            *(["chat"], ["192.0.2.0/24"]),
            *(["[]", TEAM_LIMITS, "[]"], "batch"),
        ],
    )
    assert dataclasses.asdict(shared)["horizon"] == 750
