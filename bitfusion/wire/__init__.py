"""The wire: frames, operations and connection states. No sockets, no clock, no loop (docs/reference/wire.md)."""
