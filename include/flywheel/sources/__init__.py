"""Read headlines and log records from CSV, JSONL and Parquet files, in flat memory, losing nothing.

A bad row goes to the quarantine with its file, line and reason, and the others go on; a source that cannot
be read at all is a SourceError that names the key of the configuration.
"""

from flywheel.sources.headlines import Headline, clean_text, read_headlines
from flywheel.sources.logs import read_log_records
from flywheel.sources.preflight import check_sources, look_at
from flywheel.sources.spans import SourceSpan, SourceSpans

__all__ = [
    "Headline",
    "SourceSpan",
    "SourceSpans",
    "check_sources",
    "clean_text",
    "look_at",
    "read_headlines",
    "read_log_records",
]
