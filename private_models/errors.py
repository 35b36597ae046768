"""Everything `private_models` raises on purpose.

    PrivacyError
    ├── InputError            features, labels or a file of them are not what they must be
    ├── OptionError           a setting is unknown, out of range, or contradicts another
    ├── BudgetError           an epsilon and delta that cannot be kept, or are spent already
    ├── NotFitted             a head was asked before it was trained
    ├── HeadFileError         a saved head is not what it says, or cannot be written
    ├── BackboneError         a backbone is not installed, or gives what no head can use
    └── BundleError           a bundle is not what it says, or belongs to another head or backbone

Every message says what was expected, what was found, and what to do. `InputError` and `OptionError`
are also `ValueError`s, and `NotFitted`, which stands in `classifier`, is scikit-learn's
`NotFittedError` too, because that is what callers of an estimator catch.
"""


class PrivacyError(Exception):
    """Root of the tree: catch this to catch everything that the package raises on purpose."""


class InputError(PrivacyError, ValueError):
    """Features, labels or a file of them are not what they must be."""


class OptionError(PrivacyError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class BudgetError(PrivacyError):
    """An epsilon and delta that cannot be kept, or that are spent already."""


class HeadFileError(PrivacyError):
    """A saved head is not what it says, or cannot be written."""


class BackboneError(PrivacyError):
    """A backbone is not installed, or gives what no head can use."""


class BundleError(PrivacyError):
    """A bundle is not what it says, or belongs to another head or backbone."""
