"""Before a request's body is asked for: does a verdict take it, and could anybody read it?"""

from __future__ import annotations

import enum
from typing import Final, assert_never

from sidecar.apis.response_structure import has_model_text
from sidecar.checks.admission import Admitted
from sidecar.domain.limits import Limit, Measure
from sidecar.domain.subject import Route, UnknownRoute, Unreadable, UnscannedReason

_OF_HEADERS: Final = frozenset({Measure.REQUESTS, Measure.CONCURRENT})
_UNKNOWN_ROUTE: Final = Unreadable(UnscannedReason.UNKNOWN_ROUTE)
_UNKNOWN_SHAPE: Final = Unreadable(UnscannedReason.UNKNOWN_SHAPE)


class BodyNeed(enum.Enum):
    """Whether a verdict takes the body."""

    WHOLE = "whole"
    NONE = "none"


def body_need(
    route: Route | UnknownRoute, admitted: Admitted, *, has_body: bool, names_route: bool
) -> BodyNeed | Unreadable:
    """Tell what of the body is needed; *names_route* is whether the model in it does.

    `Unreadable` says of a request, before its body is seen, that nobody can read it.
    """
    match route:
        case UnknownRoute():
            return _UNKNOWN_ROUTE
        case Route(has_body=False) if has_body:
            # A GET with a body: what a provider makes of it, nobody knows.
            return _UNKNOWN_SHAPE
        case Route(has_body=True) if _is_needed(route, admitted, names_route=names_route):
            return BodyNeed.WHOLE
        case Route():
            return BodyNeed.NONE
        case _:
            assert_never(route)


def judges_answer(route: Route | UnknownRoute, admitted: Admitted) -> bool:
    """Tell whether answers to this route must pass here, whatever the model will be.

    They then need the request's body too: with it Envoy refuses, where it may not follow our
    change of mode, and without it the answer would pass unjudged.
    """
    return has_model_text(route) and admitted.policy.answers.needs_answer


def _is_needed(route: Route, admitted: Admitted, *, names_route: bool) -> bool:
    is_wanted = admitted.needs_body or _limits_need_it(admitted.limits)
    return is_wanted or (names_route and not route.model) or judges_answer(route, admitted)


def _limits_need_it(limits: tuple[Limit, ...]) -> bool:
    return any(limit.measure not in _OF_HEADERS or limit.models is not None for limit in limits)
