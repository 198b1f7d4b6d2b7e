"""The daemon: one appliance, kept alive from its first signal handler to its last worker."""
