"""What browsers may do with an answer of ours: the headers of all of them, errors and files included.

Scripts come from the page's own file alone, styles from nothing that stands in a document, nothing from
another site; only Airflow's own pages may frame an answer.
"""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ENDS = "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
# Of answers that are no documents: were one taken for one, it could do nothing.
DATA_POLICY = f"default-src 'none'; {_ENDS}"
# The results page: its script sets styles through the DOM and asks the API of the same server. Its `base` is
# Airflow's address.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
# The bars of a report: `style` attributes, which load nothing.
BARS = "style-src-attr 'unsafe-inline'"

_STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)


class SafeHeaders:
    """Adds the headers to every answer of an application that does not have them.

    Args:
        policy: the Content-Security-Policy of answers that bring none of their own.
    """

    def __init__(self, app: ASGIApp, policy: str = DATA_POLICY) -> None:
        self.app = app
        self.headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer with the headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, with_headers)


def document_policy(text: str) -> str:
    """Return the policy of a document of ours that runs no script: the styles in its head by their hashes."""
    head = text.split("</head>", 1)[0]
    hashes = [f"'sha256-{_sha256(style)}'" for style in _STYLE.findall(head)]
    styles = " ".join(hashes or ["'none'"])
    return f"default-src 'none'; style-src {styles}; img-src data:; {_ENDS}"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
