"""Compares the usage records with the answers of the provider, request by request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row of `usage`, as far as it is compared."""

    request_id: str
    provider_request_id: str | None
    input_tokens: int
    output_tokens: int
    is_estimated: bool
    ended: str


@dataclass(frozen=True, slots=True)
class ProducedTokens:
    """One request as the provider counted it."""

    provider_request_id: str
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figures and the faults, which are none in a good run."""

    figures: Mapping[str, int]
    faults: tuple[str, ...]


def compare(
    recorded: Sequence[Recorded],
    produced: Sequence[ProducedTokens],
    *,
    answered: Iterable[str],
) -> Verdict:
    """Compare; *answered* are the ids of requests that clients got a provider's answer to.

    Every request that was answered is recorded, and none twice. A record that is no estimate
    equals the answer of the provider to the same request. An answer that no record
    names was broken off before its name was known; its record is an estimate too.
    """
    by_name = {one.provider_request_id: one for one in produced}
    named = Counter(one.provider_request_id for one in recorded if one.provider_request_id)
    exact = [one for one in recorded if not one.is_estimated]
    reported = [one for one in exact if one.ended != "refused"]
    missing = set(answered) - {one.request_id for one in recorded}
    twice = [name for name, count in named.items() if count > 1]
    unknown = [
        one
        for one in recorded
        if one.provider_request_id is not None and one.provider_request_id not in by_name
    ]
    differing = [one for one in exact if _differs(one, by_name)]
    nameless = [one for one in recorded if one.is_estimated and one.provider_request_id is None]
    unnamed = [one for one in produced if one.provider_request_id not in named]
    sums = _sums(reported, by_name)
    faults = [
        *_fault("requests were answered and not recorded", sorted(missing)),
        *_fault("requests are recorded twice", twice),
        *_fault("records name a request the provider never had", _ids(unknown)),
        *_fault("records differ from the answers of the provider", _ids(differing)),
    ]
    if len(unnamed) > len(nameless):
        faults.append(
            f"{len(unnamed)} requests that the provider had are not named by any record,"
            f" and only {len(nameless)} are declared estimated without a name"
        )
    faults += [
        f"the sums of {kind} tokens differ"
        for kind in ("input", "output")
        if sums[f"recorded_{kind}"] != sums[f"produced_{kind}"]
    ]
    figures = {
        "records": len(recorded),
        "produced": len(produced),
        "reported": len(reported),
        "estimated": len(recorded) - len(exact),
        **{f"ended_{end}": count for end, count in sorted(_ends(recorded).items())},
        "unnamed": len(unnamed),
        **sums,
        **_guessed(recorded, by_name),
    }
    return Verdict(figures, tuple(faults))


def _sums(reported: Sequence[Recorded], by_name: Mapping[str, ProducedTokens]) -> dict[str, int]:
    names = [one.provider_request_id or "" for one in reported]
    theirs = [by_name[name] for name in names if name in by_name]
    return {
        "recorded_input": sum(one.input_tokens for one in reported),
        "produced_input": sum(one.input_tokens for one in theirs),
        "recorded_output": sum(one.output_tokens for one in reported),
        "produced_output": sum(one.output_tokens for one in theirs),
    }


def _guessed(
    recorded: Sequence[Recorded], by_name: Mapping[str, ProducedTokens]
) -> dict[str, int]:
    """Return how good estimates are of answers that were not broken off."""
    whole = [one for one in recorded if one.is_estimated and one.ended == "completed"]
    theirs = [by_name[name] for one in whole if (name := one.provider_request_id or "") in by_name]
    return {
        "estimated_input": sum(one.input_tokens for one in whole),
        "estimated_input_produced": sum(one.input_tokens for one in theirs),
        "estimated_output": sum(one.output_tokens for one in whole),
        "estimated_output_produced": sum(one.output_tokens for one in theirs),
    }


def _differs(one: Recorded, by_name: Mapping[str, ProducedTokens]) -> bool:
    its = by_name.get(one.provider_request_id or "")
    wanted = (0, 0) if its is None else (its.input_tokens, its.output_tokens)
    return (one.input_tokens, one.output_tokens) != wanted


def _ends(recorded: Sequence[Recorded]) -> Counter[str]:
    return Counter(one.ended for one in recorded)


def _ids(records: Sequence[Recorded]) -> list[str]:
    return [one.request_id for one in records]


def _fault(text: str, ids: Sequence[str]) -> list[str]:
    if not ids:
        return []
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return [f"{len(ids)} {text}: {', '.join(ids[:SHOWN])}{more}"]
