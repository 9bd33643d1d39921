// The prompt: the prior's words while it is typed, and how the prior would read it.

import { ask } from "./api.js";
import { element, fill, make } from "./dom.js";

const pick = (list) => list[Math.floor(Math.random() * list.length)];

export function openPrompt({ presets, models, words }) {
  const field = element("prompt");
  fill(element("preset"), presets);
  element("preset").value = "default";
  fill(element("model"), models);

  // Whole prompts, for that is what a browser offers: the text so far with its last word completed, or one more word.
  function suggestions() {
    const text = field.value.toLowerCase();
    const last = text.match(/[^\s,]*$/)[0];
    const before = field.value.slice(0, text.length - last.length);
    const kind = words.kind.find((name) => text.split(/\W+/).includes(name));
    const next = kind === undefined
      ? [...words.size, ...words.color, ...words.pattern, ...words.kind]
      : /\bwith\b/.test(text) ? [...words.color, words.part[kind]] : [`with a ${words.color[0]} ${words.part[kind]}`];
    const fitting = next.filter((word) => word.startsWith(last) && word !== last);
    return fitting.map((word) => before + word).slice(0, 40);
  }

  let asked = 0;
  let timer;
  async function read() {
    const note = element("reading");
    const number = ++asked;
    const known = element("model").value === "toybox";
    element("words").hidden = !known;
    const told = field.value.trim() && known ? await ask(`api/reading?prompt=${encodeURIComponent(field.value)}`) : null;
    if (number !== asked) return;
    const typing = /[^\s,]$/.test(field.value) && suggestions().length > 0; // a word that may yet become a known one
    const problem = typing ? null : told?.problem;
    note.classList.toggle("bad", Boolean(problem));
    note.textContent = told === null || (typing && told.problem) ? "" : problem ?? (told.notes.length ? `Read as “${told.prompt}”.` : "");
  }

  function changed() {
    const offered = element("model").value === "toybox" ? suggestions() : [];
    element("suggestions").replaceChildren(...offered.map((value) => make("option", { value })));
    clearTimeout(timer);
    timer = setTimeout(read, 250);
  }

  // A word is put where it belongs: kinds at the end, all else before the kind.
  function add(word) {
    const said = field.value.trim().split(/\s+/).filter(Boolean);
    if (!said.length) said.push(/^[aeiou]/.test(word) ? "an" : "a");
    const place = words.kind.includes(word) ? -1 : said.findIndex((name) => words.kind.includes(name));
    said.splice(place < 0 ? said.length : place, 0, word);
    set(said.join(" "));
  }

  function set(text) {
    field.value = text;
    field.focus();
    changed();
  }

  const offered = [...words.color, ...words.pattern, ...words.size, ...words.kind];
  element("words").replaceChildren(...offered.map((word) => make("button", {
    type: "button", textContent: word, onclick: () => add(word),
  })));
  element("surprise").addEventListener("click", () => {
    const kind = pick(words.kind);
    const color = pick(words.color);
    set(`${/^[aeiou]/.test(color) ? "an" : "a"} ${color} ${kind}`);
  });
  field.addEventListener("input", changed);
  element("model").addEventListener("change", changed);
  changed();
  return { set };
}
