from __future__ import annotations

import json

from sidecar.dialects.splice import Replacement
from sidecar.domain.finding import Finding
from sidecar.domain.subject import TextPart
from sidecar.mutations.redaction import redact, replacements

FIRST, SECOND = "anna@a.test", "bert@b.test"


def part(text: str, *location: int) -> TextPart:
    """Return a text part at *location*."""
    return TextPart(content=text.encode(), location=location, role="user")


def found(parts: list[TextPart], index: int, value: str, kind: str = "EMAIL") -> Finding:
    """Return the finding of *value* in the part at *index*."""
    start = parts[index].content.index(value.encode())
    return Finding(
        guardrail="pii", type=kind, part=index, start=start, end=start + len(value.encode())
    )


def placeholders(parts: list[TextPart], *findings: Finding) -> list[bytes]:
    """Return the placeholders in the order of the text."""
    return [replacement.text for replacement in replacements(parts, findings)]


def test_a_body_without_findings_stays_as_it_is() -> None:
    """Not a byte is touched, odd white space included."""
    body = b'{ "a" :"b" }'
    assert redact(body, [part("b", 1)], []) == body


def test_a_finding_is_replaced_in_place_and_every_other_byte_stays() -> None:
    """The body is not written anew: spacing, escapes and key order are the client's."""
    body = b'{ "input" :  "h\\u00e9 anna@a.test!",\n"b":1.0 }'
    parts = [part("hé anna@a.test!", 1)]
    assert redact(body, parts, [found(parts, 0, FIRST)]) == (
        b'{ "input" :  "h\\u00e9 [EMAIL_1]!",\n"b":1.0 }'
    )


def test_the_same_value_gets_the_same_placeholder_across_parts() -> None:
    """A model can still tell that two messages speak of one person."""
    texts = [f"{FIRST} and {SECOND}", f"{SECOND}, {FIRST}"]
    parts = [part(texts[0], 1), part(texts[1], 3)]
    findings = [found(parts, at, value) for at in (0, 1) for value in (FIRST, SECOND)]
    body = json.dumps({"a": texts[0], "b": texts[1]}).encode()
    assert json.loads(redact(body, parts, findings)) == {
        "a": "[EMAIL_1] and [EMAIL_2]",
        "b": "[EMAIL_2], [EMAIL_1]",
    }


def test_numbers_follow_the_text_and_not_the_order_of_the_findings() -> None:
    """The same request is redacted alike, whichever guardrail was faster."""
    parts = [part(f"{FIRST} {SECOND}", 1)]
    one, two = found(parts, 0, FIRST), found(parts, 0, SECOND)
    assert placeholders(parts, two, one) == placeholders(parts, one, two)
    assert placeholders(parts, two, one) == [b"[EMAIL_1]", b"[EMAIL_2]"]


def test_each_type_is_counted_by_itself() -> None:
    """The number tells apart values of one type."""
    parts = [part(f"{FIRST} 4711 {SECOND}", 1)]
    findings = [found(parts, 0, SECOND), found(parts, 0, "4711", "PIN"), found(parts, 0, FIRST)]
    assert placeholders(parts, *findings) == [b"[EMAIL_1]", b"[PIN_1]", b"[EMAIL_2]"]


def test_a_value_found_as_two_types_has_a_placeholder_of_each() -> None:
    """They differ in meaning; the body gets that of the longer span."""
    parts = [part("x 4711 0815", 1)]
    findings = [found(parts, 0, "4711", "PIN"), found(parts, 0, "4711 0815", "PHONE")]
    assert redact(b'{"a":"x 4711 0815"}', parts, findings) == b'{"a":"x [PHONE_1]"}'


def test_offsets_are_bytes_and_locations_those_of_the_part() -> None:
    """Where the text is not ASCII, characters would cut in the wrong place."""
    parts = [part("ééé " + FIRST, 4, 2)]
    assert replacements(parts, [found(parts, 0, FIRST)]) == [
        Replacement(location=(4, 2), start=7, end=7 + len(FIRST), text=b"[EMAIL_1]")
    ]


def test_a_number_becomes_a_string_and_the_body_stays_json() -> None:
    """A card number may stand in JSON without quotes."""
    parts = [part("4111111111111111", -1)]
    finding = found(parts, 0, "4111111111111111", "CARD")
    assert redact(b'{"a":4111111111111111}', parts, [finding]) == b'{"a":"[CARD_1]"}'
