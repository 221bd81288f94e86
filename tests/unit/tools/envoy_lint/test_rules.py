from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from egret_tools.devstack.envoy_config import (
    EnvoyParameters,
    Provider,
    SelfHosted,
    render_envoy_config,
)
from egret_tools.envoy_lint.lint import lint
from egret_tools.envoy_lint.rules import CONFIG_RULES
from egret_tools.envoy_lint.rules.workers import MIN_OUTBOUND_FRAMES

from sidecar.server.http2_streams import CONNECTION_WINDOW
from tests.support.envoy_forms import FORMS, INLINE_KEY, RIGHT
from tests.support.envoy_mistakes import (
    MISTAKES,
    OLDER_MISTAKES,
    with_processor_at_provider,
    with_replies_of_its_own,
)
from tests.support.envoy_routes import (
    by_choice,
    by_cluster_header,
    chosen_by_header,
    in_an_aggregate,
    open_by_header,
    with_a_share_by_header,
    with_copies_by_header,
    with_copies_in_the_clear,
    with_providers_by_policy,
)
from tests.support.own_envoy import Mistake, for_version, own_text, with_mistake
from tests.support.ways_around_egret import (
    FORGED,
    TCP,
    UNGUARDED,
    off_by_a_mode,
    off_in_a_matcher,
    with_a_tcp_listener,
    with_an_open_listener,
)


def found(text: str) -> set[str]:
    """Return the ids of the rules that *text* breaks."""
    return {finding.rule.id for finding in lint("envoy.yaml", text).findings}


def test_our_own_configuration_breaks_no_rule() -> None:
    """What we ship is what we ask for."""
    assert found(own_text()) == set()


def test_every_rule_has_its_mistake() -> None:
    """A rule that nothing breaks is no rule."""
    assert MISTAKES.keys().isdisjoint(OLDER_MISTAKES)
    assert {*MISTAKES, *OLDER_MISTAKES} == {rule.id for rule in CONFIG_RULES}


OF_A_VERSION = {36: {"EGR134", "EGR135"}, 38: {"EGR135"}, 39: {"EGR135"}, 40: set[str]()}
"""Found in the configuration for this version, as it is."""


@pytest.mark.parametrize("minor", OF_A_VERSION)
def test_the_configuration_for_an_older_envoy_has_only_that_version_against_it(minor: int) -> None:
    """Nothing in it is too new, and each other finding would be a mistake of ours."""
    assert found(for_version(minor)) == OF_A_VERSION[minor]


@pytest.mark.parametrize("rule", OLDER_MISTAKES)
def test_a_mistake_that_comes_with_another_breaks_its_rule(rule: str) -> None:
    """Beside the rules that the other one breaks, and those on the version."""
    minor, mistake, beside = OLDER_MISTAKES[rule]
    assert found(for_version(minor, mistake)) == {rule, *beside, *OF_A_VERSION[minor]}


@pytest.mark.parametrize(
    ("rule", "minor"), [("EGR134", 37), ("EGR135", 40), ("EGR524", 39), ("EGR525", 40)]
)
def test_a_fault_of_a_version_is_not_found_in_the_next(rule: str, minor: int) -> None:
    """From the version on that has the fix."""
    _, mistake, _ = OLDER_MISTAKES[rule]
    assert rule not in found(for_version(minor, mistake))


def test_a_fault_of_a_version_is_not_found_where_the_version_is_unknown() -> None:
    """It would be noise for each reader whose Envoy has the fix."""
    for rule in ("EGR524", "EGR525"):
        _, mistake, _ = OLDER_MISTAKES[rule]
        assert mistake is not None
        assert rule not in found(with_mistake(mistake))


def test_a_processor_at_a_providers_cluster_is_one_after_egret() -> None:
    """Also without a body mode: its answer to the headers may replace the body."""
    assert found(with_mistake(with_processor_at_provider)) == {"EGR526"}


def test_a_route_among_the_actions_of_a_matcher_is_a_route() -> None:
    """Envoy takes `matcher` in place of `routes`."""
    assert found(with_mistake(off_in_a_matcher)) == {"EGR123"}


