"""The worker: one process per lease and GPU, which executes a session's operations on its device."""
