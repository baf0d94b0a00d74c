"""The dashboard's pictures in the documentation: `python -m tests.support.browser.screenshots docs/images`.

The jobs are simulated ones; see `SlowTraining`.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.support.browser.chromium import launch, watched, window
from tests.support.jobs.sample_jobs import SlowTraining, job_config, left_alone, run_job
from tests.support.servers import server_process
from tests.support.servers.ports import HOST, free_port
from tuner_server.base.clock import utc_now
from tuner_server.core.job.machine import Status
from tuner_server.service.tuner_service import TunerService
from tuner_server.storage import open_storage

DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


def fill(db: str) -> dict[str, str]:
    """Jobs in a database, some of which nobody trains any more: ids by name."""
    found = long_gone(db)
    return found | present(db)


def long_gone(db: str) -> dict[str, str]:
    """Jobs whose client has been silent since some time, and one that was given no name."""
    with open_storage(db) as storage, TunerService(storage) as service:
        found = {
            "bert-tiny sweep": left_alone(storage, "bert-tiny sweep", timedelta(days=3), 17, total_steps=20_000),
            "": left_alone(storage, "", timedelta(hours=5), 18, total_steps=20_000),
            "unet-denoise": left_alone(storage, "unet-denoise", timedelta(minutes=12), 16, total_steps=20_000),
        }
        service.cancel_job("default", found[""], "cancelled in the dashboard")
        service.describe_job("default", found["unet-denoise"], None, "node 7 went down")
        service.describe_job("default", found["bert-tiny sweep"], None, "the first of the sweep")
    return found


def present(db: str) -> dict[str, str]:
    """Jobs that train, or have ended."""
    stages = {"forecaster": "power_law"}
    with open_storage(db) as storage, TunerService(storage) as service:
        found = {
            name: run_job(service, job_config(name, policy, total, validates=validates, **options), training, reports)
            for name, policy, total, validates, options, training, reports in (
                ("charlm-small", "budget", 12_000, False, {}, SlowTraining(5, best_lr=0.01), 9),
                (
                    "resnet18-cifar10 wide",
                    "budget",
                    30_000,
                    True,
                    {},
                    SlowTraining(6, best_lr=0.02, validates=True),
                    12,
                ),
                ("mlp-digits", "budget", 4_000, True, {}, SlowTraining(7, validates=True), 10_000),
                ("vit-tiny", "autolrs", 40_000, True, stages, SlowTraining(8, best_lr=0.008, validates=True), 64),
                (
                    "resnet18-cifar10 seed 1",
                    "budget",
                    20_000,
                    True,
                    {},
                    SlowTraining(2, best_lr=0.03, validates=True),
                    10_000,
                ),
                ("resnet18-cifar10", "budget", 20_000, True, {}, SlowTraining(1, validates=True), 20),
            )
        }
        service.cancel_job("default", found["resnet18-cifar10 wide"], "wrong data")
        failed = storage.load(run_job(service, job_config("lstm-old"), SlowTraining(9, validates=True), 9))
        message = "policy budget: ZeroDivisionError: float division by zero"
        storage.update(failed, failed.state.model_copy(update={"status": Status.FAILED, "message": message}), utc_now())
    return found


def drawn(page: Page, address: str) -> None:
    """Opens a page, until its charts are there."""
    page.goto(address)
    page.wait_for_load_state("load")
    if page.locator("#chart").count():
        page.locator("#chart.drawn").wait_for()
        if page.locator("details.stage[open] .charts").count():
            page.locator(".evidence .main-svg").first.wait_for()
    page.wait_for_timeout(300)  # the letters


def main() -> None:
    folder = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        db = f"sqlite:///{Path(directory) / 'jobs.db'}"
        jobs = fill(db)
        url = f"http://{HOST}:{free_port()}"
        job = f"/jobs/{jobs['resnet18-cifar10']}"
        several = "&".join(f"job={jobs[name]}" for name in ("resnet18-cifar10", "resnet18-cifar10 seed 1", "vit-tiny"))
        with (
            server_process.running(db, "--http", url.removeprefix("http://")),
            sync_playwright() as playwright,
            launch(playwright) as browser,
        ):
            for name, address, size, scheme in (
                ("list", "/", DESKTOP, "light"),
                ("job", job, DESKTOP, "light"),
                ("stages", f"/jobs/{jobs['vit-tiny']}", DESKTOP, "light"),
                ("job-dark", job, DESKTOP, "dark"),
                ("job-phone", job, PHONE, "light"),
                ("compare", f"/compare?{several}", DESKTOP, "light"),
            ):
                with window(browser, url, viewport=size, color_scheme=scheme) as context, watched(context, url) as page:
                    drawn(page, address)
                    page.screenshot(path=folder / f"dashboard-{name}.png", full_page=name in ("job", "stages"))


if __name__ == "__main__":
    main()
