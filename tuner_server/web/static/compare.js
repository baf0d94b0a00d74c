// The chart of a comparison.
"use strict";
{
  const element = document.getElementById("chart");
  if (element) {
    const read = async (range) => {
      const query = range ? `?from=${range[0]}&to=${range[1]}` : "";
      const rows = [...document.querySelectorAll("tr[data-src]")]; // a live page has others by now
      const jobs = await Promise.all(
        rows.map(async (row) => ({ name: row.dataset.job, data: await charts.load(row.dataset.src + query) })),
      );
      return { jobs, n_steps: Math.max(...jobs.map(({ data }) => data.n_steps)) };
    };
    const chart = new StepChart(element, { fetch: read, figure: jobChart.comparison });
    const show = () => chart.refresh().catch((error) => console.debug("not drawn:", error)); // the stream says when the server is back
    document.addEventListener("refreshed", show);
    show();
  }
}
