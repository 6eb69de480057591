"""The experiment's configuration as types; `flywheel.config.load_config` reads a file into them.

The sections that end in `_config`, and `nims`, are those of the NVIDIA Data Flywheel Blueprint and keep
its names, so that its users' files load unchanged. The other sections are flywheel's own. A key that the
blueprint knows and flywheel has no use for is listed in `IGNORED_KEYS`: accepted, and named once in the log.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, field_validator, model_validator

from flywheel.config.annotation import AnnotationConfig
from flywheel.config.api import ApiConfig
from flywheel.config.clock import ClockSection
from flywheel.config.dag import DagConfig
from flywheel.config.endpoint import VARIABLE
from flywheel.config.evaluation import EvaluationConfig
from flywheel.config.icl import IclConfig
from flywheel.config.judge import JudgeConfig
from flywheel.config.kubernetes import KubernetesConfig
from flywheel.config.logs import LoggingConfig
from flywheel.config.nemo import NemoConfig, NmpConfig
from flywheel.config.prices import PricesConfig
from flywheel.config.promotion import PromotionConfig
from flywheel.config.retention import RetentionConfig
from flywheel.config.section import BlueprintSection, Section, takes_null
from flywheel.config.serving import ServingConfig
from flywheel.config.source import SourceConfig
from flywheel.config.store import StoreConfig
from flywheel.config.student import Student
from flywheel.config.teacher import TeacherConfig
from flywheel.config.training import LoraConfig, StudentPrompt, TrainingConfig, TuningConfig

# Blueprint keys with no effect in flywheel, as dotted paths; `*` stands for any list index.
IGNORED_KEYS = (
    "nims.*.model_type",
    "llm_judge_config.context_length",
    "llm_judge_config.gpus",
    "llm_judge_config.pvc_size",
    "llm_judge_config.tag",
    "llm_judge_config.registry_base",
    "icl_config.similarity_config.embedding_nim_config",
    "embedding_config",
    "mlflow_config.enabled",
    "celery_config",
)


class DataSplitConfig(BlueprintSection):
    """How records become the training, validation and held-out eval sets."""

    eval_size: int = Field(100, ge=1, description="Held-out records, the same for all students and sizes.")
    val_ratio: float = Field(0.1, ge=0, lt=1, description="Share of the rest that is validation data.")
    min_total_records: int = Field(50, ge=1, description="With fewer the run stops with an error.")
    random_seed: int = Field(
        42,
        description="Of the split, the training and the bootstrap; null: 42, so that runs can be repeated.",
    )
    limit: int | None = Field(None, ge=1, description="Use at most so many records; null: all.")
    parse_function_arguments: bool = Field(
        True,
        description="Arguments of the teacher's calls must be JSON objects, and are learned and compared as "
        "such; false: arguments that are no JSON are kept as the text they are.",
    )
    stratify_enabled: bool = Field(True, description="Keep the class shares in all splits and sizes.")
    min_samples_per_class: int = Field(
        2, ge=1, description="A class with fewer makes the split random; the result says so."
    )
    rare_class_threshold: int = Field(
        1, ge=0, description="Classes with at most so many are stratified together."
    )
    # flywheel's own
    near_duplicate_similarity: float = Field(
        0.85, gt=0, le=1, description="Texts whose word sets have at least this Jaccard similarity are one."
    )
    split: Literal["temporal", "random"] = Field(
        "random",
        description="temporal: in order of time training, gap, validation, calibration, eval, so eval is the "
        "newest; random: by a stable hash. Texts of one event are on one side in both.",
    )
    event_similarity: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Texts report one event from this cosine of their words on, weighted by rarity.",
    )
    event_days: float = Field(
        2, ge=0, le=365, description="Days between the reports of one event; 0: each text is its own event."
    )
    gap_days: float = Field(
        1,
        ge=0,
        le=3650,
        description="temporal: days between training and what comes later, left out; of at most a tenth of "
        "the records.",
    )
    calibration_ratio: float = Field(
        0, ge=0, lt=1, description="Share of what is not eval that is kept to set thresholds on; 0: none."
    )


class MlflowConfig(BlueprintSection):
    """Where runs are tracked. A null URI means a SQLite file in the state folder."""

    tracking_uri: str | None = Field(None, description="null: a SQLite file in state/.")
    experiment_name_prefix: str = Field(
        "flywheel",
        description="MLflow's experiment is PREFIX-WORKLOAD, of experiments/NAME.yaml PREFIX-WORKLOAD-NAME.",
    )
    artifact_location: str | None = Field(None, description="Where MLflow keeps files; null: state/.")
    enabled: bool | None = None


def _is_runtime(value: str) -> str:
    if value not in ("local", "kubernetes", "nemo") and not re.fullmatch(r"[\w.]+:\w+", value):
        raise ValueError("'local', 'kubernetes', 'nemo', or MODULE:CLASS of a runtime of your own")
    return value


class RuntimeConfig(Section):
    """Where customization and evaluation jobs run."""

    type: Annotated[str, AfterValidator(_is_runtime)] = Field(
        "local",
        description="local: a process of its own on this machine. kubernetes: a pod. nemo: NVIDIA's NeMo "
        "microservices, which a file with nmp_config.nemo_base_url means by itself. MODULE:CLASS: your "
        "own (docs/architecture.md).",
    )
    parallel: int = Field(0, ge=0, description="Jobs at once; 0: one for each GPU, else for each CPU core.")
    threads: int = Field(0, ge=0, description="CPU threads of a job; 0: the cores shared among the jobs.")
    python: str | None = Field(
        None, description="Interpreter that has the students extra; default: this one."
    )
    variables: tuple[Annotated[str, Field(pattern=VARIABLE)], ...] = Field(
        (),
        description="local: names of further variables of Airflow's environment that jobs get. Without: "
        "paths, locale, libraries' settings, and what artifact root and weights need (SECURITY.md).",
    )
    job_timeout_hours: float = Field(12.0, gt=0, description="A longer job is stopped and fails.")
    kubernetes: KubernetesConfig = KubernetesConfig()
    nemo: NemoConfig = NemoConfig()
    options: dict[str, Any] = Field(
        default_factory=dict, description="Of a runtime of your own, which reads them."
    )

    @model_validator(mode="after")
    def _options_have_a_reader(self) -> RuntimeConfig:
        if self.options and ":" not in self.type:
            raise ValueError(f"options: only for a runtime of your own; {self.type} reads none")
        return self


class ArtifactsConfig(Section):
    """Where datasets, adapters, evaluations and runs are kept: a folder or any fsspec URL."""

    root: str = Field("artifacts", description="A folder, or an fsspec URL such as s3://bucket/flywheel.")


class ScheduleConfig(ClockSection):
    """When the DAG runs: by clock, when an asset says that new data is here, or on either."""

    cron: str | None = Field(None, description="Such as '0 2 * * *'; null: not by clock.")
    asset: str | None = Field(None, description="URI of the Airflow asset that new data updates.")


class Notifier(Section):
    """One Airflow notifier: any class of any provider, with its arguments."""

    notifier: str = Field(pattern=r"^[A-Za-z_][\w.]*\.[A-Za-z_]\w*$", description="Class path.")
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Of its constructor. A secret one is `{connection: ID, field: password}`: of an Airflow "
        "connection its password, login, host or extra.NAME.",
    )


class NotificationsConfig(Section):
    """Who is told what, through Airflow's own notifiers."""

    on_failure: tuple[Notifier, ...] = ()
    on_promotion: tuple[Notifier, ...] = ()
    on_worse_champion: tuple[Notifier, ...] = ()
    on_warning: tuple[Notifier, ...] = ()
    on_drift: tuple[Notifier, ...] = ()
    on_stuck: tuple[Notifier, ...] = ()
    stuck_minutes: float = Field(
        15.0,
        gt=0,
        description="A run is stuck when nothing of it has begun or ended for so long, and nothing works: it "
        "waits for a slot, a place for a pod, a person, or a component of Airflow that is gone.",
    )


