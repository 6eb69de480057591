"""Query parameters that a route does not have are refused: a misspelt filter would give everything."""

from __future__ import annotations

from fastapi import Request
from fastapi.dependencies.utils import get_flat_dependant

from flywheel.web.problems import invalid


async def only_known_parameters(request: Request) -> None:
    """Check the names in a request's query.

    Raises:
        RequestValidationError: the route has no such parameter; it says which ones it has.
    """
    known = {field.alias for field in get_flat_dependant(request.scope["route"].dependant).query_params}
    for name in request.query_params:
        if name not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise invalid(name, f"this route has no such parameter; {takes}", where="query")
