"""`python -m training ...` is `qgate train ...`."""

from __future__ import annotations

import sys

from qgate.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
