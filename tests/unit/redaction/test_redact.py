from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from msgspec import structs

from sidecar.domain.cooperative import SLICE_BYTES, SLICE_CANDIDATES, Cooperative, run_sync
from sidecar.domain.finding import NOTHING_REDACTED, Finding, Restoration
from sidecar.domain.guardrail_settings import PiiSettings
from sidecar.domain.policy import Guardrail, RedactionStyle
from sidecar.domain.subject import TextPart
from sidecar.jsontext.tokens import Replacement
from sidecar.redaction import redact as redaction
from sidecar.redaction.redact import Redacted, RedactionRules, number_before

FIRST, SECOND = "anna@a.test", "bert@b.test"


def redact(
    body: bytes, parts: Sequence[TextPart], findings: Sequence[Finding], *, rules: RedactionRules
) -> Redacted:
    return run_sync(redaction.redact(body, parts, findings, rules=rules))


def replacements(
    parts: Sequence[TextPart], findings: Sequence[Finding], *, rules: RedactionRules
) -> tuple[list[Replacement], Restoration]:
    return run_sync(redaction.replacements(parts, findings, rules=rules))[:2]


def part(text: str, *location: int) -> TextPart:
    """Return a text part at *location*."""
    return TextPart(content=text.encode(), location=location, role="user")


def found(parts: list[TextPart], index: int, value: str, kind: str = "EMAIL") -> Finding:
    """Return the finding of *value* in the part at *index*."""
    start = parts[index].content.index(value.encode())
    return Finding(
        guardrail="pii", type=kind, part=index, start=start, end=start + len(value.encode())
    )


def rules(
    style: RedactionStyle = RedactionStyle.PLACEHOLDER,
    *,
    restore: bool = False,
    hash_key: bytes | None = None,
) -> RedactionRules:
    """Return the rules of one guardrail, `pii`."""
    guardrail = Guardrail("pii", PiiSettings(), redaction=style, restore=restore)
    return RedactionRules({"pii": guardrail}, hash_key)


RULES = rules()


def placeholders(
    parts: list[TextPart], *findings: Finding, by: RedactionRules = RULES
) -> list[bytes]:
    """Return the placeholders in the order of the text."""
    return [replacement.text for replacement in replacements(parts, findings, rules=by)[0]]


def test_a_body_without_findings_stays_as_it_is() -> None:
    """Not a byte is touched, odd white space included."""
    body = b'{ "a" :"b" }'
    assert redact(body, [part("b", 1)], [], rules=RULES)[:2] == (body, NOTHING_REDACTED)


def test_a_finding_is_replaced_in_place_and_every_other_byte_stays() -> None:
    """The body is not written anew: spacing, escapes and key order are the client's."""
    body = b'{ "input" :  "h\\u00e9 anna@a.test!",\n"b":1.0 }'
    parts = [part("hé anna@a.test!", 1)]
    assert redact(body, parts, [found(parts, 0, FIRST)], rules=RULES).body == (
        b'{ "input" :  "h\\u00e9 [EMAIL_1]!",\n"b":1.0 }'
    )


def test_the_same_value_gets_the_same_placeholder_across_parts() -> None:
    """A model can still tell that two messages speak of one person."""
    texts = [f"{FIRST} and {SECOND}", f"{SECOND}, {FIRST}"]
    parts = [part(texts[0], 1), part(texts[1], 3)]
    findings = [found(parts, at, value) for at in (0, 1) for value in (FIRST, SECOND)]
    body = json.dumps({"a": texts[0], "b": texts[1]}).encode()
    assert json.loads(redact(body, parts, findings, rules=RULES).body) == {
        "a": "[EMAIL_1] and [EMAIL_2]",
        "b": "[EMAIL_2], [EMAIL_1]",
    }


