from __future__ import annotations

from sidecar.policy.compilation import expression_faults
from sidecar.policy.parse import PlacedExpression, PolicyFault

# 20 s of CPU time and more on a fast machine, see what the matching engine makes of it.
EXPLODING = r"\pL{1,200}\pN{1,200}\pL{1,200}"


def placed(*regexes: str) -> list[PlacedExpression]:
    return [PlacedExpression(regex, line, 1, f"[{line}]") for line, regex in enumerate(regexes, 1)]


async def test_an_expression_that_takes_too_long_to_compile_is_named_and_the_rest_checked() -> (
    None
):
    """It costs its process, not the command; those before and behind it are checked as well."""
    told: list[int] = []

    faults = await expression_faults(
        placed("fine", EXPLODING, "(?=x)", "PRJ-[0-9]"), advance=told.append
    )

    assert faults == (
        PolicyFault(
            2,
            1,
            "[2]",
            "takes more than 3 s of CPU time or 2 GiB of memory to compile",
            "make its repeats shorter: bounded ones in each other, or of wide classes, multiply",
        ),
        PolicyFault(3, 1, "[3]", "look-around is not supported: RE2 runs in linear time"),
    )
    assert told == [1, 3, 4]


async def test_what_is_fine_has_no_faults() -> None:
    """And no expressions need no process."""
    assert await expression_faults(placed("fine"), advance=lambda _: None) == ()
    assert await expression_faults([], advance=lambda _: None) == ()
