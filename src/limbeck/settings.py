"""The base of all settings, of recipe and methods: frozen, closed, with numbers that mean something."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

LONGEST_NAME = 200
"""Bytes. File systems hold 255; what is half written adds an ending."""


def _fits_a_folder(name: str) -> str:
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"names a folder and has {len(name.encode())} bytes; use at most {LONGEST_NAME}")
    return name


Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$"), AfterValidator(_fits_a_folder)]
"""Names become folders, so none may be `.` or `..`."""

LARGEST = 2**32
"""No setting means a larger number (seeds are below it): that is a slip, and would run for ever."""


def _with_sane_numbers(schema: Any) -> Any:
    """A schema whose numbers are wrapped in `_refuse_slips`, wherever they are; other models have done it."""
    if isinstance(schema, list):
        return [_with_sane_numbers(one) for one in schema]
    if isinstance(schema, tuple):
        return tuple(_with_sane_numbers(one) for one in schema)
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("int", "float"):
        return core_schema.no_info_wrap_validator_function(_refuse_slips, schema)
    if schema.get("type") == "function-wrap" and schema["function"].get("function") is _refuse_slips:
        return schema
    return {key: value if key in _NO_SCHEMA else _with_sane_numbers(value) for key, value in schema.items()}


_NO_SCHEMA = {"metadata", "default", "serialization", "function", "expected", "config", "ref", "cls"}
"""Entries of a schema that hold values, not schemas."""


def _refuse_slips(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers; write a number")
    number = check(value)
    if abs(number) > LARGEST:
        raise ValueError(f"no setting is larger than {LARGEST:,}; write a smaller number")
    return number


class Settings(BaseModel):
    """Settings: immutable, without unknown keys; true and false are no numbers, and infinity is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The usual schema, every number in it checked: here, so that no setting can be forgotten."""
        found: CoreSchema = _with_sane_numbers(handler(source))
        return found
