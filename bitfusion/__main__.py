"""``python -m bitfusion``: the same as the ``bitfusion`` command."""

import sys

from bitfusion.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
