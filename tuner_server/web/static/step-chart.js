// A chart over steps with its tools: what is looked at, and the data for it, finer the nearer one looks.
"use strict";
class StepChart {
  static #SETTLED_MS = 120; // after the last movement, before finer data is fetched
  static #MOVE = 0.3; // of the width

  #element;
  #fetch;
  #draw;
  #range = null;
  #data = null;
  #log = true;
  #timer = 0;
  #begun = false;

  constructor(element, fetchData, draw, search) {
    this.#element = element;
    this.#fetch = fetchData;
    this.#draw = draw;
    const tools = document.querySelector(`[aria-controls="${element.id}"]`);
    if (tools) this.#wire(tools, search);
    document.addEventListener("themechange", () => this.#data && this.#redraw());
  }

  get data() {
    return this.#data;
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

  async #redraw() {
    await charts.ready;
    const first = !this.#begun;
    this.#begun = true;
    if (first) this.#element.querySelector(":scope > .overview")?.remove();
    await this.#draw(this.#element, this.#data, { range: this.#range, log: this.#log });
    if (!first) return;
    this.#element.classList.add("drawn");
    this.#element.on("plotly_relayout", (change) => {
      const from = change["xaxis.range[0]"];
      if (from !== undefined) this.#look([from, change["xaxis.range[1]"]]);
      else if (change["xaxis.autorange"] || change["xaxis.range"]) this.#look(null);
    });
    this.#element.on("plotly_doubleclick", () => this.look(null));
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

  #wire(tools, search) {
    tools.hidden = false;
    tools.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || !this.#data) return;
      const { zoom, image } = button.dataset;
      if (zoom === "search") this.look(search(this.#data));
      else if (zoom) this.look(this.#moved(zoom));
      else if (image) charts.save(this.#element, image, document.title.split(" · ")[0]);
      else {
        this.#log = !this.#log;
        button.setAttribute("aria-pressed", String(this.#log));
        this.#redraw();
      }
    });
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
