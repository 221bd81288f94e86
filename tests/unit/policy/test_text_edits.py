from __future__ import annotations

import pytest

from sidecar.domain.policy import Mode
from sidecar.policy.parse import parse_documents
from sidecar.policy.text import NoSuchGuardrailError, NotEditableError, with_mode

BLOCK = (
    "name: p\nguardrails:\n  - name: a  # one\n    type: pii{}\n  - name: b\n    type: secrets\n"
)
FLOW = "name: p\nguardrails: [{{name: a, type: pii{}}}, {{name: b, type: secrets}}]\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            BLOCK.format("\n    mode: shadow  # yet"),
            BLOCK.format("\n    mode: enforce  # yet"),
            id="a word",
        ),
        pytest.param(
            BLOCK.format("\n    mode: 'shadow'"), BLOCK.format("\n    mode: enforce"), id="quoted"
        ),
        pytest.param(FLOW.format(", mode: shadow"), FLOW.format(", mode: enforce"), id="flow"),
        pytest.param(BLOCK.format(""), BLOCK.format(""), id="the default"),
    ],
)
def test_a_guardrail_is_promoted_by_one_word(before: str, after: str) -> None:
    """Comments, order and spelling of all else stay."""
    document = parse_documents(before)[0]
    if before == after:
        after = after.replace("    type: pii", "    mode: enforce\n    type: pii")

    edited = with_mode(document, "a", mode=Mode.ENFORCE)

    assert edited.text == after
    assert [one.mode for one in edited.policy.guardrails] == [Mode.ENFORCE] * 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            BLOCK.format(""),
            BLOCK.format("").replace("    type: s", "    mode: shadow\n    type: s"),
        ),
        (FLOW.format(""), FLOW.format("").replace("type: s", "mode: shadow, type: s")),
        (
            "guardrails:\n- type: secrets\n  name: b\nname: é\n".replace("é", "p"),
            "guardrails:\n- mode: shadow\n  type: secrets\n  name: b\nname: p\n",
        ),
    ],
    ids=["block", "flow", "type first"],
)
def test_a_guardrail_without_a_mode_is_given_one(before: str, after: str) -> None:
    """Before its type, as the text around it is written."""
    edited = with_mode(parse_documents(before)[0], "b", mode=Mode.SHADOW)

    assert edited.text == after


def test_a_text_that_leaves_no_place_is_not_changed() -> None:
    """A mode written over an escape cannot be told from other text: nothing is guessed."""
    text = 'name: p\nguardrails: [{name: a, type: pii, mode: "sh\\u0061dow"}]\n'

    with pytest.raises(NotEditableError):
        with_mode(parse_documents(text)[0], "a", mode=Mode.ENFORCE)


def test_a_guardrail_that_is_not_there_is_told() -> None:
    """By another name than that of a text that cannot be edited."""
    with pytest.raises(NoSuchGuardrailError):
        with_mode(parse_documents(FLOW.format(""))[0], "c", mode=Mode.ENFORCE)
