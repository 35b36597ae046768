"""`PrivateClassifier`: scikit-learn's manners, the promise it states, and what it refuses."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import private_models
from private_models import PrivateClassifier, load_head, noise
from private_models.accounting import gaussian_epsilon
from private_models.classifier import NotFitted
from private_models.errors import BudgetError, HeadFileError, InputError, OptionError
from private_models.noise import Array
from private_models.releases import total_mu
from private_models.solvers import SOLVERS
from private_models.solvers.gradient import FeatureCovariance
from private_models.solvers.least_squares import LeastSquares
from private_models.solvers.sgd import PoissonGradient
from private_models.statement import read_statement
from private_models.training import LargeDelta

CLASSES = range(4)


def blobs(rows: int = 6000, seed: int = 0) -> tuple[Array, Any]:
    """Four Gaussians in 12 dimensions, norms about 1; Bayes' rule gets about 0.97."""
    rng = np.random.default_rng(seed)
    centres = np.eye(4, 12) * 0.7
    labels = rng.integers(0, 4, rows)
    return centres[labels] + rng.normal(size=(rows, 12)) * 0.22, labels


X, Y = blobs()
TEST_X, TEST_Y = blobs(seed=1)
PUBLIC = blobs(500, seed=2)[0]


def head(**options: Any) -> PrivateClassifier:
    return PrivateClassifier(**{"epsilon": 1.0, "delta": 1e-5, "rows": len(X), **options})


# ---------------------------------------------------------------------------- it learns


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("public", [None, PUBLIC], ids=["clipped", "whitened"])
@pytest.mark.parametrize("relation", ["add-remove", "replace"])
def test_every_solver_learns_and_says_what_it_did(
    solver: str, public: Array | None, relation: str
) -> None:
    fitted = head(solver=solver, public_features=public, relation=relation, epsilon=2.0)
    if solver == "sgd":
        fitted.settings = PoissonGradient(600, 3.0)
    fitted.fit(X, Y, classes=CLASSES)
    assert fitted.score(TEST_X, TEST_Y) > 0.85
    statement = fitted.statement_
    assert 0.99 * 2.0 < statement.epsilon_spent <= 2.0
    assert (statement.epsilon, statement.delta, statement.relation) == (2.0, 1e-5, relation)
    assert statement.is_private
    if solver != "sgd":
        assert gaussian_epsilon(total_mu(statement.releases), 1e-5) <= 2.0
    for word in (f"{relation} neighbours", "not covered", "rows: 6000, public", "tuning"):
        assert word in str(statement)


def test_more_budget_less_noise() -> None:
    scores = [
        np.mean([head(epsilon=e).fit(X, Y, CLASSES).score(TEST_X, TEST_Y) for _ in range(5)])
        for e in (0.01, 0.1, 5.0)
    ]
    assert scores == sorted(scores)
    assert scores[0] < 0.9 < scores[2]


def test_replacing_costs_twice() -> None:
    """Gradients are twice as sensitive, so for the same noise about twice the epsilon."""
    one = head(relation="add-remove").fit(X, Y, CLASSES).statement_
    two = head(relation="replace").fit(X, Y, CLASSES).statement_
    gradient_one, gradient_two = one.releases[-1], two.releases[-1]
    assert gradient_two.sensitivity == pytest.approx(2 * gradient_one.sensitivity)
    assert gradient_two.standard_deviation > 1.9 * gradient_one.standard_deviation


def test_unknown_rows_are_paid_for() -> None:
    fitted = head(rows=None).fit(X, Y, CLASSES)
    first = fitted.statement_.releases[0]
    assert first.what == "number of rows"
    share = (1 / first.noise_multiplier / total_mu(fitted.statement_.releases)) ** 2
    assert share == pytest.approx(0.01, rel=1e-3)
    assert "published with noise" in fitted.statement_.public["rows"]
    assert (
        "public" in head(rows=None, relation="replace").fit(X, Y, CLASSES).statement_.public["rows"]
    )


def test_two_fits_differ_and_seeded_ones_do_not() -> None:
    one, two = (head().fit(X, Y, CLASSES).coef_ for _ in range(2))
    assert (one != two).all()
    with pytest.raises(OptionError):
        head(unsafe_seed=-1).fit(X, Y, CLASSES)
    three, four = (head(unsafe_seed=7).fit(X, Y, CLASSES) for _ in range(2))
    assert np.array_equal(three.coef_, four.coef_)
    assert not three.statement_.is_private
    assert str(three.statement_).startswith("NO PRIVACY")


