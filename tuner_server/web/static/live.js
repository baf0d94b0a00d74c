// Keeps a page as the server has it: hears that something changed, fetches the page anew, and replaces the parts that
// differ. What the user does (focus, ticks, open sections, zoom) stays. A page that nobody sees does none of that: a
// browser has few connections for one server, and pages that are open share them.
"use strict";
{
  const address = document.body.dataset.events;
  const AT_MOST_EVERY_MS = 1000;
  const LONGEST_WAIT_MS = 15_000; // between attempts to reach a server that is away
  const REFUSED_MS = 5000; // at least, before a stream that the server refused is asked for again; not all browsers at once
  const SILENT_MS = 45_000; // three times the server's heartbeat: a stream that is silent for so long is dead
  const RENEWAL_MS = 4000; // the server ends old streams; one that is renewed in this time was never away
  const shown = new Map();
  const remember = (element) => shown.set(element.id, element.innerHTML);
  const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

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

  // Sections that the page opened, and no user has touched since: these it may close.
  const opened = new WeakSet(document.querySelectorAll("#stages > details[open]"));
  document.addEventListener("click", (event) => opened.delete(event.target.closest("summary")?.parentElement));

  const insertStages = (next) => {
    const stages = document.getElementById("stages");
    const ids = new Set([...next.querySelectorAll("#stages > details")].map((stage) => stage.id));
    for (const stage of [...next.querySelectorAll("#stages > details")].reverse()) {
      if (document.getElementById(stage.id)) continue;
      if (!stages.querySelector("details")) stages.replaceChildren();
      for (const old of stages.querySelectorAll(":scope > details[open]")) if (opened.has(old)) old.open = false;
      stage.open = true;
      opened.add(stage);
      stages.prepend(stage);
      stage.querySelectorAll("[data-live]").forEach(remember);
    }
    for (const stage of stages.querySelectorAll(":scope > details"))
      if (!ids.has(stage.id)) stage.remove(); // the job was resumed from an earlier checkpoint; or it has very many
  };

  // Raises an error when the server is away or can't answer now; then it is tried again.
  const refresh = async () => {
    const response = await patient(location.href, { headers: { Accept: "text/html" } });
    if (response.status >= 500) throw new Error(`${response.status}`);
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
    for (const old of document.querySelectorAll("[data-live-label]")) {
      const label = next.getElementById(old.id)?.getAttribute("aria-label");
      if (label) old.setAttribute("aria-label", label);
    }
    document.dispatchEvent(new Event("refreshed"));
  };

  const follow = () => {
    const status = document.getElementById("connection");
    let version = document.body.dataset.version;
    let source = null;
    let asking = 0; // the timer of a stream that was refused
    let silence = 0; // the timer of a stream that may be dead
    let saying = 0; // the timer of words that a stream which is renewed in time does not need
    let busy = false;
    let again = false;
    let away = false; // the page could not be fetched
    let ended = false;

    const say = () => {
      clearTimeout(saying);
      saying = 0;
      const connected = source?.readyState === EventSource.OPEN && !away;
      const [words, kind] = ended ? ["ended", "ended"] : connected ? ["live", "on"] : ["reconnecting", "off"];
      status.hidden = false;
      status.textContent = words;
      status.className = `connection ${kind}`;
    };
    const changed = async () => {
      again = true;
      if (busy) return;
      busy = true;
      let wait = AT_MOST_EVERY_MS;
      while (again && !document.hidden) {
        again = false;
        try {
          await refresh();
          away = false;
          wait = AT_MOST_EVERY_MS;
        } catch {
          away = again = true;
          wait = Math.min(2 * wait, LONGEST_WAIT_MS);
        }
        say();
        await sleep(wait);
      }
      busy = false;
    };
    // A connection that something on the way has forgotten stays open and silent; nothing else tells.
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => {
        source.close();
        say();
        listen();
      }, SILENT_MS);
    };
    const listen = () => {
      source = new EventSource(address);
      heard();
      source.addEventListener("alive", heard);
      source.addEventListener("open", () => {
        heard();
        say();
      });
      source.addEventListener("error", () => {
        if (source.readyState !== EventSource.CLOSED) {
          saying ||= setTimeout(say, RENEWAL_MS); // it asks again by itself, each time with an error while nobody answers
          return;
        }
        say();
        // Refused: too many look, or nobody is signed in any more. What there is to see, the page says meanwhile.
        changed();
        asking = setTimeout(listen, REFUSED_MS * (1 + Math.random()));
      });
      source.addEventListener("change", (event) => {
        heard();
        if (event.data === version) return; // as the page was made
        version = event.data;
        changed();
      });
      source.addEventListener("end", () => {
        clearTimeout(silence);
        source.close();
        ended = true;
        say();
      });
    };
    const look = () => {
      clearTimeout(asking);
      clearTimeout(silence);
      source?.close();
      if (document.hidden) return;
      if (again) changed(); // what was not fetched before the page was hidden
      if (!ended) listen();
    };
    document.addEventListener("visibilitychange", look);
    look();
  };

  document.querySelectorAll("[data-live]").forEach(remember);
  if (address) follow();
}
