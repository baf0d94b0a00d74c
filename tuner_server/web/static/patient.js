// Fetches from the server. Where that says to come again in a moment (429), this comes again.
"use strict";
const patient = async (address, options) => {
  for (;;) {
    const response = await fetch(address, options);
    if (response.status !== 429) return response;
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
};
