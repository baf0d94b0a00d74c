// The chart of a comparison.
"use strict";
{
  const element = document.getElementById("chart");
  if (element) {
    const rows = [...document.querySelectorAll("tr[data-src]")];
    const read = async (range) => {
      const query = range ? `?from=${range[0]}&to=${range[1]}` : "";
      const jobs = await Promise.all(
        rows.map(async (row) => ({ name: row.dataset.job, data: await charts.load(row.dataset.src + query) })),
      );
      return { jobs, n_steps: Math.max(...jobs.map(({ data }) => data.n_steps)) };
    };
    const draw = (target, data, options) => charts.compare(target, data.jobs, options);
    new StepChart(element, read, draw, () => null).refresh().catch((error) => console.debug("not drawn:", error));
  }
}
