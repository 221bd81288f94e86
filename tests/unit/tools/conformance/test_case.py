from __future__ import annotations

from pathlib import Path

import pytest
from egret_tools.cli.conformance_session import choose
from egret_tools.conformance.case import (
    Bounds,
    CaseError,
    Framing,
    Group,
    Protocol,
    load_cases,
    own_files,
)
from egret_tools.conformance.modes import JUDGED_MODES

ONE = "cases: [{name: n, why: w%s}]"


def written(tmp_path: Path, text: str) -> Path:
    """Return a file of cases."""
    file = tmp_path / "cases.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_case_says_only_what_is_special(tmp_path: Path) -> None:
    """The rest is the ordinary case: it passes unchanged, in every mode, over both protocols."""
    (case,) = load_cases(written(tmp_path, ONE % "")).cases
    assert (case.modes, case.protocols) == (JUDGED_MODES, tuple(Protocol))
    assert (case.request.method, case.request.framing) == ("POST", Framing.LENGTH)
    assert case.expect.upstream.requests == Bounds(min=1, max=1)
    assert case.expect.answer.status == (200,)


def test_a_number_of_a_counter_is_exact(tmp_path: Path) -> None:
    """Bounds are written out."""
    text = ", expect: {counters: {a: 2, b: {max: 3}, c: {min: 1}}, answer: {status: [502, 503]}}"
    (case,) = load_cases(written(tmp_path, ONE % text)).cases
    assert case.expect.counters == {
        "a": Bounds(min=2, max=2), "b": Bounds(max=3), "c": Bounds(min=1),
    }  # fmt: skip
    assert case.expect.answer.status == (502, 503)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: [", "cannot read"),
        (ONE % ", mode: x", "cases.0.mode: Extra inputs are not permitted"),
        (ONE % ", modes: [buffering]", "no such mode: buffering; there are headers, "),
        (ONE % ", request: {body: a, body_bytes: 2}", "give body or body_bytes, not both"),
        (ONE % ', expect: {answer: {headers: {a: "["}}}', "is no regular expression"),
        (ONE % ", expect: {answer: {body: hello}}", "must be same or any"),
        (ONE % ", expect: {counters: [a]}", "cases.0.expect.counters: Input should be"),
        ("[]", "Input should be"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    """A misspelt expectation must not be one that always holds."""
    with pytest.raises(CaseError, match=r"cases\.yaml") as caught:
        load_cases(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    """By its name."""
    with pytest.raises(CaseError, match="missing"):
        load_cases(tmp_path / "missing.yaml")


def test_our_own_files_are_cases_with_names_of_their_own() -> None:
    """For any server, and for Egret alone."""
    files = [load_cases(path) for path in own_files()]
    names = [case.name for file in files for case in file.cases]
    assert len(set(names)) == len(names) > 30
    assert {file.group for file in files} == set(Group)


def test_only_the_cases_that_are_asked_for_run(tmp_path: Path) -> None:
    """By name and by mode; those of Egret's policy only with a key, further files always."""
    asked = choose(files=(), modes=("duplex",), names=("no key", "streamed"), with_egret=True)
    assert [(run.case.name, run.mode, run.protocol) for run in asked] == [
        ("a streamed answer", "duplex", Protocol.HTTP1),
        ("a streamed answer", "duplex", Protocol.HTTP2),
        ("no key", "duplex", Protocol.HTTP1),
        ("no key", "duplex", Protocol.HTTP2),
    ]
    mine = written(tmp_path, ONE % ", modes: [duplex], protocols: [http2]")
    further = choose(files=[mine], modes=(), names=("n",), with_egret=False)
    assert [run.mode for run in further if run.case.name == "n"] == ["duplex"]
    assert all(run.case.name != "no key" for run in further)


@pytest.mark.parametrize(
    ("modes", "names", "said"),
    [
        (("duplexx",), (), "no such mode: duplexx; there are headers, "),
        ((), ("nothing is called so",), "no case has such a name and such a mode"),
    ],
)
def test_a_choice_of_nothing_is_said(
    modes: tuple[str, ...], names: tuple[str, ...], said: str
) -> None:
    """A run of no cases would conform."""
    with pytest.raises(ValueError, match=said):
        choose(files=(), modes=modes, names=names, with_egret=False)
