"""The client: memory, arrays, streams, events and functions of a leased GPU, written once for a blocking and an asyncio face."""
