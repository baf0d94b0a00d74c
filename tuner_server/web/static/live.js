// Keeps a page as the server has it: hears that something changed, fetches the page anew, and replaces the parts that
// differ. What the user does (focus, ticks, open sections, zoom) stays.
"use strict";
{
  const address = document.body.dataset.events;
  const AT_MOST_EVERY_MS = 1000;
  const REFUSED_MS = 5000; // at least, before a stream that the server refused is asked for again; not all browsers at once
  const shown = new Map();
  const remember = (element) => shown.set(element.id, element.innerHTML);
  document.querySelectorAll("[data-live]").forEach(remember);

  const replace = (old, next) => {
    if (shown.get(old.id) === next.innerHTML) return;
    shown.set(old.id, next.innerHTML);
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const key = focused && (focused.id || focused.value);
    const ticked = new Set([...old.querySelectorAll("input:checked")].map((box) => box.value));
    const open = [...old.querySelectorAll("details")].map((part) => part.open);
    old.replaceChildren(...next.childNodes);
    old.querySelectorAll("input[type=checkbox]").forEach((box) => (box.checked = ticked.has(box.value)));
    old.querySelectorAll("details").forEach((part, i) => (part.open = open[i] ?? part.open));
    if (key) [...old.querySelectorAll("a, input, button, summary")].find((e) => e.id === key || e.value === key)?.focus();
  };

  const insertStages = (next) => {
    const stages = document.getElementById("stages");
    const ids = new Set([...next.querySelectorAll("#stages > details")].map((stage) => stage.id));
    for (const stage of [...next.querySelectorAll("#stages > details")].reverse()) {
      if (document.getElementById(stage.id)) continue;
      if (!stages.querySelector("details")) stages.replaceChildren();
      stages.querySelectorAll("details[open]").forEach((old) => (old.open = false));
      stage.open = true;
      stages.prepend(stage);
      stage.querySelectorAll("[data-live]").forEach(remember);
    }
    for (const stage of stages.querySelectorAll(":scope > details"))
      if (!ids.has(stage.id)) stage.remove(); // a job that was resumed from an earlier checkpoint
  };

  const refresh = async () => {
    const response = await patient(location.href, { headers: { Accept: "text/html" } });
    if (response.redirected || !response.ok) {
      location.reload(); // signed out, or gone: the page itself says so
      return;
    }
    const next = new DOMParser().parseFromString(await response.text(), "text/html");
    if (document.getElementById("stages")) insertStages(next);
    for (const old of document.querySelectorAll("[data-live]")) {
      const found = next.getElementById(old.id);
      if (found) replace(old, found);
    }
    document.dispatchEvent(new Event("refreshed"));
  };

  if (address) {
    const status = document.getElementById("connection");
    const say = (words, kind) => {
      status.hidden = false;
      status.textContent = words;
      status.className = `connection ${kind}`;
    };
    let version = document.body.dataset.version;
    let busy = false;
    let again = false;
    const changed = async () => {
      if (busy) {
        again = true;
        return;
      }
      busy = true;
      try {
        do {
          again = false;
          await refresh();
          await new Promise((resolve) => setTimeout(resolve, AT_MOST_EVERY_MS));
        } while (again);
      } catch {
        version = undefined; // the server is away: once it is back, whatever it has is new
      }
      busy = false;
    };
    const listen = () => {
      const source = new EventSource(address);
      source.addEventListener("open", () => say("live", "on"));
      source.addEventListener("error", () => {
        say("waiting for the server", "off");
        if (source.readyState !== EventSource.CLOSED) return; // it asks again by itself
        // Refused: too many look, or nobody is signed in any more. What there is to see, the page says meanwhile.
        changed();
        setTimeout(listen, REFUSED_MS * (1 + Math.random()));
      });
      source.addEventListener("change", (event) => {
        if (event.data === version) return; // as the page was made
        version = event.data;
        changed();
      });
      source.addEventListener("end", () => {
        source.close();
        say("ended", "ended");
      });
    };
    listen();
  }
}
