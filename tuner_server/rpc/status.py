"""Errors as gRPC statuses, in one table."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from tuner_server.core import errors

CODES: dict[type[errors.TunerError], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    errors.StorageError: grpc.StatusCode.UNAVAILABLE,
    errors.TunerError: grpc.StatusCode.INTERNAL,
}
DETAILS_KEY = "grpc-status-details-bin"
"""Where a google.rpc.Status travels (AIP-193)."""


def code_of(error: errors.TunerError) -> grpc.StatusCode:
    """The status of an error: that of the nearest class above it in the table."""
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def details_of(error: errors.TunerError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries what can be read by a program."""
    status = status_pb2.Status(code=code_of(error).value[0], message=str(error))
    if isinstance(error, errors.InvalidInputError):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.BadRequest(field_violations=violations))
        status.details.append(detail)
    return ((DETAILS_KEY, status.SerializeToString()),)
