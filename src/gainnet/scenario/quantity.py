"""The types that scenario files use: numbers are finite, and positive where zero has no meaning."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveFraction = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
MODEL = "model"
"""Format, in the JSON schema, of a text that is a model's folder or, where there is none, its name on a hub."""
ModelName = Annotated[str, Field(json_schema_extra={"format": MODEL})]


class Section(BaseModel):
    """A part of a scenario: frozen, and no field that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")