def test_a_stream_gives_what_an_array_gives(tmp_path: Path) -> None:
    def source() -> Iterator[tuple[Array, Any]]:
        for start in range(0, len(X), 700):
            yield X[start : start + 700], Y[start : start + 700]

    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = head(unsafe_seed=3).fit(X, Y, CLASSES).coef_
    streamed = head(unsafe_seed=3).fit_stream(source, 12, CLASSES)
    assert np.array_equal(streamed.coef_, expected)
    assert np.array_equal(head(unsafe_seed=3).fit(mapped, Y, CLASSES).coef_, expected)
    assert streamed.score(TEST_X, TEST_Y) > 0.9


def test_settings_of_a_solver_can_be_given() -> None:
    plan = head(settings=FeatureCovariance(3, 1.0)).fit(X, Y, CLASSES).statement_.releases
    assert plan[-1].count == 3
    fitted = head(solver="least_squares", settings=LeastSquares(shared_gram=False))
    assert fitted.fit(X, Y, CLASSES).score(TEST_X, TEST_Y) > 0.85


def test_scores_probabilities_and_torch_agree() -> None:
    fitted = head().fit(X, Y, CLASSES)
    scores = fitted.decision_function(TEST_X)
    assert np.array_equal(fitted.predict(TEST_X), np.arange(4)[scores.argmax(1)])
    assert np.allclose(fitted.predict_proba(TEST_X).sum(1), 1)
    layer = fitted.to_torch()
    said = layer(torch.from_numpy(TEST_X).float()).numpy()
    # float32 rounds products of 12 terms: 20 of its units, relative to the largest term.
    bound = 20 * np.finfo(np.float32).eps * np.abs(fitted.coef_).max() * np.abs(TEST_X).sum(1).max()
    assert np.abs(said - scores).max() < bound + np.abs(fitted.intercept_).max() * 1e-6


# ---------------------------------------------------------------------------- it refuses

NAN = X.copy()
NAN[5000, 3] = np.nan


@pytest.mark.parametrize(
    ("options", "arguments", "error", "words"),
    [
        ({}, (NAN, Y, CLASSES), InputError, "row 5000 holds NaN"),
        ({}, (np.where(np.isnan(NAN), np.inf, NAN), Y, CLASSES), InputError, "infinity"),
        ({}, (X, Y, range(3)), InputError, "not among"),
        ({}, (X, Y), OptionError, "name every label"),
        ({}, (X, Y[1:], CLASSES), InputError, "inconsistent"),
        ({"epsilon": 0.0}, (X, Y, CLASSES), BudgetError, "epsilon"),
        ({"epsilon": -1.0}, (X, Y, CLASSES), BudgetError, "epsilon"),
        ({"epsilon": math.nan}, (X, Y, CLASSES), BudgetError, "epsilon"),
        ({"delta": 0.0}, (X, Y, CLASSES), BudgetError, "delta"),
        ({"delta": 1e-22}, (X, Y, CLASSES), BudgetError, "integer noise"),
        ({"solver": "magic"}, (X, Y, CLASSES), OptionError, "fc, sgd"),
        ({"feature_norm": 0.0}, (X, Y, CLASSES), OptionError, "feature_norm"),
        ({"bias": -1.0}, (X, Y, CLASSES), OptionError, "bias"),
        ({"rows": 0}, (X, Y, CLASSES), OptionError, "rows"),
        ({"relation": "either"}, (X, Y, CLASSES), OptionError, "relation"),
        ({"device": "abacus"}, (X, Y, CLASSES), OptionError, "device"),
        ({"public_features": PUBLIC[:, 1:]}, (X, Y, CLASSES), InputError, "one backbone"),
        ({"public_features": PUBLIC * np.nan}, (X, Y, CLASSES), InputError, "public features"),
        ({"solver": "sgd", "rows": None}, (X, Y, CLASSES), OptionError, "Poisson"),
    ],
)
def test_a_refused_fit_publishes_nothing(
    options: dict[str, Any], arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    fitted = head(**options)
    with patch("private_models.releases.add_noise") as publish, pytest.raises(error, match=words):
        fitted.fit(*arguments)
    assert not publish.called
    assert not hasattr(fitted, "statement_")


def test_a_large_delta_is_warned_of() -> None:
    with pytest.warns(LargeDelta, match="one over the rows"):
        head(delta=1e-3).fit(X, Y, CLASSES)


def test_long_rows_are_clipped_and_nobody_learns_how_many() -> None:
    long = X.copy()
    long[:50] *= 1e6
    fitted = head().fit(long, Y, CLASSES)
    assert fitted.score(TEST_X, TEST_Y) > 0.8
    assert "50" not in str(fitted.statement_).replace("0.50", "")


def test_asking_before_fitting() -> None:
    for ask in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFitted):
            getattr(head(), ask)(X)
    with pytest.raises(NotFittedError):
        head().to_torch()


