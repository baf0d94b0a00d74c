"""Every error has a status, and a bad request names its fields."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tuner_server.core import errors
from tuner_server.core.errors import FieldViolation, InvalidInputError, RateError, TunerError
from tuner_server.rpc.status import CODES, DETAILS_KEY, PUSHBACK_KEY, code_of, details_of, message_of

EXPECTED = {
    "TunerError": grpc.StatusCode.INTERNAL,
    "InvalidInputError": grpc.StatusCode.INVALID_ARGUMENT,
    "NotFoundError": grpc.StatusCode.NOT_FOUND,
    "PreconditionError": grpc.StatusCode.FAILED_PRECONDITION,
    "QuotaError": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "UnauthenticatedError": grpc.StatusCode.UNAUTHENTICATED,
    "AccessDeniedError": grpc.StatusCode.PERMISSION_DENIED,
    "RateError": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "ConflictError": grpc.StatusCode.ABORTED,
    "PolicyError": grpc.StatusCode.INTERNAL,
    "DivergenceError": grpc.StatusCode.INTERNAL,
    "StorageError": grpc.StatusCode.UNAVAILABLE,
    "OverloadError": grpc.StatusCode.UNAVAILABLE,
    "CorruptionError": grpc.StatusCode.UNAVAILABLE,
    "SchemaVersionError": grpc.StatusCode.UNAVAILABLE,
}


def tree(root: type[TunerError]) -> Iterator[type[TunerError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


OURS = [cls for cls in tree(TunerError) if cls.__module__ == errors.__name__]


def make(cls: type[TunerError]) -> TunerError:
    if cls is InvalidInputError:
        return InvalidInputError.of("lr", "positive")
    return RateError("what happened", 0.25) if cls is RateError else cls("what happened")


def status_of(error: TunerError) -> status_pb2.Status:
    value = dict(details_of(error))[DETAILS_KEY]
    assert isinstance(value, bytes)
    return status_pb2.Status.FromString(value)


def test_every_class_of_the_tree_is_here_with_its_status() -> None:
    """A new class fails this until its status was thought about."""
    assert {cls.__name__: code_of(make(cls)) for cls in OURS} == EXPECTED


def test_the_table_holds_nothing_else() -> None:
    assert set(CODES) <= set(OURS)


def test_a_class_of_another_module_gets_the_status_of_the_nearest_above_it() -> None:
    class LostError(errors.NotFoundError):
        pass

    assert code_of(LostError()) is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("cls", OURS)
def test_details_repeat_status_and_message(cls: type[TunerError]) -> None:
    error = make(cls)
    status = status_of(error)
    assert status.code == code_of(error).value[0]
    assert status.message == error.told
    assert bool(status.details) is (cls in (InvalidInputError, RateError))


def test_of_a_database_callers_are_told_the_kind_of_trouble_alone() -> None:
    error = errors.StorageError("postgresql://me@10.0.0.7/jobs: connection refused", "it can't be reached")
    said = "the database can't be used: it can't be reached; the server's log has the reason"
    assert message_of(error) == status_of(error).message == said
    assert message_of(errors.OverloadError("far behind; try again")) == "far behind; try again"


def test_details_of_bad_input_are_its_violations() -> None:
    error = InvalidInputError([FieldViolation("lr", "positive"), FieldViolation("seed", "0 or more")])
    request = error_details_pb2.BadRequest()
    assert status_of(error).details[0].Unpack(request)
    assert [(v.field, v.description) for v in request.field_violations] == [("lr", "positive"), ("seed", "0 or more")]


def test_a_rate_error_says_twice_when_to_come_again() -> None:
    error = RateError("too much", 0.2501)
    retry = error_details_pb2.RetryInfo()
    assert status_of(error).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 251
    assert dict(details_of(error))[PUSHBACK_KEY] == "251"


def test_an_error_of_any_length_can_be_sent() -> None:
    # gRPC drops trailers of more than 8 KiB, in which a character may take 12 bytes.
    error = InvalidInputError([FieldViolation(f"field.{i}" * 100, "\N{GRINNING FACE}" * 10_000) for i in range(100)])
    encoded = [(key, value if isinstance(value, bytes) else value.encode()) for key, value in details_of(error)]
    assert 3 * len(message_of(error).encode()) + sum(len(value) * 4 // 3 for _, value in encoded) < 8 * 1024
    assert message_of(error).endswith("...")
    assert len(error_details_pb2.BadRequest.FromString(status_of(error).details[0].value).field_violations) > 1
