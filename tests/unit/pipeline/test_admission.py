from __future__ import annotations

import dataclasses
from ipaddress import ip_network
from typing import Any

import pytest

from sidecar.domain.cooperative import run_sync
from sidecar.domain.errors import ErrorKind
from sidecar.domain.guardrail_settings import PiiSettings
from sidecar.domain.http import Headers
from sidecar.domain.limits import Measure
from sidecar.domain.policy import Action, Guardrail, Policy, Stage
from sidecar.domain.principal import PolicyBinding
from sidecar.domain.report import CacheTier
from sidecar.domain.subject import Dialect, Operation, Route
from sidecar.guardrails.runner import ORGANIZATION
from sidecar.keys.cache import KeyCache
from sidecar.keys.ports import KeyStoreUnavailableError, LoadedKey
from sidecar.pipeline.admission import Caller, admit, requires_body
from sidecar.pipeline.dependencies import Worker
from sidecar.pipeline.record import RequestRecord
from sidecar.policy.snapshot import EffectivePolicy, build_snapshot, snapshot_steps
from tests.support.answers import quiet_stream
from tests.support.keys import record_of
from tests.support.limits import limit
from tests.support.pipeline import KEY, World

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


@dataclasses.dataclass(frozen=True)
class Asked:
    """Where a request comes from, and for what."""

    address: str | None = None
    operation: Operation | None = None


async def ask(worker: Worker, asked: Asked = Asked()) -> tuple[Caller | ErrorKind, RequestRecord]:
    """Admit a request with the key; return the verdict and the facts."""
    record = RequestRecord(clocks=worker.clocks, started_at=0.0, wall_ns=0)
    if asked.operation is not None:
        record.route = Route(Dialect.OPENAI, asked.operation, has_body=True)
    stream = quiet_stream()
    stream.protocol.source_address = asked.address
    return await admit(presented(), stream, record, worker), record


@pytest.mark.parametrize(
    ("answer", "outcome", "tiers"),
    [
        pytest.param(LoadedKey(RECORD), tuple, (CacheTier.STORE, CacheTier.L1), id="database"),
        pytest.param(
            LoadedKey(RECORD, CacheTier.L2, 5.0), tuple, (CacheTier.L2, CacheTier.L1), id="shared"
        ),
        pytest.param(
            LoadedKey(RECORD, CacheTier.STALE, 5.0),
            tuple,
            (CacheTier.STALE, CacheTier.STALE),
            id="stale",
        ),
        pytest.param(
            LoadedKey(None), ErrorKind, (CacheTier.STORE, CacheTier.NEGATIVE), id="no such key"
        ),
    ],
)
async def test_the_tier_that_answered_is_reported(
    answer: LoadedKey, outcome: type, tiers: tuple[CacheTier, CacheTier]
) -> None:
    """For the first request of a key and for the next."""
    worker = dataclasses.replace(World().worker, keys=KeyCache(ScriptedStore(answer)))

    first, then = await ask(worker), await ask(worker)

    assert [type(admission) for admission, _ in (first, then)] == [outcome, outcome]
    assert (first[1].cache_tier, then[1].cache_tier) == tiers


async def test_an_admitted_request_works_for_the_organization_of_its_key() -> None:
    """Its long passes share the loop with those of that organization."""
    worker = dataclasses.replace(World().worker, keys=KeyCache(ScriptedStore(LoadedKey(RECORD))))

    await ask(worker)

    assert ORGANIZATION.get() == RECORD.principal.organization_id


async def test_a_key_that_nobody_can_look_up_is_not_admitted_for_now() -> None:
    """Unavailable, which is no statement about the key."""
    worker = dataclasses.replace(World().worker, keys=KeyCache(ScriptedStore(None)))

    admission, record = await ask(worker)

    assert (admission, record.cache_tier) == (ErrorKind.AUTHORIZATION_UNAVAILABLE, CacheTier.STORE)


