"""Projects and tokens are kept as they were given, on both databases' common ground."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from tuner_server.access.principal import DEFAULT_PROJECT, Scope
from tuner_server.access.records import Limits, Project, TokenRecord
from tuner_server.access.token import Token
from tuner_server.core.errors import InvalidInputError
from tuner_server.storage import Database
from tuner_server.storage.access import AccessStorage, open_access

NOW = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/lrpilot.db"


@pytest.fixture
def access(url: str) -> Iterator[AccessStorage]:
    with open_access(url) as opened:
        yield opened


def record(token: Token, project: str = DEFAULT_PROJECT, expire_time: datetime | None = None) -> TokenRecord:
    return TokenRecord.issued(token, project, "ci", [Scope.TRAIN, Scope.READ], NOW, expire_time)


def test_projects_by_name(access: AccessStorage) -> None:
    vision = Project.checked("vision", Limits.checked(3, 0.5), NOW)
    audio = Project.checked("audio", Limits(), NOW)
    access.create_project(vision)
    access.create_project(audio)
    assert [project for project in access.projects() if project.name != DEFAULT_PROJECT] == [audio, vision]
    access.update_project("vision", Limits(None, 2.0))
    assert access.project("vision").limits == Limits(None, 2.0)


def test_a_project_twice_or_not_at_all_is_bad_input(access: AccessStorage) -> None:
    for call, words in (
        (lambda: access.create_project(Project(DEFAULT_PROJECT, Limits(), NOW)), "exists"),
        (lambda: access.update_project("nope", Limits()), "'nope'"),
        (lambda: access.project("nope"), "'nope'"),
        (lambda: access.create_token(record(Token.new(), "nope")), "'nope'"),
        (lambda: access.revoke_token("nope", NOW), "'nope'"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            call()


def test_a_token_is_found_with_its_project_s_limits(access: AccessStorage) -> None:
    access.update_project(DEFAULT_PROJECT, Limits(5, 9.0))
    token = Token.new()
    given = record(token, expire_time=NOW + timedelta(days=1))
    access.create_token(given)
    grant = access.find(token.id)
    assert grant is not None
    assert (grant.token, grant.limits) == (given, Limits(5, 9.0))
    assert access.find(Token.new().id) is None


def test_revoking_again_keeps_the_first_time(access: AccessStorage) -> None:
    token = Token.new()
    access.create_token(record(token))
    assert access.revoke_token(token.id, NOW).revoke_time == NOW
    assert access.revoke_token(token.id, NOW + timedelta(days=1)).revoke_time == NOW
    assert [each.revoke_time for each in access.tokens()] == [NOW]


def test_tokens_of_a_project(access: AccessStorage) -> None:
    access.create_project(Project("vision", Limits(), NOW))
    tokens = {project: Token.new() for project in ("vision", DEFAULT_PROJECT)}
    for project, token in tokens.items():
        access.create_token(record(token, project))
    assert [each.id for each in access.tokens("vision")] == [tokens["vision"].id]
    assert {each.id for each in access.tokens()} == {token.id for token in tokens.values()}


def test_the_secret_is_nowhere_in_the_database(access: AccessStorage, url: str, tmp_path: Path) -> None:
    token = Token.new()
    access.create_token(record(token))
    access.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert token.id.encode() in stored
    assert token.secret.encode() not in stored


def test_a_scope_of_a_newer_version_allows_nothing(access: AccessStorage, url: str) -> None:
    token = Token.new()
    access.create_token(record(token))
    with Database(url) as database, database.writing() as connection:
        connection.execute(sa.text("UPDATE tokens SET scopes = 'read admin'"))
    grant = access.find(token.id)
    assert grant is not None
    assert grant.token.scopes == {Scope.READ}


@pytest.mark.parametrize("name", ["", "Vision", "a_b", "-a", "a-", "a" * 64, "a\n", "ä", "a/b"])
def test_what_is_no_name_of_a_project(name: str) -> None:
    with pytest.raises(InvalidInputError, match="project: "):
        Project.checked(name, Limits(), NOW)


@pytest.mark.parametrize(
    ("jobs", "calls"), [(-1, None), (2**31, None), (None, 0.0), (None, float("nan")), (None, float("inf"))]
)
def test_what_is_no_limit(jobs: int | None, calls: float | None) -> None:
    with pytest.raises(InvalidInputError, match="max_"):
        Limits.checked(jobs, calls)


@pytest.mark.parametrize(("name", "scopes"), [("a\nb", [Scope.READ]), ("x" * 101, [Scope.READ]), ("ci", [])])
def test_what_is_no_token_s_description(name: str, scopes: list[Scope]) -> None:
    with pytest.raises(InvalidInputError):
        TokenRecord.issued(Token.new(), DEFAULT_PROJECT, name, scopes, NOW, None)
