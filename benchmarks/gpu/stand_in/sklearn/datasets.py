"""Images with the shape and the range of the digits: ten patterns and noise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def load_digits() -> SimpleNamespace:
    """1797 images of 64 values from 0 to 16, and their classes."""
    random = np.random.default_rng(0)
    target = random.integers(0, 10, 1797)
    patterns = random.integers(0, 17, (10, 64))
    data = np.clip(patterns[target] + random.normal(0, 2, (1797, 64)), 0, 16)
    return SimpleNamespace(data=data, target=target)
