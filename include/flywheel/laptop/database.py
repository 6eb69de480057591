"""The engine of Airflow's metadata database on this machine: SQLite with several writers.

Airflow's supported hook: `airflow_local_settings.py` in its home hands `create_metadata_engine` over.
Airflow's own gives a SAVEPOINT outside of a transaction, which makes SQLite begin one that reads first; where
another process writes between that read and the first write, SQLite refuses at once with 'database is
locked', whatever the time-out (https://www.sqlite.org/isolation.html). `airflow backfill create` beside a
running scheduler met it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

# A loaded machine's disk may keep a writer waiting for longer than the 5 s of Python's default.
BUSY_SECONDS = 30.0


def create_metadata_engine(
    sql_alchemy_conn: str, *, engine_args: dict[str, Any], connect_args: dict[str, Any]
) -> Engine:
    """Return the engine; a SAVEPOINT that would begin a transaction begins one that may write.

    Args:
        sql_alchemy_conn: a `sqlite:///` URL.
        engine_args, connect_args: as Airflow gives them.
    """
    engine = create_engine(
        sql_alchemy_conn, connect_args={"timeout": BUSY_SECONDS, **connect_args}, **engine_args
    )
    event.listen(engine, "savepoint", _begin_to_write)
    return engine


def _begin_to_write(connection: Connection, name: str | None) -> None:
    driver = connection.connection.dbapi_connection
    if driver is not None and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
