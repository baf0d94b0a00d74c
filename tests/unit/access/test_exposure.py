"""Nothing but this machine is served without TLS and tokens, unless somebody said so."""

from __future__ import annotations

import pytest

from tuner_server.access.exposure import check_exposure
from tuner_server.core.errors import InvalidInputError


@pytest.mark.parametrize("listen", ["127.0.0.1:50051", "localhost:50051", "[::1]:50051"])
def test_this_machine_may_be_plain_and_open(listen: str) -> None:
    check_exposure("listen", listen, tls=False, auth=False, insecure=False)


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:50051", "tuner:50051", ""])
def test_others_need_tls_and_tokens(listen: str) -> None:
    check_exposure("listen", listen, tls=True, auth=True, insecure=False)
    check_exposure("listen", listen, tls=False, auth=False, insecure=True)
    for tls, auth, missing in ((False, True, "--tls-cert"), (True, False, "--auth tokens")):
        with pytest.raises(InvalidInputError, match=missing) as caught:
            check_exposure("listen", listen, tls=tls, auth=auth, insecure=False)
        assert "--insecure" in str(caught.value)
        assert "\n" not in str(caught.value)
