"""Airflow's metadata database on a laptop, with several processes that write."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from flywheel.laptop.database import create_metadata_engine


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    made = create_metadata_engine(f"sqlite:///{tmp_path}/airflow.db", engine_args={}, connect_args={})
    with made.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.execute(text("create table run (id integer primary key)"))
    return made


def another_process_writes(engine: Engine, key: int) -> None:
    """Write as a scheduler of another process would, if it may."""
    other = create_engine(engine.url, connect_args={"timeout": 0.1})
    try:
        with other.begin() as connection:
            connection.execute(text("insert into run values (:key)"), {"key": key})
    finally:
        other.dispose()


def test_what_a_savepoint_has_read_cannot_be_outrun_by_another_writer(engine: Engine) -> None:
    # What `airflow backfill create` does for each night: a savepoint, a look, a write.
    with engine.connect() as connection:
        for key in (1, 2):
            with connection.begin_nested():
                connection.execute(text("select * from run")).all()
                with pytest.raises(Exception, match="database is locked"):
                    another_process_writes(engine, 10 + key)  # has to wait its turn
                connection.execute(text("insert into run values (:key)"), {"key": key})
        connection.commit()
    another_process_writes(engine, 3)
    with engine.connect() as connection:
        assert connection.execute(text("select id from run")).scalars().all() == [1, 2, 3]


def test_a_savepoint_in_a_transaction_is_one_of_it(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("insert into run values (1)"))
        with connection.begin_nested() as nested:
            connection.execute(text("insert into run values (2)"))
            nested.rollback()
        connection.commit()
        assert connection.execute(text("select id from run")).scalars().all() == [1]
