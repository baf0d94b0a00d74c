"""Reads what a request says: which jobs, which part of a chart, what a form holds, and how it wants its answer."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from tuner_server.core.errors import AbandonedError, InvalidInputError
from tuner_server.history.thinning import Window
from tuner_server.rpc import convert
from tuner_server.web.charts.curves import BUCKETS

MAX_COMPARED = 8
"""Jobs in one comparison: as many colours as can be told apart."""
MAX_BUCKETS = 4000
"""Buckets of a window: wider than any screen."""
MAX_FORM, MAX_FIELDS = 8192, 10
"""Bytes and fields of a form: a token or a reason."""


def job_id(request: Request) -> str:
    """The id of the job that the path names. Raises: NotFoundError: no job can have it."""
    return convert.job_id(request.path_params["job_id"])


def compared(request: Request) -> list[str]:
    """Ids of the jobs that a comparison is about, each once. Raises: NotFoundError: no job can have one of them."""
    ids = dict.fromkeys(request.query_params.getlist("job"))
    return [convert.job_id(found) for found in list(ids)[:MAX_COMPARED]]


def window(parameters: Mapping[str, str], n_steps: int) -> Window:
    """What a request looks at, of a job of `n_steps` run steps. Raises: InvalidInputError."""
    numbers = {"from": 0, "to": max(n_steps, 1), "buckets": BUCKETS}
    for name in numbers:
        if text := parameters.get(name):
            if not (text.isascii() and text.isdigit() and len(text) < 16):
                raise InvalidInputError.of(name, f"a whole number of steps, not {text[:40]!r}")
            numbers[name] = int(text)
    start, end, buckets = numbers.values()
    if not start < end:
        raise InvalidInputError.of("to", f"must be above `from` ({start}), not {end}")
    if not 0 < buckets <= MAX_BUCKETS:
        raise InvalidInputError.of("buckets", f"1 to {MAX_BUCKETS}, not {buckets}")
    return Window(start, end, buckets)


async def form(request: Request) -> dict[str, str]:
    """The fields of a form, each once.

    Raises:
        InvalidInputError: it is too large.
        AbandonedError: the one who sends it has left before its end.
    """
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_FORM:
                raise InvalidInputError.of("form", f"at most {MAX_FORM} bytes")
    except ClientDisconnect as error:
        raise AbandonedError("whoever sends this form has left") from error
    try:
        fields = parse_qs(body.decode(errors="replace"), max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise InvalidInputError.of("form", f"at most {MAX_FIELDS} fields") from error
    return {name: values[-1] for name, values in fields.items()}


def wants_page(request: Request) -> bool:
    """Whether a browser shows the answer to somebody; if not, a program reads it."""
    return "text/html" in request.headers.get("accept", "") or request.method == "POST"
