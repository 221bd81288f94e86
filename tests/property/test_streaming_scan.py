"""Whatever border a value is cut at, it does not reach the client; what is clean stays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.answers import APIS, effective, judgement, streamed

VALUES = {
    "EMAIL": "bob@example.com",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "AWS_ACCESS_KEY": "AKIAIOSFODNN7EXAMPLA",
    "PROJECT_CODE": "PRJ-0042",
    "DENIED_TERM": "top secret",
}
RULES = (
    "[{name: pii, type: pii, stage: output, action: ACTION}, "
    "{name: secrets, type: secrets, stage: output, action: ACTION}, "
    "{name: own, type: denied_patterns, stage: output, action: ACTION, "
    "patterns: [{name: PROJECT_CODE, regex: 'PRJ-[0-9]{4}'}]}, "
    "{name: words, type: denied_terms, stage: output, action: ACTION, terms: [top secret]}]"
)
REDACT = effective(RULES.replace("ACTION", "redact"))
BLOCK = effective(RULES.replace("ACTION", "block"))
OBSERVE = effective(
    RULES.replace("ACTION", "block").replace("stage: output", "stage: output, streams: observe")
)

WORDS = st.lists(
    st.sampled_from(["so", " the", " é😀", "…", "\n", ", it", " is (", "42) ", "done. ", "“ok”"]),
    max_size=4,
).map("".join)
AROUND = st.tuples(WORDS, WORDS)
CUTS = st.lists(st.integers(0, 2**16), max_size=12)


def cut(text: str, places: Sequence[int]) -> list[str]:
    """Cut a text, or a stream, at *places*."""
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[a:b] for a, b in pairwise(borders)] or [""]


def cut_bytes(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut a stream into chunks."""
    return [piece.encode("latin-1") for piece in cut(stream.decode("latin-1"), places)]


api = pytest.mark.parametrize("api", APIS)


@api
@settings(max_examples=60, deadline=None)
@given(type_=st.sampled_from(sorted(VALUES)), around=AROUND, text_cuts=CUTS, cuts=CUTS)
def test_a_value_cut_anywhere_is_replaced(
    api: str, *, type_: str, around: tuple[str, str], text_cuts: list[int], cuts: list[int]
) -> None:
    """Over events, over chunks, over both; the client reads the placeholder and all the rest."""
    before, after = f"{around[0]} \n", f"\n {around[1]}"
    text = before + VALUES[type_] + after
    stream = APIS[api].stream(cut(text, text_cuts))
    result = streamed(judgement(REDACT, APIS[api].form), cut_bytes(stream, cuts))
    assert result.error is None
    assert APIS[api].said(result.body) == f"{before}[{type_}_1]{after}"
    assert VALUES[type_].encode() not in result.body


@api
@settings(max_examples=60, deadline=None)
@given(type_=st.sampled_from(sorted(VALUES)), around=AROUND, text_cuts=CUTS, cuts=CUTS)
def test_of_a_blocked_value_nothing_leaves(
    api: str, *, type_: str, around: tuple[str, str], text_cuts: list[int], cuts: list[int]
) -> None:
    """Not one byte of it: what has left by then is what stood before."""
    before = f"{around[0]} \n"
    text = f"{before}{VALUES[type_]}\n {around[1]}"
    stream = APIS[api].stream(cut(text, text_cuts))
    result = streamed(judgement(BLOCK, APIS[api].form), cut_bytes(stream, cuts))
    assert result.error is not None
    assert result.error.message.endswith(f"It contains: {type_}.")
    said = APIS[api].said(result.body + (b"]" if api == "gemini array" and result.body else b""))
    assert before.startswith(said)


@api
@settings(max_examples=60, deadline=None)
@given(text=WORDS, text_cuts=CUTS, cuts=CUTS)
def test_what_is_clean_leaves_byte_for_byte(
    api: str, *, text: str, text_cuts: list[int], cuts: list[int]
) -> None:
    """In order, and all of it by the end."""
    stream = APIS[api].stream(cut(text, text_cuts))
    for policy in (REDACT, BLOCK, OBSERVE):
        result = streamed(judgement(policy, APIS[api].form), cut_bytes(stream, cuts))
        assert result.error is None
        assert result.body == stream


@api
@settings(max_examples=30, deadline=None)
@given(type_=st.sampled_from(sorted(VALUES)), text_cuts=CUTS, cuts=CUTS)
def test_what_is_observed_is_found_and_not_touched(
    api: str, *, type_: str, text_cuts: list[int], cuts: list[int]
) -> None:
    """Each chunk leaves when it comes; the finding is reported all the same."""
    stream = APIS[api].stream(cut(f"a {VALUES[type_]} b", text_cuts))
    judge = judgement(OBSERVE, APIS[api].form)
    chunks = cut_bytes(stream, cuts)
    result = streamed(judge, chunks)
    assert result.error is None
    assert result.body == stream
    found = {finding.type for one in judge.results() for finding in one.findings}
    assert type_ in found
    assert {one.verdict.value for one in judge.results()} <= {"pass", "flag"}
