"""flywheel: distil a teacher LLM into small students, night after night.

    import flywheel
    champion = flywheel.champion("news_classifier", client="desk")
    labels = champion.label(headlines)      # DataFrame: label, probability, one column a class

Nothing is imported before a champion is asked for (docs/history.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from datetime import date, datetime

    from flywheel.annotation.champion import ChampionModel
    from flywheel.config import Config

__all__ = ["champion"]


def champion(
    workload: str = "",
    client: str = "",
    *,
    as_of: str | date | datetime | float | None = None,
    root: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    weights: str = "",
) -> ChampionModel:
    """Load the champion of a workload and client, verified, on this machine's GPU or CPU.

    Args:
        workload: its id; empty: the config's.
        client: its id; empty: the config's, `default` without one.
        as_of: a date, a time or unix seconds: the champion that the last decision strictly before it had put
            in force, by the timeline; of a date its beginning, without a zone UTC. None: the one in force.
        root: folder or URL of the artifacts; None: the config's.
        config: a config file, or a loaded one; None: the project's, which is not read where root is given.
        weights: folder or Hub id of its base weights here; empty: as it was trained. Others are refused.

    Raises:
        FlywheelError: there is no champion, it is damaged, it classifies nothing, or the extra `students` is
            not installed; the message says what to do.
    """
    from flywheel.annotation.champion import open_champion

    return open_champion(workload, client, as_of=as_of, root=root, config=config, weights=weights)
