"""A wide-area network on one machine: relays that delay what passes, and limit how much does.

Each party's outgoing bytes share one line of a given rate, as on its network card, and arrive a
given time after they have left it; both directions are delayed, so a question and its answer take
twice the delay. What the relays pass is TLS, of which they understand nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

_PIECE = 2**14
_TRIES, _PAUSE = 600, 0.1


class _Line:
    """One party's way out: when it is free again."""

    def __init__(self, bytes_per_second: float) -> None:
        self.rate = bytes_per_second
        self.free_at = 0.0

    def leaves_at(self, size: int, now: float) -> float:
        self.free_at = max(self.free_at, now) + size / self.rate
        return self.free_at


class SlowWire:
    """Relays between parties: each reaches those before it through ports of this wire."""

    def __init__(self, delay: float, bytes_per_second: float, parties: int = 3) -> None:
        """delay: seconds one way. bytes_per_second: of all that a party sends."""
        self.delay = delay
        self.lines = [_Line(bytes_per_second) for _ in range(parties)]
        self.loop = asyncio.new_event_loop()
        self.servers: list[asyncio.Server] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def routes(self, caller: int, ports: Sequence[int]) -> list[int]:
        """The ports by which a party reaches all others, and its own."""
        return [
            self._relay(caller, called, port) if called < caller else port
            for called, port in enumerate(ports)
        ]

    def _relay(self, caller: int, called: int, port: int) -> int:
        starting = asyncio.run_coroutine_threadsafe(self._listen(caller, called, port), self.loop)
        return starting.result()

    async def _listen(self, caller: int, called: int, port: int) -> int:
        async def pass_on(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
            try:
                far, forth = await _reached(port)
            except OSError:
                back.close()
                return
            self._start(self._pump(near, forth, self.lines[caller]))
            self._start(self._pump(far, back, self.lines[called]))

        server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _start(self, pump: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(pump)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, line: _Line
    ) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivering = self.loop.create_task(self._deliver(under_way, sink))
        try:
            while piece := await source.read(_PIECE):
                due = line.leaves_at(len(piece), self.loop.time()) + self.delay
                under_way.put_nowait((due, piece))
        except OSError:
            pass
        under_way.put_nowait((self.loop.time() + self.delay, b""))
        await delivering

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                due, piece = await under_way.get()
                await asyncio.sleep(max(0.0, due - self.loop.time()))
                if not piece:
                    break
                sink.write(piece)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


async def _reached(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to a party that may not listen yet."""
    for _ in range(_TRIES):
        with suppress(OSError):
            return await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(_PAUSE)
    return await asyncio.open_connection("127.0.0.1", port)


@contextmanager
def slow_wire(delay: float, bytes_per_second: float) -> Iterator[SlowWire]:
    """A wire whose relays run in a thread until the block ends."""
    wire = SlowWire(delay, bytes_per_second)
    thread = threading.Thread(target=wire.loop.run_forever, daemon=True)
    thread.start()
    try:
        yield wire
    finally:
        asyncio.run_coroutine_threadsafe(_stop(wire), wire.loop).result()
        wire.loop.call_soon_threadsafe(wire.loop.stop)
        thread.join()
        wire.loop.close()


async def _stop(wire: SlowWire) -> None:
    for server in wire.servers:
        server.close()
    current = asyncio.current_task()
    rest = [task for task in asyncio.all_tasks() if task is not current]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.sleep(_PAUSE)  # in which closed connections take their leave
