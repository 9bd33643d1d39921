// The studio's page: a client of the interface in docs/studio.md. Texts are set as text, never as markup.

import { ask, send } from "./api.js";
import { element, say, valuesOf } from "./dom.js";
import { openGallery } from "./gallery.js";
import { openObject } from "./object.js";
import { openPrompt } from "./prompt.js";
import { openQueue } from "./queue.js";

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
let chosen = localStorage.getItem("theme");
function theme() {
  const name = chosen ?? (prefersDark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = name;
  element("theme").setAttribute("aria-pressed", name === "dark");
  document.dispatchEvent(new Event("themed"));
}
prefersDark.addEventListener("change", theme);
element("theme").addEventListener("click", () => {
  chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", chosen);
  theme();
});
theme();

const options = await ask("api/options");
const prompt = openPrompt(options);
const object = openObject(options, {
  onChange: () => gallery.refresh(),
  onJobs: () => queue.refresh(),
  onPrompt: (text) => prompt.set(text),
});
const gallery = openGallery({ onOpen: (name) => object.open(name), current: () => object.name });
const queue = openQueue(options, {
  onEnd: (job) => {
    gallery.refresh();
    if (job.run && job.mine && job.state === "done") object.ended(job);
  },
  onOpen: (name) => object.open(name),
});
element("make").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { jobs } = await send("POST", "api/jobs", { kind: "generate", ...valuesOf(event.target) });
  say(`“${jobs[0].title}” is in the queue.`);
  queue.refresh();
});
element("batch").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompts = element("list").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const { prompt: _, ...rest } = valuesOf(element("make"));
  const { jobs } = await send("POST", "api/jobs", { kind: "generate", ...rest, prompts });
  say(`${jobs.length} prompts are in the queue.`);
  element("list").value = "";
  queue.refresh();
});
element("list-file").addEventListener("change", async ({ target }) => {
  if (target.files.length) element("list").value = await target.files[0].text();
});
gallery.refresh();
queue.refresh();
document.body.dataset.ready = "true";
