"""Can a small classifier tell synthetic from real lesions? 0.5: no; 1: always."""

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation_pipeline.fidelity.distances import random_order_by_patient
from evaluation_pipeline.fidelity.lesions import TooLittleData

FOLDS = 5
LEAST_GROUPS = 4  # of each class
STRENGTH = 0.1  # inverse of the L2 penalty: tens of lesions for twenty features need a strong one
RESAMPLES = 1000


def out_of_fold_scores(
    features: np.ndarray, synthetic: np.ndarray, groups: Sequence[str], seed: int
) -> np.ndarray:
    """(n,) log odds of being synthetic, each by a logistic regression that has not seen its group.

    features: (n, d), standardised on each fold's training part. synthetic: (n,) bool. Classes weigh the same.
    """
    scores = np.zeros(len(features))
    for train, test in folds_of(synthetic, groups, seed):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=1000)
        )
        model.fit(features[train], synthetic[train])
        scores[test] = model.decision_function(features[test])
    return scores


def folds_of(
    synthetic: np.ndarray, groups: Sequence[str], seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(training, test) indices of each fold; a group is in one test part, all together are everything.

    Raises TooLittleData when a class has fewer than LEAST_GROUPS groups.
    """
    groups = np.asarray(groups)
    counts = [len(np.unique(groups[synthetic == label])) for label in (False, True)]
    if min(counts) < LEAST_GROUPS:
        raise TooLittleData(
            f"too few groups for cross-validation: {counts[0]} real and {counts[1]} synthetic, at least "
            f"{LEAST_GROUPS} of each are needed"
        )
    folds = StratifiedGroupKFold(min(FOLDS, *counts), shuffle=True, random_state=seed)
    return folds.split(synthetic, synthetic, groups)


def roc_auc(synthetic: np.ndarray, scores: np.ndarray) -> float:
    """How often a synthetic lesion scores above a real one; a tie counts half."""
    real = np.sort(scores[~synthetic])
    below, up_to = (np.searchsorted(real, scores[synthetic], side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(real))


def auc_interval(
    scores: np.ndarray, synthetic: np.ndarray, groups: Sequence[str], generator: np.random.Generator
) -> tuple[float, float, float]:
    """(AUC, low, high): 95 % by drawing groups with replacement, those of each class apart."""
    groups = np.asarray(groups)
    members = [
        [
            np.flatnonzero((groups == name) & (synthetic == label))
            for name in np.unique(groups[synthetic == label])
        ]
        for label in (False, True)
    ]
    drawn = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate(
            [part[i] for part in members for i in generator.integers(len(part), size=len(part))]
        )
        drawn.append(roc_auc(synthetic[chosen], scores[chosen]))
    return roc_auc(synthetic, scores), *(float(v) for v in np.percentile(drawn, (2.5, 97.5)))


def groups_for(
    real_patients: Sequence[str], synthetic_patients: Sequence[str], synthetic_cases: Sequence[str]
) -> tuple[list[str], str]:
    """Groups that cross-validation keeps together, real lesions first, and in words what they are.

    Patients, where the synthetic lesions come from enough of them to be dealt to the folds; else the scans
    that were painted into, as the second best.
    """
    if len(set(synthetic_patients)) >= LEAST_GROUPS:
        return [*real_patients, *synthetic_patients], "by patient"
    number = len(set(synthetic_patients))
    patients = "1 patient" if number == 1 else f"{number} patients"
    words = f"real by patient; synthetic by case, as all of them come from {patients}"
    return [*real_patients, *(f"case {name}" for name in synthetic_cases)], words


def discriminate(
    real: np.ndarray,
    synthetic: np.ndarray,
    groups: Sequence[str],
    feature_groups: dict[str, Sequence[int]],
    generator: np.random.Generator,
    seed: int,
) -> dict:
    """AUC with interval for each group of features, and with all: {name: {auc, low, high}}.

    real (n, d), synthetic (m, d); groups: (n + m,), the real ones first. `scores`: of all features.
    """
    features = np.concatenate([real, synthetic])
    truth = np.arange(len(features)) >= len(real)
    result = {}
    for name, indices in feature_groups.items():
        scores = out_of_fold_scores(features[:, list(indices)], truth, groups, seed)
        auc, low, high = auc_interval(scores, truth, groups, generator)
        result[name] = {"auc": auc, "low": low, "high": high}
        result[name]["roc"] = _roc(scores, truth)
    return result


def real_halves_auc(
    features: np.ndarray,
    patients: Sequence[str],
    generator: np.random.Generator,
    seed: int,
    repeats: int = 10,
) -> dict:
    """The same classifier told to separate two random halves of the real lesions: what chance gives."""
    half = len(features) // 2
    found = []
    for repeat in range(repeats):
        order = random_order_by_patient(patients, generator)
        chosen = np.concatenate([order[:half], order[-half:]])
        truth = np.arange(2 * half) >= half
        scores = out_of_fold_scores(features[chosen], truth, np.asarray(patients)[chosen], seed + repeat)
        found.append(roc_auc(truth, scores))
    return {"mean": float(np.mean(found)), "low": float(min(found)), "high": float(max(found))}


def _roc(scores: np.ndarray, truth: np.ndarray) -> list[list[float]]:
    """False and true positive rates, at 51 thresholds from none to all."""
    thresholds = np.quantile(scores, np.linspace(1, 0, 51))
    return [[float((scores[truth == label] >= t).mean()) for t in thresholds] for label in (False, True)]
