"""The champion in research code: `flywheel.champion("news_classifier").label(headlines)`.

It needs no service and no Airflow: the artifact root, the base weights and the extra `students`. It is asked
as it was trained and evaluated: its prompt or the text alone, its classes, its temperature; special tokens in
a text are broken up as everywhere. The answers are those of its evaluation, in the same arithmetic; only the
last digits of probabilities move with the size of a batch.
"""

from __future__ import annotations

import os
from datetime import date, datetime

from flywheel.annotation.model import TextModel
from flywheel.annotation.standing import Standing, moment_of, standing_champion
from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ConfigError
from flywheel.config import Config, load_config
from flywheel.workloads.workload import Workload


class ChampionModel(TextModel):
    """A champion, loaded, that labels texts on this machine's GPU or CPU.

    Args:
        standing: the champion, as `flywheel.annotation.standing.standing_champion` finds it.

    Attributes:
        champion: as it was promoted, or would have been.
        cutoff: unix seconds; it was trained on records known before.
        as_of: unix seconds of the time that it was asked for; None: now.

    Raises:
        StudentError: it cannot be loaded, or the extra `students` is not installed.
    """

    def __init__(self, standing: Standing) -> None:
        super().__init__(standing.source)
        self.champion, self.as_of, self.cutoff = standing.champion, standing.as_of, standing.champion.cutoff

    def __repr__(self) -> str:
        who = self.champion
        return f"<champion of {who.workload_id} ({who.client_id}): {self.name}, adapter {self.adapter}>"


def open_champion(
    workload: str = "",
    client: str = "",
    *,
    as_of: str | date | datetime | float | None = None,
    root: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | Config | None = None,
    weights: str = "",
) -> ChampionModel:
    """Load a champion: see `flywheel.champion`."""
    settings: Config | None = None
    if isinstance(config, Config):
        settings = config
    elif config is not None or root is None:
        try:
            settings = load_config(config)
        except ConfigError as error:
            more = "; or say root=, the folder or URL of the artifacts" if config is None else ""
            raise ConfigError(f"{error}{more}") from None
    if settings is not None:
        workload = workload or Workload.load(settings.workload).id
        client = client or settings.client_id
    if not workload:
        raise ConfigError("workload: expected its id, as there is no config that names one")
    where = os.fspath(root) if root is not None else None
    artifacts = ArtifactRoot(where or (settings.artifacts.root if settings else ""))
    students = settings.nims if settings else ()
    client = client or str(Config.model_fields["client_id"].default)
    return ChampionModel(
        standing_champion(artifacts, workload, client, moment_of(as_of), students=students, weights=weights)
    )
