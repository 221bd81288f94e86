from __future__ import annotations

import pytest

from sidecar.admin.installation.objects import InstallationError, Kind, parse_files
from sidecar.policy.parse import PolicyDocument
from tests.support.alerts import route_text
from tests.support.installation import joined, key, organization, policy, price, team


def faults(*texts: str) -> list[str]:
    """Return the faults of files, each with its file's name and place."""
    with pytest.raises(InstallationError) as caught:
        parse_files((f"{number}.yaml", text) for number, text in enumerate(texts))
    return [str(fault) for fault in caught.value.faults]


def test_each_document_is_one_object_known_by_its_kind_and_name() -> None:
    text = joined(policy(), price(), organization(), team(), key())

    found = parse_files([("a.yaml", text)])

    assert [(one.kind, one.name) for one in found] == [
        (Kind.POLICY, "strict"),
        (Kind.PRICE, "gpt-4o from 2026-01-01T00:00:00Z"),
        (Kind.ORGANIZATION, "acme"),
        (Kind.TEAM, "acme/search"),
        (Kind.KEY, "abcdefghijkl"),
    ]
    assert found[4].place == "a.yaml, line 18"


def test_spellings_of_one_value_are_equal() -> None:
    """Amounts, networks, tags and times are compared by their meaning."""
    one = key(
        more="limits: [cost/month=1_000.50, requests/minute=60]\ntags: [b, a, b]\n"
        "allowed_sources: [192.0.2.1]\nexpires_at: 2027-01-31\n"
    )
    other = key(
        more="limits: [{limit: requests/minute=60}, cost/month=1000.5]\ntags: [a, b]\n"
        "allowed_sources: [192.0.2.1/32]\nexpires_at: 2027-01-31T01:00:00+01:00\n"
    )

    assert [each.content for each in parse_files([("a", one)])] == [
        each.content for each in parse_files([("a", other)])
    ]


def test_a_policy_is_stored_without_its_kind_and_with_its_comments() -> None:
    text = "# about\nkind: Policy # of ours\nname: strict # note\nguardrails: []\n"

    (found,) = parse_files([("a.yaml", text)])

    assert isinstance(found.content, PolicyDocument)
    assert found.content.text == "# about\nname: strict # note\nguardrails: []\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "name: acme\n",
            "0.yaml: line 1, column 1: `kind` is required"
            " (one of Policy, Price, Organization, Team, Key, AlertRoute)",
            id="no kind",
        ),
        pytest.param(
            "kind: organisation\n",
            "0.yaml: line 1, column 7: kind: unknown kind `organisation`"
            " (did you mean `Organization`?)",
            id="unknown kind",
        ),
        pytest.param(
            "- acme\n",
            "0.yaml: line 1, column 1: an object is a mapping, with a kind",
            id="a list",
        ),
        pytest.param(
            organization(more="polcy: strict\n"),
            "0.yaml: line 3, column 1: polcy: unknown field `polcy` (did you mean `policy`?)",
            id="unknown field",
        ),
        pytest.param(
            organization(more="policy: strict\npolicy: lax\n"),
            "0.yaml: line 4, column 1: the key `policy` is given twice",
            id="a field twice",
        ),
        pytest.param(
            organization("&a acme"),
            "0.yaml: line 2, column 7: anchors and aliases are not accepted",
            id="an anchor",
        ),
        pytest.param(
            team("search"),
            "0.yaml: line 2, column 7: name: is not a name that is accepted here (lower case"
            " letters, digits, dots, dashes and underscores, at most 63; of a team"
            " ORGANIZATION/TEAM)",
            id="a team without its organization",
        ),
        pytest.param(
            organization(more="limits: [requests/hour=60]\n"),
            "0.yaml: line 3, column 10: limits[0]: there is no window `hour`; requests takes one"
            " of second, minute, day",
            id="no such window",
        ),
        pytest.param(
            organization(more="limits: [requests/minute=60, requests/minute=70]\n"),
            "0.yaml: line 3, column 9: limits: two limits measure the same; keep one of them",
            id="two limits of one kind",
        ),
        pytest.param(
            organization(more="limits: [{limit: requests/minute=60, operations: [chatt]}]\n"),
            "0.yaml: line 3, column 50: limits[0].operations: there is no operation 'chatt'; there"
            " are chat, count_tokens, embeddings, generate_content, image_generation,"
            " invoke_model, list_models, moderation, speech, stored_response, text_completion,"
            " transcription",
            id="no such operation",
        ),
        pytest.param(
            organization(more="limits: [{limit: requests/minute=60, models: ['']}]\n"),
            "0.yaml: line 3, column 47: limits[0].models[0]: must have at least 1 character",
            id="an empty model",
        ),
        pytest.param(
            key(more="allowed_models: ['gpt\\n4', \"gpt\\0\"]\n"),
            "0.yaml: line 6, column 28: allowed_models[1]: is not a name that is accepted here"
            " (no control characters)",
            id="a character that no database holds",
        ),
        pytest.param(
            key(more="expires_at: 30d\n"),
            "0.yaml: line 6, column 13: expires_at: is no time; write for example"
            " 2027-01-31T12:00:00Z",
            id="a time that depends on the moment",
        ),
        pytest.param(
            "{kind: Policy, name: strict, guardrails: []}\n",
            "0.yaml: line 1, column 8: kind: `kind: Policy` must be a line of its own",
            id="a policy in braces",
        ),
    ],
)
def test_a_fault_names_its_place_and_a_fix(text: str, expected: str) -> None:
    assert faults(text) == [expected]


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        "'; DROP TABLE teams; --",
        "\\e[31mred",
        "\\u202eacme",
        "x" * 10_240,
        "Acme",
        "../acme",
        "",
    ],
)
def test_no_hostile_name_is_a_name(name: str) -> None:
    """Nor does a fault repeat it."""
    (fault,) = faults(organization(f'"{name}"'))

    assert fault.startswith("0.yaml: line 2, column 7: name: is not a name that is accepted here")
    assert len(fault) < 300