async def test_a_policy_that_cannot_be_compiled_is_named_as_the_cause_in_the_log() -> None:
    """Its key is good, and nothing else may judge the request."""
    world = World()
    world.policies.snapshot = run_sync(snapshot_steps([], pending=["default"]))
    worker = dataclasses.replace(world.worker, keys=KeyCache(ScriptedStore(LoadedKey(RECORD))))

    admission, record = await ask(worker)

    cause = (admission, record.error_type)
    assert cause == (ErrorKind.AUTHORIZATION_UNAVAILABLE, "PolicyNotCompiled")


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
    worker = dataclasses.replace(World().worker, keys=KeyCache(ScriptedStore(LoadedKey(NARROW))))
    asked = [await ask(worker, Asked(address, operation)) for _ in range(2)]

    kinds = [each if isinstance(each, ErrorKind) else None for each, _ in asked]
    error_types = [record.error_type for _, record in asked]
    assert (kinds, error_types) == ([expected] * 2, [error_type] * 2)


CHAT = Route(Dialect.OPENAI, Operation.CHAT, has_body=True)
EMBEDDINGS = dataclasses.replace(CHAT, operation=Operation.EMBEDDINGS)
IN_PATH = dataclasses.replace(CHAT, model="gpt-5")
LIST = Route(Dialect.OPENAI, Operation.LIST_MODELS, has_body=False)
EMAILS = Guardrail("pii", PiiSettings())
OF_ANSWERS = dataclasses.replace(EMAILS, stage=Stage.OUTPUT)
RESTORED = dataclasses.replace(EMAILS, action=Action.REDACT, restore=True)


def policy_of(*guardrails: Guardrail) -> EffectivePolicy:
    """Return a policy of its headers alone, but for its *guardrails* of answers."""
    found = build_snapshot((Policy("default", 1, guardrails),)).effective(PolicyBinding())
    assert isinstance(found, EffectivePolicy)
    return dataclasses.replace(found, needs_body=False)


@pytest.mark.parametrize(
    ("route", "needs", "expected"),
    [
        pytest.param(CHAT, {}, False, id="nothing"),
        pytest.param(CHAT, {"allowed_models": ("gpt-5",)}, True, id="allowed models"),
        pytest.param(CHAT, {"allowed_models": ()}, True, id="no allowed model"),
        pytest.param(CHAT, {"limits": (limit(),)}, False, id="a limit on requests"),
        pytest.param(
            CHAT, {"limits": (limit(), limit(Measure.TOKENS))}, True, id="a limit on tokens"
        ),
        pytest.param(
            CHAT, {"limits": (limit(models=("gpt-*",)),)}, True, id="a limit of some models"
        ),
        pytest.param(CHAT, {"names_route": True}, True, id="a route by the model"),
        pytest.param(IN_PATH, {"names_route": True}, False, id="a model in the path"),
        pytest.param(LIST, {"allowed_models": ("gpt-5",)}, False, id="a request without a body"),
    ],
)
def test_a_body_is_required_if_the_verdict_depends_on_it(
    route: Route, needs: dict[str, Any], *, expected: bool
) -> None:
    """Else the request goes on without it, and its model and tokens are not known."""
    asked = {"names_route": False, **needs}

    assert requires_body(route, policy_of(), **asked) is expected


@pytest.mark.parametrize(
    ("route", "guardrail", "expected"),
    [
        pytest.param(CHAT, OF_ANSWERS, True, id="guardrail of answers"),
        pytest.param(CHAT, RESTORED, True, id="placeholders to restore"),
        pytest.param(CHAT, EMAILS, False, id="guardrail of requests"),
        pytest.param(EMBEDDINGS, OF_ANSWERS, False, id="answers without text"),
    ],
)
def test_a_body_is_required_where_the_answer_is_judged(
    route: Route, guardrail: Guardrail, *, expected: bool
) -> None:
    """With it Envoy refuses the request if the answer cannot come here."""
    assert requires_body(route, policy_of(guardrail), names_route=False) is expected


async def test_a_good_key_whose_policy_is_not_there_is_not_admitted() -> None:
    """It is not known which guardrails its content must pass."""
    record = dataclasses.replace(RECORD, policies=PolicyBinding(team="gone"))
    keys = KeyCache(ScriptedStore(LoadedKey(record)))

    verdict, facts = await ask(dataclasses.replace(World().worker, keys=keys))

    assert verdict is ErrorKind.AUTHORIZATION_UNAVAILABLE
    assert facts.principal == record.principal
