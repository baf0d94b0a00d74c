"""A job's page as one file to send to somebody: it asks no server, and opens in any browser."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from tuner_server.storage import StoredJob
from tuner_server.web import curves
from tuner_server.web.drawing import overview
from tuner_server.web.evidence import stage_curves
from tuner_server.web.pages import STATIC, Pages, plotly_js
from tuner_server.web.thinning import Window
from tuner_server.web.timeline import Timeline
from tuner_server.web.views import job_view

BUCKETS = 2000
"""Of its chart: nobody can be asked for more when one zooms in."""
SCRIPTS = (STATIC / "charts.js", STATIC / "step-chart.js", STATIC / "job.js")


def report_html(job: StoredJob, found: Timeline) -> str:
    """The file's text: the style, Plotly (most of its five megabytes) and the data are in it."""
    chart = curves.job_curves(found, Window(0, max(found.n_steps, 1), BUCKETS))
    data: dict[str, Any] = {f"/jobs/{job.id}/curves.json": chart}
    for stage in found.stages:
        data[f"/jobs/{job.id}/stages/{stage.index}.json"] = stage_curves(stage)
    return Pages().render(
        "report.html",
        job=job_view(job, found),
        overview=overview(found),
        style=Markup((STATIC / "style.css").read_text()),
        theme=_script((STATIC / "theme.js").read_text()),
        scripts=[_script(path.read_text()) for path in (plotly_js(), *SCRIPTS)],
        data={address: _json(value) for address, value in data.items()},
    )


def _script(text: str) -> Markup:
    """A script that ends where it ends: `</script` within it, which can only stand in a string, would end it."""
    return Markup(text.replace("</script", "<\\/script"))


def _json(value: Any) -> Markup:
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))
