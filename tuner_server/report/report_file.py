"""A job's page as one file to send to somebody: it asks no server, and opens in any browser."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from tuner_server.core.job.life import UNTOLD, Vitals
from tuner_server.history.thinning import Window
from tuner_server.history.timeline import Timeline
from tuner_server.history.words.outlook import outlook_of_job
from tuner_server.storage import StoredJob
from tuner_server.web.charts.drawing import overview
from tuner_server.web.charts.evidence import stage_curves
from tuner_server.web.charts.job_chart import job_chart
from tuner_server.web.pages.pages import STATIC, Pages, plotly_js
from tuner_server.web.pages.views import job_view

BUCKETS = 2000
"""The parts of its chart: nobody can be asked for more when one zooms in."""
SCRIPTS = tuple(STATIC / name for name in ("charts.js", "step-chart.js", "job-chart.js", "decision-chart.js", "job.js"))


def report_html(job: StoredJob, found: Timeline, vitals: Vitals = UNTOLD) -> str:
    """The file's text: the style, Plotly (most of its five megabytes) and the data are in it."""
    config = job.state.config
    chart = job_chart(found, Window(0, max(found.n_steps, 1), BUCKETS))
    data: dict[str, Any] = {f"/jobs/{job.id}/curves.json": chart}
    view = job_view(job, found, vitals)
    for section in view.stages:
        data[f"/jobs/{job.id}/stages/{section.index}.json"] = stage_curves(found.stages[section.index], config)
    return Pages().render(
        "report.html",
        job=view,
        overview=overview(found),
        outlook=outlook_of_job(job.state, found),
        style=Markup((STATIC / "style.css").read_text(encoding="utf-8")),
        theme=_script((STATIC / "theme.js").read_text(encoding="utf-8")),
        scripts=[_script(path.read_text(encoding="utf-8")) for path in (plotly_js(), *SCRIPTS)],
        data={address: _json(value) for address, value in data.items()},
    )


def _script(text: str) -> Markup:
    """A script that ends where it ends: `</script` within it, which can only stand in a string, would end it."""
    return Markup(text.replace("</script", "<\\/script"))


def _json(value: Any) -> Markup:
    return Markup(json.dumps(value, allow_nan=False).replace("<", "\\u003c"))