@pytest.mark.parametrize("mistake", UNGUARDED)
def test_an_override_is_found_wherever_envoy_takes_it(mistake: Mistake) -> None:
    """In the whole route configuration, a weighted cluster, a wrapper, under any name."""
    assert found(with_mistake(mistake)) == {"EGR123"}


def test_a_mode_of_a_route_is_held_to_the_rules_on_the_filters_own() -> None:
    """An override may take away the gate, or Egret's metadata, on that route alone."""
    assert found(with_mistake(off_by_a_mode)) == {"EGR104", "EGR105", "EGR109", "EGR125"}


@pytest.mark.parametrize("form", FORGED)
def test_egrets_metadata_is_written_by_egret_alone(form: str) -> None:
    """Before and after Egret, from a header, a body or the configuration, on a route."""
    beside = {"lua": {"EGR503"}, "upstream": {"EGR526"}}.get(form, set())
    assert found(with_mistake(FORGED[form])) == {"EGR531", *beside}


def test_filters_may_write_to_other_metadata() -> None:
    """Only Egret's namespace is its own."""
    text = with_mistake(MISTAKES["EGR531"])
    assert found(
        text.replace("metadata_namespace: egret\n", "metadata_namespace: envoy.lb\n")
    ) == (set())


@pytest.mark.parametrize("mistake", [with_a_share_by_header, with_copies_by_header])
def test_a_client_chooses_no_cluster_of_a_share_or_of_copies(mistake: Mistake) -> None:
    """Both take the name of a cluster from a header as well."""
    assert found(with_mistake(mistake)) == {"EGR417"}


REPLACED = {"header": {"key": "x-cluster", "value": "openai"}}


@pytest.mark.parametrize(
    ("early", "is_found"),
    [
        ({"remove": "x-cluster"}, False),
        ({"remove": "x-other"}, True),
        ({"remove_on_match": {"key_matcher": {"prefix": "x-clu"}}}, False),
        ({"append": {"append_action": "OVERWRITE_IF_EXISTS", **REPLACED}}, False),
        ({"append": {"append_action": "ADD_IF_ABSENT", **REPLACED}}, True),
        ({"append": REPLACED}, True),
        ({"append": {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                     "header": {"key": "x-cluster", "value": "%REQ(x-mine)%"}}}, True),
    ],
)  # fmt: skip
def test_a_header_that_no_client_can_send_may_name_the_cluster(
    early: dict[str, Any], *, is_found: bool
) -> None:
    """Removed or replaced before Envoy chooses the first route."""
    assert found(with_mistake(by_cluster_header(early))) == ({"EGR417"} if is_found else set())


def test_the_header_that_only_egret_writes_may_name_the_cluster() -> None:
    """Its removal from a client's request is a rule of its own."""
    assert found(with_mistake(by_cluster_header(name="x-egret-model"))) == set()


def test_a_listener_without_egret_is_found_by_a_share_of_its_requests() -> None:
    """A route may name its clusters in several ways."""
    assert found(with_mistake(with_an_open_listener)) == {"EGR502"}


def test_a_listener_without_egret_is_found_where_a_header_chooses_the_cluster() -> None:
    """It may be any provider's."""
    assert found(with_mistake(open_by_header)) == {"EGR417", "EGR502"}


@pytest.mark.parametrize("rule", ["EGR301", "EGR302", "EGR306"])
def test_a_provider_is_judged_however_routes_reach_it(rule: str) -> None:
    """As a member of an aggregate, which has no connection itself, or by a header."""
    assert found(with_mistake(in_an_aggregate())) == set()
    assert found(with_mistake(in_an_aggregate(MISTAKES[rule]))) == {rule}
    assert found(with_mistake(chosen_by_header(MISTAKES[rule]))) == {rule}


@pytest.mark.parametrize("form", TCP)
def test_a_listener_of_tcp_that_leads_to_a_provider_is_one_without_egret(form: str) -> None:
    """No filter of HTTP sees its requests."""
    assert found(with_mistake(TCP[form])) == {"EGR502"}


@pytest.mark.parametrize(
    "mistake",
    [
        with_a_tcp_listener({"cluster": "admin"}),
        with_a_tcp_listener({"cluster": "openai"}, internal_listener={}),
    ],
    ids=["another cluster", "an internal listener"],
)
def test_a_listener_of_tcp_may_lead_elsewhere(mistake: Mistake) -> None:
    """Clients do not reach a provider by it."""
    assert found(with_mistake(mistake)) <= {"EGR535"}


