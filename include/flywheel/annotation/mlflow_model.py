"""A champion out of MLflow's model registry: what `mlflow.pyfunc.load_model` calls.

The folder is made by `flywheel.promotion.model_folder`, which says what is in it; this package comes along in
it. FLYWHEEL_WEIGHTS names the base weights where they are not where the folder says.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter

from flywheel.annotation.model import TextModel
from flywheel.common.digests import file_digest
from flywheel.common.errors import ArtifactError
from flywheel.config.student import Student
from flywheel.jobs.weights import check_weights
from flywheel.promotion.model_folder import ABOUT, ADAPTER
from flywheel.serving.student import Source
from flywheel.workloads.workload import Workload

WEIGHTS_VARIABLE = "FLYWHEEL_WEIGHTS"
_WORKLOAD = TypeAdapter(Workload)


class RegisteredModel(TextModel):
    """A champion as MLflow asks it."""

    def predict(self, texts: Any, params: dict[str, Any] | None = None) -> Any:
        """Label texts.

        Args:
            texts: as MLflow gives them: a DataFrame with one column; or anything that `label` takes.
            params: none are known.

        Returns:
            N rows: `label`, `probability`, one column a class; see `TextModel.label`.
        """
        if hasattr(texts, "columns") and hasattr(texts, "iloc"):
            texts = texts.iloc[:, 0]
        return self.label(texts)


def _load_pyfunc(path: str) -> RegisteredModel:
    """Load the model of a folder `data`; MLflow calls it by this name.

    Raises:
        ArtifactError: a file is damaged, or the base weights here are others.
        StudentError: the base weights are not here.
    """
    return RegisteredModel(source_in(Path(path)))


def source_in(data: Path) -> Source:
    """Return what the model of a folder `data` is made of, its files verified.

    Raises:
        ArtifactError: a file is damaged, or the base weights here are others.
    """
    about = orjson.loads((data / ABOUT).read_bytes())
    adapter = data / ADAPTER
    for name, expected in about["sha256"].items():
        file = adapter / name
        found = file_digest(file) if file.is_file() else "missing"
        if found != expected:
            raise ArtifactError(
                f"{file}: {'missing' if found == 'missing' else 'damaged'}; download the model from its "
                "registry again, or promote the champion anew"
            )
    student = Student.model_validate(about["student"])
    weights = os.environ.get(WEIGHTS_VARIABLE) or student.weights
    if student.family == "linear":
        weights = ""
    mend = f"{WEIGHTS_VARIABLE} names a folder that has those"
    check_weights(weights, about["base_revision"], about["name"], mend)
    return Source(
        name=about["name"],
        student=student.model_copy(update={"weights": weights}),
        adapter=about["adapter"],
        folder=adapter,
        workload=_WORKLOAD.validate_python(about["workload"]),
        asked_text=about["asked_text"],
        temperature=about["temperature"],
        classifies=True,
    )
