from __future__ import annotations

from typing import Any

import pytest

from sidecar.apis.request_schema import output_bound


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_output_tokens": 5}, 5),
        ({"generationConfig": {"maxOutputTokens": 5}}, 5),
        ({"inferenceConfig": {"maxTokens": 5}}, 5),
        ({"inferenceConfig": {"max_new_tokens": 5}}, 5),
        ({"max_gen_len": 5}, 5),
        ({"max_tokens_to_sample": 5}, 5),
        ({"textGenerationConfig": {"maxTokenCount": 5}}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 50}, 50),
        ({"max_tokens": 5, "n": 3}, 15),
        ({"generationConfig": {"maxOutputTokens": 5, "candidateCount": 2}}, 10),
        ({"generation_config": {"maxOutputTokens": 5, "candidate_count": 2}}, 10),
        ({"max_tokens": 5, "n": 2, "prompt": ["a", [1, 2], "c"]}, 30),
        ({"max_tokens": 5, "prompt": [1, 2, 3]}, 5),
        ({"max_tokens": 5, "prompt": []}, 5),
        ({"max_tokens": 5, "n": 0}, 5),
        ({"max_tokens": 5, "n": "9"}, 45),
        ({"max_tokens": 5, "n": " 9.0 "}, 45),
        ({"max_tokens": 5, "n": "nan"}, 5),
        ({"max_tokens": 5, "n": "inf"}, 10_000_000),
        ({"max_tokens": 5, "n": "many"}, 5),
        ({"max_tokens": 5, "n": "0" * 40 + "9"}, 45),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 5.9}, 5),
        ({"max_tokens": -5}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "5"}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 10**30}, 10_000_000),
        ({"max_tokens": 1e308, "n": 10**30}, 10_000_000),
        ({"generationConfig": [5]}, None),
        ({"max_tokens": 5, "fallbacks": [{"model": "a"}, {"model": "b", "max_tokens": 50}]}, 50),
        ({"max_tokens": 5, "fallbacks": "default"}, 5),
        ({"additionalModelRequestFields": {"max_tokens": 50}}, 50),
        ({"generationConfig": {"maxOutputTokens": "5"}}, 5),
        ({"generationConfig": {"maxOutputTokens": "5", "candidateCount": "2"}}, 10),
        ({"generation_config": {"max_output_tokens": "1e2"}}, 100),
        ({"generationConfig": {"maxOutputTokens": "5", "max_output_tokens": 7}}, 7),
        ({"generationConfig": {"maxOutputTokens": "9" * 40}}, 10_000_000),
        ({"generationConfig": {"maxOutputTokens": "-5"}}, None),
        ({"generationConfig": {"maxOutputTokens": "many"}}, None),
        ({"generationConfig": {"maxOutputTokens": [5]}}, None),
    ],
    ids=repr,
)
def test_the_bound_is_the_largest_that_any_field_sets(
    fields: dict[str, Any], bound: int | None
) -> None:
    """For all choices together; what is no bound counts as none, absurd ones stay numbers."""
    assert output_bound(fields)[0] == bound


@pytest.mark.parametrize(
    ("fields", "choices"),
    [({}, 1), ({"n": 8}, 8), ({"generationConfig": {"candidate_count": 4}}, 4), ({"n": None}, 1)],
    ids=repr,
)
def test_choices_are_counted_without_a_bound(fields: dict[str, Any], choices: int) -> None:
    """Each of them has the tokens that are reserved for a request without a bound."""
    assert output_bound(fields) == (None, choices, 0)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": "5"}, (None, 1, 5)),
        ({"max_completion_tokens": "100_000"}, (None, 1, 100_000)),
        ({"max_output_tokens": " 1e5 "}, (None, 1, 100_000)),
        ({"maxOutputTokens": "100000.0"}, (None, 1, 100_000)),
        ({"max_tokens": "0" * 40 + "100000"}, (None, 1, 100_000)),
        ({"max_tokens": " " * 40 + "100000"}, (None, 1, 100_000)),
        ({"max_tokens": "100000", "n": "3"}, (None, 3, 300_000)),
        ({"max_tokens": 9, "max_completion_tokens": "100000"}, (100_000, 1, 100_000)),
        ({"max_tokens": 9, "max_completion_tokens": "5"}, (9, 1, 5)),
        ({"max_tokens": "inf", "n": 9}, (None, 9, 10_000_000)),
        ({"max_tokens": "-5"}, (None, 1, 0)),
        ({"max_tokens": "many"}, (None, 1, 0)),
        ({"max_tokens": True}, (None, 1, 0)),
    ],
    ids=repr,
)
def test_a_bound_in_a_text_makes_a_bound_larger_and_never_smaller(
    fields: dict[str, Any], expected: tuple[int | None, int, int]
) -> None:
    """One server for OpenAI's API reads it as a number, another one ignores it."""
    assert output_bound(fields) == expected
