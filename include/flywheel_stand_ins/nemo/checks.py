"""Requests and answers against the types of the official client: what it does not know is an error."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin

from nemo_microservices import BaseModel
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import get_type_hints, is_typeddict


class BadRequestError(Exception):
    """A request that the official client's types do not allow."""


class BadAnswerError(Exception):
    """An answer of ours that the official client's types do not allow."""


def check_request(kind: Any, body: Any) -> dict[str, Any]:
    """Return a request's body, once it is what the client may send.

    Args:
        kind: the client's TypedDict, such as JobCreateParams.

    Raises:
        BadRequestError: a field is missing, unknown or of another type.
    """
    if not isinstance(body, dict):
        raise BadRequestError("expected a JSON object")
    try:
        _exhaust(_adapter(kind).validate_python(body))
    except ValidationError as error:
        raise BadRequestError(_first(error)) from None
    unknown = sorted(_unknown(kind, body, ""))
    if unknown:
        raise BadRequestError(f"{unknown[0]}: the client knows no such field")
    return body


def check_answer(kind: type[BaseModel], answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer, once the client's type takes it, with no field that it does not know.

    Raises:
        BadAnswerError: it is not so.
    """
    try:
        made = kind.model_validate(answer)
    except ValidationError as error:
        raise BadAnswerError(f"{kind.__name__}: {_first(error)}") from None
    private = sorted(_private(made, kind.__name__))
    if private:
        raise BadAnswerError(f"{private[0]}: the client knows no such field")
    return answer


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=None if is_typeddict(kind) else ConfigDict(arbitrary_types_allowed=True))


def _exhaust(value: Any) -> None:
    """Go through a value to its end: pydantic checks what is in an Iterable when it is read."""
    if isinstance(value, Mapping):
        for item in value.values():
            _exhaust(item)
    elif not isinstance(value, str | bytes) and hasattr(value, "__iter__"):
        for item in value:
            _exhaust(item)


def _unknown(kind: Any, value: Any, path: str) -> set[str]:
    """Return the fields of a value that its type has not, by their paths."""
    origin = get_origin(kind)
    if origin in (Annotated, Required, NotRequired):
        return _unknown(get_args(kind)[0], value, path)
    if origin in (Union, types.UnionType):
        found = [_unknown(part, value, path) for part in get_args(kind) if _may_be(part, value)]
        return min(found, key=len, default=set())
    if is_typeddict(kind) and isinstance(value, dict):
        hints = get_type_hints(kind, include_extras=True)
        strange = {f"{path}{name}" for name in value if name not in hints}
        for name, hint in hints.items():
            if name in value:
                strange |= _unknown(hint, value[name], f"{path}{name}.")
        return strange
    if isinstance(value, list) and get_args(kind):
        return set().union(*(_unknown(get_args(kind)[0], item, path) for item in value))
    if origin is dict and isinstance(value, dict):
        return set().union(
            *(_unknown(get_args(kind)[1], item, f"{path}{name}.") for name, item in value.items())
        )
    return set()


def _may_be(kind: Any, value: Any) -> bool:
    try:
        _exhaust(_adapter(kind).validate_python(value))
    except ValidationError:
        return False
    return True


def _private(value: Any, path: str) -> set[str]:
    if isinstance(value, BaseModel):
        found = {f"{path}.{name}" for name in value.model_extra or ()}
        for name in type(value).model_fields:
            found |= _private(getattr(value, name), f"{path}.{name}")
        return found
    if isinstance(value, dict):
        return set().union(*(_private(item, f"{path}.{name}") for name, item in value.items()))
    if isinstance(value, list):
        return set().union(*(_private(item, path) for item in value))
    return set()


def _first(error: ValidationError) -> str:
    detail = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
