// Draws the server's curves with Plotly, in the colours of the style sheet.
"use strict";
const charts = (() => {
  // Plotly is large, and not waited for until something is drawn. A report has it.
  const address = document.querySelector("script[data-plotly]")?.dataset.plotly;
  const plotly = address
    ? new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = address;
        script.addEventListener("load", resolve);
        script.addEventListener("error", () => reject(new Error(`${address} can't be loaded`)));
        document.head.append(script);
      })
    : Promise.resolve();
  plotly.catch(() => {}); // whoever draws hears of it

  const draw = async (element, traces, layout) => {
    await plotly;
    return Plotly.react(element, traces, layout, CONFIG);
  };

  const CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, scrollZoom: false, doubleClick: "reset" };
  const LR_DECADES = 4; // a decay to zero ends many decades down: below these nothing is worth seeing
  const HEADROOM = 1.15; // above the worst committed loss; what a search reached beyond that is cut off

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const faint = (name, alpha) => {
    const [r, g, b] = colour(name).match(/\w\w/g).map((part) => parseInt(part, 16));
    return `rgba(${r},${g},${b},${alpha})`;
  };
  const known = (values) => values.filter((value) => value !== null && value !== undefined && Number.isFinite(value));
  const lowest = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
  const highest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

  // Data that the page carries along (a report, whose data are as fine as they get), or that the server has.
  const load = async (address) => {
    const carried = document.querySelector(`script[data-of="${CSS.escape(address.split("?")[0])}"]`);
    if (carried) return JSON.parse(carried.textContent);
    const response = await patient(address, { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(`${address}: ${response.status}`);
    return response.json();
  };

  const base = () => ({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: colour("text") },
    showlegend: false,
    margin: { l: 70, r: 18, t: 14, b: 54 },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("text") } },
  });
  const axis = (more) => ({
    gridcolor: colour("line"),
    linecolor: colour("line"),
    zeroline: false,
    ticks: "outside",
    tickcolor: colour("line"),
    ...more,
  });
  const logRange = (low, high) => [Math.log10(low) - 0.05, Math.log10(high) + 0.05];

  // 0.1, 0.2, 0.5, 1, ...: Plotly leaves the zeros out between powers of ten. Over less than that it chooses well.
  const logTicks = ([low, high]) => {
    const values = [];
    for (let power = Math.floor(low); power <= high; power++)
      for (const digit of high - low > 2.5 ? [1] : [1, 2, 5]) values.push(digit * 10 ** power);
    const inside = values.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
    return inside.length < 3 ? {} : { tickvals: inside, ticktext: inside.map((value) => String(Number(value.toPrecision(1)))) };
  };

  const lossAxis = (values, all, log, more) => {
    const shown = known(values);
    if (!shown.length) return axis({ title: { text: "loss", standoff: 8 }, ...more });
    const low = Math.min(lowest(shown), lowest(known(all)));
    const high = highest(shown);
    if (log && low > 0) {
      const range = logRange(low, high * HEADROOM);
      return axis({ title: { text: "loss", standoff: 8 }, type: "log", range, ...logTicks(range), ...more });
    }
    const room = (high - low || 1) * (HEADROOM - 1);
    return axis({ title: { text: "loss", standoff: 8 }, range: [low - room / 3, high + room], ...more });
  };
  const lrAxis = (values, { decades = LR_DECADES, ...more }) => {
    const shown = known(values).filter((value) => value > 0);
    const title = { text: "learning rate", standoff: 4 };
    if (!shown.length) return axis({ title, ...more });
    const high = highest(shown);
    const low = Math.max(lowest(shown), high / 10 ** decades);
    const range = logRange(low / 1.1, high * 1.1);
    const ticks = range[1] - range[0] < 2.5 ? logTicks(range) : { dtick: 1 };
    return axis({ title, type: "log", exponentformat: "power", range, ...ticks, ...more });
  };
  // Where LRs were chosen, none is negligible.
  const overLr = { title: { text: "learning rate" }, decades: 30 };
  const stepAxis = (range) =>
    axis({ title: { text: "steps run, search included", standoff: 6 }, range, anchor: "y2", hoverformat: ",d", separatethousands: true });
  const twoRows = { y: [0.42, 1], y2: [0, 0.36] };

  const line = (data, name, lineStyle, more) => ({
    type: "scatter",
    mode: "lines",
    name,
    x: data.x,
    y: data.y,
    line: lineStyle,
    connectgaps: false,
    hovertemplate: `${name} %{y:.4g}<extra></extra>`,
    ...more,
  });

  const bands = (stages) =>
    stages.flatMap((stage) => {
      const rect = (x0, x1, fillcolor) => ({
        type: "rect", xref: "x", yref: "paper", layer: "below", x0, x1, y0: 0, y1: 1, line: { width: 0 }, fillcolor,
      });
      const found = [];
      if (stage.start > stage.search) found.push(rect(stage.search, stage.start, faint("search", 0.13)));
      if (stage.index % 2 === 1) found.push(rect(stage.start, stage.end, faint("muted", 0.09)));
      return found;
    });

  // Loss above LR over the steps that were run, with one x axis: a zoom moves both.
  const job = (element, data, { range, log }) => {
    const search = { color: colour("search"), width: 1 };
    const committed = { color: colour("committed"), width: 1.6 };
    const traces = [
      line(data.search_loss, "search loss", search, { opacity: 0.8 }),
      line(data.committed_loss, "loss", committed),
      line(data.validation, "validation", { color: colour("validation"), width: 1.6, dash: "dot" }, {
        mode: "lines+markers",
        marker: { color: colour("validation"), size: 7, symbol: "diamond" },
      }),
      line(data.search_lr, "search LR", search, { yaxis: "y2" }),
      line(data.committed_lr, "LR", { ...committed, width: 2 }, { yaxis: "y2" }),
      {
        type: "scatter", mode: "markers", name: "diverged", x: data.broken.x, y: data.broken.x.map(() => 0.97), yaxis: "y3",
        text: data.broken.text, hovertemplate: "%{text}<extra></extra>",
        marker: { symbol: "x", size: 9, color: colour("bad") },
      },
    ];
    const calm = [...data.committed_loss.y, ...data.validation.y];
    const lrs = [...data.committed_lr.y, ...data.search_lr.y];
    const layout = {
      ...base(),
      hovermode: "x unified",
      dragmode: "zoom",
      shapes: bands(data.stages),
      xaxis: stepAxis(range || [0, Math.max(data.n_steps, 1)]),
      yaxis: lossAxis(calm.some((y) => y !== null) ? calm : data.search_loss.y, data.search_loss.y, log, {
        domain: twoRows.y, fixedrange: true,
      }),
      yaxis2: lrAxis(lrs, { domain: twoRows.y2, fixedrange: true }),
      yaxis3: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    };
    return draw(element, traces, layout);
  };

  // Several jobs' committed steps.
  const compare = (element, jobs, { range, log }) => {
    const traces = jobs.flatMap(({ name, data }, i) => {
      const style = { color: colour(`series-${i}`), width: 1.8 };
      return [
        line(data.committed_loss, name, style, { hovertemplate: `${name}: %{y:.4g}<extra></extra>` }),
        line(data.committed_lr, name, style, { yaxis: "y2", hovertemplate: `${name}: LR %{y:.4g}<extra></extra>` }),
      ];
    });
    const losses = jobs.flatMap(({ data }) => data.committed_loss.y);
    const lrs = jobs.flatMap(({ data }) => data.committed_lr.y);
    const layout = {
      ...base(),
      hovermode: "x",
      dragmode: "zoom",
      xaxis: stepAxis(range || [0, highest(jobs.map(({ data }) => Math.max(data.n_steps, 1)))]),
      yaxis: lossAxis(losses, losses, log, { domain: twoRows.y, fixedrange: true }),
      yaxis2: lrAxis(lrs, { domain: twoRows.y2, fixedrange: true }),
    };
    return draw(element, traces, layout);
  };

  // What is known of a stage's candidates, and what the surrogate made of it.
  const evidence = (element, data) => {
    const traces = [];
    const post = data.posterior;
    if (post) {
      const hidden = { width: 0, color: faint("committed", 0) };
      traces.push(
        { ...line({ x: post.lr, y: post.low }, "", hidden), hoverinfo: "skip", hovertemplate: null },
        {
          ...line({ x: post.lr, y: post.high }, "", hidden), fill: "tonexty", fillcolor: faint("committed", 0.15),
          hoverinfo: "skip", hovertemplate: null,
        },
        line({ x: post.lr, y: post.mean }, "expected loss", { color: colour("committed"), width: 1.6 }),
        line({ x: post.lr, y: post.acquisition }, "acquisition", { color: colour("muted"), width: 1.4 }, {
          yaxis: "y2", fill: "tozeroy", fillcolor: faint("muted", 0.12),
        }),
      );
    }
    traces.push({
      type: "scatter", mode: "markers", name: "candidate", x: data.candidate_lr, y: data.candidate_loss,
      error_y: { type: "data", array: data.candidate_sd, color: colour("search"), thickness: 1.3, width: 4 },
      marker: { size: 9, color: colour("search"), line: { width: 1, color: colour("card") } },
      text: data.candidate_text, hovertemplate: "%{text}<extra></extra>",
    });
    // What leaves the plot is pointed at, at the edge where it does.
    const { beyond } = data;
    traces.push({
      type: "scatter", mode: "markers", name: "beyond the plot", x: beyond.lr, y: beyond.above.map((above) => (above ? 0.975 : 0.025)),
      yaxis: "y3", text: beyond.text, hovertemplate: "%{text}<extra></extra>",
      marker: { size: 10, symbol: beyond.above.map((above) => (above ? "triangle-up" : "triangle-down")), color: colour("search") },
    });
    if (data.lr !== null && data.came_true !== null) {
      traces.push({
        type: "scatter", mode: "markers", name: "came true", x: [data.lr], y: [data.came_true],
        marker: { size: 13, symbol: "star", color: colour("validation") },
        hovertemplate: "came true: %{y:.4g}<extra></extra>",
      });
    }
    const diverged = data.candidate_lr.filter((_, i) => data.candidate_loss[i] === null);
    traces.push({
      type: "scatter", mode: "markers", name: "diverged", x: diverged, y: diverged.map(() => 0.9), yaxis: "y3",
      marker: { size: 10, symbol: "x", color: colour("bad") }, hovertemplate: "LR %{x:.3g} diverged<extra></extra>",
    });
    const chosen = data.lr === null ? [] : [
      {
        type: "line", xref: "x", yref: "paper", x0: data.lr, x1: data.lr, y0: 0, y1: 1,
        line: { color: colour("text"), width: 1.4, dash: "dash" },
      },
    ];
    const layout = {
      ...base(),
      shapes: chosen,
      xaxis: lrAxis([...data.candidate_lr, ...(post ? post.lr : []), data.lr], {
        ...overLr, anchor: post ? "y2" : "y", fixedrange: true,
      }),
      yaxis: axis({
        title: { text: "loss", standoff: 8 }, domain: post ? [0.32, 1] : [0, 1], range: data.loss_range, fixedrange: true,
      }),
      yaxis2: axis({
        title: { text: "acquisition" }, domain: [0, 0.24], fixedrange: true, visible: Boolean(post), nticks: 3,
        range: post ? acquisitionRange(post.acquisition) : [0, 1],
      }),
      yaxis3: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    };
    return draw(element, traces, layout);
  };
  // A logarithm of an improvement falls off a cliff where none is to be had: the upper part is what matters.
  const acquisitionRange = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    const high = sorted[sorted.length - 1];
    const low = sorted[Math.floor(sorted.length / 4)];
    const room = (high - low || 1) * 0.1;
    return [low - room, high + room];
  };

  // Every probe's losses, from low LR to high: one hue from light to dark.
  const probes = (element, data) => {
    const ordered = [...data.probes].sort((a, b) => a.lr - b.lr);
    const shade = (i) => {
      const part = ordered.length < 2 ? 0.5 : i / (ordered.length - 1);
      return `hsl(${Math.round(215 - 195 * part)} 70% ${colour("probe-light")})`;
    };
    const traces = ordered.flatMap((probe, i) => {
      const style = { color: shade(i), width: probe.chosen ? 3 : 1.3, dash: probe.diverged ? "dot" : "solid" };
      const name = probe.name + (probe.chosen ? ", lowest" : "") + (probe.diverged ? ", diverged" : "");
      const end = probe.validations;
      return [
        line(probe.losses, name, style, { hovertemplate: `${name}: %{y:.4g}<extra></extra>` }),
        {
          type: "scatter", mode: "markers", x: end.x, y: end.y, name, hovertemplate: `${name}: validation %{y:.4g}<extra></extra>`,
          marker: { color: shade(i), size: 7, symbol: "diamond" },
        },
      ];
    });
    const calm = ordered.filter((probe) => !probe.diverged).flatMap((probe) => [...probe.losses.y, ...probe.validations.y]);
    const values = calm.length ? calm : ordered.flatMap((probe) => probe.losses.y);
    const layout = {
      ...base(),
      hovermode: "closest",
      xaxis: axis({ title: { text: "steps of the probe" }, fixedrange: true }),
      yaxis: lossAxis(values, values, true, { fixedrange: true }),
    };
    return draw(element, traces, layout);
  };

  const rangeTest = (element, data) => {
    const layout = {
      ...base(),
      xaxis: lrAxis(data.range_test.x, { ...overLr, fixedrange: true }),
      yaxis: lossAxis(data.range_test.y, data.range_test.y, true, { fixedrange: true }),
    };
    return draw(element, [line(data.range_test, "loss", { color: colour("search"), width: 1.5 })], layout);
  };

  const save = (element, format, name) =>
    Plotly.downloadImage(element, {
      format, filename: name, width: Math.max(element.clientWidth, 900), height: Math.max(element.clientHeight, 480),
      scale: format === "png" ? 2 : 1,
    });

  return { ready: plotly, load, job, compare, evidence, probes, rangeTest, save };
})();
