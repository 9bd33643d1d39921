// The gallery of all runs.

import { ask } from "./api.js";
import { element, make } from "./dom.js";

const PAGE = 48;

export function openGallery({ onOpen, current }) {
  let count = PAGE;
  let asked = 0;
  let timer;

  function card(run) {
    const source = run.picture && `runs/${encodeURIComponent(run.name)}/${run.picture}?at=${run.changed}`;
    const picture = source ? make("img", { src: source, alt: "", loading: "lazy" }) : make("span", { className: "none" });
    const facts = [
      run.refined ? "refined" : "", run.state === "finished" ? "" : run.state === "running" ? "in the making" : `stopped at ${run.step}`,
      run.seed ? `seed ${run.seed}` : "", "★".repeat(run.rating),
    ].filter(Boolean);
    const button = make(
      "button",
      { type: "button", title: run.name, onclick: () => onOpen(run.name) },
      picture,
      make("span", { className: "name", textContent: run.prompt }),
      make("span", { className: "facts", textContent: facts.join(", ") }),
    );
    if (current() === run.name) button.setAttribute("aria-current", "true");
    return make("li", {}, button);
  }

  async function refresh() {
    const number = ++asked;
    const query = new URLSearchParams({ search: element("search").value, sort: element("sort").value, count });
    const told = await ask(`api/runs?${query}`);
    if (told === null || number !== asked) return;
    element("gallery").replaceChildren(...told.runs.map(card));
    const none = element("search").value ? "No run has these words." : "No runs yet: make something.";
    element("count").textContent = told.total ? `${told.total} ${told.total === 1 ? "run" : "runs"}` : none;
    element("more").hidden = told.total <= count;
  }

  element("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(refresh, 200);
  });
  element("find").addEventListener("submit", (event) => event.preventDefault());
  element("sort").addEventListener("change", refresh);
  element("more").addEventListener("click", () => {
    count += PAGE;
    refresh();
  });
  return { refresh };
}
