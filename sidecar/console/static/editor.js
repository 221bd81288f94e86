// Completion for the policy editor, from the JSON Schema of policies. Text only; without it the
// editor is a plain text area, and the server checks the same schema.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const editor = document.querySelector("textarea.editor[data-schema]");
  if (!editor) return;
  let schema = null;
  const loading = fetch(editor.dataset.schema).then(async (answer) => { if (answer.ok) schema = await answer.json(); });
  const list = document.createElement("ul");
  list.className = "completions";
  list.id = "completions";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Completions");
  list.hidden = true;
  editor.parentElement.append(list);
  editor.setAttribute("aria-controls", "completions");
  let offered = [], chosen = 0, start = 0;

  const resolve = (node) => node && node.$ref ? resolve(schema.$defs[node.$ref.split("/").pop()]) : node ?? {};
  const variants = (node) => { const one = resolve(node); return one.anyOf ? one.anyOf.flatMap(variants) : [one]; };
  const ofType = (type) => {
    const rule = schema.properties.guardrails.items.allOf.find((one) => one.if.properties.type.const === type);
    return rule ? resolve(rule.then) : { properties: { type: schema.properties.guardrails.items.properties.type, name: {} } };
  };

  // The object that the caret stands in: the policy itself, a guardrail, or a mapping within it.
  function place(lines, number, indent) {
    const path = [];
    let below = indent;
    for (let index = number - 1; index >= 0 && below > 0; index--) {
      const match = /^(\s*)(- )?([\w-]+):\s*(.*)$/.exec(lines[index]);
      if (!match) continue;
      const dash = match[1].length, at = dash + (match[2] ? 2 : 0);
      if (at < below && match[4] === "") { path.unshift(match[3]); below = dash; }
      else if (match[2] && dash < below) below = Math.min(below, at);
    }
    return path;
  }
  function typeNear(lines, number) {
    let first = number;
    while (first > 0 && !/^\s*- /.test(lines[first])) first--;
    const dash = /^\s*/.exec(lines[first])[0].length;
    for (let index = first; index < lines.length; index++) {
      if (index > first && /\S/.test(lines[index]) && /^\s*/.exec(lines[index])[0].length <= dash) break;
      const match = /^\s*(?:- )?type:\s*([\w-]+)/.exec(lines[index]);
      if (match) return match[1];
    }
    return "";
  }
  function candidates() {
    const before = editor.value.slice(0, editor.selectionStart);
    const lines = editor.value.split("\n"), number = before.split("\n").length - 1;
    const line = before.slice(before.lastIndexOf("\n") + 1);
    const word = /[\w-]*$/.exec(line)[0];
    start = editor.selectionStart - word.length;
    const key = /^(\s*(?:- )?)([\w-]+):\s*[\w-]*$/.exec(line);
    const indent = (key ? key[1] : /^\s*(?:- )?/.exec(line)[0]).length;
    const path = place(lines, number, indent);
    let node = schema;
    for (const [depth, step] of path.entries()) {
      if (depth === 0 && step === "guardrails") node = ofType(typeNear(lines, number));
      else {
        const found = variants(node.properties?.[step]).map((one) => one.type === "array" ? resolve(one.items) : one);
        node = found.find((one) => one.properties) ?? {};
      }
    }
    if (key) {
      const values = variants(node.properties?.[key[2]]).flatMap((one) => one.enum ?? (one.const !== undefined ? [one.const] : one.type === "boolean" ? [true, false] : []));
      return values.map(String).filter((one) => one.startsWith(word)).map((text) => ({ text, about: "" }));
    }
    return Object.entries(node.properties ?? {}).filter(([name]) => name.startsWith(word) && name !== word)
      .map(([name, one]) => ({ text: name + ":", about: one.description ?? resolve(one).description ?? "" }));
  }

  function show() {
    if (!schema) return;
    offered = candidates();
    chosen = 0;
    list.replaceChildren(...offered.map((one, index) => {
      const item = document.createElement("li");
      item.setAttribute("role", "option");
      item.id = `completion-${index}`;
      item.textContent = one.text;
      if (one.about) { const about = document.createElement("span"); about.textContent = one.about; item.append(about); }
      item.addEventListener("mousedown", (event) => { event.preventDefault(); chosen = index; take(); });
      return item;
    }));
    list.hidden = offered.length === 0;
    const height = parseFloat(getComputedStyle(editor).lineHeight) || 20;
    const line = editor.value.slice(0, editor.selectionStart).split("\n");
    list.style.top = `${Math.min((line.length + 0.4) * height - editor.scrollTop, editor.clientHeight)}px`;
    list.style.left = `${Math.min(line.at(-1).length * height * 0.42, editor.clientWidth / 2)}px`;
    mark();
  }
  function mark() {
    for (const [index, item] of [...list.children].entries()) item.setAttribute("aria-selected", String(index === chosen));
    if (list.hidden) editor.removeAttribute("aria-activedescendant");
    else { editor.setAttribute("aria-activedescendant", `completion-${chosen}`); list.children[chosen]?.scrollIntoView({ block: "nearest" }); }
  }
  function hide() { list.hidden = true; mark(); }
  function take() {
    const text = offered[chosen].text;
    editor.setRangeText(text.endsWith(":") ? text + " " : text, start, editor.selectionStart, "end");
    editor.dispatchEvent(new Event("input", { bubbles: true }));
    hide();
  }

  editor.addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.code === "Space") { event.preventDefault(); loading.then(show); return; }
    if (list.hidden) return;
    if (event.key === "ArrowDown") chosen = (chosen + 1) % offered.length;
    else if (event.key === "ArrowUp") chosen = (chosen + offered.length - 1) % offered.length;
    else if (event.key === "Enter") take();
    else if (event.key === "Escape") hide();
    else return;
    event.preventDefault();
    mark();
  });
  editor.addEventListener("input", () => { if (!list.hidden) show(); });
  editor.addEventListener("blur", hide);
});
