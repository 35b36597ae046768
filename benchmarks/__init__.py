"""What the project costs, measured beside its peers: `python -m benchmarks list | run | report`.

    measure           the only clock, the environment record, the JSON lines
    steps             what a benchmark is; `registry` names all of them, `runner` resumes a run
    bench_*           a benchmark each; `head_*`, `our_*`, `slow_wire` and the like are their parts
    peers/            one script for each other system, each in its own virtual environment
    peer_environment  makes that environment; `system_process` asks such a script query by query
    published         figures of papers, printed beside measured ones and marked as such
    results/          what was measured last
    report/           rows of results to tables, plots and pages
    compare           two runs, figure by figure

Nothing here is imported by the three packages, and unit tests run only the small form.
"""
