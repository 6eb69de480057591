"""The endpoint's server, which ends without a request being lost."""

from __future__ import annotations

import asyncio
import socket

import uvicorn


class DrainingServer(uvicorn.Server):
    """uvicorn's server, but for connections that are kept open: each is closed after an answer that says so.

    uvicorn closes those at once that have nothing to be answered just then. A caller that sends its next
    request in that moment would find it broken: of 32 that ask one after the other, some do.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connection, answer what comes by the others, and end when they are closed.

        One that nothing comes by is closed after `timeout_keep_alive`, as always.
        """
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.timeout_keep_alive
        while state.connections and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)
