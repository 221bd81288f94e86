from __future__ import annotations

import pytest

from sidecar.domain.cooperative import run_sync
from sidecar.domain.finding import Finding, GuardrailResult, Results
from sidecar.guardrails.local_scan import remainders
from tests.support.guardrails import effective, parts_of, policy

MAIL, CARD = "bob@mail.example.com", "4111 1111 1111 1111"
PII = "  - {{name: pii, type: pii, action: {}}}\n"
OWN = (
    "  - name: own\n    type: denied_patterns\n    action: {}\n    patterns:\n"
    "      - {{name: A, regex: '{}'}}\n"
)


def _found(guardrails: str, *texts: str, runs: tuple[tuple[int, ...], ...] = ()) -> Results:
    outcomes = effective(policy(guardrails)).local.scan(parts_of(texts), runs)
    assert all(one.failure is None for one in outcomes)
    return outcomes


def _types(found: GuardrailResult) -> list[tuple[int, str]]:
    return [(one.part, one.type) for one in found.findings]


def test_what_shows_only_once_another_is_out_is_found_too() -> None:
    """Otherwise it would leave, in the very request that was redacted."""
    (found,) = _found(PII.format("redact"), "plain", f"To {MAIL}{CARD}.", "plain")
    assert _types(found) == [(1, "EMAIL"), (1, "CREDIT_CARD")]
    assert found.findings[-1].end == len(f"To {MAIL}{CARD}")


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("letter", ["ñ", "パ"])
def test_a_long_value_ends_between_two_characters(letter: str, offset: int) -> None:
    """The rest of the text could else not be read, and no guardrail would have searched it."""
    value = "b" * offset + "xK9$Q7!" + f"{letter}9Z#" * 60
    (found,) = _found(
        "  - {name: secrets, type: secrets, action: redact}\n",
        f"PWD={value}; AKIAQYLPMN5HHHFPZAM2",
    )
    assert [type_ for _, type_ in _types(found)] == ["GENERIC_SECRET", "AWS_ACCESS_KEY"]


def test_what_shows_is_judged_by_every_guardrail() -> None:
    """One that blocks has a say in it."""
    mails = "  - {name: mails, type: pii, types: [EMAIL], action: redact}\n"
    cards = "  - {name: cards, type: pii, types: [CREDIT_CARD], action: block}\n"
    redacted, blocked = _found(mails + cards, f"{MAIL}{CARD}")
    assert (_types(redacted), _types(blocked)) == ([(0, "EMAIL")], [(0, "CREDIT_CARD")])


@pytest.mark.parametrize("action", ["flag", "block"])
def test_where_nothing_is_taken_out_nothing_is_looked_at_again(action: str) -> None:
    """The text goes on as it is, or not at all."""
    (found,) = _found(PII.format(action), f"{MAIL}{CARD}")
    assert _types(found) == [(0, "EMAIL")]


def test_what_stands_in_for_a_value_is_never_found() -> None:
    """A pattern of an author's own does not match our marks."""
    own = OWN.format("block", r"\[\]")
    redacted, blocked = _found(PII.format("redact") + own, MAIL)
    assert (_types(redacted), _types(blocked)) == ([(0, "EMAIL")], [])


def test_a_border_is_looked_at_again_as_well() -> None:
    """What is taken out of one part can bring to light what begins there."""
    texts = (f"{MAIL}{CARD[:9]}", CARD[9:])
    (found,) = _found(PII.format("redact"), *texts, runs=((0, 1),))
    assert _types(found) == [(0, "EMAIL"), (0, "CREDIT_CARD"), (1, "CREDIT_CARD")]


def test_a_text_that_goes_on_changing_counts_as_found() -> None:
    """Each look would show one more: it is made to, and not waited for."""
    (found,) = _found(OWN.format("redact", r"(?:^|\])a"), "a" * 20)
    assert found.findings == (Finding("own", "A", 0, 0, 20),)
    assert found.gave_up


def test_the_way_back_leads_to_the_bytes_of_the_part() -> None:
    """Before, between and after what was taken out; a finding that takes in a mark grows."""
    (left,), runs = run_sync(remainders(parts_of(["01 XX 67 YYY 3"]), [], {0: [(3, 5), (9, 12)]}))
    assert (left.content, runs) == (b"01 [] 67 [] 3", ())

    def back(start: int, end: int) -> tuple[int, int] | None:
        found = left.located(Finding("g", "T", 0, start, end))
        return (found[0].start, found[0].end) if found else None

    assert back(0, 2) == (0, 2)
    assert back(6, 8) == (6, 8)
    assert back(12, 13) == (13, 14)
    assert back(3, 5) is None
    assert back(4, 7) == (3, 7)
    assert back(7, 10) == (7, 12)
    assert back(3, 11) == (3, 12)
