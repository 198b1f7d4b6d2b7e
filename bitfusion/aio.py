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
from bitfusion.client.async_control import AsyncControl, open_control

__all__ = [
    "AsyncClient",
    "AsyncControl",
    "AsyncDeviceArray",
    "AsyncEvent",
    "AsyncFunction",
    "AsyncModule",
    "AsyncStream",
    "connect",
    "open_control",
]
