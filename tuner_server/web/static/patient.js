// Fetches from the server. Where that says to come again in a moment, this comes again: where the caller's project asks
// too much (429), or where the long histories of others are read first (503, which says when).
"use strict";
const patient = async (address, options) => {
  for (;;) {
    const response = await fetch(address, options);
    const later = response.headers.get("Retry-After");
    if (response.status !== 429 && !(response.status === 503 && later)) return response;
    const seconds = Number(later) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
};
