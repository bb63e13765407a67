"""The optimiser against closed forms and SciPy, on problems small enough to know the answer."""

import numpy as np
import pytest
from scipy import optimize, sparse

from cdm_nnunet.planning.optimiser import Problem, Term, minimise


def term(level_gy, side="both", *, points=None, weight=1.0, name="wanted"):
    level_gy = np.atleast_1d(np.asarray(level_gy, np.float32))
    points = np.arange(level_gy.size) if points is None else np.asarray(points)
    return Term(name, points, level_gy, np.full(level_gy.size, weight, np.float32), side)


def problem(matrix, *terms, sampling=None):
    matrix = sparse.csr_array(np.asarray(matrix, np.float32))
    sampling = sparse.eye_array(matrix.shape[0], dtype=np.float32) if sampling is None else sampling
    return Problem(matrix, sparse.csr_array(sampling), terms)


def solved(given, iterations=5000):
    return minimise(given, np.ones(given.influence.shape[1], np.float32), iterations, 0.0)


def dense(seed, n_points=40, n_bixels=12):
    return np.random.default_rng(seed).uniform(0, 1, (n_points, n_bixels))


def test_one_bixel_gets_the_weighted_mean():
    found = solved(problem([[1], [1]], term([60, 70], weight=1), term([70], points=[1], weight=2)))
    assert found.fluence == pytest.approx([(60 + 3 * 70) / 4], rel=1e-5)
    assert found.objective == pytest.approx(0.5 * (7.5**2 + 3 * 2.5**2), rel=1e-4)


def test_bixels_that_would_be_negative_are_zero():
    # the second bixel only adds to the overdose
    found = solved(problem([[1, 0], [1, 1]], term([10, 4])))
    assert found.fluence == pytest.approx([7, 0], abs=1e-4)


@pytest.mark.parametrize(
    ("side", "level_gy", "start", "expected"),
    [("over", 50, 60, 50), ("over", 50, 40, 40), ("under", 50, 40, 50), ("under", 50, 60, 60), ("both", 50, 60, 50)],
)
def test_one_sided_terms_leave_the_other_side_alone(side, level_gy, start, expected):
    found = minimise(problem([[2]], term(level_gy, side)), np.array([start / 2], np.float32), 200, 0.0)
    assert 2 * found.fluence[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_what_nonnegative_least_squares_finds(seed):
    matrix, wanted = dense(seed), np.random.default_rng(seed + 10).uniform(0, 5, 40)
    found, (expected, residual) = solved(problem(matrix, term(wanted))), optimize.nnls(matrix, wanted)
    assert np.count_nonzero(expected == 0) > 0  # (the bound matters)
    np.testing.assert_allclose(found.fluence, expected, atol=2e-3)
    assert found.objective == pytest.approx(residual**2 / 2, rel=1e-5)


def test_it_finds_what_scipy_finds_for_one_sided_terms_at_samples():
    rng = np.random.default_rng(7)
    matrix, sampling = dense(3), rng.dirichlet(np.ones(40), 25)
    terms = [
        term(np.full(10, 3.0), "under", points=np.arange(10), weight=20),
        term(np.full(10, 3.1), "over", points=np.arange(10), weight=20),
        term(np.full(20, 1.0), "over", points=np.arange(5, 25), weight=3),
    ]
    given = problem(matrix, *terms, sampling=sampling.astype(np.float32))

    def objective(fluence):
        dose = sampling @ (matrix @ fluence)
        parts = (
            (20, np.minimum(dose[:10] - 3.0, 0)),
            (20, np.maximum(dose[:10] - 3.1, 0)),
            (3, np.maximum(dose[5:] - 1.0, 0)),
        )
        return sum(weight * float(part @ part) / 2 for weight, part in parts)

    expected = optimize.minimize(
        objective, np.ones(12), bounds=[(0, None)] * 12, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-14}
    )
    assert solved(given).objective == pytest.approx(expected.fun, rel=1e-4)


def test_the_slope_is_the_derivative():
    given = problem(dense(1), term(np.full(40, 2.0), "over"), term(np.full(40, 4.0), "under", weight=2))
    fluence, step = np.random.default_rng(2).uniform(0.2, 1, 12).astype(np.float32), 1e-2
    slope = given.back(given.slope(given.dose_gy(fluence)))
    for bixel in range(12):
        ends = [fluence + sign * step * (np.arange(12) == bixel).astype(np.float32) for sign in (1, -1)]
        high, low = (given.objective(given.dose_gy(end.astype(np.float32))) for end in ends)
        assert slope[bixel] == pytest.approx((high - low) / (2 * step), rel=1e-2, abs=1e-2)


def test_the_curvature_bounds_the_objective():
    matrix, weight = dense(4), np.random.default_rng(5).uniform(0, 3, 40)
    given = problem(matrix, *(term(1, points=[k], weight=w) for k, w in enumerate(weight)))
    exact = matrix.T @ (weight[:, None] * matrix)
    assert np.linalg.eigvalsh(np.diag(given.curvature) - exact).min() > -1e-4


def test_a_bixel_that_reaches_nothing_stays_dark():
    found = solved(problem([[1, 0]], term(5)))
    assert found.fluence.tolist() == pytest.approx([5, 0])


def test_a_warm_start_is_where_it_begins():
    given = problem(dense(6), term(np.full(40, 3.0)))
    cold = solved(given)
    warm = minimise(given, cold.fluence, 10_000, 1e-6)
    assert warm.iterations <= 10
    assert warm.objective == pytest.approx(cold.objective, rel=1e-6)


def test_values_are_by_name():
    given = problem([[1], [1]], term(2, name="a"), term(3, points=[1], name="b"), term(1, points=[1], name="b"))
    assert given.values(np.array([0], np.float32)) == {"a": 2.0, "b": 5.0}
