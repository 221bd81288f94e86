"""Request bodies and texts to measure with: generated, the same in every run, no real data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from egret_tools.benign_text import benign_text

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
