from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from sidecar.keys.credentials import ApiKey, generate, parse

ID = "0123456789AB"
SECRET = "c" * 43
KEY = ApiKey(key_id=ID, secret=SECRET)
TEXT = f"egk_{ID}_{SECRET}31rQEE"


def counting(size: int) -> bytes:
    return bytes(range(size))


def test_a_key_is_written_as_documented() -> None:
    """Prefix, id, secret, and the CRC-32 of all before it in base62; pinned by one example."""
    assert (KEY.reveal(), parse(TEXT), parse(TEXT.encode())) == (TEXT, KEY, KEY)


def test_a_new_key_takes_its_id_and_secret_from_the_entropy_given() -> None:
    """The same bytes make the same key; 256 bits go into the secret."""
    assert generate(counting).reveal() == (
        "egk_xkEgOGusQGwp_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1W5JOO"
    )


@pytest.mark.parametrize("filler", [b"\x00", b"\xff"], ids=["lowest", "highest"])
def test_every_secret_has_the_same_length(filler: bytes) -> None:
    """The smallest and the largest 256-bit number both fill 43 characters and parse."""
    key = generate(lambda size: filler * size)

    assert (len(key.key_id), len(key.secret), parse(key.reveal())) == (12, 43, key)


def test_only_the_digest_of_the_secret_is_stored() -> None:
    """SHA-256 over the secret's 43 characters as ASCII."""
    assert KEY.secret_sha256 == hashlib.sha256(SECRET.encode()).digest()


def test_a_key_does_not_show_its_secret() -> None:
    """Neither repr, str nor a format string tells it."""
    shown = f"{KEY!r} {KEY!s} {KEY}"

    assert (ID in shown, SECRET in shown) == (True, False)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("sk-proj-0123456789", id="a provider's key"),
        pytest.param(TEXT[:-1], id="cut"),
        pytest.param(TEXT + "0", id="too long"),
        pytest.param(TEXT + "\n", id="a newline after it"),
        pytest.param(" " + TEXT, id="a blank before it"),
        pytest.param(TEXT.replace("c", "d", 1), id="a wrong character in the secret"),
        pytest.param(TEXT.replace("0123", "0132", 1), id="two characters of the id swapped"),
        pytest.param(TEXT[:-1] + "D", id="a wrong check"),
        pytest.param(TEXT.upper(), id="in capitals"),
        pytest.param(TEXT.replace("egk", "egx"), id="another prefix"),
        pytest.param(TEXT.replace("c", "-", 1), id="not base62"),
        pytest.param(TEXT.replace("c", "é", 1), id="not ASCII"),
        pytest.param(TEXT.replace("0", "\u0660", 1), id="a digit of another script"),
        pytest.param(TEXT + "\ud800", id="a lone surrogate"),
        pytest.param(b"\xff\x00" + TEXT.encode(), id="bytes that are no text"),
    ],
)
def test_what_is_not_exactly_a_key_is_none(text: str | bytes) -> None:
    """A typo is known without a look-up."""
    assert parse(text) is None


def test_the_keys_in_the_documentation_are_keys() -> None:
    """Whoever checks an implementation against docs/keys.md finds a check that is right."""
    text = (Path(__file__).parents[3] / "docs" / "keys.md").read_text(encoding="utf-8")

    examples = set(re.findall(r"egk_[0-9A-Za-z]{12}_\w+", text))

    assert [parse(example) is not None for example in examples] == [True]
