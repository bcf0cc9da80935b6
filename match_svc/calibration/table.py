"""Measured rates of false matches and false non-matches over thresholds, as they are kept in a JSON file."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ALIGNED: Final = "aligned_gallery-aligned_probe"
UNALIGNED: Final = "mean_gallery-unaligned_probe"
"""What an unaligned probe is compared with is the mean of a photo's aligned and unaligned embedding."""

Rate = Annotated[float, Field(ge=0, le=1)]


class Pipeline(BaseModel):
    """What was measured with one kind of gallery and one kind of probe."""

    model_config = ConfigDict(frozen=True)

    impostor_pairs: Annotated[int, Field(ge=1)]
    """Ordered pairs of photos of different persons: each pair of photos counts twice."""
    genuine_pairs: Annotated[int, Field(ge=0)]
    """Ordered pairs of different photos of one person."""
    fmr: list[Rate]
    """False match rate: the share of impostor pairs whose cosine reaches each threshold."""
    fnmr: list[Rate]
    """False non-match rate: the share of genuine pairs whose cosine does not."""


class Table(BaseModel):
    """The curves of one model on one set of photos."""

    model_config = ConfigDict(frozen=True)

    model: str
    """Whose embeddings were compared."""
    source: str
    """On which photos, and how they were prepared."""
    photos: Annotated[int, Field(ge=2)]
    identities: Annotated[int, Field(ge=2)]
    """Persons on the photos."""
    thresholds: Annotated[list[Annotated[float, Field(ge=-1, le=1)]], Field(min_length=2)]
    """Cosines, ascending."""
    pipelines: dict[str, Pipeline]
    """By name; `ALIGNED` and `UNALIGNED` are needed."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(a >= b for a, b in zip(self.thresholds, self.thresholds[1:], strict=False)):
            raise ValueError("thresholds do not ascend")
        for name in (ALIGNED, UNALIGNED):
            if name not in self.pipelines:
                raise ValueError(f"pipelines has no {name}")
        for name, pipeline in self.pipelines.items():
            for rates in (pipeline.fmr, pipeline.fnmr):
                if len(rates) != len(self.thresholds):
                    raise ValueError(f"pipelines.{name} has {len(rates)} rates for {len(self.thresholds)} thresholds")
            if any(a < b for a, b in zip(pipeline.fmr, pipeline.fmr[1:], strict=False)):
                raise ValueError(f"pipelines.{name}.fmr rises")
        return self
