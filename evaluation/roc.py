"""The picture of what each detector finds at which price."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.injection import OWN, InjectionResults, is_benign, is_direct_attack
from sidecar.domain.guardrail_settings import Threshold


def roc_points(
    scores: Sequence[float], attacks: Sequence[bool]
) -> tuple[list[float], list[float]]:
    """Return false-positive rates and recalls, from the strictest threshold to the laxest."""
    pairs = sorted(zip(scores, attacks, strict=True), reverse=True)
    positives = sum(attacks) or 1
    negatives = len(attacks) - sum(attacks) or 1
    rates, recalls = [0.0], [0.0]
    found = wrong = 0
    for number, (score, is_attack) in enumerate(pairs, start=1):
        found += is_attack
        wrong += not is_attack
        if number == len(pairs) or pairs[number][0] != score:
            rates.append(wrong / negatives)
            recalls.append(found / positives)
    return rates, recalls


def draw_roc(results: InjectionResults, path: Path) -> None:
    """Draw the curves of all detectors, and Egret's thresholds on its own."""
    import matplotlib as mpl  # noqa: PLC0415 - takes a second, and a screen unless told otherwise

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "egret"  # the same picture for the same figures
    from matplotlib import pyplot as plt  # noqa: PLC0415

    chosen = [
        number for number, sample in enumerate(results.samples)
        if is_benign(sample) or is_direct_attack(sample)
    ]  # fmt: skip
    attacks = [results.samples[number].is_attack for number in chosen]
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, verdicts in results.verdicts.items():
        medium = name == f"{OWN} {Threshold.MEDIUM.value}"
        if medium or not name.startswith(OWN):
            rates, recalls = roc_points([verdicts.scores[number] for number in chosen], attacks)
            axes.step(rates, recalls, where="post", label=OWN if medium else name)
        if name.startswith(OWN):
            found = [verdicts.found[number] for number in chosen]
            right = sum(one for one, is_attack in zip(found, attacks, strict=True) if is_attack)
            wrong = sum(found) - right
            at = wrong / (len(attacks) - sum(attacks)), right / sum(attacks)
            axes.plot(*at, "o", color="C0")
            axes.annotate(
                name.removeprefix(f"{OWN} "), at, xytext=(6, -10), textcoords="offset points"
            )
    axes.set(
        xlabel="false-positive rate on held-out harmless texts",
        ylabel="recall of held-out overrides and jailbreaks",
        xscale="symlog", xlim=(0, 1), ylim=(0, 1.01),
    )  # fmt: skip
    axes.set_xscale("symlog", linthresh=1e-3)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
