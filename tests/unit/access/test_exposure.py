"""Nothing but this machine is served without TLS and tokens, unless somebody said so."""

from __future__ import annotations

import pytest

from tuner_server.access.exposure import check_exposure, is_loopback
from tuner_server.core.errors import InvalidInputError

HERE = ["127.0.0.1:50051", "127.8.9.1:1", "localhost:50051", "LOCALHOST:1", "[::1]:50051", "[::ffff:127.0.0.1]:1"]
ELSEWHERE = [
    "0.0.0.0:50051",
    "[::]:50051",
    "10.0.0.1:50051",
    "[::ffff:10.0.0.1]:1",
    "tuner:50051",
    "localhost.example.com:1",
    "127.0.0.1.example.com:1",
    ":50051",
    "2130706433:1",
    "",
]


@pytest.mark.parametrize("listen", HERE)
def test_this_machine_may_be_plain_and_open(listen: str) -> None:
    assert is_loopback(listen)
    check_exposure("listen", listen, tls=False, auth=False, insecure=False)


@pytest.mark.parametrize("listen", ELSEWHERE)
def test_others_need_tls_and_tokens(listen: str) -> None:
    assert not is_loopback(listen)
    check_exposure("listen", listen, tls=True, auth=True, insecure=False)
    check_exposure("listen", listen, tls=False, auth=False, insecure=True)
    for tls, auth, missing in ((False, True, "--tls-cert"), (True, False, "--auth tokens")):
        with pytest.raises(InvalidInputError, match=missing) as caught:
            check_exposure("listen", listen, tls=tls, auth=auth, insecure=False)
        assert "--insecure" in str(caught.value)
        assert "\n" not in str(caught.value)
