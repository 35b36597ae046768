"""What the project costs, measured beside its peers: `python -m benchmarks list | run | report`.

    measure          the only clock, the environment record, the JSON lines
    published        figures of papers, printed beside measured ones and marked as such
    tutorial         the network that every system runs: its weights, its images
    peers/           one script for each other system, each in its own virtual environment
    system_process   starts such a script, ours too, and asks it one query at a time
    bench_query      one encrypted query: time, bytes, memory, accuracy
    report           JSON lines to Markdown tables

Nothing here is imported by the three packages, and unit tests run only the small form.
"""
