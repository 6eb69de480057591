"""What a customization job works with: its data set, its spec, and where its adapter goes."""

from __future__ import annotations

import orjson
from nemo_microservices.types import Model

from flywheel.artifacts.root import ArtifactRoot
from flywheel.config.training import LoraConfig, TrainingConfig
from flywheel.jobs.spec import CustomizeSpec
from flywheel_stand_ins.nemo.checks import BadRequestError, check_answer
from flywheel_stand_ins.nemo.datastore import DatastoreStandIn
from flywheel_stand_ins.nemo.entities import Entities
from flywheel_stand_ins.nemo.state import Entity, State, now
from flywheel_stand_ins.nemo.students import Students

# No hyperparameter of the Customizer names the norm that it clips gradients to. Ours is that of the configs
# which come with flywheel, so that their tables are those of runtime local.
MAX_GRAD_NORM = 0.3
_TRAIN, _VAL = "training/train.jsonl", "validation/val.jsonl"


def path_of(job: Entity) -> str:
    """Return where the files of a job's work are, but for their endings."""
    return f"jobs/{job['id']}/customize"


class Trainings:
    """The trainings behind customization jobs.

    Args:
        state: its folder holds the work.
        datastore: where data sets are, and what jobs make.
        models: of the entity store.
        students: what can be customized.
    """

    def __init__(
        self, state: State, datastore: DatastoreStandIn, models: Entities, students: Students
    ) -> None:
        self._state = state
        self._datastore = datastore
        self._models = models
        self._students = students
        self.root = ArtifactRoot(str(state.folder / "artifacts"))

    def spec(self, job: Entity) -> CustomizeSpec:
        """Make the data set and the spec of a job of flywheel's own, and write them."""
        key = job["shown"]["dataset"].replace("/", "-")
        count = self._make_dataset(job["shown"]["dataset"], key)
        asked = job["shown"]["hyperparameters"]
        batch, epochs = asked.get("batch_size", 8), asked.get("epochs", 1)
        steps = asked.get("max_steps") or -(-count // batch) * epochs
        interval = asked.get("val_check_interval")
        lora = asked.get("lora", {})
        spec = CustomizeSpec(
            artifact_root=self.root.url,
            student=self._students.student(job["base"]),
            dataset=key,
            size=count,
            training=TrainingConfig(
                epochs=1 if asked.get("max_steps") else epochs,
                min_steps=asked.get("max_steps") or 0,
                batch_size=batch,
                learning_rate=asked.get("learning_rate", 1e-4),
                warmup_ratio=asked.get("warmup_steps", 0) / steps,
                weight_decay=asked.get("weight_decay", 0.01),
                max_grad_norm=MAX_GRAD_NORM,
                validations=round(epochs / interval) if interval else 0,
                checkpoint_seconds=5,
            ),
            lora=LoraConfig(
                adapter_dim=lora.get("adapter_dim", 8),
                adapter_dropout=lora.get("adapter_dropout", 0.0),
                alpha=lora.get("alpha", 16),
            ),
            seed=asked.get("seed", 0),
        )
        self.root.write_json(f"{path_of(job)}.spec.json", spec.model_dump(mode="json"))
        return spec

    def publish(self, job: Entity, spec: CustomizeSpec) -> None:
        """Put an adapter into the Datastore and the entity store, as its maker does."""
        namespace, _, name = job["output_model"].partition("/")
        self._datastore.publish(f"model/{namespace}/{name}", self.root.fetch("adapters", spec.key))
        model = {
            "namespace": namespace,
            "name": name,
            "base_model": job["base"],
            "artifact": {
                "files_url": f"hf://models/{namespace}/{name}",
                "status": "upload_completed",
                "backend_engine": "hugging_face",
            },
            "peft": {"finetuning_type": "lora"},
            "created_at": now(),
            "updated_at": now(),
        }
        self._state.put(self._models.kind, job["output_model"], check_answer(Model, model))

    def _make_dataset(self, name: str, key: str) -> int:
        """Make of uploaded files what flywheel trains on; return the number of training records."""
        lines = {}
        for path in (_TRAIN, _VAL):
            file = self._datastore.file(name, path)
            lines[path] = file.read_bytes().splitlines() if file is not None else []
        if not lines[_TRAIN]:
            raise BadRequestError(f"dataset {name} has no {_TRAIN}")
        if not self.root.find("datasets", key):
            with self.root.build("datasets", key) as folder:
                for path, wanted in ((_TRAIN, "train.jsonl"), (_VAL, "val.jsonl")):
                    with (folder / wanted).open("wb") as written:
                        for number, line in enumerate(lines[path]):
                            record = {"id": f"{wanted}-{number}", "label": "", **orjson.loads(line)}
                            written.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        return len(lines[_TRAIN])
