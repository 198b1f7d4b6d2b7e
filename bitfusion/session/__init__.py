"""Sessions: calls, order, credits and sticky errors over one connection. No sockets, no asyncio, no threads, no clock."""
