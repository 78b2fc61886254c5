"""The page at /openapi.json, from the models that requests are held to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gainnet.serving.answers import ANSWERS, STREAMED, ErrorAnswer, ModelCard, ModelList
from gainnet.serving.settings import Limits
from gainnet.serving.wire import PATHS, REQUESTS

Tree = dict[str, Any]
_TITLES = {
    "/v1/chat/completions": "The next message of a conversation",
    "/v1/completions": "What follows a text",
    "/v1/embeddings": "Vectors of texts",
    "/v1/images/generations": "Images of a prompt",
}
_ERRORS = {
    "400": "The request is wrong", "401": "No known API key", "404": "No such model",
    "408": "The deadline had passed, or the body came too slowly", "413": "The body is too long",
    "415": "The body is not application/json", "422": "The Idempotency-Key came with another request before",
    "429": "A quota is used up, or too much is under way", "500": "The gateway failed", "502": "The nodes failed",
    "503": "No node can be reached", "504": "The deadline passed before an answer began",
}  # fmt: skip


def page(version: str, models: tuple[str, ...], limits: Limits) -> Tree:
    """The OpenAPI document of a gateway that serves these models under these limits."""
    used: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [(ErrorAnswer, "serialization")]
    used += [(model, "validation") for model in REQUESTS.values()]
    answers: list[type[BaseModel]] = [*dict.fromkeys((*ANSWERS.values(), *STREAMED.values())), ModelList, ModelCard]
    used += [(model, "serialization") for model in answers]
    references, definitions = models_json_schema(used, ref_template="#/components/schemas/{model}")
    schemas: Tree = definitions["$defs"]
    for name in {model.__name__ for model in REQUESTS.values()}:
        _limited(schemas[name]["properties"], models, limits)
    paths: Tree = {path: {"post": _generation(path, references)} for path in PATHS}
    paths["/v1/models"] = {"get": _get("Models", "200", _reference(references, ModelList, "serialization"))}
    paths["/v1/models/{model}"] = {"get": _model(references, models)}
    paths["/health"] = {
        "get": {
            "summary": "Whether the process lives",
            "security": [],
            "responses": {"200": {"description": "It does"}},
        }
    }
    paths["/ready"] = {"get": _ready(_reference(references, ErrorAnswer, "serialization"))}
    return {
        "openapi": "3.1.0",
        "info": {"title": "gainnet gateway", "version": version},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
    }


def _limited(properties: Tree, models: tuple[str, ...], limits: Limits) -> None:
    """Write the limits that are settings into the properties of a request."""
    properties["model"] = {"type": "string", "enum": list(models)} if models else properties["model"]
    most = {
        "max_tokens": limits.output_token, "max_completion_tokens": limits.output_token, "n": limits.choices,
        "best_of": limits.choices, "steps": limits.steps, "num_inference_steps": limits.steps,
    }  # fmt: skip
    for name, value in most.items():
        for branch in properties.get(name, {}).get("anyOf", ()):
            if branch.get("type") == "integer":
                branch["maximum"] = value
    for name in ("kv_transfer_params", "chat_template"):
        properties.pop(name)


def _generation(path: str, references: Any) -> Tree:
    kind = PATHS[path]
    answer: Tree = {"application/json": {"schema": _reference(references, ANSWERS[kind], "serialization")}}
    if kind in STREAMED:
        said = f"Server-sent events: the data of each is a {STREAMED[kind].__name__} or an ErrorAnswer, of the last [DONE]."
        answer["text/event-stream"] = {"schema": {"description": said}}
    fault = {"application/json": {"schema": _reference(references, ErrorAnswer, "serialization")}}
    body = {"application/json": {"schema": _reference(references, REQUESTS[kind], "validation")}}
    return {
        "summary": _TITLES[path],
        "operationId": kind,
        "parameters": _parameters(),
        "requestBody": {"required": True, "content": body},
        "responses": {"200": {"description": "The answer", "content": answer}}
        | {status: {"description": text, "content": fault} for status, text in _ERRORS.items()},
    }


def _get(summary: str, status: str, schema: Tree) -> Tree:
    answer = {status: {"description": "The answer", "content": {"application/json": {"schema": schema}}}}
    return {"summary": summary, "responses": answer | {"401": {"description": _ERRORS["401"]}}}


def _model(references: Any, models: tuple[str, ...]) -> Tree:
    fault = {"application/json": {"schema": _reference(references, ErrorAnswer, "serialization")}}
    known: Tree = {"type": "string", "minLength": 1} | ({"examples": list(models)} if models else {})
    page = _get("A model", "200", _reference(references, ModelCard, "serialization"))
    page["responses"]["404"] = {"description": _ERRORS["404"], "content": fault}
    return {"parameters": [{"name": "model", "in": "path", "required": True, "schema": known}], **page}


def _ready(fault: Tree) -> Tree:
    failing = {"description": "Draining, or no node", "content": {"application/json": {"schema": fault}}}
    return {
        "summary": "Whether requests are welcome",
        "security": [],
        "responses": {"200": {"description": "They are"}, "503": failing},
    }


def _parameters() -> list[Tree]:
    visible = {"type": "string", "pattern": "^[!-~]{1,256}$"}
    schemas: dict[str, tuple[Tree, str]] = {
        "x-gainnet-deadline-ms": ({"type": "integer", "maximum": 86_400_000, "minimum": 1}, "Time left, ms"),
        "x-gainnet-quality-min": ({"enum": ["0", "0.5", "1"]}, "Least quality, 0 to 1"),
        "x-gainnet-end": ({"type": "integer", "minimum": 0, "maximum": 1_000_000_000}, "The end that asks"),
        "x-gainnet-session": (visible, "Requests of one conversation share it"),
        "idempotency-key": (visible, "A repeated request gets the first one's answer"),
    }
    return [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
        for name, (schema, text) in schemas.items()
    ]


def _reference(references: Any, model: type[BaseModel], mode: str) -> Tree:
    found: Tree = references[model, mode]
    return found