def test_a_digest_that_is_wrong_is_not_repeated() -> None:
    """It may be the secret itself."""
    text = key().replace("0" * 63 + "1", "egk_5OKO8h6jGWNP_secret")

    assert faults(text) == [
        "0.yaml: line 3, column 16: secret_sha256: is not the 64 hexadecimal digits of a SHA-256"
    ]


def test_an_object_is_in_one_place_only() -> None:
    (fault,) = faults(organization(), joined(team(), organization()))

    assert fault == (
        "1.yaml: line 4, column 7: kind: Organization acme is in 0.yaml, line 1, already"
        " (keep one of them)"
    )


def test_every_fault_of_every_file_is_reported() -> None:
    assert len(faults(joined(organization("A"), "kind: X\n"), "a: [", team("x"))) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (route_text(url="ftp://a"), "url: is no URL; write for example https://"),
        (route_text(url="https://u:p@a"), "url: has a user or a password"),
        (
            "kind: AlertRoute\nname: a\nchannel: webhook\nsecret: file:a\n",
            "a webhook has a `url`",
        ),
        (
            "kind: AlertRoute\nname: a\nchannel: slack\nurl: https://a\nsecret: file:a\n",
            "a webhook has a `url`; any other channel has none",
        ),
        (
            "kind: AlertRoute\nname: a\nchannel: slack\nsecret: https://hooks.slack.com/x\n",
            "secret: ",
        ),
        (
            "kind: AlertRoute\nname: a\nchannel: slack\nsecret: file:../../etc/passwd\n",
            "env:ALERT_NAME of the environment, or file:name",
        ),
        (
            "kind: AlertRoute\nname: a\nchannel: slack\nsecret: env:EGRET_POSTGRES__DSN\n",
            "env:ALERT_NAME of the environment, or file:name",
        ),
        (route_text(more="quiet_hours: 25:00-07:00\n"), "a span of each day, such as 22:00-07:00"),
        (route_text(more="time_zone: Mars/Olympus\n"), "time_zone: is no time zone"),
        (route_text(more="time_zone: ../../../etc/passwd\n"), "time_zone: is no time zone"),
        (route_text(more="rules: [fail_opn]\n"), "fail_open"),
        (route_text(more="digest: weekly\n"), "digest"),
    ],
)
def test_a_fault_of_a_route_of_alerts_is_named_and_no_secret_is_repeated(
    text: str, expected: str
) -> None:
    (fault,) = faults(text)

    assert expected in fault
    assert "hooks.slack.com" not in fault
