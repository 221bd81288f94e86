# ruff: noqa: RUF001 - look-alikes are what is tested
"""The same secret, hidden in many ways; one row a way, with what comes of it.

`HIDDEN` holds one string of a request, `KEY` being what is to be found. A row that is found says
which bytes are taken; one that is not says why nobody can.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from itertools import accumulate, product
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.domain.cooperative import Cooperative, run_sync
from sidecar.domain.finding import Failure, FailureKind, Verdict
from sidecar.guardrails import local_scan
from sidecar.guardrails.deobfuscation import decoder as reading
from sidecar.guardrails.deobfuscation import decoders
from sidecar.guardrails.deobfuscation.decoder import matches
from sidecar.guardrails.deobfuscation.decoders import SPACING, SPELLING
from sidecar.guardrails.deobfuscation.encodings import ENCODINGS
from sidecar.guardrails.matching import database, text_views
from sidecar.guardrails.matching.rule import disjoint
from tests.support.cpu_time import least_seconds, python_calls
from tests.support.guardrails import effective, parts_of, policy
from tests.support.memory import peak_bytes

KEY = "ghp_0123456789abcdefghijklmnopqrstuvwxAB"
CARD = "4111111111111111"
IBAN = "DE89370400440532013000"
HOST = "93.184.216.34"
PHONE = "4155552671"
POLICY = effective(
    policy("  - {name: secrets, type: secrets}\n  - {name: pii, type: pii}\n"
           "  - {name: terms, type: denied_terms, terms: [bluebird, beast]}")
)  # fmt: skip


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def full_width(text: str) -> str:
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def in_lines(text: str, width: int) -> str:
    return "\n".join(text[at : at + width] for at in range(0, len(text), width))


@dataclass(frozen=True)
class Row:
    """One way to hide. `taken` is what must be covered, None where nothing is found."""

    text: str
    type: str
    taken: str | None


def found(text: str, type_: str, taken: str | None = None) -> Row:
    return Row(text, type_, text if taken is None else taken)


def missed(text: str, type_: str) -> Row:
    return Row(text, type_, None)


LONG = f"my key is {KEY}, keep it, and nothing else in this line is of any interest at all"

ROWS = {
    "as_it_is": found(f"key {KEY}.", "GITHUB_TOKEN", KEY),
    "upper_case_around": found(f"KEY:{KEY}", "GITHUB_TOKEN", KEY),
    "zero_width_space": found("\u200b".join(KEY), "GITHUB_TOKEN"),
    "zero_width_joiner_once": found(KEY.replace("_", "_\u200d"), "GITHUB_TOKEN"),
    "soft_hyphens": found(KEY.replace("5", "5\u00ad"), "GITHUB_TOKEN"),
    "controls": found("\x08".join(KEY), "GITHUB_TOKEN"),
    "nul": found("\x00".join(KEY), "GITHUB_TOKEN"),
    "control_once_in_long_text": found(
        f"{'some words ' * 2_000}{KEY.replace('_', chr(27) + '_')}",
        "GITHUB_TOKEN",
        KEY.replace("_", "\x1b_"),
    ),
    "next_line": found(KEY.replace("_", "\x85_"), "GITHUB_TOKEN"),
    "word_joiner": found(KEY.replace("a", "\u2060a"), "GITHUB_TOKEN"),
    "right_to_left_marks": found(KEY.replace("_", "\u202e_\u202c"), "GITHUB_TOKEN"),
    "variation_selectors": found(KEY.replace("b", "b\ufe0f"), "GITHUB_TOKEN"),
    "tag_characters": found(KEY.replace("c", "c\U000e0063"), "GITHUB_TOKEN"),
    "full_width": found(full_width(KEY), "GITHUB_TOKEN"),
    "mathematical_letters": found("𝐠𝐡𝐩" + KEY[3:], "GITHUB_TOKEN"),
    "cyrillic_look_alikes": found(KEY.replace("p", "р").replace("c", "с"), "GITHUB_TOKEN"),
    "greek_look_alikes": found(KEY.replace("o", "ο").replace("A", "Α"), "GITHUB_TOKEN"),
    "struck_through": found("\u0336".join(KEY), "GITHUB_TOKEN", KEY[-1]),
    "percent_all": found(percent(KEY), "GITHUB_TOKEN"),
    "percent_one": found(KEY.replace("_", "%5F"), "GITHUB_TOKEN"),
    "percent_twice": found(quote(percent(KEY)), "GITHUB_TOKEN"),
    "html_decimal": found("".join(f"&#{ord(one)};" for one in KEY), "GITHUB_TOKEN"),
    "html_hexadecimal": found("".join(f"&#x{ord(one):x};" for one in KEY), "GITHUB_TOKEN"),
    "html_named": found(KEY.replace("_", "&lowbar;"), "GITHUB_TOKEN"),
    "escapes_of_json": found("".join(f"\\u{ord(one):04x}" for one in KEY), "GITHUB_TOKEN"),
    "escapes_of_c": found("".join(f"\\x{ord(one):02x}" for one in KEY), "GITHUB_TOKEN"),
    "base64": found(in_base64(KEY), "GITHUB_TOKEN"),
    "base64_of_a_sentence": found(in_base64(LONG), "GITHUB_TOKEN"),
    "base64_url": found(
        base64.urlsafe_b64encode(f"{KEY}?>?>".encode()).decode().rstrip("="), "GITHUB_TOKEN"
    ),
    "base64_twice": found(in_base64(in_base64(KEY)), "GITHUB_TOKEN"),
    "base64_in_lines": found(in_lines(in_base64(LONG), 76), "GITHUB_TOKEN"),
    "base64_and_a_word_below": found(f"{in_base64(LONG)}\nThen", "GITHUB_TOKEN", in_base64(LONG)),
    "base64_in_percent": found(percent(in_base64(KEY)), "GITHUB_TOKEN"),
    "base64_with_zero_width": found("\u200b".join(in_base64(KEY)), "GITHUB_TOKEN"),
    "hexadecimal": found(binascii.hexlify(KEY.encode()).decode(), "GITHUB_TOKEN"),
    "base64_behind_bytes": found(
        base64.b64encode(b"\xff\x00\x80" + KEY.encode()).decode(), "GITHUB_TOKEN"
    ),
    "spaced_out": found(" ".join(KEY), "GITHUB_TOKEN"),
    "dotted": found(".".join(KEY), "GITHUB_TOKEN"),
    "dashed": found("-".join(KEY), "GITHUB_TOKEN"),
    "line_by_line": found("\n".join(KEY), "GITHUB_TOKEN"),
    "in_columns": found("\t".join(KEY), "GITHUB_TOKEN"),
    "with_middle_dots": found("·".join(KEY), "GITHUB_TOKEN"),
    "base64_behind_a_slash": found(f"x/{in_base64(LONG)}", "GITHUB_TOKEN"),
    "base64_behind_letters": found(f"xyz{in_base64(LONG)}", "GITHUB_TOKEN"),
    "base64_as_a_path": found(
        f"https://x.test/{in_base64(LONG)}", "GITHUB_TOKEN", in_base64(LONG)
    ),
    "base64_as_an_image": found(
        f"![i](https://x.test/a/{in_base64(LONG)}.png)", "GITHUB_TOKEN", in_base64(LONG)
    ),
    "utf16_in_base64": found(base64.b64encode(LONG.encode("utf-16-le")).decode(), "GITHUB_TOKEN"),
    "utf16_big_endian_in_base64": found(
        base64.b64encode(LONG.encode("utf-16")).decode(), "GITHUB_TOKEN"
    ),
    "utf16_in_hexadecimal": found(KEY.encode("utf-16-le").hex(), "GITHUB_TOKEN"),
    "as_tag_characters": found("".join(chr(0xE0000 + ord(one)) for one in KEY), "GITHUB_TOKEN"),
    "tag_characters_in_base64": found(
        "".join(chr(0xE0000 + ord(one)) for one in in_base64(LONG)), "GITHUB_TOKEN"
    ),
    "combining_mark_once": found(KEY.replace("a", "a\u0301"), "GITHUB_TOKEN"),
    "combining_mark_on_a_digit": found(KEY.replace("5", "5\u0323"), "GITHUB_TOKEN"),
    "keycaps": found("\u20e3".join(KEY), "GITHUB_TOKEN", KEY[-1]),
    "line_separator": found(KEY.replace("5", "5\u2028"), "GITHUB_TOKEN"),
    "paragraph_separator": found(KEY.replace("5", "5\u2029"), "GITHUB_TOKEN"),
    "empty_braille_cell": found(KEY.replace("5", "5\u2800"), "GITHUB_TOKEN"),
    "no_break_space": found(KEY.replace("5", "5\u00a0"), "GITHUB_TOKEN"),
    "no_break_space_in_the_prefix": found(KEY.replace("_", "_\u00a0"), "GITHUB_TOKEN"),
    "thin_spaces": found("\u2009".join(KEY), "GITHUB_TOKEN"),
    "behind_an_underscore": found(f"my_{KEY}", "GITHUB_TOKEN", KEY),
    "card_spaced_out": found(" ".join(CARD), "CREDIT_CARD"),
    "card_spaced_out_behind_words": found(f"a b {' '.join(CARD)}", "CREDIT_CARD", " ".join(CARD)),
    "card_spaced_out_behind_a_digit": found(f"7 {' '.join(CARD)}", "CREDIT_CARD", " ".join(CARD)),
    "card_spaced_out_before_a_letter": found(f"{' '.join(CARD)} B", "CREDIT_CARD", " ".join(CARD)),
    "card_dotted_behind_a_letter": found(f"B.{'.'.join(CARD)}", "CREDIT_CARD", ".".join(CARD)),
    "key_spaced_out_behind_a_letter": found(f"B {' '.join(KEY)}", "GITHUB_TOKEN", " ".join(KEY)),
    "key_dotted_behind_a_spaced_card": found(
        f"{' '.join(CARD)} {'.'.join(KEY)}", "GITHUB_TOKEN", ".".join(KEY)
    ),
    "key_dotted_before_a_spaced_letter": found(
        f"{'.'.join(KEY)} a plan", "GITHUB_TOKEN", ".".join(KEY)
    ),
    "card_underlined_before_a_spaced_digit": found(
        f"{'_'.join(CARD)} 5 times", "CREDIT_CARD", "_".join(CARD)
    ),
    "card_spaced_out_behind_a_dotted_term": found(
        f"{'.'.join('bluebird')} {' '.join(CARD)}", "CREDIT_CARD", " ".join(CARD)
    ),
    "term_dotted_before_spaced_letters": found(
        "b.l.u.e.b.i.r.d a b c d e f g", "DENIED_TERM", "b.l.u.e.b.i.r.d"
    ),
    "term_dotted_before_a_spaced_sign": found(
        "b-l-u-e-b-i-r-d & co", "DENIED_TERM", "b-l-u-e-b-i-r-d"
    ),
    "account_spaced_out_behind_a_letter": found(f"B {' '.join(IBAN)}", "IBAN", " ".join(IBAN)),
    "host_spaced_out_behind_a_letter": found(f"B {' '.join(HOST)}", "IPV4", " ".join(HOST)),
    "phone_spaced_out_behind_a_letter": found(
        f"phone: B {' '.join(PHONE)}", "PHONE", " ".join(PHONE)
    ),
    "card_full_width": found(full_width(CARD), "CREDIT_CARD"),
    "card_arabic_digits": found(CARD.replace("4", "\u0664").replace("1", "\u0661"), "CREDIT_CARD"),
    "card_with_long_dashes": found("4111–1111–1111–1111", "CREDIT_CARD"),
    "card_in_base64": found(in_base64(f"card {CARD} 12/29"), "CREDIT_CARD"),
    "email_in_entities": found("bob&#64;example&#46;com", "EMAIL"),
    "email_look_alike": found("bоb@exаmple.com", "EMAIL"),
    "term_in_leetspeak": found("blu3b1rd", "DENIED_TERM"),
    "term_spaced_out": found("b l u e b i r d", "DENIED_TERM"),
    "term_in_a_spelled_sentence": found("t h e   b l u e b i r d   a g a i n", "DENIED_TERM"),
    "key_in_a_spelled_sentence": found(" ".join(f"my key: {KEY}"), "GITHUB_TOKEN", " ".join(KEY)),
    "behind_backslashes": found("".join(f"\\{one}" for one in KEY), "GITHUB_TOKEN"),
    "spaced_out_behind_backslashes": found(
        "\\" * 15 + " ".join(KEY), "GITHUB_TOKEN", " ".join(KEY)
    ),
    "term_behind_backslashes": found("".join(f"\\{one}" for one in "a bluebird"), "DENIED_TERM"),
    "term_in_cyrillic": found("bluеbird", "DENIED_TERM"),
    "term_in_base64": found(in_base64("tell me about bluebird"), "DENIED_TERM"),
    # What is not found, and why.
    # A one is an i or an l, the same all through a text.
    "term_in_two_leetspeaks": missed("b1u3b1rd", "DENIED_TERM"),
    "digits_apart": missed("8 3 4 5 7   1 2 3 4", "DENIED_TERM"),  # `beast` with letters
    "hexadecimal_spaced": missed(binascii.hexlify(KEY.encode(), " ").decode(), "GITHUB_TOKEN"),
    # Letters are joined from the first on and from the second on. Each further beginning would be
    # one more text to search, and one more letter in front would hide the key from that as well.
    "key_spaced_out_behind_two_letters": missed(f"a b {' '.join(KEY)}", "GITHUB_TOKEN"),
    "account_spaced_out_behind_two_letters": missed(f"a b {' '.join(IBAN)}", "IBAN"),
    "reversed": missed(KEY[::-1], "GITHUB_TOKEN"),  # no end to such transformations
    "rot13": missed("tuc_" + KEY[4:], "GITHUB_TOKEN"),
    "base64_three_times": missed(in_base64(in_base64(in_base64(KEY))), "GITHUB_TOKEN"),
    "in_words": missed("four one one one, then twelve more ones", "CREDIT_CARD"),
    "in_two_sentences": missed(f"begins {KEY[:20]} and goes on {KEY[20:]}", "GITHUB_TOKEN"),
}


@pytest.mark.parametrize("padding", ["", "words before and after " * 400], ids=["alone", "within"])
@pytest.mark.parametrize("way", ROWS)
def test_a_secret_hidden_in_some_way_is_found_or_known_to_be_missed(
    way: str, padding: str
) -> None:
    """What is found leads back to the bytes as they were written, in text short or long."""
    row = ROWS[way]
    parts = parts_of([f"{padding}\n{row.text}\n{padding}"])
    taken: list[bytes] = []
    for outcome in POLICY.local.scan(parts):
        assert outcome.failure is None
        taken += [
            parts[0].content[one.start : one.end]
            for one in outcome.findings
            if one.type == row.type
        ]
    if row.taken is None:
        assert taken == []
    else:
        assert any(row.taken.encode() in one for one in taken)
        assert max(map(len, taken)) <= len(row.text.encode()) + 8


REDACT = effective(
    policy("  - {name: secrets, type: secrets, action: redact}\n"
           "  - {name: pii, type: pii, action: redact}\n"
           "  - {name: terms, type: denied_terms, terms: [bluebird, beast], action: redact}")
)  # fmt: skip


def redacted(text: str) -> str:
    """Return *text* with a placeholder for everything found, as one where findings overlap."""
    parts = parts_of([text])
    findings = [
        finding
        for outcome in REDACT.local.scan(parts)
        if outcome.failure is None
        for finding in outcome.findings
    ]
    content, kept, end = parts[0].content, [], 0
    for one in disjoint(findings, rank=lambda _: 0):
        kept += [content[end : one.start], b"[X_1]"]
        end = one.end
    return b"".join([*kept, content[end:]]).decode()


KEY_LINES = "\n".join(["Xk9mQ2vL7zRt4Wb8" * 4] * 140)
HIDDEN_HEADERS = {
    "percent": ("-----BEGIN%20RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"),
    "json": (r"-----BEGIN\u0020PRIVATE KEY-----", "-----END PRIVATE KEY-----"),
    "html": ("-----BEGIN PRIVATE&#32;KEY-----", "-----END PRIVATE KEY-----"),
    "look_alike": ("-----BEGIN PRIVATE K\u0415Y-----", "-----END PRIVATE KEY-----"),
    "spaced": ("-----BEGIN P R I V A T E KEY-----", "-----END PRIVATE KEY-----"),
    "escape_far_behind": (
        f"-----BEGIN PRIVATE KEY-----\n{KEY_LINES[:5_850]}%0A", "-----END PRIVATE KEY-----"
    ),
    "putty": ("PuTTY-User-Key-File-3%3A ssh-rsa\nPrivate-Lines: 9", "Private-MAC: " + "0f" * 32),
}  # fmt: skip


@pytest.mark.parametrize("form", HIDDEN_HEADERS)
def test_a_key_whose_header_is_hidden_is_found_to_its_end(form: str) -> None:
    """Nine kilobytes of it are in plain text, of which only two were searched."""
    header, footer = HIDDEN_HEADERS[form]
    words = "words before and after " * 400
    before, after = redacted(f"{words}\n{header}\n{KEY_LINES}\n{footer}\n{words}").split("[X_1]")
    assert (before, after) == (f"{words}\n", f"\n{words}")


@pytest.mark.parametrize(
    "code",
    [0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180E, 0x180F, 0x200B,
     0x2064, 0x2065, 0x206F, 0x3164, 0xFE0F, 0xFEFF, 0xFFA0, 0xFFF0, 0xFFF9, 0x1BCA0, 0x1D173,
     0x1D17A, 0xE0000, 0xE0FFF, *range(9), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0)],
)  # fmt: skip
def test_no_invisible_character_hides_a_secret(code: int) -> None:
    """Whatever is not displayed is not there for a model, or hardly."""
    text = f"key {KEY[:9]}{chr(code)}{KEY[9:]}."
    (part,) = parts_of([text])
    outcome = POLICY.local.scan([part])[0]
    assert outcome.failure is None
    taken = [part.content[one.start : one.end].decode() for one in outcome.findings]
    assert taken == [text[4:-1]]


@given(st.lists(st.sampled_from([row.text for row in ROWS.values()]), min_size=1, max_size=4),
       st.sampled_from([" ", "\n", ", ", "\n\n"]))  # fmt: skip
def test_redaction_leaves_nothing_behind_that_would_be_found(
    hidden: list[str], between: str
) -> None:
    """However it was hidden, what has been taken out is gone, in every reading."""
    once = redacted(between.join(hidden))
    assert redacted(once) == once


@given(st.lists(st.sampled_from([row.text for row in ROWS.values()]), min_size=1, max_size=3),
       st.integers(40, 200))  # fmt: skip
@example([ROWS["key_in_a_spelled_sentence"].text, ROWS["spaced_out_behind_backslashes"].text], 40)
@example([ROWS["as_it_is"].text, ROWS["key_dotted_behind_a_spaced_card"].text], 40)
def test_what_is_found_does_not_depend_on_where_slices_end(hidden: list[str], slice_: int) -> None:
    """A run over the border of two windows is read as one."""
    parts = parts_of(["\n".join(hidden)])
    whole = POLICY.local.scan(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_scan, "SHORT_BYTES", 0)
        for module in (database, text_views, reading):
            patch.setattr(module, "SLICE_BYTES", slice_)
        assert POLICY.local.scan(parts) == whole


@given(st.lists(st.one_of(st.text("ab1_ .-\\\n\u00e9", max_size=20), st.sampled_from(
    ["s e c r e t s", "a.b.c.d.e.f.g", "_s e c r e t s", "o f   w o r d s", r"\o\f\ \w\o\r\d\s"]
)), max_size=6).map("".join))  # fmt: skip
def test_text_that_is_skipped_has_no_letters_set_apart(text: str) -> None:
    """The expression that says where a run begins overlooks none of them."""
    content = text.encode()
    for decoder in (SPACING, SPELLING):
        expression, begins, least = decoder._expression, decoder._begins, decoder._least
        skipping = list(matches(expression, content, least=least, begins=begins))
        assert skipping == list(matches(expression, content, least=least))


@pytest.mark.parametrize(
    "almost", [b"a b c d e f gg ", b"aa b c d e f g hh ", b"a     b c d  e f gg "]
)
def test_letters_that_are_almost_set_apart_take_little_longer_than_those_that_are(
    almost: bytes,
) -> None:
    """Each of them was tried as the beginning of a sentence; a window of 64 KB took 13 ms."""

    def seconds(text: bytes) -> float:
        content = (text * 65_536)[:65_536]
        return least_seconds(lambda: list(SPELLING.runs(content)), tries=9)

    assert seconds(almost) < 5 * seconds(b"a b c ")


LONG_RUNS = {
    "percent": (decoders.ESCAPES, percent),
    "spaced": (SPACING, " ".join),
    "spelled": (SPELLING, lambda text: " ".join(text).replace("z ", "z   ")),
    "backslashes": (SPELLING, lambda text: "".join(f"\\{one}" for one in text)),
}


@pytest.mark.parametrize("form", LONG_RUNS)
def test_a_long_run_is_read_in_turns_and_as_one_text(form: str) -> None:
    """Ten megabytes of letters that are set apart held a worker for over half a second."""
    decoder, hide = LONG_RUNS[form]
    hidden = "".join(chr(ord("a") + number % 26) for number in range(10 * reading.MAX_UNITS))
    content = hide(hidden).encode()
    view = text_views.TextView(0, text_views.ONE_VIEW, content, len(content))
    steps, decoded, turns = decoder.read(view), b"", 0
    while not decoded:
        try:
            next(steps)
            turns += 1
        except StopIteration as end:
            decoded = end.value[0].content  # the second is without its first letter
    words = hidden.replace("z", "z ") if form == "spelled" else hidden
    assert decoded == words.encode()
    assert turns >= 9


def test_a_run_takes_little_memory() -> None:
    """A client may send ten megabytes of escapes, each of which is a run."""
    runs = 20_000
    view = text_views.TextView(0, text_views.ONE_VIEW, b"%41-" * runs, 4 * runs)
    spans = [(start, start + 3) for start in range(0, 4 * runs, 4)]

    def decode() -> None:
        steps = reading.replace_runs(view, spans, lambda _: b"A", text_views.ViewKind.UNESCAPED)
        (decoded,) = run_sync(steps)
        assert decoded.content == b"A-" * runs
        assert decoded.offsets.span(2, 3) == (4, 7)
        assert decoded.offsets.span(2, 4) == (4, 8)

    assert peak_bytes(decode) < 300 * runs


ESCAPED = {"&#97;": "a", "%41": "A", r"\u00e9": "é", "&#x1F600;": "😀", r"\x42": "B", "&lt;": "<"}
BESIDE = {"c": "c", "&amp": "&amp", "ö ": "ö "}


@given(
    st.lists(st.sampled_from([*ESCAPED, *BESIDE]), min_size=1, max_size=25),
    st.integers(100, 300),
    st.sampled_from([0, 39, 5_000]),
)
def test_each_escape_leads_back_to_itself_wherever_chunks_end(
    pieces: list[str], chunk: int, blanks: int
) -> None:
    """Also behind text that is too long to be searched once more."""
    begins = [*accumulate([len(one.encode()) for one in pieces], initial=blanks)]
    content = b" " * blanks + "".join(pieces).encode()
    view = text_views.TextView(0, text_views.ONE_VIEW, content, len(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "CHUNK_BYTES", chunk)
        decoded = run_sync(decoders.ESCAPES.read(view))
    if ESCAPED.keys().isdisjoint(pieces):
        assert decoded == ()
        return
    texts = [(ESCAPED | BESIDE)[one].encode() for one in pieces]
    (read,) = decoded
    assert read.content.lstrip(b" \0") == b"".join(texts).lstrip()
    at = len(read.content) - sum(map(len, texts))
    for begin, piece, text in zip(begins, pieces, texts, strict=False):
        if piece in ESCAPED:
            assert read.offsets.span(at, at + len(text)) == (begin, begin + len(piece))
        at += len(text)


@pytest.mark.parametrize("escape", ["&#97;", "&lt;", "%41", r"\u0041", r"\x41"])
def test_an_escape_takes_few_calls_if_it_was_read_before(escape: str) -> None:
    """Ten megabytes of entities ran into the limit of a check, five seconds."""
    content = f"{escape}b".encode() * 10_000
    view = text_views.TextView(0, text_views.ONE_VIEW, content, len(content))
    (read,) = run_sync(decoders.ESCAPES.read(view))
    assert len(read.content) == 20_000
    assert python_calls(lambda: run_sync(decoders.ESCAPES.read(view))) < 1_000


@pytest.mark.parametrize(
    ("digits", "begins"), [("0123456789abcdef", b"kosw{"), ("0123456789ABCDEF", b"\t\n\r")]
)
def test_hexadecimal_digits_are_hardly_any_text_in_base64(digits: str, begins: bytes) -> None:
    """Three letters of base64 in four begin with one of a few, so identifiers are not decoded."""
    for quad in product(digits, repeat=4):
        decoded = binascii.a2b_base64("".join(quad))
        if all(0x20 <= one < 0x7F or one in b"\t\n\r" for one in decoded):
            assert decoded[0] in begins


def test_identifiers_in_hexadecimal_digits_are_not_decoded_as_base64() -> None:
    """Ten megabytes of them were decoded in both ways, in twice as many calls."""
    content = b"d41d8cd98f00b204e9800998 x\n" * 500
    view = text_views.TextView(0, text_views.ONE_VIEW, content, len(content))
    assert run_sync(ENCODINGS.read(view)) == ()
    assert python_calls(lambda: run_sync(ENCODINGS.read(view))) < 5 * 500


def test_a_short_text_takes_few_turns_however_much_is_hidden_in_it() -> None:
    """Fifty thousand of them took twenty turns each, and a third of the time for the turns."""
    text = f"{percent('é')} &amp; \\u0041 4p s e c r e t s {in_base64(KEY)} аb"
    views = [text_views.TextView(0, frozenset({text_views.ViewKind.RAW}), text.encode(), 9)]
    steps, turns = decoders.read(views, decoders.FOR_WORDS), 0

    def counted() -> Cooperative[list[text_views.TextView]]:
        nonlocal turns
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: list[text_views.TextView] = end.value
                return found
            turns += 1
            yield

    kinds = {kind for view in run_sync(counted()) for kind in view.kinds}
    assert len(kinds - {text_views.ViewKind.FOLDED}) >= 4
    assert turns <= 6


@pytest.mark.parametrize("on_error", ["block", "allow"])
def test_more_hidden_texts_than_are_decoded_never_pass(
    on_error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """49,000 strings that every decoder reads took a worker until the time limit."""
    monkeypatch.setattr(decoders, "MAX_DECODED", 100)
    guardrail = f"  - {{name: own, type: pii, on_error: {on_error}}}\n"
    local = effective(policy(guardrail)).local
    (most,) = local.scan(parts_of(["a%20b"] * 100))
    (more,) = local.scan(parts_of(["a%20b"] * 101))
    assert most.verdict is Verdict.PASS
    assert (more.verdict, more.failure) == (
        Verdict.ERROR_CLOSED,
        Failure(FailureKind.HIDDEN_TEXT, "TooMuchHiddenTextError"),
    )


def test_runs_in_two_encodings_lead_back_to_the_text_in_its_order() -> None:
    """A finding over the texts of both would else end before it begins."""
    text = f"{in_base64('hidden in base64 or so').encode().hex()};{in_base64(KEY)}".encode()
    view = text_views.TextView(0, frozenset({text_views.ViewKind.RAW}), text, len(text))
    views = run_sync(ENCODINGS.read(view))

    assert views
    for one in views:
        start, end = one.offsets.span(0, len(one.content))
        assert 0 <= start < end <= len(text)
        origins = [one.offsets.span(at, at + 1)[0] for at in range(len(one.content))]
        assert origins == sorted(origins)
