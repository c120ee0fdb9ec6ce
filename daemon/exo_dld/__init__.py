"""The daemon of exo-dl."""

import os

__all__: list[str] = []

# gRPC writes failed handshakes of strangers to standard error by itself, thousands of times where there are many. It
# reads this when it is loaded.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
