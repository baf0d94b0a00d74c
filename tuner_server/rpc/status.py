"""Errors as gRPC statuses, in one table."""

from __future__ import annotations

import math

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tuner_server.core import errors

CODES: dict[type[errors.TunerError], grpc.StatusCode] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.AccessDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.RateError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ConflictError: grpc.StatusCode.ABORTED,
    errors.StorageError: grpc.StatusCode.UNAVAILABLE,
    errors.TunerError: grpc.StatusCode.INTERNAL,
}
DETAILS_KEY = "grpc-status-details-bin"
"""The metadata in which a google.rpc.Status travels (AIP-193)."""
PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""The metadata that tells gRPC's own retries when to come again (gRFC A6), for clients that don't read RetryInfo."""


MAX_MESSAGE_BYTES = 1024
MAX_VIOLATIONS_BYTES = 1536
"""Trailers of more than 8 KiB, percent or base64 encoded, are thrown away by gRPC, and the status with them."""


def code_of(error: errors.TunerError) -> grpc.StatusCode:
    """The status of an error: that of the nearest class above it in the table."""
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def message_of(error: errors.TunerError) -> str:
    """The words of an error, as far as they can be sent."""
    return _cut(error.told, MAX_MESSAGE_BYTES)


def details_of(error: errors.TunerError) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries what can be read by a program."""
    status = status_pb2.Status(code=code_of(error).value[0], message=message_of(error))
    if isinstance(error, errors.InvalidInputError):
        request = error_details_pb2.BadRequest()
        for violation in error.violations:
            field, description = _cut(violation.field, 100), _cut(violation.description, 500)
            if request.ByteSize() + len(field) + len(description) > MAX_VIOLATIONS_BYTES:
                break
            request.field_violations.add(field=field, description=description)
        status.details.append(_packed(request))
    if not isinstance(error, errors.RateError):
        return ((DETAILS_KEY, status.SerializeToString()),)
    retry = error_details_pb2.RetryInfo()
    milliseconds = math.ceil(error.retry_after_s * 1000)
    retry.retry_delay.FromMilliseconds(milliseconds)
    status.details.append(_packed(retry))
    return (DETAILS_KEY, status.SerializeToString()), (PUSHBACK_KEY, str(milliseconds))


def _packed(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


def _cut(text: str, n_bytes: int) -> str:
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= n_bytes else data[: n_bytes - 3].decode(errors="ignore") + "..."
