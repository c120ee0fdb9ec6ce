"""``python -m exo_dl.cli`` is ``exo-dl``."""

from exo_dl.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
