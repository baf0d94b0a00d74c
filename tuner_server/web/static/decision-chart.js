// The charts of a decision: what was tried, what the surrogate made of it, and the actual loss.
"use strict";
const decisionCharts = (() => {
  const { axis, escaped, known, layout, line, lossAxis, markers } = charts;
  const fixed = { fixedrange: true };

  const lrAxis = (ink, lrs, more) => charts.lrAxis(ink, [charts.lowest(known(lrs)), charts.highest(known(lrs))], { ...fixed, ...more });

  // Colours along the order of LRs.
  const RAMP = ["probe-low", "probe-middle", "probe-high"];
  const shades = (count, ink) => {
    const stops = RAMP.map((name) => ink(name).match(/\d+/g).map(Number));
    return Array.from({ length: count }, (_, i) => {
      const at = count < 2 ? 1 : (i / (count - 1)) * (stops.length - 1);
      const from = Math.min(Math.floor(at), stops.length - 2);
      const mixed = stops[from].map((value, channel) => Math.round(value + (stops[from + 1][channel] - value) * (at - from)));
      return `rgb(${mixed.join(", ")})`;
    });
  };

  // The same for a probe's line and for its dot: what is read off one chart is found in the other.
  const shadeOf = ({ probes, candidate_lr }, ink) => {
    const lrs = [...new Set([...probes.map(({ lr }) => lr), ...candidate_lr])].sort((a, b) => a - b);
    const shade = shades(lrs.length, ink);
    return (lr) => shade[lrs.indexOf(lr)];
  };

  // Every probe's losses. Where validations decide, they stand in front.
  const probes = (data, ink) => {
    const ordered = [...data.probes].sort((a, b) => a.lr - b.lr);
    const shade = shadeOf(data, ink);
    const validated = ordered.some((probe) => probe.validations.x.length);
    const traces = ordered.flatMap((probe) => {
      const color = shade(probe.lr);
      const style = { color, width: probe.chosen ? 3.5 : 1.5, dash: probe.diverged ? "dot" : "solid" };
      const name = escaped(probe.name) + (probe.chosen ? ", the best" : "") + (probe.diverged ? ", diverged" : "");
      const template = (what) => `${name}: ${what}%{y:${data.relative ? "+" : ""}.4g}<extra></extra>`;
      return [
        line(probe.losses, name, style, {
          hoverinfo: "all", hovertemplate: template(""), opacity: validated ? 0.3 : 1,
        }),
        line(probe.validations, name, { ...style, dash: "solid" }),
        markers(probe.validations, name, { color, size: probe.chosen ? 10 : 7, symbol: "diamond" }, {
          hovertemplate: template("validation "),
        }),
      ];
    });
    const title = data.relative ? "loss minus the best's" : "loss";
    const y = lossAxis(ink, data.probe_range, !data.relative, {
      ...fixed, title: { text: title, standoff: 8 }, zeroline: data.relative, automargin: true, zerolinecolor: ink("muted"),
    });
    const beyond = ordered.map(({ losses, name }) => charts.pointers(charts.peaksAbove(losses, y), `${escaped(name)}: loss`, ink, "muted", "y2"));
    return {
      data: [...traces, ...beyond],
      layout: layout(ink, {
        hovermode: "closest",
        xaxis: axis(ink, {
          title: { text: "steps of the probe" }, ...fixed, hoverformat: ",d", separatethousands: true,
          range: [0, charts.highest(ordered.flatMap(({ losses }) => known(losses.x)))],
        }),
        yaxis: y,
        yaxis2: { overlaying: "y", range: [0, 1], visible: false, ...fixed },
      }),
      keys: [
        ordered.length > 1 && ["ramp", "", "from low LR to high LR"],
        ordered.some((probe) => probe.chosen) && ["thick", "text", "the best"],
        ordered.some((probe) => probe.diverged) && ["dotted", "text", "diverged"],
        validated && ["diamond", "text", "validation, which decides"],
        validated && ["line", "faded", "training loss"],
        beyond.some(({ x }) => x.length) && ["pointer", "muted", "goes on beyond the plot"],
      ].filter(Boolean),
    };
  };

  const TOP = { alone: [0, 1], above: [0.36, 1], below: [0, 0.24] };

  const surrogate = (post, ink) => {
    const hidden = { width: 0, color: ink("committed", 0) };
    return [
      line({ x: post.lr, y: post.low }, "", hidden),
      line({ x: post.lr, y: post.high }, "", hidden, { fill: "tonexty", fillcolor: ink("committed", 0.15) }),
      line({ x: post.lr, y: post.mean }, "expected loss", { color: ink("committed"), width: 1.6 }, {
        hoverinfo: "all", hovertemplate: "LR %{x:.3g}: expected loss %{y:.4g}<extra></extra>",
      }),
    ];
  };
  // Filled from the lower end of its axis: what is worth trying stands out, whatever its sign.
  const acquisition = ({ lr, value, range, name }, ink) => [
    line({ x: lr, y: lr.map(() => range[0]) }, "", { width: 0, color: ink("muted", 0) }, { yaxis: "y2" }),
    line({ x: lr, y: value }, "acquisition", { color: ink("muted"), width: 1.4 }, {
      yaxis: "y2", fill: "tonexty", fillcolor: ink("muted", 0.18), hoverinfo: "all",
      hovertemplate: `LR %{x:.3g}: ${escaped(name)} %{y:.4g}<extra></extra>`,
    }),
  ];
  // From the best LR of short runs to the one that was committed.
  const corrected = ({ lr, ratio }, committed, ink) => {
    const [from, to] = [Math.log10(lr), Math.log10(committed)];
    const at = { xref: "x", yref: "y3", y: 0.07 };
    return [
      {
        ...at, x: to, ax: from, axref: "x", ay: at.y, ayref: at.yref, text: "", arrowhead: 2, arrowwidth: 1.6, arrowcolor: ink("text"),
      },
      {
        ...at, x: (from + to) / 2, text: ratio, showarrow: false, yanchor: "bottom", yshift: 2, font: { size: 12 }, bgcolor: ink("card"),
      },
    ];
  };
  const caption = (text, y, ink) => ({
    text: escaped(text), x: 0, xref: "paper", xanchor: "left", y, yref: "paper", yanchor: "bottom", showarrow: false,
    font: { size: 12, color: ink("muted") },
  });

  // What is known of a stage's candidates, and what the surrogate made of it.
  const evidence = (data, ink) => {
    const { posterior, acquisition: worth, beyond, corrected: moved } = data;
    const diverged = data.candidate_lr.filter((_, i) => data.candidate_loss[i] === null);
    const hasTruth = data.lr !== null && data.actual !== null;
    const hover = { hovertemplate: "%{text}<extra></extra>" };
    const shade = shadeOf(data, ink);
    const traces = [
      ...(posterior ? surrogate(posterior, ink) : []),
      ...(worth ? acquisition(worth, ink) : []),
      markers(
        { x: data.candidate_lr, y: data.candidate_loss }, "candidate",
        { size: 10, color: data.candidate_lr.map(shade), line: { width: 1, color: ink("card") } },
        { ...hover, text: data.candidate_text, error_y: { type: "data", array: data.candidate_bar, color: ink("muted"), thickness: 1.3, width: 4 } },
      ),
      // What leaves the plot is pointed at, at the edge where it does.
      markers(
        { x: beyond.lr, y: beyond.above.map((above) => (above ? 0.975 : 0.025)) }, "beyond the plot",
        { size: 10, symbol: beyond.above.map((above) => (above ? "triangle-up" : "triangle-down")), color: ink("muted") },
        { ...hover, text: beyond.text, yaxis: "y3" },
      ),
      markers({ x: diverged, y: diverged.map(() => 0.95) }, "diverged", { size: 10, symbol: "x", color: ink("bad") }, {
        yaxis: "y3", hovertemplate: "LR %{x:.3g} diverged<extra></extra>",
      }),
    ];
    if (moved?.loss != null)
      traces.push(markers({ x: [moved.lr], y: [moved.loss] }, "best of short runs", { size: 15, symbol: "circle-open", color: ink("text"), line: { width: 1.6 } }, {
        hovertemplate: "best of short runs: LR %{x:.3g}, expected loss %{y:.4g}<extra></extra>",
      }));
    if (hasTruth)
      traces.push(markers({ x: [data.lr], y: [data.actual] }, "actual loss", { size: 13, symbol: "star", color: ink("validation") }, {
        hovertemplate: "actual loss: %{y:.4g}<extra></extra>",
      }));
    const committed = data.lr === null ? [] : [
      {
        type: "line", xref: "x", yref: "y3", x0: data.lr, x1: data.lr, y0: 0, y1: 1,
        line: { color: ink("text"), width: 1.4, dash: "dash" },
      },
    ];
    const domain = worth ? TOP.above : TOP.alone;
    return {
      data: traces,
      layout: layout(ink, {
        hovermode: "closest",
        shapes: committed,
        annotations: [...(moved ? corrected(moved, data.lr, ink) : []), ...(worth ? [caption("worth trying", TOP.below[1], ink)] : [])],
        xaxis: lrAxis(ink, [...data.candidate_lr, ...(posterior?.lr ?? []), data.lr, moved?.lr], {
          anchor: worth ? "y2" : "y", title: { text: "learning rate" },
        }),
        yaxis: axis(ink, { title: { text: "loss", standoff: 8 }, domain, range: data.loss_range, automargin: true, ...fixed }),
        yaxis2: axis(ink, { domain: TOP.below, visible: Boolean(worth), nticks: 3, range: worth?.range, ...fixed }),
        yaxis3: { overlaying: "y", range: [0, 1], visible: false, ...fixed },
      }),
      keys: [
        ["dot", "shaded", data.candidate_bar.some((bar) => bar > 0) ? "forecast of a candidate" : "loss after a probe"],
        data.candidate_bar.some((bar) => bar > 0) && ["whisker", "muted", "± 2 standard errors"],
        diverged.length > 0 && ["cross", "bad", "diverged"],
        posterior && ["band", "committed", "loss expected by the surrogate, ± 2 sd"],
        (beyond.lr.length > 0 || data.band_leaves) && ["triangle", "muted", "goes on beyond the plot"],
        worth && ["area", "muted", `how much an LR was worth trying, when the last probe was chosen: ${worth.name}`],
        moved && ["ring", "text", `best of short runs; ${moved.way}`],
        data.lr !== null && ["dashed", "text", "committed LR"],
        hasTruth && ["star", "validation", "actual loss at the end"],
      ].filter(Boolean),
    };
  };

  const rangeTest = (data, ink) => {
    const { losses, range } = data.range_test;
    const y = lossAxis(ink, range, true, fixed);
    const beyond = charts.pointers(charts.peaksAbove(losses, y), "loss", ink, "search", "y2", (lr) => `at LR ${Number(lr.toPrecision(3))}`);
    return {
      data: [
        line(losses, "loss", { color: ink("search"), width: 1.5 }, {
          hoverinfo: "all", hovertemplate: "LR %{x:.3g}: loss %{y:.4g}<extra></extra>",
        }),
        beyond,
      ],
      layout: layout(ink, {
        xaxis: lrAxis(ink, losses.x, { title: { text: "learning rate" } }),
        yaxis: y,
        yaxis2: { overlaying: "y", range: [0, 1], visible: false, ...fixed },
      }),
      keys: beyond.x.length ? [["pointer", "search", "goes on beyond the plot"]] : [],
    };
  };

  const panel = (container, className, title, words) => {
    const found = container.querySelector(`.${className}`);
    if (found) {
      found.previousElementSibling.textContent = title;
      return found;
    }
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = title;
    const plot = document.createElement("div");
    plot.className = className;
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", words);
    const keys = document.createElement("ul");
    keys.className = "keys";
    figure.append(caption, plot, keys);
    container.append(figure);
    return plot;
  };

  // Into a stage's section, from the address that it names.
  const draw = async (container) => {
    const data = await charts.load(container.dataset.src);
    container.dataset.drawn = "";
    const wanted = [
      [data.range_test, "range-test", "Range test: where training falls apart", "Loss over LR", rangeTest],
      [
        data.probes.length, "probes",
        data.relative ? "The probes: the loss of each minus that of the best, on the same batches" : "The probes: the loss of each",
        "Loss of each probe over its steps; the table has its outcome", probes,
      ],
      [
        data.candidate_lr.length, "evidence", data.posterior ? "What each LR is expected to give" : "Candidates",
        "Expected loss over LR; the table has the candidates", evidence,
      ],
    ].filter(([there]) => there);
    // All panels first: what they share is the width.
    const panels = wanted.map(([, className, title, words, figure]) => [panel(container, className, title, words), figure]);
    for (const [element, figure] of panels) await charts.draw(element, figure(data, charts.palette()));
  };

  return { draw };
})();
