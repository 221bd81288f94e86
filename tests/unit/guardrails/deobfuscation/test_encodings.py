from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.cooperative import run_sync
from sidecar.guardrails.deobfuscation import decoder as reading
from sidecar.guardrails.deobfuscation import encodings
from sidecar.guardrails.deobfuscation.encodings import ENCODINGS
from sidecar.guardrails.matching.text_views import ONE_VIEW, TextView
from tests.support.cpu_time import python_calls

NAMES = ["some_snake_case_name_of_a_module", "/usr/share/doc/packages/any", "CERTIFICATE_UNKNOWN",
         "getAccountInformation", "0123456789abcdef0123456789abcdef", "a", "QUJD", ""]  # fmt: skip
ENDS = [" ", ".", "\n", "\r\n", "==", "\n\n"]
BESIDE = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(ENDS)), max_size=6).map(
    lambda pairs: "".join(name + end for name, end in pairs)
)
HIDDEN = st.text(
    st.characters(exclude_categories=("Cc", "Cs")), min_size=15, max_size=120
).map(str.encode)  # fmt: skip


def read_of(content: bytes) -> bytes:
    views = run_sync(ENCODINGS.read(TextView(0, ONE_VIEW, content, len(content))))
    return b"".join(view.content for view in views)


@given(HIDDEN, BESIDE, BESIDE, st.integers(32, 200),
       st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))  # fmt: skip
def test_text_in_base64_is_read_wherever_it_stands(
    hidden: bytes, before: str, behind: str, slice_: int, encode: Callable[[bytes], bytes]
) -> None:
    """Of any language, among names, at the border of two windows, and behind other base64."""
    content = b"%b%b %b" % (before.encode(), encode(hidden), behind.encode())
    assert hidden in read_of(content)
    with pytest.MonkeyPatch.context() as patch:
        for module in (encodings, reading):
            patch.setattr(module, "SLICE_BYTES", slice_)
        patch.setattr(encodings, "_STEP", slice_)
        patch.setattr(encodings, "_OVERLAP", 0)
        assert [one for one in encodings.runs_of_base64(content) if one and hidden in (
            encodings.from_base64(content[slice(*one)]) or b"")]  # fmt: skip


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_in_lines_of_base64_is_read_as_one(end: str) -> None:
    """Also if what looks like text is in its last line."""
    encoded = base64.b64encode(bytes(range(0x80, 0x80 + 57)) + b"secret keys and such").decode()
    lines = end.join(encoded[at : at + 40] for at in range(0, len(encoded), 40))
    assert b"secret keys and such" in read_of(f"key: {lines}.".encode())


SHORT = b"QUJDREVGQUJDREV"
RUN = b"U2VjcmV0IGtleXMgYW5kIHN1Y2g="


@pytest.mark.parametrize(
    ("end", "calls"), [(b" ", 100), (b". ", 100), (b"==", 100), (b"\n", 11_000), (b"\r\n", 11_000)]
)
def test_words_that_are_too_short_for_text_are_not_decoded_one_by_one(
    end: bytes, calls: int
) -> None:
    """Each took some calls, as a run does; one between them is read. Lines take one each."""
    words = (SHORT + end) * 10_000
    assert python_calls(lambda: read_of(words + b" ")) < calls
    assert b"Secret keys and such" in read_of(words + RUN + b" " + words)


def test_lines_that_only_look_like_text_let_other_work_go_on() -> None:
    """Ten megabytes of them took seconds in one turn of the loop."""
    found = list(encodings.runs_of_base64((SHORT + b"\n") * 10_000 + b" " + RUN))
    assert found[-1] is not None
    assert found[:-1] == [None] * (len(found) - 1)
    assert len(found) >= 10_000 // encodings.SLICE_DECODED


def test_names_of_programs_are_not_decoded_one_by_one() -> None:
    """Four in each kilobyte of code are as long as a run; each took a dozen calls."""
    code = b"from some_package.of_long_module_names import another_name_of_20_letters\n" * 1_000
    assert python_calls(lambda: read_of(code)) < 100


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, binascii.hexlify])
def test_random_bytes_in_a_long_run_are_read_as_no_text(encode: Callable[[bytes], bytes]) -> None:
    """Providers seal reasoning in such runs; eight readable bytes in a row are in each of them."""
    source = random.Random(7)  # noqa: S311 - a corpus, no secret
    runs = [encode(source.randbytes(12_000)) for _ in range(50)]
    assert sum(bool(read_of(run)) for run in runs) <= 2


AMID = b"\xff\xfea@bcd.io\xfe\xff"


@pytest.mark.parametrize(
    "content",
    [
        AMID + bytes(range(0xF0, 0x100)),
        AMID + bytes(range(0x80, 0x100)),
        b"\xff" + b"Plain text. " * 200 + AMID,
        b"\xff" + "Ein Wörterbuch für alle Fälle. ".encode() * 100 + AMID,
        b"\xff" + "一些文字。".encode() * 200 + AMID,
    ],
)
def test_a_short_value_is_read_in_a_short_run_and_among_text(content: bytes) -> None:
    """A few bytes that are no text do not hide it."""
    assert b"a@bcd.io" in read_of(base64.b64encode(content))
    assert b"a@bcd.io" in read_of(content.hex().encode())
