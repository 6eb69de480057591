"""What all parts of the configuration have in common."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo


class Section(BaseModel):
    """A part of the configuration: immutable, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class BlueprintSection(Section):
    """A section of the blueprint's files, in which null stands for the default wherever it is no value."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            name: value
            for name, value in data.items()
            if value is not None or name not in cls.model_fields or takes_null(cls.model_fields[name])
        }


def takes_null(field: FieldInfo) -> bool:
    """Return whether null is a value of a key."""
    return type(None) in get_args(field.annotation)
