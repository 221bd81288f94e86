from __future__ import annotations

from egret_tools.conformance.modes import JUDGED_MODES, MODES, whole_mode


def test_a_whole_mode_names_each_field() -> None:
    """Envoy's own default for headers is SEND."""
    assert whole_mode({})["response_header_mode"] == "SKIP"
    assert set(whole_mode({})) == set(whole_mode(MODES["duplex-answer"].fields))


def test_a_streamed_body_comes_with_its_trailers() -> None:
    """Envoy rejects a filter without them, also that of another processor."""
    fields = [mode.fields for mode in MODES.values()]
    fields += [one for mode in MODES.values() for one in (mode.behind, mode.before) if one]
    for one in fields:
        for side in ("request", "response"):
            if one.get(f"{side}_body_mode") == "FULL_DUPLEX_STREAMED":
                assert one[f"{side}_trailer_mode"] == "SEND"


def test_a_request_can_be_judged_in_each_mode_but_two() -> None:
    """And in one that only has a larger buffer, for cases of its own."""
    assert set(MODES) - set(JUDGED_MODES) == {"streamed", "partial", "buffered-large"}
