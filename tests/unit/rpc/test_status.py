"""Every error has a status, and a bad request names its fields."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tuner_server.core import errors
from tuner_server.core.errors import FieldViolation, InvalidInputError, TunerError
from tuner_server.rpc.status import CODES, DETAILS_KEY, code_of, details_of

EXPECTED = {
    "TunerError": grpc.StatusCode.INTERNAL,
    "InvalidInputError": grpc.StatusCode.INVALID_ARGUMENT,
    "NotFoundError": grpc.StatusCode.NOT_FOUND,
    "PreconditionError": grpc.StatusCode.FAILED_PRECONDITION,
    "ConflictError": grpc.StatusCode.ABORTED,
    "PolicyError": grpc.StatusCode.INTERNAL,
    "StorageError": grpc.StatusCode.UNAVAILABLE,
    "SchemaVersionError": grpc.StatusCode.UNAVAILABLE,
}


def tree(root: type[TunerError]) -> Iterator[type[TunerError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


OURS = [cls for cls in tree(TunerError) if cls.__module__ == errors.__name__]


def make(cls: type[TunerError]) -> TunerError:
    return InvalidInputError.of("lr", "positive") if cls is InvalidInputError else cls("what happened")


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
    ((key, value),) = details_of(error)
    status = status_pb2.Status.FromString(value)
    assert key == DETAILS_KEY
    assert status.code == code_of(error).value[0]
    assert status.message == str(error)
    assert bool(status.details) is (cls is InvalidInputError)


def test_details_of_bad_input_are_its_violations() -> None:
    error = InvalidInputError([FieldViolation("lr", "positive"), FieldViolation("seed", "0 or more")])
    ((_, value),) = details_of(error)
    request = error_details_pb2.BadRequest()
    assert status_pb2.Status.FromString(value).details[0].Unpack(request)
    assert [(v.field, v.description) for v in request.field_violations] == [("lr", "positive"), ("seed", "0 or more")]
