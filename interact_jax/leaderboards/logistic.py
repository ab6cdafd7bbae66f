"""Logistic regression with an L1 penalty on labels that are probabilities, fitted to the optimum.

It is what scikit-learn's `LogisticRegressionCV(penalty="l1", solver="liblinear",
fit_intercept=False)` converges to, with every row given twice: as a success with weight p, and as
a failure with weight 1 - p.
"""

from __future__ import annotations

import numpy as np

CHOICES = np.logspace(-4, 4, 10)  # of C, as in scikit-learn
FOLDS = 5
TOLERANCE = 1e-10  # of a coefficient
MOST_STEPS = 200


def fit(X_NxK: np.ndarray, p_N: np.ndarray, weight_N: np.ndarray, C: float) -> np.ndarray:
    """The w [K] that minimises |w|_1 + C sum_n weight_n (-p_n log q_n - (1 - p_n) log(1 - q_n)),
    with q = logistic(X w).

    Proximal Newton: the likelihood's second-order model plus the penalty is minimised exactly, and
    the step is halved until the sum falls.
    """

    def objective(w_K: np.ndarray) -> float:
        z_N = X_NxK @ w_K
        return float(C * (weight_N * (np.logaddexp(0, z_N) - p_N * z_N)).sum() + abs(w_K).sum())

    w_K = np.zeros(X_NxK.shape[1])
    value = objective(w_K)
    for _ in range(MOST_STEPS):
        q_N = logistic(X_NxK @ w_K)
        gradient_K = C * X_NxK.T @ (weight_N * (q_N - p_N))
        hessian_KxK = C * (X_NxK.T * (weight_N * q_N * (1 - q_N))) @ X_NxK
        step_K = _best_step(w_K, gradient_K, hessian_KxK)
        size = 1.0
        while (after := objective(w_K + size * step_K)) > value and size > 1e-12:
            size /= 2
        if size * np.max(abs(step_K)) < TOLERANCE or after > value:
            break
        w_K, value = w_K + size * step_K, after
    return w_K


def _best_step(w_K: np.ndarray, gradient_K: np.ndarray, hessian_KxK: np.ndarray) -> np.ndarray:
    """The d that minimises gradient d + d hessian d / 2 + |w + d|_1, a coordinate at a time."""
    step_K = np.zeros_like(w_K)
    curvature_K = np.maximum(np.diag(hessian_KxK), 1e-12)
    for _ in range(10_000):
        before_K = step_K.copy()
        for k, curvature in enumerate(curvature_K):
            slope = gradient_K[k] + hessian_KxK[k] @ step_K
            target = w_K[k] + step_K[k] - slope / curvature
            shrunk = np.sign(target) * max(abs(target) - 1 / curvature, 0)
            step_K[k] = shrunk - w_K[k]
        if abs(step_K - before_K).max() < TOLERANCE / 10:
            break
    return step_K


def fit_by_folds(
    X_NxK: np.ndarray, p_N: np.ndarray, weight_N: np.ndarray
) -> tuple[np.ndarray, float]:
    """(w [K], C): the C of CHOICES with the least log loss on rows that were left out, and the fit
    to all rows with it."""
    fold_N = folds(len(p_N))
    losses = np.zeros((FOLDS, len(CHOICES)))
    for fold in range(FOLDS):
        out_N = fold_N == fold
        for c, C in enumerate(CHOICES):
            w_K = fit(X_NxK[~out_N], p_N[~out_N], weight_N[~out_N], C)
            losses[fold, c] = _loss(X_NxK[out_N], p_N[out_N], weight_N[out_N], w_K)
    best = float(CHOICES[int(np.argmin(losses.mean(axis=0)))])
    return fit(X_NxK, p_N, weight_N, best), best


def folds(rows: int) -> np.ndarray:
    """The fold of each row: in turn, the last row first, as scikit-learn's GroupKFold has it where
    every row is a group."""
    return np.arange(rows)[::-1] % FOLDS


def _loss(X_NxK: np.ndarray, p_N: np.ndarray, weight_N: np.ndarray, w_K: np.ndarray) -> float:
    z_N = X_NxK @ w_K
    return float(np.mean(weight_N * (np.logaddexp(0, z_N) - p_N * z_N)))


def logistic(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), without overflow."""
    return np.exp(-np.logaddexp(0, -z))
