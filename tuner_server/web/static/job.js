// A job's page: its chart over steps, and the charts of each decision once its section is open.
"use strict";
{
  const element = document.getElementById("chart");
  const windowed = (address, range) =>
    range ? `${address}?from=${range[0]}&to=${range[1]}` : address;
  const latestSearch = (data) => {
    const searched = data.stages.filter((stage) => stage.start > stage.search);
    const last = searched[searched.length - 1];
    if (!last) return null;
    const room = Math.max((last.start - last.search) * 0.1, 1);
    return [last.search - room, last.start + room];
  };
  const chart = new StepChart(element, {
    fetch: (range) => charts.load(windowed(element.dataset.src, range)),
    figure: jobChart.figure,
    search: latestSearch,
  });
  const quiet = (error) => console.debug("a chart was not drawn:", error); // the stream says when the server is back

  const drawOpen = (again) => {
    document.querySelectorAll("details.stage[open] .charts").forEach((container, i) => {
      if (again(container, i)) decisionCharts.draw(container).catch(quiet);
    });
  };

  document.addEventListener(
    "toggle",
    (event) => {
      if (event.target.matches?.("details.stage")) drawOpen((container) => !("drawn" in container.dataset));
    },
    true,
  );
  const forgetClosed = () =>
    document.querySelectorAll("details.stage:not([open]) .charts").forEach((container) => delete container.dataset.drawn);
  document.addEventListener("refreshed", () => {
    chart.refresh().catch(quiet);
    forgetClosed();
    drawOpen((_container, i) => i < 2); // a search that goes on, and the one before it: earlier ones don't change
  });
  document.addEventListener("themechange", () => {
    forgetClosed();
    drawOpen(() => true);
  });
  chart.refresh().catch(quiet);
  drawOpen(() => true);
}
