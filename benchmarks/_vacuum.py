"""Whether PostgreSQL looks after its tables by itself: dead rows and vacuums, of each table."""

from __future__ import annotations

from typing import Any

import msgspec
import psycopg

NAMED = ("log.log", "log.answers", "log.claims", "health.parts")
"""Those that are told of one by one, whatever they hold; of the inventory's, the worst."""
INVENTORY = "inventory"
SHOWN = 3
_CARE = """
select s.schemaname || '.' || s.relname, s.n_live_tup, s.n_dead_tup, s.autovacuum_count,
    s.vacuum_count, age(c.relfrozenxid)
from pg_stat_user_tables s join pg_class c on c.oid = s.relid
where c.relkind = 'r' order by 1
"""


class Care(msgspec.Struct, frozen=True, kw_only=True):
    """How a table is looked after; `age` is in transactions since its rows were frozen."""

    table: str
    live: int
    dead: int
    by_itself: int
    by_hand: int
    age: int


def care(connection: psycopg.Connection[Any]) -> list[Care]:
    """Return how each table of a database is looked after."""
    return [
        Care(table=table, live=live, dead=dead, by_itself=by_itself, by_hand=by_hand, age=age)
        for table, live, dead, by_itself, by_hand, age in connection.execute(_CARE).fetchall()
    ]


def shown(tables: list[Care]) -> list[tuple[str, float]]:
    """Return what to tell of them: the named ones, the inventory in sum, its worst, and all."""
    of = {one.table: one for one in tables}
    inventory = [one for one in tables if one.table.startswith(f"{INVENTORY}.")]
    worst = sorted(inventory, key=lambda one: -one.dead)[:SHOWN]
    lines: list[tuple[str, float]] = []
    for name in [*NAMED, *(one.table for one in worst)]:
        if name in of:
            lines += _told(name, [of[name]])
    lines += _told(f"all {len(inventory)} tables of the inventory", inventory)
    lines.append(("all tables: vacuumed by hand, times", sum(one.by_hand for one in tables)))
    oldest = max((one.age for one in tables), default=0)
    lines.append(("all tables: transactions since the oldest was frozen", oldest))
    return lines


def _told(name: str, tables: list[Care]) -> list[tuple[str, float]]:
    return [
        (f"{name}: live rows", sum(one.live for one in tables)),
        (f"{name}: dead rows", sum(one.dead for one in tables)),
        (f"{name}: vacuumed by itself, times", sum(one.by_itself for one in tables)),
    ]
