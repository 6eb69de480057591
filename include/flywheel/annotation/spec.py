"""What a shard's job is asked to do, and what it answers: JSON in the artifact root, as of all jobs."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flywheel.annotation.rows import CODE_VERSION, Form, path_of
from flywheel.annotation.stretches import Stretch
from flywheel.artifacts.root import key_of
from flywheel.config.annotation import Mode
from flywheel.config.logs import LogLevel
from flywheel.config.student import Student


class ShardSpec(BaseModel):
    """Label the texts of one shard, and write its file.

    Attributes:
        artifact_root: URL of the artifact root.
        out: folder or URL of the output.
        name: of the shard, its first day: `2019-03-01`.
        texts: path of its texts in the artifact root; empty: none but those in the file that is there.
        texts_sha256: of that file.
        stretches: who labels when; see `flywheel.annotation.stretches`.
        students: the config's, with their contexts and places of weights.
        batch_size: texts of one pass; None: as many as suit the machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact_root: str
    out: str
    name: str
    texts: str = ""
    texts_sha256: str = ""
    stretches: tuple[Stretch, ...] = Field(min_length=1)
    mode: Mode
    lag: int = 0
    classes: tuple[str, ...]
    text: Literal["keep", "hash"] = "keep"
    students: tuple[Student, ...] = ()
    batch_size: int | None = None
    log_level: LogLevel = "INFO"

    @property
    def key(self) -> str:
        """What the shard's rows are made from: texts, decisions and code."""
        return key_of("annotation", CODE_VERSION, self.model_dump(mode="json", exclude={"log_level"}))

    @property
    def form(self) -> Form:
        """The form of the output's files."""
        return Form(self.classes, self.text == "keep", self.mode)

    @property
    def path(self) -> str:
        """The shard's file in the output, in Hive's style."""
        return path_of(self.name)


class ShardRows(BaseModel):
    """What a file holds, as the manifest says it; the same rows give the same.

    Attributes:
        first, last: unix seconds: the first and the last time of its texts.
        labelled: rows with a label; the others have a reason, counted in `reasons`.
        by_class: rows of each class, and the sum of their probabilities.
        by_adapter: rows that each adapter labelled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    size: int
    rows: int
    labelled: int
    first: int
    last: int
    by_class: dict[str, tuple[int, float]]
    by_adapter: dict[str, int]
    reasons: dict[str, int]


class ShardResult(BaseModel):
    """What a shard's job gave.

    Attributes:
        key: of its spec.
        file: None: the shard has no rows.
        asked: texts that students were asked now; `found` rows had their label already.
        stale: rows of another champion than the timeline now says, whose text is kept nowhere any more.
        seconds: of this call.
        peak_mb: of the job's memory, in megabytes; 0 where the system does not say.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    name: str
    file: ShardRows | None
    asked: int
    found: int
    stale: int
    seconds: float
    peak_mb: int = 0
