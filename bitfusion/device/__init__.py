"""Devices: the verbs every back end speaks, and the back ends (docs/design/devices.md)."""
