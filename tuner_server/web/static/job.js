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
  const chart = new StepChart(element, (range) => charts.load(windowed(element.dataset.src, range)), charts.job, latestSearch);
  const quiet = (error) => console.debug("a chart was not drawn:", error); // the stream says when the server is back

  const panel = (container, title, className, words) => {
    let found = container.querySelector(`.${className}`);
    if (!found) {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = title;
      found = document.createElement("div");
      found.className = className;
      found.setAttribute("role", "img");
      found.setAttribute("aria-label", words);
      figure.append(caption, found);
      container.append(figure);
    }
    return found;
  };
  const drawStage = async (container) => {
    const data = await charts.load(container.dataset.src);
    container.dataset.drawn = "";
    const wanted = [
      [data.range_test, "range-test", "Range test: where training falls apart", "Loss over LR", charts.rangeTest],
      [data.probes.length, "probes", "The probes, from low LR (blue) to high LR (red)", "Loss of each probe over its steps", charts.probes],
      [
        data.candidate_lr.length, "evidence",
        (data.posterior ? "What each LR is expected to give (± 2 sd), and how much it is worth trying" : "Candidates") +
          (data.beyond.lr.length || data.band_leaves ? "; what is far out goes on beyond the plot (▲▼)" : ""),
        "Expected loss over LR; the table has the candidates", charts.evidence,
      ],
    ].filter(([there]) => there);
    // All panels first: what they share is the width.
    const panels = wanted.map(([, className, title, words, draw]) => [panel(container, title, className, words), draw]);
    for (const [element, draw] of panels) await draw(element, data);
  };
  const drawOpen = (again) => {
    document.querySelectorAll("details.stage[open] .charts").forEach((container, i) => {
      if (again(container, i)) drawStage(container).catch(quiet);
    });
  };

  document.addEventListener(
    "toggle",
    (event) => {
      if (event.target.matches?.("details.stage")) drawOpen((container) => !("drawn" in container.dataset));
    },
    true,
  );
  document.addEventListener("refreshed", () => {
    chart.refresh().catch(quiet);
    drawOpen((_container, i) => i < 2); // a search that goes on, and the one before it: earlier ones don't change
  });
  document.addEventListener("themechange", () => {
    document.querySelectorAll("details.stage:not([open]) .charts").forEach((container) => delete container.dataset.drawn);
    drawOpen(() => true);
  });
  chart.refresh().catch(quiet);
  drawOpen(() => true);
}
