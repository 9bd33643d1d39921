// Small helpers around the document.

export const element = (id) => document.getElementById(id);

// A new element with properties, attributes (names with a hyphen, and role) and children.
export function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function fill(select, names) {
  select.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
}

// What a form says, without what was left empty; numbers as numbers.
export function valuesOf(form) {
  const values = {};
  for (const field of form.elements) {
    if (!field.name || field.value === "" || field.type === "checkbox") continue;
    values[field.name] = field.type === "number" ? Number(field.value) : field.value;
  }
  return values;
}

let timer;
export function say(text, bad = false) {
  element("message").textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => { element("message").textContent = ""; }, bad ? 15000 : 5000);
}

export function seconds(count) {
  if (count < 60) return `${Math.max(1, Math.round(count))} s`;
  if (count < 3600) return `${Math.round(count / 60)} min`;
  return `${Math.floor(count / 3600)} h ${Math.round((count % 3600) / 60)} min`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}
