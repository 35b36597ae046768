"""All that can be measured: a benchmark is its module, which ends in `BENCHMARK`, and a line."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks import (
    bench_batch,
    bench_cores,
    bench_growth,
    bench_heads,
    bench_hybrid,
    bench_points,
    bench_query,
    bench_site,
    bench_trained,
    bench_training,
)
from benchmarks.steps import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = {
    module.BENCHMARK.name: module.BENCHMARK
    for module in (
        bench_query,
        bench_batch,
        bench_points,
        bench_growth,
        bench_site,
        bench_training,
        bench_cores,
        bench_heads,
        bench_hybrid,
        bench_trained,
    )
}
"""By name, in the order in which all are run."""

SESSION = tuple(name for name in BENCHMARKS if name not in ("heads", "hybrid", "trained"))
"""What `make bench` measures within its hour; the others take hours, and are run by name."""