class Config(Section):
    """The whole configuration, read once when a run starts."""

    client_id: str = Field(
        "default",
        min_length=1,
        max_length=128,
        description="Whose data: in every record. Of its own for each experiment: by default its name.",
    )
    workload: str = Field("include/workloads/news_classifier.yaml", description="Prompt, classes, examples.")
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (5000, 10000, 25000), min_length=1, description="Training records; each student is trained on each."
    )
    nims: tuple[Student, ...] = Field(min_length=1, validation_alias=AliasChoices("nims", "nim"))
    source: tuple[SourceConfig, ...] = ()
    teacher: TeacherConfig = TeacherConfig()
    prices: PricesConfig = PricesConfig()
    data_split_config: DataSplitConfig = DataSplitConfig()
    student_prompt: StudentPrompt = Field(
        "auto",
        description="What a fine-tuned student is asked: `full`, the whole prompt; `text`, the record's own "
        "text alone, which is faster and learned from fewer records (the adapter carries what was left out); "
        "`auto`: `text`, unless validation shows that it costs accuracy. Tool calls, free texts and students "
        "on NeMo have `full` then.",
    )
    training_config: TrainingConfig = TrainingConfig()
    lora_config: LoraConfig = LoraConfig()
    tuning: TuningConfig = TuningConfig()
    evaluation_config: EvaluationConfig = EvaluationConfig()
    promotion: PromotionConfig = PromotionConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    store: StoreConfig = StoreConfig()
    artifacts: ArtifactsConfig = ArtifactsConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    dag: DagConfig = DagConfig()
    retention: RetentionConfig = RetentionConfig()
    notifications: NotificationsConfig = NotificationsConfig()
    mlflow_config: MlflowConfig = MlflowConfig()
    logging_config: LoggingConfig = LoggingConfig()
    serving: ServingConfig = ServingConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    api: ApiConfig = ApiConfig()
    nmp_config: NmpConfig = NmpConfig()
    llm_judge_config: JudgeConfig | None = None
    icl_config: IclConfig | None = None
    embedding_config: dict[str, Any] = Field(default_factory=dict)
    celery_config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _blueprint_files_mean_nemo(cls, data: Any) -> Any:
        """Say in our words what a file of the blueprint says in its own.

        A section without a key in it (null) is as if it were not there. A file that names no runtime and has
        the addresses of NeMo means that one. `nmp_config.nim_parallelism` is `runtime.nemo.parallel_nims`.
        """
        if not isinstance(data, dict):
            return data
        empty = {
            name
            for name, field in cls.model_fields.items()
            if data.get(name, "") is None and section_in(field.annotation) and not takes_null(field)
        }
        data = {name: value for name, value in data.items() if name not in empty}
        nmp, runtime = data.get("nmp_config"), data.get("runtime", {})
        if not isinstance(nmp, dict) or not isinstance(runtime, dict):
            return data
        if nmp.get("nemo_base_url") and "type" not in runtime:
            runtime = {**runtime, "type": "nemo"}
        if "nim_parallelism" in nmp:
            nemo = runtime.get("nemo") or {}
            if isinstance(nemo, dict) and nmp["nim_parallelism"] is not None:
                runtime = {**runtime, "nemo": {"parallel_nims": nmp["nim_parallelism"], **nemo}}
            nmp = {name: value for name, value in nmp.items() if name != "nim_parallelism"}
        return {**data, "nmp_config": nmp, **({"runtime": runtime} if runtime else {})}

    @model_validator(mode="after")
    def _the_judge_is_there(self) -> Config:
        judge = self.llm_judge_config
        if judge is None:
            if self.evaluation_config.tool_eval_type == "tool-calling-judge":
                raise ValueError(
                    "llm_judge_config, as evaluation_config.tool_eval_type is tool-calling-judge"
                )
        elif judge.type == "local" and self.nmp_config.nim_base_url is None:
            raise ValueError("nmp_config.nim_base_url, as llm_judge_config.type is local")
        return self

    @model_validator(mode="after")
    def _a_cascade_has_probabilities(self) -> Config:
        if self.serving.cascade is not None:
            if self.evaluation_config.decoding != "labels":
                raise ValueError(
                    "evaluation_config.decoding: labels, as serving.cascade is set: without it no student "
                    "says how probable its answers are"
                )
            if not self.data_split_config.calibration_ratio:
                raise ValueError(
                    "data_split_config.calibration_ratio above 0, as serving.cascade is set: its threshold "
                    "is set on that slice"
                )
        return self

    @model_validator(mode="after")
    def _a_vllm_has_a_student(self) -> Config:
        served = [server.student for server in self.serving.vllm]
        known = {student.name for student in self.nims if student.family == "causal_lm"}
        for name in served:
            if name not in known or served.count(name) > 1:
                raise ValueError(f"serving.vllm: names of language models of `nims`, once each; got {name!r}")
        if served and self.serving.engine == "vllm" and self.serving.cascade is not None:
            raise ValueError(
                "serving.engine auto or own, as serving.cascade is set: its threshold is of our engine's "
                "probabilities"
            )
        return self

    @model_validator(mode="after")
    def _families_fit_the_workload(self) -> Config:
        kind = self.evaluation_config.workload_type
        for student in self.nims:
            if student.family != "causal_lm" and kind not in ("auto", "classification"):
                raise ValueError(
                    f"nims: students of family causal_lm, as evaluation_config.workload_type is {kind}; "
                    f"{student.name} is of family {student.family}, which classifies only"
                )
        return self

    @model_validator(mode="after")
    def _the_runtime_has_what_it_needs(self) -> Config:
        section = getattr(self.runtime, self.runtime.type, None)
        if section is not None:
            section.check_needs(self)
        return self

    @field_validator("source", mode="before")
    @classmethod
    def _one_source_is_a_list_of_one(cls, source: Any) -> Any:
        return [source] if isinstance(source, dict) else source

    @field_validator("sizes")
    @classmethod
    def _sizes_rise(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)):
            raise ValueError("rising numbers without repeats, such as [5000, 10000, 25000]")
        return sizes

    @field_validator("nims")
    @classmethod
    def _student_names_differ(cls, nims: tuple[Student, ...]) -> tuple[Student, ...]:
        names = [student.name for student in nims]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"students with different names: {name!r} is there twice; set `name` on one")
        return nims

    @model_validator(mode="after")
    def _pods_are_of_students(self) -> Config:
        for name in self.runtime.kubernetes.students:
            if name not in [student.name for student in self.nims]:
                raise ValueError(f"runtime.kubernetes.students.{name}: a short name of one of `nims`")
        return self

    @property
    def students(self) -> tuple[Student, ...]:
        """The students, in the file's order."""
        return self.nims

    @property
    def student_names(self) -> frozenset[str]:
        """The names that say that a student gave an answer (`flywheel.workloads.records.check_no_student`).

        A student that is never customized may be the model that applications call as their teacher.
        """
        students = [student for student in self.nims if student.customization_enabled]
        names = {name for student in students for name in (student.model_name, student.name, student.weights)}
        names |= {student.weights.partition("@")[0] for student in students}  # a plan's have a commit
        return frozenset(names - {self.teacher.model, ""})

    def student(self, name: str) -> Student:
        """Return the student of that short name.

        Raises:
            KeyError: no student has it.
        """
        for student in self.nims:
            if student.name == name:
                return student
        raise KeyError(f"no student {name!r}; there are {', '.join(s.name for s in self.nims)}")

    def training_of(self, student: Student) -> TrainingConfig:
        """Return how a student is trained: as `training_config` says, but for what it says itself."""
        own = student.customizer_configs.model_dump(include={"epochs", "learning_rate"}, exclude_none=True)
        return self.training_config.model_copy(update=own)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section class inside an annotation such as `tuple[Student, ...]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)
