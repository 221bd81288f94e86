from __future__ import annotations

import pytest

from sidecar.policy.yaml_positions import YamlError, read_yaml, write_yaml


def test_every_value_and_key_has_its_line_and_column() -> None:
    """Counted from 1, in the whole text."""
    (document,) = read_yaml("name: p\nguardrails:\n  - {type: pii}\n")

    assert document.value == {"name": "p", "guardrails": [{"type": "pii"}]}
    assert document.values["guardrails", 0, "type"] == (3, 12)
    assert document.keys["guardrails", 0, "type"] == (3, 6)
    assert document.keys["name",] == (1, 1)


def test_the_texts_of_the_documents_joined_are_the_whole_text() -> None:
    """Comments between them included, so that an edit of one loses nothing."""
    text = "# first\nname: a\n---\n# second\nname: b\n"
    assert "".join(one.text for one in read_yaml(text)) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("off", False), ("~", None), ("12", 12), ("1.5", 1.5),
        ("2027-01-31", "2027-01-31"), ("017", 17), ("0x1f", "0x1f"), ("1:30", "1:30"),
    ],
)  # fmt: skip
def test_only_plain_scalars_get_a_type(text: str, value: object) -> None:
    """Days, hexadecimal and sexagesimal numbers stay text, for the field to judge."""
    (document,) = read_yaml(f"a: {text}")
    assert document.value == {"a": value}


@pytest.mark.parametrize(
    "text",
    [
        "a\x85b",
        "a\u2028b",
        "\N{OWL} flies",
        " - {a: 1}",
        "no",
        "1_000",
        "2027-01-31",
        "é\n\n",
        "",
        "'",
    ],
)
def test_a_text_comes_back_as_it_was_written(text: str) -> None:
    """Line ends of other systems and texts that look like something else included."""
    (document,) = read_yaml(write_yaml({"a": text, text: [text]}))
    assert document.value == {"a": text, text: [text]}


@pytest.mark.parametrize(
    ("text", "problem", "mark"),
    [
        ("a: &x 1\nb: *x", "anchors and aliases are not accepted", (1, 4)),
        ("a: 1\na: 2", "the key `a` is given twice", (2, 1)),
        (
            "a: !!python/name:os.system x",
            "the tag `tag:yaml.org,2002:python/name:os.system`",
            (1, 4),
        ),
        ("? [a]\n: 1", "a key must be a plain word", (1, 3)),
        ("<<: {a: 1}", "merge keys are not accepted", (1, 1)),
        ("[" * 61, "nested deeper than 60 levels", (1, 61)),
        ("a: \0", "not YAML", (1, 4)),
        ("é: 1\nö: \0", "not YAML", (2, 4)),
        ("a: 1\nb: \ud800", "not YAML", (2, 4)),
        ("a: 1\na: 2\n---\nb: [", "the key `a` is given twice", (2, 1)),
        ("a: !!map b", "the tag `tag:yaml.org,2002:map`", (1, 4)),
        ("a: !!str {}", "the tag `tag:yaml.org,2002:str`", (1, 4)),
    ],
)
def test_yaml_that_is_not_accepted_is_refused_at_its_place(
    text: str, problem: str, mark: tuple[int, int]
) -> None:
    """Before anything is multiplied, and without values of the text."""
    with pytest.raises(YamlError) as raised:
        read_yaml(text)
    assert raised.value.problem.startswith(problem)
    assert raised.value.mark == mark
