"""Where log records and the teacher's answers live: `open_store` gives the store that the config names."""

from flywheel.config import resolve_path
from flywheel.config.store import StoreConfig
from flywheel.stores.base import Holdings, Owner, PaidAnswer, RecordStore, Rejected, WriteSummary

__all__ = ["Holdings", "Owner", "PaidAnswer", "RecordStore", "Rejected", "WriteSummary", "open_store"]


def open_store(config: StoreConfig, *, cache_mb: int = 64, rereads: bool = False) -> RecordStore:
    """Open the store of the config's section `store`, making it where there is none.

    Args:
        cache_mb: of the embedded store's pages, at most.
        rereads: what is read will be asked for again by its ids: a store on servers keeps it here meanwhile.

    Raises:
        StoreError: it cannot be opened; the message says what to do.
    """
    if config.type == "elasticsearch":
        from flywheel.stores.elasticsearch import ElasticsearchStore

        return ElasticsearchStore(config.elasticsearch, rereads=rereads)
    from flywheel.stores.sqlite import SqliteStore

    return SqliteStore(resolve_path(config.path), cache_mb=cache_mb)
