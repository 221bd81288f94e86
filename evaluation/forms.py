"""`python -m evaluation.forms`: families of models on texts whose source they never saw.

Each is trained on the same folds and gets its bars by the same rule, so that all let pass as many
harmless texts; the table has the attacks that each finds at `medium`. Texts are every third of
those under 1 KB, which the other families read as one piece.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.progress import track

from evaluation import held_out
from loadtest.results import new_console
from sidecar.guardrails.detectors.prompt_injection.model import BUCKETS, CONCEPT
from training.samples import FOLDS, read_samples

if TYPE_CHECKING:
    from training.folds import Corpus
    from training.occurrences import Array

FORMS: Final[Mapping[str, Callable[[str], object]]] = {
    "words and concepts": str.strip,
    "words alone": lambda term: not CONCEPT.search(term),
    "concepts alone": CONCEPT.search,
}
"""The shipped model, and parts of it."""

LONGEST: Final = BUCKETS[3]
EVERY: Final = 3
"""One text of so many is taken, since eight folds of seven families take long."""

FEATURES: Final = 1 << 18
"""Columns that runs of characters or words are hashed to."""

THOUSAND: Final = 1000
SEED: Final = 0


def main() -> None:
    """Train each family without each fold, and show the attacks that it finds."""
    argparse.ArgumentParser(prog="python -m evaluation.forms", description=__doc__).parse_args()
    # Here, since `--help` need not wait for packages that training alone requires.
    from training import folds  # noqa: PLC0415

    console = new_console()
    console.width = max(console.width, 300)
    short = [one for one in read_samples() if len(one.text.encode("utf-8", "replace")) < LONGEST]
    with console.status("terms …"):
        samples = short[::EVERY]
        corpus = folds.read_corpus(samples)
    columns: dict[str, tuple[held_out.Judgement, ...]] = {}
    for name, parts in _families(corpus):
        sums: dict[int, int] = {}
        for own in track(parts, name, total=FOLDS, console=console):
            sums |= own
        columns[name] = held_out.judged_unseen(samples, sums, folds.bars_of(samples, sums))
    held_out.grid(columns).show(console)


def _families(corpus: Corpus) -> Iterator[tuple[str, Iterator[Mapping[int, int]]]]:
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415 - as in `main`
    from sklearn.feature_extraction.text import HashingVectorizer  # noqa: PLC0415
    from sklearn.linear_model import SGDClassifier  # noqa: PLC0415
    from sklearn.neural_network import MLPClassifier  # noqa: PLC0415

    from training import folds  # noqa: PLC0415

    def hashed(analyzer: str, most: int) -> Any:
        vectorizer = HashingVectorizer(
            analyzer=analyzer, ngram_range=(1, most), n_features=FEATURES, alternate_sign=False,
            lowercase=False,
        )  # fmt: skip
        return vectorizer.transform([text.words.decode() for text in corpus.texts])

    def linear() -> Any:
        return SGDClassifier(loss="log_loss", alpha=1e-6, average=True, random_state=SEED)

    for name, form in FORMS.items():
        yield name, folds.unseen_sums(corpus, form)
    words = hashed("word", 3)
    yield "runs of words, linear", _unseen(corpus, words, linear)
    yield "runs of characters, linear", _unseen(corpus, hashed("char_wb", 5), linear)
    yield "embeddings of words and pairs", _unseen(
        corpus, words, lambda: MLPClassifier(
            (16,), activation="identity", batch_size=1024, max_iter=5, random_state=SEED
        ),
    )  # fmt: skip
    yield "boosted trees on counts of concepts", _unseen(
        corpus, _concepts(corpus), lambda: HistGradientBoostingClassifier(
            max_iter=300, max_leaf_nodes=31, random_state=SEED
        ),
    )  # fmt: skip


def _unseen(corpus: Corpus, features: Any, new: Callable[[], Any]) -> Iterator[Mapping[int, int]]:
    """Yield the scores of the texts of each fold, by a classifier that was trained without it."""
    import numpy as np  # noqa: PLC0415 - as in `main`

    from training.fit import shares  # noqa: PLC0415

    is_attack = np.array([text.sample.is_attack for text in corpus.texts])
    families = np.array([text.sample.family for text in corpus.texts])
    for fold in range(FOLDS):
        seen = corpus.folds != fold
        weights = shares(is_attack[seen], families[seen]) * seen.sum()
        classifier = new().fit(features[seen], is_attack[seen], sample_weight=weights)
        members = np.flatnonzero(~seen)
        odds = np.clip(classifier.predict_proba(features[members])[:, 1], 1e-9, 1 - 1e-9)
        scores = THOUSAND * (np.log(odds / (1 - odds)) + 21)  # a bar is above zero
        yield dict(zip(members.tolist(), scores.astype(int).tolist(), strict=True))


def _concepts(corpus: Corpus) -> Array:
    """Return how often each text has each concept."""
    import numpy as np  # noqa: PLC0415 - as in `main`

    from sidecar.guardrails.detectors.prompt_injection.term_search import INDEX  # noqa: PLC0415

    alone = [number for number, name in enumerate(corpus.terms) if CONCEPT.fullmatch(name)]
    most = len(corpus.terms)
    return np.array(
        [np.bincount(one.hits & INDEX, minlength=most)[alone] for one in corpus.texts], np.float32
    )


if __name__ == "__main__":
    main()
