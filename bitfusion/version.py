"""The version of the package and of the protocols it speaks. Owns numbers only."""

__version__ = "0.1.0"

WIRE_VERSION = 1
"""The wire version this build prefers; the header carries it (docs/reference/wire.md section 2)."""

WIRE_VERSIONS = (1,)
"""Every wire version this build can speak, best first; offered in the hello."""
