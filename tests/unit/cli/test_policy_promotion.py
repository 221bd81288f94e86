from __future__ import annotations

from sidecar.cli.policy_versions import shadow_verdicts


def counted(guardrail: str, action: str, mode: str, verdict: str) -> str:
    labels = f'action="{action}",guardrail="{guardrail}",mode="{mode}",verdict="{verdict}"'
    return f"egret_guardrail_verdicts_total{{{labels}}}"


PAGE = f"""\
# TYPE egret_guardrail_verdicts counter
{counted("a", "block", "shadow", "pass")} 7.0
{counted("a", "redact", "shadow", "pass")} 2.0
{counted("a", "block", "shadow", "block")} 3.0
{counted("a", "block", "enforce", "block")} 50.0
{counted("a.team", "redact", "shadow", "redact")} 1.0
{counted("a.other", "redact", "shadow", "redact")} 80.0
{counted("b", "block", "shadow", "block")} 60.0
# TYPE egret_overhead_seconds histogram
egret_overhead_seconds_count 9.0
"""


def test_what_a_guardrail_would_have_done_is_what_it_said_in_shadow() -> None:
    """Neither another guardrail's verdicts nor enforced ones; also beside a namesake."""
    assert shadow_verdicts(PAGE, "a", policy="team") == {"pass": 9, "block": 3, "redact": 1}
    assert shadow_verdicts(PAGE, "c", policy="team") == {}
