"""`python -m ensue`: the command line, for programs such as torchrun that start modules."""

from __future__ import annotations

from ensue.cli.main import main

if __name__ == "__main__":
    main()
