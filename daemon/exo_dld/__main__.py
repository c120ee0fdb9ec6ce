"""``python -m exo_dld``: the daemon in the foreground."""

from exo_dld.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
