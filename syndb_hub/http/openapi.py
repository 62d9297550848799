"""The OpenAPI 3.1 document, made from the operations."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from syndb_hub.http.operation import Operation
from syndb_hub.http.problems import Problem

Schema = dict[str, Any]

DESCRIPTION = """\
One question, answered by every institution that takes part. Numbers are computed where the data are; what comes
back says which nodes answered, which did not, and from which versions of which data sets.

Send an API token as `Authorization: Bearer TOKEN`. Every error has the shape of `Problem`."""


def document(operations: Iterable[Operation], *, version: str) -> Schema:
    """The whole document, ready to be sent as JSON."""
    operations = list(operations)
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(Problem, "serialization")]
    for operation in operations:
        models.extend((model, "validation") for model in operation.parameters.values())
        if operation.returns is not None:
            models.append((operation.returns, "serialization"))
    references, definitions = models_json_schema(
        list(dict.fromkeys(models)), ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Schema] = definitions.get("$defs", {})
    paths: dict[str, Schema] = {}
    for operation in operations:
        described = _describe(operation, references, schemas)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    inlined = {
        model.__name__ for each in operations for where, model in each.parameters.items() if where in ("path", "query")
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "SynDB", "version": version, "description": DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in sorted(schemas.items()) if name not in inlined},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "syndb_<id>_<secret>"}},
        },
    }


def _describe(operation: Operation, references: dict[Any, Schema], schemas: dict[str, Schema]) -> Schema:
    summary, _, description = (inspect.getdoc(operation.handler) or "").partition("\n")
    problem = {"application/json": {"schema": references[Problem, "serialization"]}}
    responses: dict[str, Schema] = {"200": {"description": "OK", "content": _content(operation, references)}}
    if operation.later:
        responses["202"] = {"description": operation.later, "content": {"application/json": {"schema": {}}}}
    if operation.parameters:
        responses["400"] = {"description": "The request is not valid; the error names the field", "content": problem}
    if operation.right is not None:
        responses["401"] = {"description": "No valid token", "content": problem}
        responses["403"] = {"description": f"The token lacks the scope {operation.right.value!r}", "content": problem}
    responses["default"] = {"description": "Any other error", "content": problem}
    described: Schema = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": summary.rstrip("."),
        "description": description.strip(),
        "responses": responses,
    }
    parameters = [
        parameter
        for where in ("path", "query")
        if where in operation.parameters
        for parameter in _parameters(where, schemas[operation.parameters[where].__name__])
    ]
    if parameters:
        described["parameters"] = parameters
    if "body" in operation.parameters:
        schema = references[operation.parameters["body"], "validation"]
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if operation.right is not None:
        described["security"] = [{"token": []}]
    return described


def _content(operation: Operation, references: dict[Any, Schema]) -> Schema:
    if operation.returns is not None:
        return {"application/json": {"schema": references[operation.returns, "serialization"]}}
    return {media_type: {"schema": {}} for media_type in operation.produces}


def _parameters(where: str, schema: Schema) -> Iterable[Schema]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        field = dict(field)
        description = field.pop("description", "")
        yield {
            "name": name,
            "in": where,
            "required": where == "path" or name in required,
            "description": description,
            "schema": field,
        }
