"""Transports: sessions on real sockets, blocking and asyncio. The first layer that does I/O."""
