"""Request bodies and texts to measure with: generated, the same in every run, no real data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

_HOSTILE_UNITS: Final = {
    "digits": "4",
    "cards_failing_luhn": "4111 1111 1111 1112 ",
    "cards_in_words": "card 5500-0055-5555-5550, ",
    "ibans_failing_check": "DE00 3704 0044 0532 0130 00 ",
    "phones": "+49 30 1234567 (030) 1234-567 ",
    "emails_cut_short": "someone.somewhere@example. ",
    "at_signs": "a@",
    "addresses": "10.0.0.999 fe80::1::2 ",
    "tokens_almost": "AKIAIOSFODNN7EXAMPL sk-proj- ghp_0123456789abcdef ",
    "long_base64": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo0",
    "assignments": "password = 'x' api_key: y secret=z ",
    "full_width_digits": "\uff14\uff11\uff11\uff11 ",
    "zero_width": "4\u200b1\u200b1\u200b1\u200b ",
    "nested_quotes": '{"a":"{\\"b\\":\\"',
    "phones_out_of_plan": "+49 11 1234567 ",
    "phones_after_a_word": "tel 12345678 ",
    "cards": "4111111111111111 ",
    "card_groups": "4444 ",
    "ibans": "DE89370400440532013000 ",
    "ssns": "536-90-4399 ",
    "emails": "a@b.cc ",
    "ipv4": "1.1.1.1 ",
    "ipv6": "fe80::1 ",
    "tokens_of_json": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.x ",
    "private_keys": "-----BEGIN PRIVATE KEY----- ",
    "named_secrets": "api_key=aaaaaaaaaaaaaaaa1 ",
    "urls_with_passwords": "postgres://a:b@ ",
    "full_width_cards": "\uff14" + "\uff11" * 15 + " ",
    "zero_width_cards": "4111\u200b1111\u200b1111\u200b1111 ",
    "marks": "a" + "\u0316\u0300" * 20,
    "cyrillic": "\u0430",
}  # fmt: skip


def hostile_texts(size_bytes: int) -> Mapping[str, str]:
    """Return each unit repeated to *size_bytes*, by name."""
    return {name: repeated(unit, size_bytes) for name, unit in _HOSTILE_UNITS.items()}


def mixed_text(size_bytes: int) -> str:
    """Return all units one after the other, repeated to *size_bytes*."""
    return repeated("\n".join(_HOSTILE_UNITS.values()), size_bytes)


def repeated(unit: str, size_bytes: int) -> str:
    """Return *unit* as often as fits into *size_bytes* of UTF-8, the last one cut."""
    encoded = unit.encode()
    return (encoded * (size_bytes // len(encoded) + 1))[:size_bytes].decode("utf-8", "ignore")


MODEL: Final = "gpt-4o-mini"
CHAT_BODY_BYTES: Final = 900
"""A short question with its system prompt; the size at which Egret's own cost weighs most."""

_WORDS: Final = (  # noqa: SIM905 - two hundred quotes would hide the words
    "a about after all also an and any are as ask at be because been before both but by can"
    " change chapter city clear code come company compare could customer date day describe did"
    " different do document does draft each email even every example explain few find first for"
    " from function get give good has have he help her here how i idea if in into is it its just"
    " know language last letter like line list long look make many meeting memory message model"
    " month more most my name need new next no not note now of offer on one only or order other"
    " our out over paragraph people plan please point price project question reader reason"
    " report result review same say second section see she short should shorter show simple so"
    " some summary table take team tell text than that the their them then there these they"
    " thing this time title to tone translate two up us use version very want was way we week"
    " well were what when where which who why will with word work would write year you your"
).split()
_SPICE: Final = (
    "3.5", "2026", "17:30", "42%", "Q3", "v1.12.0", "get_user(id=7)", "2026-03-14", "1,250",
    "x = y + 1", "HTTP/2", "#218", "(see page 12)", "A/B", "12 GB",
)  # fmt: skip
"""Pieces of ordinary prompts beside words; many look like the start of a finding."""
_SPICE_EVERY: Final = 23
_SENTENCE_WORDS: Final = 12


def benign_text(size_bytes: int, *, seed: int = 1) -> str:
    """Return ASCII text of exactly *size_bytes* that reads like a prompt and holds no finding."""
    pieces: list[str] = []
    length = 0
    for piece in _sentences(seed):
        pieces.append(piece)
        length += len(piece) + 1
        if length > size_bytes:
            break
    return " ".join(pieces)[:size_bytes]


def chat_body(size_bytes: int = CHAT_BODY_BYTES) -> bytes:
    """Return a chat completion request of exactly *size_bytes*.

    Raises:
        ValueError: the frame alone is longer.
    """
    frame = _chat_request("")
    room = size_bytes - len(frame)
    if room < 0:
        raise ValueError(f"a chat request takes {len(frame)} bytes without any text")
    return _chat_request(benign_text(room))


def _chat_request(text: str) -> bytes:
    request = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a careful editor. Answer in plain words."},
            {"role": "user", "content": text},
        ],
        "temperature": 0.2,
        "max_tokens": 256,
    }
    return json.dumps(request, separators=(",", ":")).encode()


def _sentences(seed: int) -> Iterator[str]:
    words: list[str] = []
    for count, number in enumerate(_numbers(seed), start=1):
        spiced = count % _SPICE_EVERY == 0
        choice = _SPICE if spiced else _WORDS
        words.append(choice[number % len(choice)])
        if len(words) == _SENTENCE_WORDS:
            yield " ".join(words).capitalize() + "."
            words = []


def _numbers(seed: int) -> Iterator[int]:
    """Return the numbers of a linear congruential generator (Knuth, MMIX), their upper half."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        yield state >> 33
