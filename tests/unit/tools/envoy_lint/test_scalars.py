"""Single values, as Envoy's JSON parser reads them."""

from __future__ import annotations

import pytest
from egret_tools.envoy_lint.schema import settle

CLUSTER = "envoy.config.cluster.v3.Cluster"


def read(**fields: object) -> tuple[object, list[str]]:
    """Return the values of a cluster, and the problems."""
    settled = settle({"name": "c", **fields}, CLUSTER)  # type: ignore[dict-item]
    assert isinstance(settled.value, dict)
    (name,) = fields
    return settled.value.get(name), [one.text for one in settled.problems]


@pytest.mark.parametrize(
    ("field", "written", "value"),
    [
        ("lb_policy", "least_request", "LEAST_REQUEST"),
        ("lb_policy", "Least_Request", "LEAST_REQUEST"),
        ("lb_policy", 2, "RING_HASH"),
        ("lb_policy", "3", "RANDOM"),
        ("connect_timeout", "0.25s", "0.250s"),
        ("connect_timeout", {"seconds": 1, "nanos": 500_000_000}, "1.500s"),
        ("max_requests_per_connection", "7", 7),
        ("max_requests_per_connection", 7.0, 7),
        ("max_requests_per_connection", {"value": 7}, 7),
        ("respect_dns_ttl", "true", True),
        ("alt_stat_name", 1.5, "1.5"),
        ("health_checks", None, []),
    ],
)
def test_a_value_is_taken_in_every_form_that_envoy_takes(
    field: str, written: object, value: object
) -> None:
    """Enums in any case, numbers as text, wrappers and durations field by field."""
    assert read(**{field: written}) == (value, [])


@pytest.mark.parametrize(
    ("field", "written", "words"),
    [
        ("lb_policy", "FASTEST", "`FASTEST` is none of ROUND_ROBIN, LEAST_REQUEST, "),
        ("lb_policy", 99, "`lb_policy` is 99, which is none of its values"),
        ("connect_timeout", "250ms", "`250ms` is not a duration: seconds with an `s`"),
        ("connect_timeout", "0s", "`connect_timeout` is 0s, and must be more than 0s"),
        ("max_requests_per_connection", 1 << 33, "`8589934592` is not between 0 and "),
        ("max_requests_per_connection", "some", "`some` is not a number"),
        ("max_requests_per_connection", 0.5, "`0.5` is not a whole number"),
        ("respect_dns_ttl", "on", "`on` is neither true nor false"),
        ("alt_stat_name", 7, "`7` is not text: put it in quotes"),
        ("alt_stat_name", [7], "a list stands where Envoy has a single value"),
        ("metadata", "x", "`x` stands where Envoy has a mapping"),
    ],
)
def test_a_value_that_envoy_refuses_is_described(field: str, written: object, words: str) -> None:
    """By the value and by what Envoy wants instead."""
    _, (problem,) = read(**{field: written})
    assert problem.startswith(words)


def test_a_value_that_may_be_a_secret_is_not_shown() -> None:
    """Reports go to CI logs and code hosts."""
    cluster = {"name": "c", "alt_stat_name": ["x"], "metadata": "y" * 100}
    options = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "generic_secret": {"secret": {"inline_string": 4711, "inlineBytes": "4711!"}},
    }
    texts = [one.text for one in settle(cluster, CLUSTER).problems]  # type: ignore[arg-type]
    assert "the value stands where Envoy has a mapping" in texts
    secret = settle({"name": 1, **options}, options["@type"].rpartition("/")[2])  # type: ignore[attr-defined, dict-item]
    texts = [one.text for one in secret.problems]
    assert not any("4711" in text for text in texts)
    assert "the value is not text: put it in quotes" in texts
