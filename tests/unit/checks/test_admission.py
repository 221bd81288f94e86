from __future__ import annotations

import dataclasses
from ipaddress import ip_network

import pytest

from sidecar.checks.admission import Admitted, Caller, NotAdmitted, admit
from sidecar.checks.ledger import Ledger
from sidecar.checks.parts import Parts
from sidecar.domain.errors import ErrorKind
from sidecar.domain.http import Headers
from sidecar.domain.report import CacheTier
from sidecar.domain.subject import Operation
from sidecar.keys.cache import KeyCache
from sidecar.keys.ports import KeyStoreUnavailableError, LoadedKey
from tests.support.checks import KEY, World
from tests.support.keys import record_of

RECORD = record_of(KEY.key_id, digest=KEY.secret_sha256)


@dataclasses.dataclass
class ScriptedStore:
    """The port `KeyStore`: gives what it was told, or fails."""

    answer: LoadedKey | None

    async def load(self, key_id: str) -> LoadedKey:
        """Answer."""
        assert key_id == KEY.key_id
        if self.answer is None:
            raise KeyStoreUnavailableError("down")
        return self.answer


def presented() -> Headers:
    return Headers((("authorization", b"Bearer " + KEY.reveal().encode()),))


CALLER = Caller(presented(), source_address=None, operation=None)


async def ask(parts: Parts, caller: Caller = CALLER) -> tuple[Admitted | NotAdmitted, CacheTier]:
    """Admit a request with the key; say which tier answered."""
    ledger = Ledger(parts.clocks)
    admission = admit(caller, parts=parts, ledger=ledger)
    if not isinstance(admission, Admitted | NotAdmitted):
        admission = await admission
    return admission, ledger.cache_tier


@pytest.mark.parametrize(
    ("answer", "outcome", "tiers"),
    [
        pytest.param(LoadedKey(RECORD), Admitted, (CacheTier.STORE, CacheTier.L1), id="database"),
        pytest.param(
            LoadedKey(RECORD, CacheTier.L2, 5.0),
            Admitted,
            (CacheTier.L2, CacheTier.L1),
            id="shared",
        ),
        pytest.param(
            LoadedKey(RECORD, CacheTier.STALE, 5.0),
            Admitted,
            (CacheTier.STALE, CacheTier.STALE),
            id="stale",
        ),
        pytest.param(
            LoadedKey(None), NotAdmitted, (CacheTier.STORE, CacheTier.NEGATIVE), id="no such key"
        ),
    ],
)
async def test_the_tier_that_answered_is_reported(
    answer: LoadedKey, outcome: type, tiers: tuple[CacheTier, CacheTier]
) -> None:
    """For the first request of a key and for the next."""
    parts = dataclasses.replace(World().parts, keys=KeyCache(ScriptedStore(answer)))

    first, then = await ask(parts), await ask(parts)

    assert [type(admission) for admission, _ in (first, then)] == [outcome, outcome]
    assert (first[1], then[1]) == tiers


async def test_a_key_that_nobody_can_look_up_is_not_admitted_for_now() -> None:
    """Unavailable, which is no statement about the key."""
    parts = dataclasses.replace(World().parts, keys=KeyCache(ScriptedStore(None)))

    admission, tier = await ask(parts)

    assert (admission, tier) == (
        NotAdmitted(ErrorKind.AUTHORIZATION_UNAVAILABLE),
        CacheTier.STORE,
    )


NARROW = dataclasses.replace(
    RECORD, allowed_operations=("chat",), allowed_sources=(ip_network("192.0.2.0/24"),)
)


@pytest.mark.parametrize(
    ("address", "operation", "expected", "error_type"),
    [
        pytest.param("192.0.2.7", Operation.CHAT, None, None, id="within both"),
        pytest.param(
            "192.0.2.7", Operation.EMBEDDINGS, ErrorKind.OPERATION_NOT_ALLOWED, None, id="other"
        ),
        pytest.param("192.0.2.7", None, ErrorKind.OPERATION_NOT_ALLOWED, None, id="unknown route"),
        pytest.param(
            "198.51.100.7", Operation.CHAT, ErrorKind.SOURCE_NOT_ALLOWED, None, id="elsewhere"
        ),
        pytest.param(
            None,
            Operation.CHAT,
            ErrorKind.SOURCE_NOT_ALLOWED,
            "SourceAddressUnknown",
            id="nobody says from where",
        ),
    ],
)
async def test_a_narrow_key_is_judged_on_a_miss_and_on_every_hit(
    address: str | None,
    operation: Operation | None,
    expected: ErrorKind | None,
    error_type: str | None,
) -> None:
    """By where the caller is and what it asks for; a gateway that does not say is told apart."""
    parts = dataclasses.replace(World().parts, keys=KeyCache(ScriptedStore(LoadedKey(NARROW))))
    caller = Caller(presented(), address, operation)
    ledgers = [Ledger(parts.clocks) for _ in range(2)]

    admissions = []
    for ledger in ledgers:
        admission = admit(caller, parts=parts, ledger=ledger)
        if not isinstance(admission, Admitted | NotAdmitted):
            admission = await admission
        admissions.append(admission)

    kinds = [each.kind if isinstance(each, NotAdmitted) else None for each in admissions]
    assert (kinds, [ledger.error_type for ledger in ledgers]) == ([expected] * 2, [error_type] * 2)
