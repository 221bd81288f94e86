from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.http import CREDENTIAL_HEADERS, Headers
from sidecar.keys.credentials import generate, parse, presented_key

seeds = st.binary(min_size=32, max_size=32)


@given(seeds)
def test_a_generated_key_parses_to_itself(seed: bytes) -> None:
    """Whatever the entropy, what is shown once is what is accepted later."""
    key = generate(lambda size: seed[:size])

    assert parse(key.reveal()) == parse(key.reveal().encode()) == key


@given(text=st.binary() | st.text(), with_prefix=st.booleans())
def test_parsing_raises_for_nothing(text: bytes | str, *, with_prefix: bool) -> None:
    """Any input is a key or None; arbitrary input is None."""
    if with_prefix:
        text = b"egk_" + text if isinstance(text, bytes) else "egk_" + text

    assert parse(text) is None


@given(seeds, st.integers(0, 65), st.integers(0, 255))
def test_one_wrong_byte_is_always_noticed(seed: bytes, position: int, byte: int) -> None:
    """CRC-32 finds every error burst of up to 32 bits, so every single wrong character."""
    text = bytearray(generate(lambda size: seed[:size]).reveal().encode())
    is_same = text[position] == byte
    text[position] = byte

    assert (parse(bytes(text)) is not None) == is_same


fields = st.lists(
    st.tuples(
        st.sampled_from((*CREDENTIAL_HEADERS, "accept")),
        st.binary(max_size=20) | st.sampled_from([b"Bearer x", b"bearer ", b"Basic y"]),
    ),
    max_size=6,
)


@given(fields, seeds, st.sampled_from(CREDENTIAL_HEADERS))
def test_a_key_is_believed_only_if_every_credential_header_says_the_same(
    others: list[tuple[str, bytes]], seed: bytes, name: str
) -> None:
    """A key among anything else that claims to be a credential is no key."""
    text = generate(lambda size: seed[:size]).reveal().encode()
    value = b"Bearer " + text if name == "authorization" else text
    headers = Headers((*others, (name, value)))
    is_alone = all(other not in CREDENTIAL_HEADERS for other, _ in others)

    assert (presented_key(headers) == parse(text)) == is_alone
