// What all charts have in common: Plotly, the data, colours, axes, keys and images. Each chart is a function from data
// and colours to a figure: what Plotly draws (`data`, `layout`), and what its key explains (`keys`).
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

  const CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, scrollZoom: false, doubleClick: "reset" };
  const HEADROOM = 1.15; // above the highest loss that is to be seen
  const IMAGE = { width: 1200, height: 640, top: 84 };
  const touch = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page; buttons move the chart

  const draw = async (element, { data, layout, keys }) => {
    await plotly;
    explain(element, keys);
    const first = !element.classList.contains("js-plotly-plot");
    await Plotly.react(element, data, layout, CONFIG);
    element.classList.toggle("on-dark", isDark(layout.hoverlabel.bgcolor));
    if (!first) return;
    scalable(element);
    element.on("plotly_afterplot", () => scalable(element));
  };
  // Paper has another width than the window, and is white: the style sheet sees to both when the page is printed.
  const scalable = (element) =>
    element.querySelectorAll(".main-svg").forEach((svg) =>
      svg.setAttribute("viewBox", `0 0 ${svg.getAttribute("width")} ${svg.getAttribute("height")}`),
    );
  const isDark = (colour) => Math.max(...colour.match(/\d+/g)) < 128;

  // The colours of the style sheet, as they are now or, for images, as they are in the light.
  let swatch = null;
  const palette = (scheme = "") => (name, alpha = 1) => {
    if (!swatch) {
      swatch = document.createElement("span");
      swatch.hidden = true;
      document.body.append(swatch);
    }
    swatch.style.colorScheme = scheme;
    swatch.style.color = `var(--${name})`;
    const [r, g, b] = getComputedStyle(swatch).color.match(/\d+/g);
    return alpha === 1 ? `rgb(${r}, ${g}, ${b})` : `rgba(${r}, ${g}, ${b}, ${alpha})`;
  };

  // A key beside a chart, where there is room for one: [mark, colour, words] of what is there.
  const GLYPHS = { cross: "✖", star: "★", diamond: "◆", dot: "●", ring: "○", triangle: "▲▼", pointer: "▲" };
  const explain = (element, keys) => {
    const list = element.parentElement.querySelector(":scope > .keys");
    list?.replaceChildren(
      ...keys.map(([kind, colour, words]) => {
        const entry = document.createElement("li");
        const mark = document.createElement("span");
        mark.className = `mark ${kind} ${colour}`;
        mark.textContent = GLYPHS[kind] ?? "";
        mark.setAttribute("aria-hidden", "true");
        entry.append(mark, words);
        return entry;
      }),
    );
  };

  // Data that the page carries along (a report, whose data are as fine as they get), or that the server has.
  const load = async (address) => {
    const carried = document.querySelector(`script[data-of="${CSS.escape(address.split("?")[0])}"]`);
    if (carried) return JSON.parse(carried.textContent);
    const response = await patient(address, { headers: { Accept: "application/json" } });
    if (!response.ok) throw new Error(`${address}: ${response.status}`);
    return response.json();
  };

  const known = (values) => values.filter((value) => value !== null && value !== undefined && Number.isFinite(value));
  const lowest = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
  const highest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

  const layout = (ink, more) => ({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: ink("text") },
    separators: ".\u202f",
    showlegend: false,
    dragmode: false,
    margin: { l: 80, r: 28, t: 14, b: 54 },
    hoverlabel: { bgcolor: ink("card"), bordercolor: ink("line"), font: { color: ink("text") } },
    ...more,
  });
  const axis = (ink, more) => ({
    gridcolor: ink("line"),
    linecolor: ink("line"),
    zeroline: false,
    exponentformat: "e", // not 150n, and not 80k
    ticks: "outside",
    tickcolor: ink("line"),
    ...more,
  });
  const logRange = (low, high) => [Math.log10(low) - 0.05, Math.log10(high) + 0.05];

  // 0.1, 0.2, 0.5, 1, ...: Plotly leaves the zeros out between powers of ten, and writes those larger than all else. The
  // fewest digits that give enough ticks; over less than half a decade Plotly chooses well.
  const DIGITS = [[1], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]];
  const DECADES = 2.5; // from here on they alone are enough
  const logTicks = ([low, high]) => {
    for (const digits of high - low > DECADES ? DIGITS : DIGITS.slice(1)) {
      const inside = [];
      for (let power = Math.floor(low); power <= high; power++)
        for (const digit of digits) {
          const height = power + Math.log10(digit);
          if (height >= low && height <= high) inside.push(Number(`${digit}e${power}`));
        }
      if (inside.length >= 3) return { tickvals: inside, ticktext: inside.map(plain) };
    }
    return {};
  };
  const plain = (value) => (value < 1e-4 || value >= 1e5 ? value.toExponential().replace("-", "−").replace("+", "") : String(value));

  const lossAxis = (ink, [low, high], log, more) => {
    const title = { text: "loss", standoff: 8 };
    if (log && low > 0) {
      const range = logRange(low, high * HEADROOM);
      return axis(ink, { title, type: "log", range, ...logTicks(range), ...more });
    }
    const room = (high - low || 1) * (HEADROOM - 1);
    return axis(ink, { title, range: [low - room / 3, high + room], ...more });
  };
  const lrAxis = (ink, [low, high], more) => {
    const range = logRange(low / 1.1, high * 1.1);
    const title = { text: "learning rate", standoff: 8 };
    return axis(ink, { title, type: "log", range, ...logTicks(range), ...more });
  };

  const line = (data, name, lineStyle, more) => ({
    type: "scatter",
    mode: "lines",
    name,
    x: data.x,
    y: data.y,
    line: lineStyle,
    connectgaps: false,
    showlegend: false,
    hoverinfo: "skip",
    ...more,
  });
  // Markers are whole at the edge of a plot, too.
  const markers = (data, name, marker, more) => ({
    type: "scatter", mode: "markers", name, x: data.x, y: data.y, marker, cliponaxis: false, showlegend: false, ...more,
  });

  // What lies above an axis is pointed at from the edge of the plot: of each piece of a line its highest point. Of points
  // that are nearer to each other than `apart`, the higher one stands for both.
  const peaksAbove = ({ x, y }, { range: [, top], type }, apart = 0) => {
    const height = (value) => (type === "log" ? Math.log10(value) : value);
    const found = [];
    let within = false; // a piece that is above
    for (let i = 0; i < x.length; i++) {
      if (y[i] === null || !(height(y[i]) > top)) {
        within = false;
        continue;
      }
      const last = found.at(-1);
      if (last && (within || x[i] - last.x < apart)) {
        if (y[i] > last.y) Object.assign(last, { x: x[i], y: y[i] });
      } else found.push({ x: x[i], y: y[i] });
      within = true;
    }
    return found;
  };
  const EDGE = 0.98; // of a plot's height, on an axis from 0 to 1
  const pointers = (peaks, what, ink, colour, axisName, at = (x) => `at step ${Math.round(x).toLocaleString("en").replaceAll(",", "\u202f")}`) =>
    markers(
      { x: peaks.map(({ x }) => x), y: peaks.map(() => EDGE) }, `${what} beyond the plot`,
      { symbol: "triangle-up", size: 9, color: ink(colour) },
      {
        yaxis: axisName, showlegend: peaks.length > 0, hovertemplate: "%{text}<extra></extra>",
        text: peaks.map(({ x, y }) => `${what} ${Number(y.toPrecision(3))} ${at(x)}, beyond the plot`),
      },
    );

  // For other papers and other screens: opaque, in light colours, with a title and a legend.
  const save = async (figure, { format, title }) => {
    await plotly;
    const { data, layout } = figure;
    const height = IMAGE.height + IMAGE.top;
    const image = {
      ...layout,
      paper_bgcolor: "rgb(255, 255, 255)",
      plot_bgcolor: "rgb(255, 255, 255)",
      title: { text: escaped(title), x: 0.02, y: 1 - 22 / height, yanchor: "top", font: { size: 20 } },
      showlegend: true,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom" },
      margin: { ...layout.margin, t: IMAGE.top },
      width: IMAGE.width,
      height,
    };
    return Plotly.downloadImage(
      { data, layout: image, config: CONFIG },
      { format, filename: fileName(title), width: IMAGE.width, height, scale: format === "png" ? 2 : 1 },
    );
  };
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // Plotly has tags
  const fileName = (title) => title.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 100) || "chart";

  return {
    ready: plotly, peaksAbove, pointers, touch, load, palette, draw, save, known, lowest, highest, layout, axis, lossAxis, lrAxis, line, markers, escaped,
  };
})();
