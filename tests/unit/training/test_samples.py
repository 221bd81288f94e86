from __future__ import annotations

from training.samples import fold_of


def test_variants_of_a_generator_are_left_out_apart() -> None:
    folds = {fold_of(f"people-override-en-{variant}") for variant in "abcdef"}
    assert len(folds) == 6


def test_a_family_without_variants_has_a_fold_by_its_whole_name() -> None:
    names = [f"corpus-{number}" for number in range(200)]
    assert len({*map(fold_of, names)}) > 20
