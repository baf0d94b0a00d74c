// The page's other scripts, once it has been painted: what it says at first, it says without them.
"use strict";
{
  const PAINTED_MS = 1000; // a page that nobody looks at is not painted: then it goes on after so long
  const { scripts } = document.currentScript.dataset;
  const painted = new Promise((resolve) => {
    new PerformanceObserver((list) => list.getEntriesByName("first-contentful-paint").length && resolve())
      .observe({ type: "paint", buffered: true });
    setTimeout(resolve, PAINTED_MS);
  });
  painted.then(() => {
    for (const address of scripts.split(" ")) {
      const script = document.createElement("script");
      script.src = address;
      script.async = false; // one after the other, as they are named
      document.head.append(script);
    }
  });
}
