"""Section `evaluation_config`: what kind of answers the workload has, how a student's are had and scored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.config.section import BlueprintSection

WorkloadType = Literal["auto", "generic", "classification", "tool_calling"]
ToolEvalType = Literal["tool-calling-metric", "tool-calling-judge"]

# Longest answers where the config names none, in tokens: a class in brackets, a few calls, some sentences.
ANSWER_TOKENS = {"classification": 12, "tool_calling": 256, "generic": 512}


class EvaluationConfig(BlueprintSection):
    """How a student's answers are generated and scored."""

    workload_type: WorkloadType = Field(
        "auto",
        description="What the teacher's answers are: classification: each names one of the workload's "
        "classes; tool_calling: calls of functions; generic: free texts. auto: told from the records "
        "(docs/workloads.md).",
    )
    tool_eval_type: ToolEvalType | None = Field(
        None,
        description="Of tool_calling: tool-calling-metric (or null): calls are right if functions and "
        "arguments are the teacher's; tool-calling-judge: of those whose arguments alone differ, "
        "llm_judge_config decides.",
    )
    # flywheel's own
    batch_size: int | None = Field(
        None, ge=1, description="Prompts answered at once; null: what fits a GPU's memory, 64 on a CPU."
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest answer, in tokens; null: 12 of a classification, 256 of tool calls, 512 of "
        "free texts.",
    )
    decoding: Literal["free", "labels"] = Field(
        "free",
        description="free: candidates may write anything. labels: greedily one of the classes' answers, in "
        "one pass; base students still answer freely. Not on NeMo, and of a classification alone.",
    )
    bootstrap_samples: int = Field(1000, ge=100, description="Resamples behind a 95 % interval.")

    def of_type(self, workload_type: WorkloadType) -> EvaluationConfig:
        """Return the section with the workload's type, and the longest answer, as they are for this data."""
        tokens = self.max_new_tokens or ANSWER_TOKENS.get(workload_type, ANSWER_TOKENS["classification"])
        return self.model_copy(update={"workload_type": workload_type, "max_new_tokens": tokens})

    @property
    def answer_tokens(self) -> int:
        """Longest answer, in tokens."""
        return self.max_new_tokens or ANSWER_TOKENS.get(self.workload_type, ANSWER_TOKENS["classification"])
