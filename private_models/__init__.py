"""Differentially private heads on features of a public backbone.

    head = private_models.PrivateClassifier(epsilon=1.0, delta=1e-5, public_features=public)
    head.fit(X, y, classes=range(10))     # noise for this budget, found and added
    print(head.statement_)                # what is promised, and what it rests on
    head.predict(X)
    head.to_torch()                       # nn.Linear, to be served or compiled for encryption

`train_student` is the other way to one: PATE, many teachers that vote with noise on public rows.
`private-models audit` attacks either, and `private_models.audit` holds the attacks.

Who learns what: whoever sees the head and everything listed as released learns of any one training
row almost nothing, in the sense of (epsilon, delta)-differential privacy, whatever else is known.
The curator, who runs `fit`, sees the rows. Not protected: public features, options, groups of rows
beyond what epsilon times their number says, several fits of the same rows, running time and memory.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from private_models.accounting import Budget as Budget
    from private_models.classifier import PrivateClassifier as PrivateClassifier
    from private_models.errors import PrivacyError as PrivacyError
    from private_models.head import PrivateHead as PrivateHead
    from private_models.head import load_head as load_head
    from private_models.pate.ensemble import PateOptions as PateOptions
    from private_models.pate.ensemble import train_student as train_student
    from private_models.statement import Statement as Statement

_HOMES = {
    "Budget": "accounting",
    "PateOptions": "pate.ensemble",
    "PrivacyError": "errors",
    "PrivateClassifier": "classifier",
    "PrivateHead": "head",
    "Statement": "statement",
    "load_head": "head",
    "train_student": "pate.ensemble",
}
__all__ = [*sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Load what is asked for and nothing else: torch and scikit-learn are heavy."""
    if name in _HOMES:
        value = getattr(import_module(f"private_models.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'private_models' has no attribute {name!r}")
