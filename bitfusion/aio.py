"""The asyncio face: ``async with await bitfusion.aio.connect(...) as client``."""

from bitfusion.client.async_client import (
    AsyncClient,
    AsyncDeviceArray,
    AsyncEvent,
    AsyncFunction,
    AsyncModule,
    AsyncStream,
    connect,
)

__all__ = ["AsyncClient", "AsyncDeviceArray", "AsyncEvent", "AsyncFunction", "AsyncModule", "AsyncStream", "connect"]
