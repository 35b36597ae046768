"""What demos, tests and benchmarks are exercised on: data, networks, and how they are trained.

    datasets ─▸ networks ─▸ fitting

The packages that users build upon never import this one.
"""
