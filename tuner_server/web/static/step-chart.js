// A chart over steps with its tools: what is looked at, and the data for it, finer the nearer one looks.
"use strict";
class StepChart {
  static #SETTLED_MS = 120; // after the last movement, before finer data is fetched
  static #MOVE = 0.3; // of the width

  #element;
  #fetch;
  #figure;
  #range = null;
  #data = null;
  #log = true;
  #timer = 0;
  #search;
  #tools;
  #begun = false;
  #problem = null;

  // `fetch` gets the data of a range (null: all), `figure` makes a figure of data, options and colours, and `search`
  // says where the latest search is in the data.
  constructor(element, { fetch, figure, search = () => null }) {
    this.#element = element;
    this.#fetch = fetch;
    this.#figure = figure;
    this.#search = search;
    this.#tools = document.querySelector(`[aria-controls="${element.id}"]`);
    if (this.#tools) this.#wire();
    document.addEventListener("themechange", () => this.#redraw());
  }

  async refresh() {
    const range = this.#range;
    const data = await this.#fetch(range);
    if (range !== this.#range) return; // one looks elsewhere by now, and those data are on their way
    this.#data = data;
    await this.#redraw();
  }

  get #whole() {
    return [0, Math.max(this.#data.n_steps, 1)];
  }

  // Never rejects: what went wrong is said below the chart.
  async #redraw() {
    if (!this.#data?.n_steps) return; // nothing was run: the page says so
    try {
      await this.#draw();
      this.#say("");
    } catch (error) {
      this.#say(`The chart can't be drawn: ${error.message}.`);
    }
  }

  async #draw() {
    await charts.ready;
    const first = !this.#begun;
    this.#begun = true;
    if (first) this.#element.querySelector(":scope > .overview")?.remove();
    const figure = this.#painted(charts.palette());
    await charts.draw(this.#element, figure);
    this.#offer(figure);
    if (!first) return;
    this.#element.classList.add("drawn");
    this.#element.on("plotly_relayout", (change) => {
      const from = change["xaxis.range[0]"];
      if (from !== undefined) this.#look([from, change["xaxis.range[1]"]]);
      else if (change["xaxis.autorange"] || change["xaxis.range"]) this.#look(null);
    });
    this.#element.on("plotly_doubleclick", () => this.look(null));
  }

  #painted(ink) {
    return this.#figure(this.#data, { range: this.#range, log: this.#log }, ink);
  }

  #say(words) {
    if (!words && !this.#problem) return;
    if (!this.#problem) {
      this.#problem = document.createElement("p");
      this.#problem.className = "problem";
      this.#problem.setAttribute("role", "alert");
      this.#element.after(this.#problem);
    }
    this.#problem.textContent = words;
  }

  // Moves to a range (null: all), at once; finer data follows.
  look(range) {
    this.#look(range);
    this.#redraw();
  }

  #look(range) {
    const [first, last] = this.#whole;
    if (range) {
      const start = Math.max(Math.floor(range[0]), first);
      const end = Math.min(Math.ceil(range[1]), last);
      range = start < end && (start > first || end < last) ? [start, end] : null;
    }
    this.#range = range;
    this.#element.dataset.range = range ? range.join(" ") : "";
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh().catch(() => {}), StepChart.#SETTLED_MS);
  }

  // What a tool can't do now, it does not offer: losses that are not above zero have no logarithm.
  #offer({ layout }) {
    const scale = this.#tools?.querySelector("[data-scale]");
    if (!scale) return;
    const isLog = layout.yaxis.type === "log";
    scale.setAttribute("aria-pressed", String(isLog));
    scale.disabled = this.#log && !isLog;
    scale.title = scale.disabled ? "Some losses are not above zero" : "";
    const latest = this.#tools.querySelector('[data-zoom="search"]');
    if (latest) latest.disabled = !this.#search(this.#data);
  }

  #wire() {
    const tools = this.#tools;
    tools.hidden = false;
    tools.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || !this.#data?.n_steps) return;
      const { zoom, image } = button.dataset;
      if (zoom === "search") this.look(this.#search(this.#data));
      else if (zoom) this.look(this.#moved(zoom));
      else if (image) this.#save(image);
      else {
        this.#log = !this.#log;
        this.#redraw();
      }
    });
  }

  async #save(format) {
    try {
      await charts.save(this.#painted(charts.palette("light")), { format, title: this.#element.dataset.title });
    } catch (error) {
      this.#say(`The image can't be made: ${error.message ?? error}.`);
    }
  }

  #moved(how) {
    const [start, end] = this.#range || this.#whole;
    const width = end - start;
    switch (how) {
      case "in": return [start + width / 4, end - width / 4];
      case "out": return [start - width / 2, end + width / 2];
      case "earlier": return [start - width * StepChart.#MOVE, Math.max(end - width * StepChart.#MOVE, width)];
      case "later": return [Math.min(start + width * StepChart.#MOVE, this.#whole[1] - width), end + width * StepChart.#MOVE];
      default: return null;
    }
  }
}
