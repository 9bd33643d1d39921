// The queue: what is going on with a preview and the time left, what waits, and what has ended.

import { ask, send } from "./api.js";
import { element, make, say, seconds } from "./dom.js";

const EVERY = 1000;
const SHOWN = 12;

export function openQueue({ public: shared }, { onEnd, onOpen }) {
  const rows = new Map();
  const states = new Map();
  let first = true;
  let timer;

  function row(job) {
    const parts = {
      title: make("h3"), facts: make("p", { className: "note" }),
      bar: make("progress", { max: 1, "aria-label": `Progress of ${job.title}` }),
      picture: make("img", { alt: "", hidden: true }),
      stop: make("button", { type: "button", onclick: () => stop(job.id) }),
      open: make("button", { type: "button", textContent: "Show", hidden: true }),
      text: make("input", { "aria-label": "New prompt", placeholder: "Another prompt from now on", required: true, maxLength: 2000 }),
    };
    parts.change = make("form", { hidden: true }, parts.text, make("button", { textContent: "Change" }));
    parts.change.addEventListener("submit", async (event) => {
      event.preventDefault();
      await send("PUT", `api/jobs/${job.id}/prompt`, { prompt: parts.text.value });
      parts.text.value = "";
      say("The run takes the new prompt after this step.");
    });
    parts.picture.addEventListener("load", () => { parts.picture.hidden = false; });
    parts.picture.addEventListener("error", () => { parts.picture.hidden = true; });
    const buttons = make("div", { className: "actions" }, parts.stop, parts.open);
    parts.item = make("li", {}, parts.title, parts.facts, parts.bar, parts.picture, parts.change, buttons);
    return parts;
  }

  function facts(job) {
    const said = [];
    if (job.state === "waiting") said.push(job.place === 1 ? "next" : `waiting, number ${job.place}`);
    else if (job.state !== "running") said.push(job.state);
    else if (job.stopping) said.push("stopping after this step");
    else if (job.steps === null) said.push(["render", "export"].includes(job.order.kind) ? "at work" : "loading");
    else if (job.step >= job.steps) said.push("writing the results");
    else said.push(`step ${job.step} of ${job.steps}`);
    if (job.seconds_left !== null && !job.stopping) said.push(`${seconds(job.seconds_left)} left`);
    const last = job.message || (job.state === "running" ? job.notes.at(-1) : "");
    if (job.state === "stopped" && last) return last;
    return said.join(", ") + (last ? `. ${last}` : "");
  }

  function show(job) {
    const known = rows.get(job.id) ?? row(job);
    rows.set(job.id, known);
    const going = job.state === "running";
    const takes = going && job.steps !== null && job.step < job.steps && (!shared || job.mine);
    known.title.textContent = job.title;
    known.facts.textContent = facts(job);
    known.facts.classList.toggle("bad", job.state === "failed");
    known.bar.hidden = !going;
    if (job.steps) known.bar.value = job.step / job.steps;
    else known.bar.removeAttribute("value");
    known.change.hidden = !takes;
    known.stop.hidden = job.stopping || !(going || job.state === "waiting") || (shared && !job.mine);
    known.stop.textContent = going ? "Stop" : "Take out";
    known.stop.setAttribute("aria-label", `${known.stop.textContent}: ${job.title}`);
    known.open.hidden = job.state === "waiting" || !job.run || job.state === "failed" || (job.state !== "done" && job.steps === null);
    known.open.setAttribute("aria-label", `Show ${job.run}`);
    known.open.onclick = () => onOpen(job.run);
    const live = going && job.run && !["render", "export"].includes(job.order.kind);
    if (!live) known.picture.hidden = true;
    else if (known.at !== job.step && job.step) {
      known.at = job.step;
      known.previewed = previewOf(known, job);
    }
    return known.item;
  }

  // Asked for only when the run says that it has one: a missing picture would be an error in the console.
  async function previewOf(known, job) {
    const run = await ask(`api/runs/${encodeURIComponent(job.run)}`);
    if (!run?.picture || known.shown === run.changed) return;
    known.shown = run.changed;
    known.picture.alt = `Preview of ${job.title}`;
    known.picture.src = `runs/${encodeURIComponent(job.run)}/${run.picture}?at=${run.changed}`;
  }

  async function stop(id) {
    await send("POST", `api/jobs/${id}/stop`);
    refresh();
  }

  async function refresh() {
    clearTimeout(timer);
    const told = await ask("api/jobs").catch(() => null);
    timer = setTimeout(refresh, document.hidden ? 5 * EVERY : EVERY);
    if (!told) return;
    const ended = told.jobs.filter((job) => ["done", "stopped", "failed"].includes(job.state));
    for (const job of ended) if (!first && states.get(job.id) !== job.state) onEnd(job);
    for (const job of told.jobs) states.set(job.id, job.state);
    first = false;
    const shown = told.jobs.filter((job) => !ended.includes(job) || ended.indexOf(job) < SHOWN);
    const items = shown.map(show);
    const list = element("jobs");
    // Only what changed its place is moved, so that whoever types in a row goes on typing.
    items.forEach((item, place) => { if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null); });
    while (list.children.length > items.length) list.lastChild.remove();
    element("no-jobs").hidden = items.length > 0;
  }

  return { refresh };
}
