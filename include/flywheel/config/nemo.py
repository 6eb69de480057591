"""Sections `nmp_config`, as in the blueprint's files, and `runtime.nemo`: where NeMo is, how it is used."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from flywheel.config.section import BlueprintSection, Section

if TYPE_CHECKING:
    from flywheel.config.schema import Config


def _is_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError("an address such as 'http://nemo.test'")
    return value.rstrip("/")


def _is_alias(value: str) -> str:
    try:
        value.format(workload_id="w", client_id="c")
    except (KeyError, IndexError, ValueError):
        raise ValueError(
            "a name in which {workload_id} and {client_id} may stand, and no other {…}"
        ) from None
    return value


Address = Annotated[str, AfterValidator(_is_address)]
AliasName = Annotated[str, AfterValidator(_is_alias)]


class NmpConfig(BlueprintSection):
    """The NeMo microservices platform, for runtime `nemo`."""

    nemo_base_url: Address | None = Field(
        None, description="Of Customizer, Evaluator, Deployment Manager and entity store."
    )
    nim_base_url: Address | None = Field(
        None, description="Of the NIM proxy, which answers for every deployed model."
    )
    datastore_base_url: Address | None = Field(None, description="Of the Datastore.")
    nmp_namespace: str = Field(
        "dwfbp",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Where datasets, jobs, models and deployments are made.",
    )
    # flywheel's own
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Environment variable with a bearer token for all of them; null: none is sent.",
    )


class NemoConfig(Section):
    """Jobs and NIMs of the runtime `nemo`."""

    parallel_jobs: int = Field(
        4, ge=1, description="Customization jobs of flywheel at once in the namespace, over all runs."
    )
    parallel_nims: int = Field(
        4, ge=1, description="NIMs that flywheel has deployed at once in the namespace, over all runs."
    )
    parallel_requests: int = Field(32, ge=1, description="Prompts of an evaluation in flight at once.")
    evaluator: bool = Field(
        True,
        description="Have NeMo Evaluator score the answers, too; the table is filled by our own scores.",
    )
    wait_hours: float = Field(24.0, gt=0, description="Longest wait for a place under these limits.")
    deploy_minutes: float = Field(
        60.0, gt=0, description="Longest time until a NIM, or a new adapter on it, answers."
    )
    lost_minutes: float = Field(
        10.0, gt=0, description="Longest time in which a service fails or does not answer."
    )
    timeout_seconds: float = Field(60.0, gt=0, description="Of one call.")
    poll_seconds: float = Field(
        5.0, gt=0, description="Between two looks at a job; without news, up to six times as long."
    )
    serving_alias: AliasName | None = Field(
        "champion-{workload_id}-{client_id}",
        min_length=1,
        description="Model of the entity store that points to the champion, on a NIM that stays deployed; "
        "null: no NIM serves it.",
    )
    keep_datasets: bool = Field(
        True, description="false: what a run uploaded to the Datastore goes when its jobs have ended."
    )
    keep_adapters: bool = Field(
        True,
        description="false: adapters of a run go when it ends, but for those that are or were the champion, "
        "or that another run uses.",
    )

    def check_needs(self, config: Config) -> None:
        """Raise ValueError where the rest of the config does not go with NeMo."""
        for name in ("nemo_base_url", "nim_base_url", "datastore_base_url"):
            if getattr(config.nmp_config, name) is None:
                raise ValueError(f"nmp_config.{name}, as runtime.type is nemo: its address")
        if config.tuning.trials:
            raise ValueError("tuning.trials: 0, as runtime.type is nemo: trials run in one process")
        if config.evaluation_config.decoding != "free":
            raise ValueError("evaluation_config.decoding: free, as runtime.type is nemo")
        for student in config.nims:
            if student.family != "causal_lm":
                raise ValueError(
                    f"nims: students of family causal_lm, as runtime.type is nemo; {student.name} is of "
                    f"family {student.family}"
                )
