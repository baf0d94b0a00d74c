"""What the log has of connections that a port has no room for."""

from __future__ import annotations

from structlog.testing import capture_logs

from tuner_server.base.turned_away import LOG_S, TurnedAway


def test_many_are_told_in_one_line_and_later_ones_in_another() -> None:
    turned_away = TurnedAway("http", 8)
    with capture_logs() as lines:
        turned_away.look(1.0)
        turned_away.refused += 3
        turned_away.ended += 2
        turned_away.look(2.0)
        turned_away.refused += 1
        turned_away.look(2.0 + LOG_S / 2)
        turned_away.look(2.0 + LOG_S)
        turned_away.look(2.0 + 3 * LOG_S)
    found = [(line["port"], line["refused"], line["ended"], line["limit"]) for line in lines]
    assert found == [("http", 3, 2, 8), ("http", 1, 0, 8)]