def test_replies_that_egret_does_not_send_may_be_changed() -> None:
    """By the flag of Envoy's own failures; and a header of all changes no body."""
    assert found(with_mistake(with_replies_of_its_own)) == set()


def test_an_escaped_slash_may_pass_where_the_first_route_of_each_host_refuses_it() -> None:
    """AWS's clients escape that of an ARN; with another exception more would pass."""
    bedrock = Provider(host="bedrock-runtime.eu-central-1.amazonaws.com")
    servers = Provider(host="models.example")
    text = render_envoy_config(
        EnvoyParameters(
            worker_sockets=("/run/egret/w-0.sock",),
            sds_directory="/etc/egret/sds",
            bedrock=bedrock,
            self_hosted=SelfHosted(domain="models.example.com", servers=servers),
        )
    )
    assert "KEEP_UNCHANGED" in text
    assert "EGR506" not in found(text)
    arn = 'string_match: {safe_regex: {regex: "(/bedrock)?'
    for right, wrong in (
        ("[a-z-]+(%2[Ff]", ".+(%2[Ff]"),
        ("direct_response: {status: 400}", "route: {cluster: openai}"),
        (".*%(2[Ff]|5[Cc]).*", ".*%2[Ff].*"),
        (f"invert_match: true, {arn}", arn),
        ("KEEP_UNCHANGED", "UNESCAPE_AND_FORWARD"),
    ):
        assert right in text
        # One host is enough: the last one.
        start = text.rindex(right)
        assert "EGR506" in found(text[:start] + wrong + text[start + len(right) :])


def test_replies_of_all_but_a_failed_processor_are_egrets_as_well() -> None:
    """Ours are told apart by that detail; its opposite matches every refusal."""
    detail = "response.code_details.startsWith('ext_proc_error')"
    assert found(own_text().replace(detail, f"!{detail}")) == {"EGR530"}
    routes = "response.code_details == 'direct_response'"
    for wider in (f"!({routes})", f"true || {routes}", f"{routes} || true"):
        assert found(own_text().replace(routes, wider)) == {"EGR530"}


@pytest.mark.parametrize(
    ("rules", "is_found"),
    [
        ({"disallowed_headers": {"patterns": [{"exact": "cookie"}, {"prefix": "x-b3-"}]}}, False),
        ({"allowed_headers": {"patterns": [{"safe_regex": {"regex": ".*"}}]}}, False),
        ({"disallowed_headers": {"patterns": [{"suffix": "-encoding"}]}}, True),
        ({"disallowed_headers": {"patterns": [{"contains": "api-key"}]}}, True),
        ({"disallowed_headers": {"patterns": [{"safe_regex": {"regex": "auth.*"}}]}}, True),
    ],
)
def test_headers_that_egret_does_not_read_may_be_withheld(
    rules: dict[str, object], *, is_found: bool
) -> None:
    """Envoy then sends it fewer headers of a request."""

    def mistake(config: dict[str, Any]) -> None:
        for manager in config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]:
            for one in manager["typed_config"]["http_filters"]:
                if one["name"] == "envoy.filters.http.ext_proc":
                    one["typed_config"]["forward_rules"] = rules

    assert found(with_mistake(mistake)) == ({"EGR137"} if is_found else set())


def test_copies_of_requests_are_as_secret_as_requests() -> None:
    """The cluster that gets them needs TLS, and no credential."""
    assert found(with_mistake(with_copies_in_the_clear)) == {"EGR301"}


def test_routes_by_a_policy_s_choice_break_no_rule_if_they_refuse_the_rest() -> None:
    """Each name of a choice is routed, refused, or excluded."""
    assert (
        found(with_mistake(by_choice())) == found(with_mistake(with_providers_by_policy)) == set()
    )


@pytest.mark.parametrize("form", FORMS)
def test_each_further_form_of_a_mistake_breaks_its_rule(form: str) -> None:
    """In other fields, filters and wrappers than those that Egret ships."""
    mistake, rules = FORMS[form]
    assert found(with_mistake(mistake)) == rules