@pytest.mark.parametrize("depth", [1, 2])
def test_a_value_in_json_text_is_the_one_that_its_escapes_mean(depth: int) -> None:
    """Found in a string of arguments and in the text within it, it is one value with one name."""
    outer, at = '{"to":"anna\\u0040a.test"}', "\\u0040"
    within = [part(FIRST, 1, 1)]
    if depth > 1:
        within = [part(outer, 1, 1), part(FIRST, 1, 1, 1)]
        outer, at = json.dumps({"in": outer}), "\\\\u0040"
    parts = [part(outer, 1), *within, part(FIRST, 3)]
    findings = [found(parts, 0, f"anna{at}a.test"), *(found(parts, n, FIRST) for n in (-2, -1))]
    findings = [structs.replace(one, part=one.part % len(parts)) for one in findings]
    made, restoration = replacements(parts, findings, rules=rules(restore=True))
    assert {one.text for one in made} == {b"[EMAIL_1]"}
    assert restoration.originals == {b"[EMAIL_1]": FIRST.encode()}


@pytest.mark.parametrize("value", [r"bob@b.test", r"C:\nina\\b", 'say \\"hi\\"\\nx', "a\nb"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_value_in_arguments_is_restored_with_its_backslashes(value: str, depth: int) -> None:
    """An escape that is undone twice is another character: a path has lost its backslashes."""
    texts = ["C:\\" + value + '\\"']
    for _ in range(depth):
        texts.insert(0, json.dumps({"to": texts[0]}))
    parts = [part(one, *([1] * at)) for at, one in enumerate(texts, start=1)]
    findings: list[Finding] = []
    escaped = value
    for at in reversed(range(len(texts))):
        findings.append(found(parts, at, escaped))
        escaped = json.dumps(escaped)[1:-1]
    body = json.dumps({"input": texts[0]}).encode()
    redacted = redact(body, parts, findings, rules=rules(restore=True))
    assert redacted.restoration.originals == {b"[EMAIL_1]": value.encode()}
    said = json.loads(redacted.body)["input"]
    for _ in range(depth):
        said = json.loads(said)["to"]
    assert said == "C:\\[EMAIL_1]" + '\\"'


def test_texts_within_a_text_that_is_found_as_a_whole_go_with_it() -> None:
    """Each of ten thousands of them took a tenth of a millisecond to decode and to replace."""
    inner = [f'{FIRST} "', f'{SECOND} "'] * 10_000
    text = json.dumps(inner)
    parts = [part(text, 1), *(part(one, 1, at) for at, one in enumerate(inner))]
    findings = [Finding("pii", "EMAIL", at, 0, len(one.content)) for at, one in enumerate(parts)]
    by = rules(restore=True)
    made, _ = replacements(parts, findings, rules=by)
    assert [one.location for one in made] == [(1,)]
    redacted = redact(json.dumps({"input": text}).encode(), parts, findings, rules=by)
    assert redacted.body == b'{"input": "[EMAIL_1]"}'
    assert list(redacted.restoration.originals) == [b"[EMAIL_1]"]


@pytest.mark.parametrize("is_nested", [False, True])
def test_many_findings_are_replaced_in_turns(*, is_nested: bool) -> None:
    """Those of fifty thousand texts held a worker for a second."""
    many = 2_000
    texts = [f'{FIRST} "'] * many
    document = json.dumps(texts)
    parts = [part(one, 0, at) if is_nested else part(one, at) for at, one in enumerate(texts)]
    findings = [found(parts, at, FIRST) for at in range(many)]
    body = json.dumps(document) if is_nested else document
    steps = redaction.redact(body.encode(), parts, findings, rules=rules(restore=True))
    turns = 0

    def counted() -> Cooperative[Redacted]:
        nonlocal turns
        while True:
            try:
                next(steps)
            except StopIteration as end:
                redacted: Redacted = end.value
                return redacted
            turns += 1
            yield

    spliced = json.loads(run_sync(counted()).body)
    assert (json.loads(spliced) if is_nested else spliced) == ['[EMAIL_1] "'] * many
    assert turns > 2 * many / SLICE_CANDIDATES - 5


@pytest.mark.parametrize("text", [r"a\u0041b", r'{"a": "a\u0041b'])
def test_a_backslash_in_plain_text_is_one(text: str) -> None:
    """Only JSON text has escapes, and what begins as it does may be none."""
    parts = [part(text, 1)]
    _, restoration = replacements(parts, [found(parts, 0, r"\u0041")], rules=rules(restore=True))
    assert restoration.originals == {b"[EMAIL_1]": rb"\u0041"}


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
    body = b'{"a":"x 4711 0815"}'
    assert redact(body, parts, findings, rules=RULES).body == b'{"a":"x [PHONE_1]"}'


def test_offsets_are_bytes_and_locations_those_of_the_part() -> None:
    """Where the text is not ASCII, characters would cut in the wrong place."""
    parts = [part("ééé " + FIRST, 4, 2)]
    made, _ = replacements(parts, [found(parts, 0, FIRST)], rules=RULES)
    assert made == [Replacement(location=(4, 2), start=7, end=7 + len(FIRST), text=b"[EMAIL_1]")]


def test_a_number_becomes_a_string_and_the_body_stays_json() -> None:
    """A card number may stand in JSON without quotes."""
    parts = [part("4111111111111111", -1)]
    finding = found(parts, 0, "4111111111111111", "CARD")
    redacted = redact(b'{"a":4111111111111111}', parts, [finding], rules=RULES)
    assert redacted.body == b'{"a":"[CARD_1]"}'


KEY = b"k" * 32
HASH = b"[EMAIL_h_9c9b36823f782916]"


def test_a_hash_is_the_same_in_every_request_and_another_for_every_key() -> None:
    """Equal values can be joined over requests; without the key nobody can try them out."""
    style = RedactionStyle.HASH
    one, two = [part(FIRST, 1)], [part(f"{SECOND} {FIRST}", 1)]
    made = placeholders(one, found(one, 0, FIRST), by=rules(style, hash_key=KEY))
    assert made == [HASH]
    again = [found(two, 0, value) for value in (SECOND, FIRST)]
    assert placeholders(two, *again, by=rules(style, hash_key=KEY))[1] == HASH
    assert placeholders(one, found(one, 0, FIRST), by=rules(style, hash_key=b"x" * 32)) != made


def test_a_hash_tells_types_apart() -> None:
    """The same digits as an account and as a phone are two things."""
    parts = [part("4711 4711", 1)]
    by = rules(RedactionStyle.HASH, hash_key=KEY)
    first, second = placeholders(
        parts,
        Finding("pii", "PIN", 0, 0, 4),
        Finding("pii", "PHONE", 0, 5, 9),
        by=by,
    )
    assert (first[:7], second[:9]) == (b"[PIN_h_", b"[PHONE_h_")
    assert first[7:] != second[9:]


def test_without_a_key_a_hash_is_a_number() -> None:
    """The value is taken out all the same."""
    parts = [part(FIRST, 1)]
    by = rules(RedactionStyle.HASH)
    assert placeholders(parts, found(parts, 0, FIRST), by=by) == [b"[EMAIL_1]"]


CARD = "4111 1111 1111 1111"


def test_a_card_can_keep_its_shape() -> None:
    """Each card another number, the same card the same; any other type gets a placeholder."""
    parts = [part(f"{CARD}, 5555-5555-5555-4444, {CARD}, {FIRST}", 1)]
    second = parts[0].content.rindex(CARD.encode())
    findings = [
        found(parts, 0, CARD, "CREDIT_CARD"),
        found(parts, 0, "5555-5555-5555-4444", "CREDIT_CARD"),
        Finding("pii", "CREDIT_CARD", 0, second, second + len(CARD)),
        found(parts, 0, FIRST),
    ]
    by = rules(RedactionStyle.FORMAT_PRESERVING)
    assert placeholders(parts, *findings, by=by) == [
        b"0000 0000 0000 0013",
        b"0000-0000-0000-0021",
        b"0000 0000 0000 0013",
        b"[EMAIL_1]",
    ]


@pytest.mark.parametrize(
    ("value", "kind"), [(f"card {CARD}", "CREDIT_CARD"), (CARD, "ACCOUNT")], ids=["shape", "type"]
)
def test_what_has_not_shape_and_type_of_a_card_gets_a_placeholder(value: str, kind: str) -> None:
    """A finding that grew over another, for example, or the number of something else."""
    parts = [part(f"card {CARD}", 1)]
    by = rules(RedactionStyle.FORMAT_PRESERVING)
    assert placeholders(parts, found(parts, 0, value, kind), by=by) == [f"[{kind}_1]".encode()]


@pytest.mark.parametrize("text", [f"5 {CARD}", f"5{CARD}", f"{CARD}-5", f"{CARD}5"])
def test_a_card_in_a_row_of_digits_gets_a_placeholder(text: str) -> None:
    """In the answer nobody could tell where a stand-in begins."""
    parts = [part(text, 1)]
    by = rules(RedactionStyle.FORMAT_PRESERVING)
    assert placeholders(parts, found(parts, 0, CARD, "CREDIT_CARD"), by=by) == [b"[CREDIT_CARD_1]"]


@pytest.mark.parametrize("style", RedactionStyle, ids=lambda style: style.value)
def test_what_is_to_be_restored_is_kept(style: RedactionStyle) -> None:
    """By placeholder, with the very bytes of the value; nothing where nothing is asked."""
    parts = [part(f"{CARD} {FIRST}", 1)]
    findings = [found(parts, 0, CARD, "CREDIT_CARD"), found(parts, 0, FIRST)]
    made, restoration = replacements(
        parts, findings, rules=rules(style, restore=True, hash_key=KEY)
    )
    assert restoration.originals == {
        made[0].text: CARD.encode(),
        made[1].text: FIRST.encode(),
    }
    _, nothing = replacements(parts, findings, rules=rules(style, hash_key=KEY))
    assert nothing == NOTHING_REDACTED


@pytest.mark.parametrize(
    ("style", "written", "made"),
    [
        (RedactionStyle.PLACEHOLDER, b"[EMAIL_1] [EMAIL_3] [EMAIL_02]", b"[EMAIL_2]"),
        (RedactionStyle.FORMAT_PRESERVING, b"0000 0000 0000 0013", b"0000 0000 0000 0021"),
    ],
    ids=["placeholder", "card"],
)
def test_a_placeholder_that_the_client_wrote_stands_for_nothing(
    style: RedactionStyle, written: bytes, made: bytes
) -> None:
    """It stays in the answer as it was written, whoever wrote it and in whatever message."""
    value, kind = (CARD, "CREDIT_CARD") if b"0000" in written else (FIRST, "EMAIL")
    parts = [part(value, 1), TextPart(written, (3,), "tool")]
    findings = [found(parts, 0, value, kind)]
    (replaced,), restoration = replacements(parts, findings, rules=rules(style, restore=True))
    assert replaced.text == made
    assert restoration.restore(written + b", " + made) == written + b", " + value.encode()


def test_without_restore_a_placeholder_from_an_earlier_answer_changes_no_other() -> None:
    """The model repeats it, the client sends it again, and the value keeps its number."""
    by = RedactionRules(
        {
            "pii": Guardrail("pii", PiiSettings()),
            "more": Guardrail("more", PiiSettings(), restore=True),
        }
    )
    parts = [part(FIRST, 1), part("I wrote to [EMAIL_1]", 2), part(SECOND, 3)]
    restored = structs.replace(found(parts, 2, SECOND), guardrail="more")
    findings = (found(parts, 0, FIRST), restored)
    assert placeholders(parts, *findings, by=by) == [b"[EMAIL_1]", b"[EMAIL_2]"]


def test_values_of_the_roles_that_a_model_reads_first_are_numbered_first() -> None:
    parts = [part(FIRST, 1), TextPart(SECOND.encode(), (2,), "system")]
    findings = [found(parts, 0, FIRST), found(parts, 1, SECOND)]
    by = replace(rules(restore=True), first=frozenset({"system"}))
    made, restoration = replacements(parts, findings, rules=by)
    assert {one.location: one.text for one in made} == {(1,): b"[EMAIL_2]", (2,): b"[EMAIL_1]"}
    assert restoration.restore(b"[EMAIL_1]") == SECOND.encode()


def test_a_hash_that_the_client_wrote_is_not_restored() -> None:
    """Nobody learns from a hash seen elsewhere whose address stands in a shared prompt."""
    parts = [part(FIRST, 1), TextPart(b"Who is " + HASH + b"?", (3,), "user")]
    by = rules(RedactionStyle.HASH, restore=True, hash_key=KEY)
    (replaced,), restoration = replacements(parts, [found(parts, 0, FIRST)], rules=by)
    assert (replaced.text, restoration) == (HASH, NOTHING_REDACTED)


def test_numbers_do_not_shift_where_nothing_is_restored() -> None:
    """A conversation that repeats an earlier answer keeps its names: [EMAIL_1] stays that."""
    parts = [part(FIRST, 1), TextPart(b"I wrote to [EMAIL_1].", (3,), "assistant")]
    assert placeholders(parts, found(parts, 0, FIRST)) == [b"[EMAIL_1]"]


def test_a_number_of_an_earlier_answer_is_given_to_no_value_behind_it() -> None:
    """`[EMAIL_2]` would name two people; the values before it keep theirs in each turn."""
    parts = [part(FIRST, 1), part("[EMAIL_1] and [EMAIL_2]", 2), part(SECOND, 3), part(FIRST, 4)]
    findings = [found(parts, 0, FIRST), found(parts, 2, SECOND), found(parts, 3, FIRST)]
    assert placeholders(parts, *findings) == [b"[EMAIL_1]", b"[EMAIL_3]", b"[EMAIL_1]"]


def test_an_answer_goes_on_with_the_placeholders_of_its_request() -> None:
    """A value of the request keeps its name, and a new one gets a number that is not written."""
    parts = [part(FIRST, 1), part("[EMAIL_2]", 2)]
    redacted = redact(b'{"a":"anna@a.test"}', parts, [found(parts, 0, FIRST)], rules=RULES)
    made = [
        redacted.placeholders.of(one, type_="EMAIL", style=RedactionStyle.PLACEHOLDER)
        for one in (FIRST.encode(), SECOND.encode())
    ]
    assert made == [b"[EMAIL_1]", b"[EMAIL_3]"]


def test_an_answer_gets_no_number_that_an_unredacted_request_has() -> None:
    """An earlier answer has them, also one in the middle of a long body."""
    text = "x" * 3 * SLICE_BYTES
    body = f'{{"a":"{text}[EMAIL_1]{text}[EMAIL_3]"}}'.encode()
    redacted = redact(body, [part(text, 0)], [], rules=RULES)
    assert redacted.body is body
    made = [
        redacted.placeholders.of(one, type_="EMAIL", style=RedactionStyle.PLACEHOLDER)
        for one in (FIRST.encode(), SECOND.encode())
    ]
    assert made == [b"[EMAIL_2]", b"[EMAIL_4]"]


@pytest.mark.parametrize("written", ["[EMAIL_1]", r"\u005bEMAIL_1]"])
@pytest.mark.parametrize("is_first", [True, False], ids=["before", "behind"])
def test_a_key_does_not_become_one_that_its_object_has(written: str, *, is_first: bool) -> None:
    """A provider reads one of the two members, or refuses the request."""
    members = [(f'"{written}":0', "[EMAIL_1]"), (f'"{FIRST}":1', FIRST)]
    if not is_first:
        members.reverse()
    # Strings are counted from the key `m`, those that follow the members are `t` and its value.
    texts = [text for _, text in members]
    parts = [part(texts[0], 1), part(texts[1], 2), part(FIRST, 4)]
    findings = [found(parts, texts.index(FIRST), FIRST), found(parts, 2, FIRST)]
    body = f'{{"m":{{{members[0][0]},{members[1][0]}}},"t":"{FIRST}"}}'.encode()
    redacted = json.loads(redact(body, parts, findings, rules=RULES).body)
    assert redacted == {"m": {"[EMAIL_1]": 0, "[EMAIL_2]": 1}, "t": "[EMAIL_2]"}


def test_a_hash_that_an_object_has_as_a_key_already_becomes_a_number() -> None:
    """No other hash stands for the value, and a provider reads one of two members."""
    parts = [part(HASH.decode(), 1), part(FIRST, 2), part(SECOND, 4), part(FIRST, 6)]
    findings = [found(parts, 1, FIRST), found(parts, 2, SECOND), found(parts, 3, FIRST)]
    body = f'{{"m":{{"{HASH.decode()}":0,"{FIRST}":1}},"t":"{SECOND}","u":"{FIRST}"}}'.encode()
    by = rules(RedactionStyle.HASH, hash_key=KEY)
    redacted = redact(body, parts, findings, rules=by)
    (other,) = placeholders([part(SECOND, 0)], found([part(SECOND, 0)], 0, SECOND), by=by)
    assert json.loads(redacted.body) == {
        "m": {HASH.decode(): 0, "[EMAIL_1]": 1}, "t": other.decode(), "u": "[EMAIL_1]"
    }  # fmt: skip
    in_answer = redacted.placeholders.of(FIRST.encode(), type_="EMAIL", style=RedactionStyle.HASH)
    assert in_answer == b"[EMAIL_1]"


def test_rules_do_not_show_their_key() -> None:
    """Whoever has it could try out values."""
    assert "kkkk" not in repr(rules(hash_key=KEY))


@pytest.mark.parametrize(
    "field",
    [
        '"previous_response_id": "resp_1"',
        '"previous_interaction_id": "v1_1"',
        '"previousInteractionId": "v1_1"',
        '"conversation": "conv_1"',
        '"conversation": {"id": "conv_1"}',
        '"cachedContent": "cachedContents/1"',
        '"extra_body": {"google": {"cached_content": "cachedContents/1"}}',
        '"input": [{"type": "item_reference", "id": "msg_1"}]',
        '"input": [{"role": "user", "content": "a"}, {"id": "msg_1", "type": "item_reference"}]',
        '"input": [{"id": "msg_1"}]',
    ],
)
def test_numbers_of_a_turn_on_top_of_stored_ones_are_its_own(field: str) -> None:
    """The provider has the earlier turns, in which `[EMAIL_1]` is another person."""
    body = b'{"model": "a", %b}' % field.encode()
    first, second = (number_before(body, request) for request in ("1f0c", "2f0c"))
    assert first != second
    assert all(10_000 <= number < 1_000_000 for number in (first, second))
    parts = [part(f"{FIRST} {SECOND}", 0)]
    assert placeholders(
        parts,
        found(parts, 0, FIRST),
        found(parts, 0, SECOND),
        by=RedactionRules(RULES.guardrails, after=first),
    ) == [b"[EMAIL_%d]" % (first + 1), b"[EMAIL_%d]" % (first + 2)]


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": "a"}',
        b'{"input": "a", "previous_response_id": null, "conversation": null}',
        b'{"messages": [{"conversation": "a", "content": "previous_response_id"}]}',
        b'{"input": "a", "prompt": {"id": "pmpt_1"}, "cached_content": null}',
        b'{"input": [{"type": "message", "id": "m", "role": "user", "content": "cachedContent"}]}',
        b'{"input": "{\\"id\\": \\"m\\"}, {\\"cachedContent\\": \\"c\\"}"}',
    ],
)
def test_numbers_of_a_whole_conversation_begin_at_one(body: bytes) -> None:
    """All turns are in the body, and each value has the same number in each of them."""
    assert number_before(body, "1f0c") == 0
