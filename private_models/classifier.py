"""`PrivateClassifier`: a private head in the shape of a scikit-learn estimator."""

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from private_models.accounting import Budget, Relation
from private_models.errors import InputError, OptionError, PrivacyError
from private_models.features import (
    ArrayRows,
    Source,
    StreamRows,
    check_classes,
    check_matrix,
    class_indices,
)
from private_models.head import PrivateHead
from private_models.noise import Array, RandomBits
from private_models.solvers import SolverName
from private_models.solvers.task import Progress, silent
from private_models.statement import Statement
from private_models.training import Options, Settings, train

if TYPE_CHECKING:
    from torch import nn

LABELS_ARE_PUBLIC = "public-in-y"


class NotFitted(PrivacyError, NotFittedError):  # type: ignore[misc]
    """A head was asked before it was trained."""


class PrivateClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear or quadratic classifier, (epsilon, delta)-differentially private for its rows.

    Guarantee: `statement_`, and what its docstring says. In short: whoever sees the fitted head
    can hardly tell whether any one row was in the training data. It covers rows, not people who
    have several; one fit, not several; and nothing that is listed as public.

    Args:
        epsilon: 0.001 to 100.
        delta: over 0, well below 1 / rows; a `LargeDelta` warning otherwise.
        solver: "fc" (the best of them here), "sgd", "least_squares" or "newton".
        feature_norm: rows are clipped to this L2 norm; choose it from public knowledge, such as
            public features of the same backbone. How many rows were clipped is not published.
        public_features: (m, d) float array, features of *public* data by the same backbone; they
            whiten the rows and then set their scale, so that feature_norm = 1 fits. No budget.
        relation: "add-remove" or "replace", between data sets that must be indistinguishable.
        classes: every label that may occur, or "public-in-y" to declare that the set of labels in y
            is public knowledge. Without either, `fit` refuses: a rare label gives its rows away.
        rows: how many rows there are, where that is public; else, under "add-remove", 1 % of the
            squared budget is spent on it.
        settings: a settings object of the solver (`private_models.solvers`), found on other data.
        bias: value of the constant column relative to feature_norm, without public features.
        hidden_directions: a hidden layer before the head makes all products of this many principal
            directions of the public features (1 to 89): a quadratic head. Public, and no budget.
            For features as raw as pixels; those of a deep backbone do better without.
        device: "cpu" (numpy), or a device that torch knows, such as "cuda".
        unsafe_seed: for tests: noise that can be repeated, and no privacy.

    Attributes:
        classes_: (K,) labels. coef_: (K, d) float64, or (K, products) with a hidden layer.
        intercept_: (K,) float64.
        statement_: a `Statement`. head_: a `PrivateHead`. n_features_in_: d.
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        delta: float = 1e-5,
        solver: SolverName = "fc",
        feature_norm: float = 1.0,
        public_features: npt.ArrayLike | None = None,
        relation: Relation = "add-remove",
        classes: Sequence[Any] | npt.ArrayLike | None = None,
        rows: int | None = None,
        settings: Settings | None = None,
        bias: float = 0.3,
        device: str = "cpu",
        unsafe_seed: int | None = None,
        hidden_directions: int | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.solver = solver
        self.feature_norm = feature_norm
        self.public_features = public_features
        self.relation = relation
        self.classes = classes
        self.rows = rows
        self.settings = settings
        self.bias = bias
        self.device = device
        self.unsafe_seed = unsafe_seed
        self.hidden_directions = hidden_directions

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.unsafe_seed is None
        tags.classifier_tags.poor_score = True  # on tables of a hundred rows noise drowns all
        return tags

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        classes: Sequence[Any] | npt.ArrayLike | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Train on rows (n, d), in memory or memory-mapped, and labels (n,).

        Raises `InputError` for rows or labels that cannot be used, `OptionError` and `BudgetError`
        for settings that cannot; nothing is published then. Warns with `LargeDelta`.
        """
        if y is None:
            raise InputError(
                "requires y to be passed, but the target y is None: give a label a row"
            )
        matrix = check_matrix(X, "X")
        validate_data(self, X, skip_check_array=True)
        labels = _labels(y)
        chosen = self._classes(classes, labels)
        rows = ArrayRows(matrix, class_indices(labels, chosen))
        return self._train(rows, chosen, progress)

    def fit_stream(
        self,
        source: Source,
        n_features: int,
        classes: Sequence[Any] | npt.ArrayLike | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Train on rows that need not fit in memory.

        source: a function without arguments that returns an iterable over (features, labels), the
            same on every call; called once to check and once for every release.
        n_features: columns of the features.

        Raises as `fit` does.
        """
        chosen = self._classes(classes, None)
        self.n_features_in_ = n_features
        return self._train(StreamRows(source, chosen, n_features), chosen, progress)

    def _train(
        self, rows: ArrayRows | StreamRows, classes: npt.NDArray[Any], progress: Progress
    ) -> Self:
        options = Options(
            Budget(self.epsilon, self.delta, self.relation), classes, self.solver, self.settings,
            self.feature_norm, self.public_features, self.rows, self.bias, self.device,
            self.hidden_directions, public=_declared(self.classes, len(classes)),
        )  # fmt: skip
        bits = None if self.unsafe_seed is None else RandomBits.unsafe_from_seed(self.unsafe_seed)
        self.head_: PrivateHead = train(rows, options, bits, progress)
        self.classes_ = self.head_.classes
        self.coef_, self.intercept_ = self.head_.weights, self.head_.bias
        self.statement_: Statement = self.head_.statement
        return self

    def _classes(
        self, given: Sequence[Any] | npt.ArrayLike | None, labels: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any]:
        chosen = self.classes if given is None else given
        if isinstance(chosen, str) and chosen == LABELS_ARE_PUBLIC and labels is not None:
            return check_classes(np.unique(labels))
        if chosen is None or isinstance(chosen, str):
            raise OptionError(
                "classes: name every label that may occur, as fit(X, y, classes=…); taking them "
                f"from y would publish rare ones. If they are public, say classes="
                f"{LABELS_ARE_PUBLIC!r}"
            )
        return check_classes(chosen)

    def decision_function(self, X: npt.ArrayLike) -> Array:
        """(rows, K) scores; (rows,) for two classes, over 0 for the second, as in scikit-learn."""
        scores = self._head(X).scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """Labels (rows,). Raises `NotFitted` or `InputError`."""
        return self._head(X).predict(X)

    def predict_proba(self, X: npt.ArrayLike) -> Array:
        """(rows, K) probabilities, the softmax of the scores.

        Noise makes them rougher than those of a head without, and those of "least_squares" and
        "newton" are no likelihoods to begin with: for ranking, not for decisions by threshold.
        """
        return np.asarray(softmax(self._head(X).scores(X), axis=1))

    def to_torch(
        self, square: "Callable[[], nn.Module] | None" = None
    ) -> "nn.Linear | nn.Sequential":
        """The head as `nn.Linear`, to be appended to a backbone or compiled for encryption; with a
        hidden layer as Linear - square - Linear (see `PrivateHead.to_torch`)."""
        return self._fitted().to_torch(square)

    def _fitted(self) -> PrivateHead:
        if not hasattr(self, "head_"):
            raise NotFitted("this PrivateClassifier is not fitted yet: call fit first")
        return self.head_

    def _head(self, X: npt.ArrayLike) -> PrivateHead:
        head = self._fitted()
        check_matrix(X, "X")
        validate_data(self, X, skip_check_array=True, reset=False)
        return head


def _declared(classes: object, count: int) -> dict[str, str]:
    if isinstance(classes, str) and classes == LABELS_ARE_PUBLIC:
        return {"classes": f"{count} labels, taken from y and declared public by the user"}
    return {}


def _labels(y: npt.ArrayLike) -> npt.NDArray[Any]:
    """One label a row, of a type that can be sorted; a column is taken with a warning."""
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        column = "A column-vector y was passed when a 1d array was expected: give (rows,)"
        warnings.warn(column, DataConversionWarning, stacklevel=3)
        labels = labels[:, 0]
    if labels.dtype.kind == "O":
        labels = np.array(labels.tolist())
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise InputError("labels: Input y contains NaN or infinity")
        if (labels != np.rint(labels)).any():
            raise InputError("Unknown label type: continuous; expected whole numbers or strings")
    if labels.dtype.kind == "c":
        raise InputError("Complex data not supported: labels are whole numbers or strings")
    return labels
