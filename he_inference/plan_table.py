"""A plan as a table for people: the front, fastest first, with the chosen point marked."""

from rich.box import SIMPLE
from rich.table import Table

from he_inference.planning import Plan, Planned, Point, elapsed

_COLUMNS = (
    "layout", "answers", "client", "server", "up kB", "down kB", "keys kB", "bits", "total",
)  # fmt: skip


def plan_table(plan: Plan[Point], chosen: Planned | None) -> Table:
    """Every point that no other beats; times are estimates, bytes are exact."""
    table = Table(
        box=SIMPLE,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        caption="client, server: estimated ms of CPU; total: ms until the answer over 100 Mbit/s, "
        "keys divided among a hundred queries; ▸ is what compile would choose",
    )
    table.add_column("")
    for number, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if number < 2 else "right")
    for point in plan.front:
        facts, cost = point.facts(), point.cost
        mark = "▸" if point is chosen else ""
        table.add_row(
            mark, facts["layout"], facts["response"],
            f"{cost.client_ms:.1f}", f"{cost.server_ms:.1f}",
            f"{cost.upload_bytes / 1e3:,.1f}", f"{cost.download_bytes / 1e3:,.1f}",
            f"{cost.key_bytes / 1e3:,.0f}", f"{facts['precision_bits']:.1f}",
            f"{elapsed(cost):.1f}",
            style="bold" if mark else "",
        )  # fmt: skip
    return table
