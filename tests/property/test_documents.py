from __future__ import annotations

from dataclasses import replace
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.guardrail_settings import (
    DeniedPattern,
    DeniedPatternsSettings,
    DeniedTermsSettings,
    PiiSettings,
    RemoteEndpoint,
    SecretsSettings,
    WebhookSettings,
)
from sidecar.domain.policy import (
    EVERYWHERE,
    FULL_ROLLOUT,
    Action,
    Exemption,
    ExemptLevel,
    Guardrail,
    GuardrailSettings,
    Mode,
    OnError,
    Policy,
    Scope,
    Stage,
    StreamMode,
    StreamUsage,
    UncountedAction,
    UnscannedAction,
)
from sidecar.domain.subject import Operation
from sidecar.guardrails.detectors.national import NATIONAL_TYPES
from sidecar.guardrails.detectors.pii import PII_TYPES
from sidecar.guardrails.detectors.secrets import SECRET_TYPES
from sidecar.guardrails.registry import judges_pieces
from sidecar.policy.parse import (
    PolicyDocumentError,
    PolicyFault,
    default_policy_text,
    parse_documents,
    parse_policies,
)
from sidecar.policy.text import render_policy

names = st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)
printable = st.text(
    alphabet=st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn", "Co"]),
    min_size=1,
    max_size=20,
).filter(lambda text: bool(text.strip()))


def some(known: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...] | None]:
    return st.none() | st.lists(st.sampled_from(known), min_size=1, max_size=3).map(tuple)


def personal(types: tuple[str, ...] | None, regions: tuple[str, ...]) -> PiiSettings:
    """Return settings of `pii` with the countries that national types need."""
    national = sorted({one[:2] for one in types or () if one in NATIONAL_TYPES})
    return PiiSettings(types=types, regions=regions, countries=tuple(national))


settings: st.SearchStrategy[GuardrailSettings] = st.one_of(
    st.builds(SecretsSettings, types=some(SECRET_TYPES)),
    st.builds(personal, types=some(PII_TYPES), regions=st.sampled_from([(), ("US", "DE")])),
    st.builds(
        DeniedPatternsSettings,
        st.lists(
            st.builds(
                DeniedPattern,
                name=st.from_regex(r"[A-Z][A-Z0-9_]{0,8}", fullmatch=True),
                regex=st.sampled_from(["a+", r"\bx\d{3}", "[^'\"#: ]é", "yes", "- 'x'"]),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
    ),
    st.builds(DeniedTermsSettings, st.lists(printable, min_size=1, max_size=3).map(tuple)),
    st.just(WebhookSettings(RemoteEndpoint("https://dlp.example.com/check"))),
)


def exempted(level: ExemptLevel, form: str) -> st.SearchStrategy[Exemption]:
    return st.builds(
        Exemption,
        level=st.just(level),
        name=st.from_regex(form, fullmatch=True),
        until=st.dates(min_value=date(1000, 1, 1)),
        reason=printable,
    )


exemptions = exempted(ExemptLevel.KEY, r"[0-9A-Za-z]{12}") | exempted(
    ExemptLevel.TEAM, r"[a-z0-9][a-z0-9._-]{0,9}/[a-z0-9][a-z0-9._-]{0,9}"
)
scopes = st.builds(
    Scope,
    routes=st.none() | st.lists(st.sampled_from(Operation), min_size=1, max_size=3).map(tuple),
    models=st.none() | st.lists(printable, min_size=1, max_size=3).map(tuple),
    rollout=st.integers(0, FULL_ROLLOUT),
    exceptions=st.lists(exemptions, max_size=2).map(tuple),
)
guardrails = st.builds(
    Guardrail,
    name=names,
    settings=settings,
    action=st.sampled_from(Action),
    mode=st.sampled_from(Mode),
    on_error=st.sampled_from(OnError),
    timeout_seconds=st.integers(1, 30_000).map(lambda milliseconds: milliseconds / 1000),
    mandatory=st.booleans(),
    scope=st.just(EVERYWHERE) | scopes,
    stage=st.sampled_from(Stage),
    restore=st.booleans(),
    streams=st.sampled_from(StreamMode),
).map(
    # What needs the whole of an answer can only buffer it.
    lambda one: one if judges_pieces(one.settings) else replace(one, streams=StreamMode.BUFFER)
)
policies = st.builds(
    Policy,
    name=names,
    version=st.just(1),
    guardrails=st.lists(guardrails, max_size=4, unique_by=lambda one: one.name).map(tuple),
    unscanned=st.sampled_from(UnscannedAction),
    allowed_models=st.none() | st.lists(printable, max_size=3).map(tuple),
    stream_usage=st.none() | st.sampled_from(StreamUsage),
    uncounted=st.sampled_from(UncountedAction),
)


@given(policies)
def test_a_policy_survives_being_written_and_read(policy: Policy) -> None:
    """The canonical text says all there is to say, in YAML that means the same."""
    assert parse_policies(render_policy(policy)) == (policy,)


@given(st.lists(policies, min_size=1, max_size=3, unique_by=lambda one: one.name))
def test_documents_split_and_join_without_loss(several: list[Policy]) -> None:
    """The store keeps each policy's own text; together they are the file."""
    text = "---\n".join(f"# {policy.name}\n{render_policy(policy)}" for policy in several)
    documents = parse_documents(text, expressions="trust")
    assert "".join(document.text for document in documents) == text
    for document, policy in zip(documents, several, strict=True):
        assert document.policy == policy
        assert parse_policies(document.text, expressions="trust") == (policy,)


@given(st.data())
def test_a_damaged_document_has_a_fault_within_the_text_or_is_a_policy(
    data: st.DataObject,
) -> None:
    """No text ends in any other exception, and every place named exists."""
    text = default_policy_text()
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    damage = data.draw(st.text(alphabet="abc:-[]{}&*!|>'\"#%@`,?\n\t é\x00", max_size=6))
    damaged = text[:start] + damage + text[end:]
    lines = damaged.splitlines()
    for fault in faults_of(damaged):
        assert 1 <= fault.line <= len(lines) + 1
        assert fault.column >= 1


def faults_of(text: str) -> tuple[PolicyFault, ...]:
    try:
        assert parse_policies(text)
    except PolicyDocumentError as error:
        return error.faults
    return ()
