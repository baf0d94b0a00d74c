// Loss above LR over the steps that were run, with one x axis: a zoom moves both. Of one job, or of several.
"use strict";
const jobChart = (() => {
  const { axis, layout, line, lossAxis, lrAxis, markers } = charts;
  const ROWS = { y: [0.42, 1], y2: [0, 0.36] };
  const APART = 0.015; // of the width: pointers that are nearer would lie on each other

  const stepAxis = (ink, range) =>
    axis(ink, {
      title: { text: "steps run, search included", standoff: 6 },
      range,
      anchor: "y2",
      hoverformat: ",d",
      separatethousands: true,
      exponentformat: "SI", // 20k steps
      fixedrange: charts.touch,
      unifiedhovertitle: { text: "step %{x:,d}" },
    });
  const frame = (ink, range, more) => layout(ink, { dragmode: charts.touch ? false : "zoom", xaxis: stepAxis(ink, range), ...more });

  // The LR at a step, where steps are asked for in their order: a profile is a line between the points that are drawn.
  const lrAt = (lrs) => {
    const points = lrs.x.map((x, i) => [x, lrs.y[i]]).filter(([x]) => x !== null);
    let i = 0;
    return (step) => {
      while (i + 1 < points.length && points[i + 1][0] <= step) i++;
      if (!points.length) return null;
      const [x, y] = points[i];
      const [nextX, nextY] = points[i + 1] ?? points[i];
      return nextX > x && step > x ? y + ((nextY - y) * (step - x)) / (nextX - x) : y;
    };
  };
  // Both lines have the same steps: pointed at in either plot, a step tells its loss and its LR.
  const lossAndLr = (losses, lrs, name, style, { opacity = 1, hover = "" } = {}) => {
    const at = lrAt(lrs);
    const lr = losses.x.map((x) => (x === null ? null : at(x)));
    const told = (words) => ({ hoverinfo: "all", hovertemplate: `${hover}${words}<extra></extra>`, customdata: lr, opacity });
    return [
      line(losses, name, style, { ...told(hover ? "loss %{y:.4g}<br>LR %{customdata:.3g}" : `${name} %{y:.4g}`), showlegend: losses.x.length > 0 }),
      line({ x: losses.x, y: lr }, `${name}: LR`, { ...style, width: Math.max(style.width, 1.2) }, { ...told("LR %{y:.3g}"), yaxis: "y2" }),
    ];
  };

  // Single losses scatter: where there are many, their means show the way.
  const FAINT = 0.4;
  const averaged = (data) => data.trend.x.length > 0;
  const withTrend = (data, [loss, lr], name) => {
    if (!averaged(data)) return [loss, lr];
    const trend = line(data.trend, name, { ...loss.line, width: 2.2 }, { showlegend: true });
    return [{ ...loss, opacity: FAINT, line: { ...loss.line, width: 1, dash: "solid" }, showlegend: false }, trend, lr];
  };

  const bands = (stages, ink) =>
    stages.flatMap((stage) => {
      const rect = (x0, x1, fillcolor) => ({
        type: "rect", xref: "x", yref: "paper", layer: "below", x0, x1, y0: 0, y1: 1, line: { width: 0 }, fillcolor,
      });
      const found = [];
      if (stage.start > stage.search) found.push(rect(stage.search, stage.start, ink("search", 0.13)));
      if (stage.index % 2 === 1) found.push(rect(stage.start, stage.end, ink("muted", 0.09)));
      return found;
    });

  // Where the plan changed: a line through both plots, with a mark to point at.
  const changeLines = (changes, ink) =>
    changes.x.map((x) => ({
      type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { width: 1, dash: "dot", color: ink("text", 0.6) },
    }));

  // What was forecast for the ends of stages, with the actual losses: far out, it is pointed at from the edge of the plot.
  const forecasts = ({ x, loss, bar, end, actual, text, curve }, [bottom, top], log, ink) => {
    const height = (value) => (log ? Math.log10(value) : value); // NaN below zero: no height at all
    const above = loss.map((value) => height(value) > top);
    const inside = loss.map((value, i) => !above[i] && height(value) >= bottom);
    const at = (values, wanted) => values.map((value, i) => (wanted(i) ? value : null));
    const hover = { text, hovertemplate: "for step %{x:,d}: %{text}<extra></extra>" };
    return [
      line(curve, "forecast", { color: ink("search"), width: 1.6, dash: "dash" }),
      markers(
        { x, y: at(loss, (i) => inside[i]) }, "forecast ± 2 standard errors",
        { symbol: "circle-open", size: 9, color: ink("search"), line: { width: 2 } },
        { ...hover, error_y: { type: "data", array: bar, color: ink("search"), thickness: 1.5, width: 5 }, showlegend: true },
      ),
      markers({ x: end, y: actual }, "actual loss", { symbol: "star", size: 11, color: ink("validation") }, {
        hoverinfo: "skip", showlegend: true,
      }),
      markers(
        { x: at(x, (i) => !inside[i]), y: above.map((is) => (is ? 0.975 : 0.025)) }, "forecast beyond the plot",
        { size: 10, symbol: above.map((is) => (is ? "triangle-up" : "triangle-down")), color: ink("search") },
        { ...hover, yaxis: "y3" },
      ),
    ];
  };

  // What is there, of the steps that are looked at.
  const keys = (data, [first, last], beyond, isBeyond) => {
    const seen = (xs) => xs.some((x) => x !== null && x >= first && x <= last);
    return [
      averaged(data) && ["line", "committed", `committed, mean of ${data.trend_steps} steps`],
      averaged(data) && ["line thin", "committed", "committed, step by step"],
      data.committed_loss.x.length && !averaged(data) && ["line", "committed", "committed"],
      data.search_loss.x.length && ["line", "search", data.promised.x.length ? "rolled back: search, or what fell short" : "search, rolled back"],
      data.validation.x.length && ["diamond", "validation", "validation"],
      data.broken.x.length && ["cross", "bad", data.promised.x.length ? "diverged, or fell short of its promise" : "diverged"],
      data.promised.x.length && ["dashed", "bad", "what was promised"],
      data.changes.x.length && ["dotted", "text", "the plan changed"],
      seen(data.forecasts.curve.x) && ["dashed", "search", "forecast along a stage"],
      seen(data.forecasts.x) && ["whisker", "search", "forecast for its end, ± 2 standard errors"],
      seen(data.forecasts.end) && ["star", "validation", "actual loss at the end"],
      seen(beyond) && ["triangle", "search", "forecast beyond the plot"],
      isBeyond && ["pointer", "search", "goes on beyond the plot: point at it to see how far"],
      data.stages.some((stage) => stage.start > stage.search) && ["block", "search", "search: its width is its cost"],
      data.stages.some((stage) => stage.index % 2 === 1) && ["block", "muted", "every other stage"],
    ].filter(Boolean);
  };

  const figure = (data, { range, log }, ink) => {
    const shown = range || [0, Math.max(data.n_steps, 1)];
    const search = { color: ink("search"), width: 1 };
    const committed = { color: ink("committed"), width: 1.6 };
    const y = lossAxis(ink, data.loss_range, log, { domain: ROWS.y, fixedrange: true });
    const [searchLoss, searchLr] = lossAndLr(data.search_loss, data.search_lr, "search loss", search, { opacity: 0.8 });
    const kept = withTrend(data, lossAndLr(data.committed_loss, data.committed_lr, "loss", committed), "mean loss");
    const lrs = lrAxis(ink, data.lr_range, { domain: ROWS.y2, fixedrange: true });
    const apart = APART * (shown[1] - shown[0]);
    const near = (peaks) => peaks.filter(({ x }) => x >= shown[0] && x <= shown[1]);
    const edges = [
      [data.search_loss, y, "search loss", "search", "y3"],
      [data.committed_loss, y, "loss", "committed", "y3"],
      [data.search_lr, lrs, "search LR", "search", "y4"],
    ].map(([found, on, what, colour, name]) => charts.pointers(near(charts.peaksAbove(found, on, apart)), what, ink, colour, name));
    const ended = forecasts(data.forecasts, y.range, y.type === "log", ink);
    const validation = { color: ink("validation"), size: 9, symbol: "diamond", line: { width: 1, color: ink("card") } };
    return {
      data: [
        searchLoss,
        ...kept,
        line(data.validation, "validation", { color: ink("validation"), width: 1.6, dash: "dot" }),
        line(data.promised, "promised", { color: ink("bad"), width: 1.6, dash: "dash" }, {
          hoverinfo: "all", hovertemplate: "promised: at most %{y:.4g}<extra></extra>", showlegend: data.promised.x.length > 0,
        }),
        searchLr,
        // What is near a step, and not at it, says where it is.
        markers(data.validation, "validation", validation, {
          hovertemplate: "validation %{y:.4g} after step %{x:,d}<extra></extra>", showlegend: data.validation.x.length > 0,
        }),
        markers(
          { x: data.broken.x, y: data.broken.x.map(() => 0.92) }, "diverged", { symbol: "x", size: 9, color: ink("bad") },
          { yaxis: "y3", text: data.broken.text, hovertemplate: "%{text} at step %{x:,d}<extra></extra>", showlegend: data.broken.x.length > 0 },
        ),
        markers(
          { x: data.changes.x, y: data.changes.x.map(() => 0.03) }, "the plan changed", { symbol: "triangle-up", size: 9, color: ink("text") },
          { yaxis: "y3", text: data.changes.text.map(charts.escaped), hovertemplate: "%{text}<extra></extra>", showlegend: data.changes.x.length > 0 },
        ),
        ...edges,
        ...(data.forecasts.x.length ? ended : []),
      ],
      layout: frame(ink, shown, {
        hovermode: "x unified",
        hoversubplots: "axis",
        shapes: [...bands(data.stages, ink), ...changeLines(data.changes, ink)],
        yaxis: y,
        yaxis2: lrs,
        yaxis3: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
        yaxis4: { overlaying: "y2", range: [0, 1], visible: false, fixedrange: true },
      }),
      keys: keys(data, shown, ended.at(-1).x, edges.some(({ x }) => x.length)),
    };
  };

  // Several jobs' committed steps. Who can't tell eight colours apart can tell four, and dashes.
  const N_SOLID = 4;
  const comparison = ({ jobs, n_steps }, { range, log }, ink) => {
    const run = jobs.filter(({ data }) => data.n_steps > 0).map(({ data }) => data);
    const over = (name) => [charts.lowest(run.map((data) => data[name][0])), charts.highest(run.map((data) => data[name][1]))];
    const y = lossAxis(ink, over("loss_range"), log, { domain: ROWS.y, fixedrange: true });
    const [first, last] = range || [0, Math.max(n_steps, 1)];
    return {
      data: jobs.flatMap(({ name, data }, i) => {
        const hover = `${charts.escaped(name)}<br>step %{x:,d}<br>`;
        const style = { color: ink(`series-${i}`), width: 1.8, dash: i < N_SOLID ? "solid" : "5px,2px" };
        const words = charts.escaped(name);
        const peaks = charts.peaksAbove(data.committed_loss, y, APART * (last - first));
        return [
          ...withTrend(data, lossAndLr(data.committed_loss, data.committed_lr, words, style, { hover }), words),
          charts.pointers(peaks, `${words}: loss`, ink, `series-${i}`, "y3"),
        ];
      }),
      layout: frame(ink, [first, last], {
        hovermode: "closest",
        yaxis: y,
        yaxis2: lrAxis(ink, over("lr_range"), { domain: ROWS.y2, fixedrange: true }),
        yaxis3: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
      }),
      keys: [],
    };
  };

  return { figure, comparison };
})();