def test_another_width() -> None:
    with pytest.raises(ValueError, match="12 features"):
        head().fit(X, Y, CLASSES).predict(X[:, 1:])


# ---------------------------------------------------------------------------- scikit-learn

NOT_FOR_US = {
    "check_classifiers_train": "noise for epsilon = 1 drowns thirty rows",
    "check_classifiers_classes": "noise for epsilon = 1 drowns thirty rows",
    "check_classifiers_one_label": "a set of one public label has nothing to learn",
    "check_dtype_object": "a dict among the features is an InputError, not a TypeError",
    "check_estimator_sparse_array": "sparse features are refused",
    "check_estimator_sparse_matrix": "sparse features are refused",
}


@pytest.mark.filterwarnings("ignore::private_models.training.LargeDelta")
def test_scikit_learns_own_checks() -> None:
    estimator = PrivateClassifier(classes="public-in-y", epsilon=10.0, delta=1e-4, unsafe_seed=1)
    faults = []
    checks = estimator_checks_generator(estimator, legacy=True)
    for tested, check in checks:
        name = check.func.__name__  # type: ignore[attr-defined]
        try:
            check(tested)
        except Exception as error:  # judged below
            if name not in NOT_FOR_US and "SkipTest" not in type(error).__name__:
                faults.append(f"{name}: {error!r:.300}")
    assert not faults, "\n".join(faults)


def test_clones_and_pipelines() -> None:
    pipeline = make_pipeline(FunctionTransformer(), head(classes=CLASSES))
    assert clone(pipeline).fit(X, Y).score(TEST_X, TEST_Y) > 0.9


# ---------------------------------------------------------------------------- saved heads


def test_a_saved_head_says_the_same(tmp_path: Path) -> None:
    fitted = head().fit(X, np.array(["a", "b", "c", "d"])[Y], classes=["d", "c", "b", "a"])
    fitted.head_.save(tmp_path / "head.safetensors")
    loaded = load_head(tmp_path / "head.safetensors")
    assert np.array_equal(loaded.scores(TEST_X), fitted.head_.scores(TEST_X))
    assert set(loaded.predict(TEST_X)) <= set("abcd")
    assert loaded.statement == fitted.statement_
    assert read_statement(loaded.statement.to_json()) == loaded.statement


def test_files_that_are_no_heads(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    fitted = head().fit(X, Y, CLASSES)
    fitted.head_.save(path)
    tensors, good = load_file(path), path.read_bytes()
    metadata = {
        "format": "sottovoce-private-head", "version": "1", "classes": "[0, 1, 2, 3]",
        "statement": fitted.statement_.to_json(),
    }  # fmt: skip
    changes: list[tuple[dict[str, Array], dict[str, str]]] = [
        (tensors, {**metadata, "format": "other"}),
        (tensors, {**metadata, "version": "2"}),
        (tensors, {**metadata, "classes": "[0, 1]"}),
        (tensors, {**metadata, "classes": "{"}),
        (tensors, {**metadata, "statement": "{}"}),
        (tensors, {**metadata, "statement": "[" * 5000}),
        (tensors, {**metadata, "statement": fitted.statement_.to_json().replace("1e-05", "NaN")}),
        ({"weights": tensors["weights"]}, metadata),
        ({**tensors, "weights": tensors["weights"] * np.nan}, metadata),
        ({**tensors, "bias": tensors["bias"].astype(np.float32)}, metadata),
    ]
    for changed, said in changes:
        save_file(changed, path, metadata=said)
        with pytest.raises(HeadFileError, match=r"head\.safetensors"):
            load_head(path)
    for data in (b"", good[:50], b"\xff" * 100):
        path.write_bytes(data)
        with pytest.raises(HeadFileError):
            load_head(path)
    for missing in (tmp_path, tmp_path / "none"):
        with pytest.raises(HeadFileError):
            load_head(missing)
    with pytest.raises(HeadFileError, match="written"):
        fitted.head_.save(tmp_path / "no" / "head")


def test_statements_are_json() -> None:
    statement = head().fit(X, Y, CLASSES).statement_
    values = json.loads(statement.to_json())
    assert values["releases"][-1]["standard_deviation"] > 0
    assert "several fits" in " ".join(values["not_protected"])


def test_the_public_names() -> None:
    assert set(private_models.__all__) >= {"PrivateClassifier", "load_head", "Statement"}
    assert all(getattr(private_models, name) for name in private_models.__all__)
    with pytest.raises(AttributeError):
        private_models.nothing  # noqa: B018


def test_the_whole_delta_covers_the_integer_sampler() -> None:
    statement = head().fit(X, Y, CLASSES).statement_
    drawn = sum(r.drawn for r in statement.releases)
    assert 0 < drawn * noise.TOTAL_VARIATION * (1 + math.e) < 1e-12
