"""A job whose client was away, and gives a sign: it takes a place of its project's quota again, as a new job would."""

from __future__ import annotations

from datetime import datetime

from tuner_server.storage import Storage, StoredJob


def revived(storage: Storage, stored: StoredJob, at: datetime) -> bool:
    """Notes a sign of a client that was away, in a project that has a quota.

    Args:
        storage: where the job is.
        stored: the job as it is there.
        at: the time of the sign.

    Returns:
        Whether it was noted. False: there is nothing to ask for, since the job has its place, has ended, or its project
        has no quota; the sign is noted as any other.

    Raises: QuotaError: the project has no place for it now.
    """
    if not storage.life_limits.vitals(stored.state.status, stored.signs, at).troubled:
        return False
    if not storage.has_quota(stored.project):
        return False
    storage.revive(stored.project, stored.id, at)
    return True
