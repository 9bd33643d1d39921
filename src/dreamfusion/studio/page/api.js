// Talking to the studio. A refusal is told in its one line, and ends what was going on.

import { element, say } from "./dom.js";

let owner = localStorage.getItem("owner");
if (!owner) {
  owner = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  localStorage.setItem("owner", owner);
}

async function answered(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { "X-Owner": owner, ...options?.headers } });
  } catch {
    element("connection").textContent = "The studio does not answer. Is it still running?";
    return null;
  }
  element("connection").textContent = "";
  const type = response.headers.get("content-type") ?? "";
  const told = type.includes("json") ? await response.json() : { error: await response.text() };
  if (response.ok) return told;
  say(told.error, true);
  throw new Refused(told.error);
}

class Refused extends Error {}
// A refusal was told already; whoever waited for an answer just stops.
addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof Refused) event.preventDefault();
});

export const ask = (path) => answered(path);

export async function send(method, path, body = {}) {
  const told = await answered(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (told === null) throw new Refused("no answer");
  return told;
}
