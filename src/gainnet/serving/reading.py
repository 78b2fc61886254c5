"""Settings of a process, read from a YAML file and the environment; what is wrong in them is one line.

With the prefix `GAINNET_GATEWAY_`, `GAINNET_GATEWAY_LISTEN__PORT=8443` sets ``listen.port``; what the environment sets wins
over the file. Lists and maps are given as JSON there. Relative paths are under the file's folder, or the working folder
where there is no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsError

from gainnet.errors import InputError
from gainnet.scenario import document
from gainnet.scenario.complaint import nearest, shown
from gainnet.scenario.home import expanded

_folder: ContextVar[Path] = ContextVar("folder of the settings file")


def under_folder(path: Path) -> Path:
    """A path of the settings that are read now, in full."""
    return (_folder.get(Path()) / expanded(path)).resolve()


@contextmanager
def paths_under(folder: Path) -> Iterator[None]:
    """Relative paths of settings that are made inside are under this folder."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


File = Annotated[Path, AfterValidator(under_folder)]


class FileSettings(BaseSettings):
    """Settings of a process: a file's sections, and the environment, which wins."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment, then the file; nothing else."""
        return env_settings, init_settings


Settings = TypeVar("Settings", bound=FileSettings)


def read(of: type[Settings], path: Path | None = None, **given: Any) -> Settings:
    """The settings of a file and the environment.

    Args:
        of: whose: a gateway's or a node's.
        path: YAML file; None: environment only.
        given: sections in place of the file's.

    Raises:
        InputError: one line that names the field (or the file and its line).
    """
    sections = tree(path) | given
    with paths_under(path.resolve().parent if path is not None else Path.cwd()):
        try:
            return of(**sections)
        except ValidationError as error:
            raise InputError(complaint(of, error)) from None
        except SettingsError as error:
            raise InputError(f"environment: {' '.join(str(error).split())}") from None


def tree(path: Path | None) -> dict[str, Any]:
    """The sections of a YAML file. InputError where it cannot be read, or is no section."""
    if path is None:
        return {}
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else "is not UTF-8 text"
        raise InputError(f"{path}: the settings cannot be read: {reason}") from None
    found = document.read(text, str(path))
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"{path}: is {shown(found)}: settings are a section with fields, as listen")
    return found


def complaint(of: type[BaseModel], error: ValidationError) -> str:
    """The first of the errors on one line, with the path of its field; never the value, which may be a secret."""
    detail = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in detail["loc"] if part != "[key]")
    if detail["type"] == "extra_forbidden":
        return f"{name} is not a field{nearest(str(detail['loc'][-1]), _fields(of, detail['loc'][:-1]))}"
    message = detail["msg"].removeprefix("Value error, ")
    return " ".join((f"{name}: {message}" if name else message).split())


def _fields(of: type[BaseModel], location: tuple[int | str, ...]) -> Mapping[str, Any]:
    """The declared fields of the section at a location."""
    schema = of.model_json_schema()
    node: dict[str, Any] = schema
    for part in location:
        node = _within(node, part)
        for branch in (node, *node.get("anyOf", ()), *node.get("allOf", ())):
            if "$ref" in branch:
                node = schema["$defs"][branch["$ref"].rsplit("/", 1)[1]]
    fields: Mapping[str, Any] = node.get("properties", {})
    return fields


def _within(node: dict[str, Any], part: int | str) -> dict[str, Any]:
    """The schema of an entry, of a field, or of the one of several kinds that has this tag."""
    kinds = node.get("discriminator", {}).get("mapping", {})
    if part in kinds:
        return {"$ref": kinds[part]}
    found: dict[str, Any] = node.get("items", {}) if isinstance(part, int) else node.get("properties", {}).get(part, {})
    return found
