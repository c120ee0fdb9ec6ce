"""What the fuzz tests draw from: how many examples, awkward values, and messages with values in all of their fields."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from exo_dl.core.manifest import FileEntry, Manifest, pull_id_for

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
long = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

MANIFEST = Manifest(
    hub="huggingface",
    repo_type="model",
    repo="org/name",
    commit="a" * 40,
    files=tuple(FileEntry(f"f{i}.bin", size, bytes([i]) * 32) for i, size in enumerate((0, 1, 5 << 20, 40 << 20))),
)
ME = "a" * 16
words = st.text(max_size=60) | st.sampled_from(["../x", "/etc", "con", "a\0b", "\ud7ff", "e\u0301", "x" * 300])
numbers = st.integers(-(1 << 70), 1 << 70) | st.sampled_from(
    [0, 1, 7, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]
)
floats = st.floats(allow_nan=True, allow_infinity=True)
ours = st.sampled_from([pull_id_for(MANIFEST, "hf"), ME, "a" * 40, "org/name", "huggingface", "model", "hf", "f2.bin"])


def fill(message: object, draw: st.DrawFn, depth: int = 0) -> None:
    """Values of every kind in every field of a message."""
    for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
        if draw(st.integers(0, 3)) == 0 or depth > 6:
            continue
        repeated = field.is_repeated
        if field.message_type is not None:
            target = getattr(message, field.name)
            if repeated:
                for _ in range(draw(st.integers(0, 3))):
                    fill(target.add(), draw, depth + 1)
            else:
                target.SetInParent()
                fill(target, draw, depth + 1)
            continue
        for _ in range(draw(st.integers(1, 3)) if repeated else 1):
            value = draw(_values(field))
            try:
                if repeated:
                    getattr(message, field.name).append(value)
                else:
                    setattr(message, field.name, value)
            except (ValueError, TypeError):
                continue  # not a value of this field: the wire could not carry it


def _values(field: object) -> st.SearchStrategy[object]:
    kind = field.cpp_type  # type: ignore[attr-defined]
    if kind == field.CPPTYPE_STRING:  # type: ignore[attr-defined]
        is_bytes = field.type == field.TYPE_BYTES  # type: ignore[attr-defined]
        return (
            st.binary(max_size=100) | st.sampled_from([bytes(20), bytes(32), bytes(64)]) if is_bytes else ours | words
        )
    if kind in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):  # type: ignore[attr-defined]
        return floats
    if kind == field.CPPTYPE_BOOL:  # type: ignore[attr-defined]
        return st.booleans()
    return numbers | st.integers(0, 12)