@pytest.mark.parametrize("form", RIGHT)
def test_a_right_form_that_looks_like_a_mistake_breaks_no_rule(form: str) -> None:
    """A false alarm teaches readers to ignore the next one."""
    assert found(with_mistake(RIGHT[form])) == set()


def test_as_many_frames_may_wait_as_a_worker_lets_bytes_wait() -> None:
    """Its window is the only other bound of frames of one byte."""
    assert MIN_OUTBOUND_FRAMES == CONNECTION_WINDOW


def test_a_private_key_in_the_configuration_is_a_secret() -> None:
    """Of a client's certificate for a provider, too."""
    assert found(with_mistake(INLINE_KEY)) == {"EGR309"}


KNOWN_TRAPS: dict[str, tuple[str, ...]] = {
    "1 a stream that ends well without an answer lets its request pass": (
        "EGR101", "EGR113", "EGR124",
    ),
    "2 a body of another length keeps the old content-length": ("EGR127",),
    "3 a header's value in the wrong field is sent empty": (),
    "4 what becomes of a header that is there already is not asked for": (),
    "5 streams end in resets": ("EGR214",),
    "6 without its own span Envoy names a parent that is never exported": ("EGR112",),
    "7 an older Envoy does not know what is asked of it": (),
    "8 a whole body is one message, larger than gRPC takes": ("EGR129",),
    "9 a socket for several workers leaves some idle": ("EGR210",),
    "10 a dead worker looks least busy": ("EGR117",),
    "11 Envoy's own answers come as the provider's, out of turn": ("EGR107",),
    "12 the timeout is 200 ms, and where bodies are streamed there is none": ("EGR102", "EGR510"),
}  # fmt: skip
"""What Envoy does in ext_proc that nobody expects, with the rules that find a configuration of it.

Of the first a configuration causes what comes of it: requests that nobody has judged. The third
and the fourth are in what a server writes, where no configuration leads to them or away from them.
The seventh comes with its version (`OLDER_MISTAKES`).
"""
OF_A_SERVER = {
    "1": "test_envoy_lets_a_request_pass_when_the_stream_ends_well_without_an_answer",
    "3": "test_envoy_ignores_value_and_append_action_of_a_header",
    "4": "test_envoy_ignores_value_and_append_action_of_a_header",
}
"""Where those are shown on a live Envoy."""
FURTHER_TRAPS = {
    "a body that leaves before its verdict": "EGR105",
    "metadata that is dropped": "EGR109",
    "a full-duplex body without its trailers": "EGR106",
    "a retry where Envoy does not look for it": "EGR119",
    "headers that are kept without a word": "EGR110",
}
FOUND = [
    *((trap, rule) for trap, rules in KNOWN_TRAPS.items() for rule in rules),
    *FURTHER_TRAPS.items(),
]


@pytest.mark.parametrize(("trap", "rule"), FOUND, ids=[f"{trap}: {rule}" for trap, rule in FOUND])
def test_what_bites_in_ext_proc_is_found(trap: str, rule: str) -> None:
    """By a rule of its own, in a configuration that has nothing else wrong."""
    assert found(with_mistake(MISTAKES[rule])) == {rule}, trap


def test_each_of_the_twelve_traps_is_found_or_is_none_of_a_configuration() -> None:
    """What lint cannot see is shown by a test of the server."""
    numbers = [trap.split()[0] for trap in KNOWN_TRAPS]
    assert numbers == [str(number) for number in range(1, 13)]
    assert "EGR522" in OLDER_MISTAKES
    for number, rules in zip(numbers, KNOWN_TRAPS.values(), strict=True):
        assert rules or number in OF_A_SERVER or number == "7"
    shown = (Path(__file__).parents[3] / "e2e" / "test_traps.py").read_text()
    assert all(f"async def {name}(" in shown for name in OF_A_SERVER.values())


def test_the_table_has_more_than_forty_mistakes() -> None:
    """Each is found alone, by the test below; what we ship has none."""
    assert len(MISTAKES) > 40


@pytest.mark.parametrize("rule", MISTAKES)
def test_a_mistake_breaks_its_rule_and_no_other(rule: str) -> None:
    """One thing wrong is one thing said."""
    assert found(with_mistake(MISTAKES[rule])) == {rule}
