"""A plan as a table for people: the front, fastest first, with the chosen point marked."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from he_inference.planning import Plan, Planned, Point, elapsed

_COLUMNS = (
    "layout", "answers", "client\nms", "server\nms", "kB\nup", "kB\ndown", "kB of\nkeys", "bits",
    "total\nms",
)  # fmt: skip


def plan_table(plan: Plan[Point], chosen: Planned) -> Table:
    """Every point that no other beats; times are estimates, bytes are exact."""
    told = " with --response plain" if chosen.facts()["response"] == "plain" else ""
    table = Table(
        box=SIMPLE_HEAD,  # narrow enough for 80 columns
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="times are estimates, the total is over a link of 100 Mbit/s\n"
        f"▸ is what compile{told} would choose",
    )
    table.add_column("", min_width=1)
    for number, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    for point in plan.front:
        facts, cost = point.facts(), point.cost
        mark = "▸" if point is chosen else ""
        table.add_row(
            mark, facts["layout"], facts["response"],
            f"{cost.client_ms:.1f}", f"{cost.server_ms:.1f}",
            f"{cost.upload_bytes / 1e3:,.1f}", f"{cost.download_bytes / 1e3:,.1f}",
            f"{cost.key_bytes / 1e3:,.1f}", f"{facts['precision_bits']:.1f}",
            f"{elapsed(cost):.1f}",
            style="bold" if mark else "",
        )  # fmt: skip
    return table
