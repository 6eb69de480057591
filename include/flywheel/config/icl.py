"""Section `icl_config`, as in the blueprint's files: untrained students with examples in their prompts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from flywheel.config.section import BlueprintSection


class SimilarityConfig(BlueprintSection):
    """Of example_selection semantic_similarity: how examples are chosen."""

    relevance_ratio: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Share of a prompt's examples that are the most similar ones; the rest are the most "
        "similar ones of other classes or functions.",
    )
    embedding_nim_config: dict[str, Any] = Field(default_factory=dict)


class IclConfig(BlueprintSection):
    """Untrained students with examples in their prompts (icl-eval), beside the plain ones; absent: off."""

    max_context_length: int = Field(
        8192,
        ge=1,
        description="Longest prompt and answer, in tokens; of a student at most its context_length.",
    )
    reserved_tokens: int = Field(
        2048,
        ge=0,
        description="Of these, kept for the record's own prompt and its answer, which may need more or less.",
    )
    max_examples: int = Field(3, ge=1, description="Examples in a prompt at most.")
    min_examples: int = Field(
        1, ge=0, description="A prompt in which fewer have room gets none, and counts as without."
    )
    example_selection: Literal["uniform_distribution", "semantic_similarity"] = Field(
        "semantic_similarity",
        description="semantic_similarity: those whose question is most similar, by TF-IDF; "
        "uniform_distribution: the same for all prompts, evenly over classes or functions, short ones first.",
    )
    similarity_config: SimilarityConfig = SimilarityConfig()

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> IclConfig:
        if self.min_examples > self.max_examples:
            raise ValueError("min_examples of at most max_examples")
        return self
