"""What the header of a weight file says: which tensors lie where. The same for all formats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from exo_dl.errors import FormatError

__all__ = ["MAX_NAME_BYTES", "MAX_TENSORS", "FileStructure", "ModelStructure", "Tensor"]

# DeepSeek V3, among the models with the most tensors, has 91,991 in 163 files.
MAX_TENSORS = 200_000
MAX_NAME_BYTES = 512


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of one file.

    Attributes:
        name: as the file has it.
        dtype: as the format writes it: "BF16" (safetensors), "Q4_K" (GGUF).
        shape: outermost dimension first, whatever the order in the file; empty for a scalar.
        file: path of its file in the repository.
        begin: offset of its first byte from the start of the file.
        end: one past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class FileStructure:
    """The header of one file.

    Attributes:
        file: path in the repository.
        header_bytes: bytes before the first tensor's: all that has to be read to know the structure.
        tensors: by their place in the file.
        metadata: what else the header says; for GGUF without arrays of more than a thousand values.
    """

    file: str
    header_bytes: int
    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelStructure:
    """The tensors of a model that is spread over files: iterate over it, ask for a name, count it.

    Raises:
        FormatError: two files hold a tensor of the same name, or there are more than `MAX_TENSORS`.
    """

    files: Mapping[str, FileStructure]
    kind: Literal["safetensors", "gguf"]

    def __post_init__(self) -> None:
        if sum(len(file.tensors) for file in self.files.values()) > MAX_TENSORS:
            raise FormatError(f"The model has more than {MAX_TENSORS} tensors.")
        seen: dict[str, str] = {}
        for tensor in self:
            if seen.setdefault(tensor.name, tensor.file) != tensor.file:
                raise FormatError(f"The tensor {tensor.name!r} is in {seen[tensor.name]!r} and in {tensor.file!r}.")

    @cached_property
    def _by_name(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self}

    def __iter__(self) -> Iterator[Tensor]:
        for path in sorted(self.files):
            yield from self.files[path].tensors

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name; KeyError where there is none."""
        return self._by_name[name]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self)
