// One run: its object to turn and to light, and what can be made of it.

import { ask, send } from "./api.js";
import { bytes, element, fill, make, say, valuesOf } from "./dom.js";

export function openObject({ shadings, formats, refine_presets: presets, public: shared }, { onChange, onJobs, onPrompt }) {
  const here = { name: null, run: null, source: null };
  fill(element("refine-preset"), presets);
  element("refine-preset").value = "default";
  fill(element("shading"), shadings);
  element("shading").value = "lambertian";
  element("delete").hidden = shared;
  for (const format of formats) {
    const box = make("input", { type: "checkbox", value: format, checked: format === "glb" });
    element("formats").append(make("label", {}, box, format.toUpperCase()));
  }
  const stars = [0, 1, 2, 3, 4, 5].map((count) => {
    const box = make("input", { type: "radio", name: "stars", value: count, "aria-label": count ? `${count} of 5` : "none" });
    box.addEventListener("change", () => rate(count));
    const label = make("label", {}, box, make("span", { "aria-hidden": "true" }));
    element("rating").append(label);
    return { box, mark: label.lastChild };
  });

  // The viewer is told the page's theme behind its address, which does not load it anew.
  function look(source) {
    here.source = source;
    element("viewer").src = `${source}#${document.documentElement.dataset.theme}`;
  }
  document.addEventListener("themed", () => here.source && look(here.source));
  function lookAway() {
    here.source = null;
    element("viewer").removeAttribute("src");
  }

  const path = () => `runs/${encodeURIComponent(here.name)}`;

  function showRating(rating) {
    stars.forEach(({ box, mark }, count) => {
      box.checked = count === rating;
      mark.textContent = count === 0 ? "✕" : count <= rating ? "★" : "☆";
    });
  }

  async function rate(count) {
    const run = await send("PUT", `api/${path()}/rating`, { stars: count });
    showRating(run.rating);
    onChange();
  }

  function showFiles(run) {
    element("files").replaceChildren(...run.files.map((file) => make("li", {}, make("a", {
      href: `${path()}/${encodeURIComponent(file.name)}?download`, download: "", textContent: `${file.name} (${bytes(file.bytes)})`,
    }))));
  }

  function showStage(run) {
    const viewer = element("viewer");
    const still = element("still");
    viewer.hidden = !run.viewer;
    still.hidden = run.viewer || !run.picture;
    const source = `${path()}/viewer?at=${run.changed}`;
    if (!run.viewer) lookAway();
    else if (here.source !== source) look(source);
    if (!still.hidden) {
      still.src = `${path()}/${run.picture}?at=${run.changed}`;
      still.alt = `Preview of ${run.prompt}`;
    }
  }

  async function showOthers() {
    const told = await ask("api/runs?sort=newest&count=200");
    const others = (told?.runs ?? []).filter((run) => run.viewer && run.name !== here.name);
    const before = here.name.replace(/-refined(-\d+)?$/, "");
    others.sort((a, b) => (b.name === before) - (a.name === before)); // what it was refined from comes first
    element("beside").replaceChildren(
      make("option", { value: "", textContent: "nothing" }),
      ...others.map((run) => make("option", { value: run.name, textContent: run.name })),
    );
    element("beside").disabled = !here.run.viewer || !others.length;
  }

  async function open(name, { focus = true } = {}) {
    const run = await ask(`api/runs/${encodeURIComponent(name)}`);
    if (run === null) return;
    Object.assign(here, { name, run });
    element("object").hidden = false;
    element("object-title").textContent = run.prompt;
    const state = run.state === "finished" ? "finished" : run.state === "running" ? "in the making" : "stopped";
    element("object-facts").textContent = `${name}: ${state}, step ${run.step} of ${run.steps}, seed ${run.seed}` + (run.refined ? ", refined" : "");
    element("continue").hidden = run.state !== "stopped";
    for (const id of ["refine", "render", "export"]) {
      element(id).querySelector("button[type=submit]").disabled = !run.step || run.state === "running";
    }
    showStage(run);
    showFiles(run);
    showRating(run.rating);
    await showOthers();
    onChange();
    if (focus) element("object-title").focus();
    if (focus) element("object").scrollIntoView({ block: "nearest" });
  }

  function close() {
    element("object").hidden = true;
    lookAway();
    here.name = null;
    onChange();
  }

  async function order(values) {
    const { jobs } = await send("POST", "api/jobs", { ...values, run: here.name });
    say(`“${jobs[0].title}” is in the queue.`);
    onJobs();
  }

  for (const kind of ["refine", "render"]) {
    element(kind).addEventListener("submit", (event) => {
      event.preventDefault();
      order({ kind, ...valuesOf(event.target) });
    });
  }
  element("export").addEventListener("submit", (event) => {
    event.preventDefault();
    const format = [...element("formats").querySelectorAll(":checked")].map((box) => box.value);
    order({ kind: "export", ...valuesOf(event.target), format });
  });
  element("continue").addEventListener("click", () => order({ kind: "resume" }));
  element("again").addEventListener("click", () => onPrompt(here.run.prompt));
  element("close").addEventListener("click", close);
  element("beside").addEventListener("change", ({ target }) => {
    look(target.value ? `${path()}/beside/${encodeURIComponent(target.value)}` : `${path()}/viewer?at=${here.run.changed}`);
  });
  element("delete").addEventListener("click", async () => {
    if (!confirm(`Delete the run ${here.name} with all its files?`)) return;
    await send("DELETE", `api/${path()}`);
    say(`${here.name} is deleted.`);
    close();
  });

  return {
    open,
    get name() { return here.name; },
    // A job of one's own has ended: its result is shown, unless somebody looks at another object.
    ended(job) {
      if (here.name === null || here.name === job.run) open(job.run, { focus: false });
      else say(`“${job.title}” is done.`);
    },
  };
}
