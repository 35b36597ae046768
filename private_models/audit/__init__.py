"""Attacks on one's own heads, one a file: what they find is a lower bound, and never a guarantee.

`mechanism` fits a tiny problem thousands of times; `canaries` plants marked rows in one fit;
`membership`, `attributes` and `inversion` ask what a head remembers of real rows; `stealing` copies
a served model. A low figure means that this attack failed, and nothing more.
"""

from private_models.solvers import SOLVERS

ESTIMATORS = (*SOLVERS, "pate")
"""What can be attacked by name."""
