"""The forms an effective policy takes, by which of its guardrails hold for a request.

Each is built when it is first needed and kept. A policy whose guardrails are all for every
request has no forms, and costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from sidecar.domain.policy import Guardrail
from sidecar.domain.scope import Circumstances
from sidecar.domain.subject import Operation
from sidecar.guardrails.applicability import Standing, holds_for_model, standing

MAX_FORMS: Final = 256
"""Forms that are kept; a client chooses route and model, and so among the forms."""

Form = TypeVar("Form")


class RequestForms(Generic[Form]):
    """By what the headers tell: the route, the key, and the time."""

    def __init__(
        self,
        guardrails: tuple[Guardrail, ...],
        build: Callable[[tuple[Guardrail, ...], tuple[str, ...]], Form],
    ) -> None:
        """*build* takes the guardrails that hold, and the names of those exempted from."""
        self._guardrails = guardrails
        self._build = build
        self._scoped = tuple(one for one in guardrails if one.scope.depends_on_headers)
        self._is_by_route = not any(one.scope.depends_on_key for one in guardrails)
        self._by_route: dict[Operation | None, Form] = {}
        self._forms: dict[tuple[Standing, ...], Form] = {}

    def __call__(self, circumstances: Circumstances) -> Form:
        """Return the form for *circumstances*."""
        if not self._is_by_route:
            return self._form(circumstances)
        known = self._by_route.get(circumstances.operation)
        if known is None:
            known = self._by_route[circumstances.operation] = self._form(circumstances)
        return known

    def _form(self, circumstances: Circumstances) -> Form:
        standings = tuple(standing(one, circumstances) for one in self._scoped)
        known = self._forms.get(standings)
        if known is None:
            known = _kept(self._forms, standings, self._built(standings))
        return known

    def _built(self, standings: tuple[Standing, ...]) -> Form:
        stands = {id(one): how for one, how in zip(self._scoped, standings, strict=True)}
        hold = (
            one
            for one in self._guardrails
            if stands.get(id(one), Standing.HOLDS) is Standing.HOLDS
        )
        exempt = (one.name for one in self._scoped if stands[id(one)] is Standing.EXEMPT)
        return self._build(tuple(hold), tuple(dict.fromkeys(exempt)))


class ModelForms(Generic[Form]):
    """By the model that a request is for."""

    def __init__(
        self, guardrails: tuple[Guardrail, ...], build: Callable[[tuple[Guardrail, ...]], Form]
    ) -> None:
        self._guardrails = guardrails
        self._build = build
        self._scoped = tuple(one for one in guardrails if one.scope.models is not None)
        self._forms: dict[tuple[bool, ...], Form] = {}

    def __call__(self, model: str | None) -> Form:
        """Return the form for *model*, None where the request names none."""
        holding = tuple(holds_for_model(one, model) for one in self._scoped)
        known = self._forms.get(holding)
        if known is None:
            known = _kept(self._forms, holding, self._build(self._hold(holding)))
        return known

    def _hold(self, holding: Iterable[bool]) -> tuple[Guardrail, ...]:
        out = {id(one) for one, holds in zip(self._scoped, holding, strict=True) if not holds}
        return tuple(one for one in self._guardrails if id(one) not in out)


_Key = TypeVar("_Key")


def _kept(forms: dict[_Key, Form], key: _Key, form: Form) -> Form:
    if len(forms) >= MAX_FORMS:
        forms.clear()
    forms[key] = form
    return form
