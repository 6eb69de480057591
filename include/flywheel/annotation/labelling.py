"""The champion of a stretch, loaded as research code loads it: one way of asking students, not two."""

from __future__ import annotations

from flywheel.annotation.champion import ChampionModel
from flywheel.annotation.shard import ClassAnswers
from flywheel.annotation.spec import ShardSpec
from flywheel.annotation.standing import Standing
from flywheel.annotation.stretches import Stretch
from flywheel.annotation.texts import Texts
from flywheel.artifacts.root import ArtifactRoot
from flywheel.serving.sources import Sources


class ChampionLabeller:
    """A champion that labels the texts of a shard.

    Args:
        model: as `flywheel.champion` gives it.
        batch_size: texts of one pass.
    """

    def __init__(self, model: ChampionModel, batch_size: int | None) -> None:
        self._model, self._batch_size = model, batch_size
        self.classes = tuple(str(name) for name in model.classes_)

    def classify(self, texts: list[str]) -> ClassAnswers:
        """Return the classes of texts."""
        return self._model.ask(Texts(list(texts)), batch_size=self._batch_size)


def open_labeller(spec: ShardSpec, stretch: Stretch) -> ChampionLabeller:
    """Load the champion of a stretch.

    Raises:
        ArtifactError: what it is made of is damaged or gone.
        StudentError: it cannot be loaded.
    """
    assert stretch.champion is not None
    sources = Sources(ArtifactRoot(spec.artifact_root), spec.students)
    standing = Standing(stretch.champion, sources.then(stretch.champion), stretch.at)
    return ChampionLabeller(ChampionModel(standing), spec.batch_size)
