"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const speakers = { system: "instruction", user: "request", assistant: "assistant", tool: "tool" };
const keys = { 1: "first", 0: "neither", 2: "second" };
const place = "interact_jax judgements " + data.page;

// One sitting is one person: its number tells two files of the same answers from two people.
let state = { session: randomName(), name: "", answers: {} };
let at = 0;
let saved = "";
let stored = true;

function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function recall() {
  try {
    const text = localStorage.getItem(place);
    if (text) state = JSON.parse(text);
  } catch {
    stored = false; // storage is off, or not ours to read: answers live until the page is closed
  }
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    stored = false;
  }
}

function element(name, kind, text) {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
}

function turn([role, text]) {
  const section = element("section", "", "");
  section.append(element("span", "label", speakers[role] || role), element("div", "said", text));
  section.lastChild.dir = "auto";
  return section;
}

function show() {
  const pair = data.pairs[at];
  byId("prompt").replaceChildren(...pair.prompt.map(turn));
  byId("first").textContent = pair.first;
  byId("second").textContent = pair.second;
  showState();
}

function showState() {
  const total = data.pairs.length;
  const count = Object.keys(state.answers).length;
  byId("progress").textContent = `Pair ${at + 1} of ${total}, ${count} answered`;
  for (const button of document.querySelectorAll("[data-choice]"))
    button.setAttribute("aria-pressed", state.answers[at] === button.dataset.choice);
  byId("back").disabled = at === 0;
  byId("next").disabled = at === total - 1;
  byId("open").disabled = count === total;
  const unsaved = JSON.stringify(state.answers) !== saved && count > 0;
  byId("kept").textContent =
    (unsaved ? "Not yet saved as a file. " : "") +
    (count === total ? "All pairs are answered. " : "") +
    (stored ? "" : "This browser keeps nothing: save before you close the page.");
}

function move(to) {
  if (to < 0 || to >= data.pairs.length) return;
  at = to;
  show();
  byId("pair").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

// The next pair without an answer, from the one behind this one and around; this one if none is.
function nextOpen() {
  const total = data.pairs.length;
  for (let step = 1; step <= total; step++) {
    const number = (at + step) % total;
    if (!(number in state.answers)) return number;
  }
  return at;
}

function choose(choice) {
  state.answers[at] = choice;
  keep();
  const next = nextOpen();
  if (next === at) showState();
  else move(next);
}

function save() {
  const file = { format: data.format, page: data.page, ...state };
  const blob = new Blob([JSON.stringify(file, null, 1)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `judgements-${data.page.slice(0, 8)}-${state.session.slice(0, 8)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = JSON.stringify(state.answers);
  showState();
}

// For the next person at this browser.
function beginAnew() {
  if (!confirm("Forget the answers in this browser, for another person to begin?")) return;
  state = { session: randomName(), name: "", answers: {} };
  saved = "";
  byId("name").value = "";
  keep();
  move(0);
}

document.addEventListener("keydown", (event) => {
  if (event.target === byId("name") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.repeat) return; // a key held down would answer pairs that were never read
  if (event.key in keys) choose(keys[event.key]);
  else if (event.key === "ArrowLeft") move(at - 1);
  else if (event.key === "ArrowRight") move(at + 1);
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-choice]"))
  button.addEventListener("click", () => choose(button.dataset.choice));
byId("back").addEventListener("click", () => move(at - 1));
byId("next").addEventListener("click", () => move(at + 1));
byId("open").addEventListener("click", () => move(nextOpen()));
byId("save").addEventListener("click", save);
byId("anew").addEventListener("click", beginAnew);
byId("name").addEventListener("input", (event) => {
  state.name = event.target.value;
  keep();
});
window.addEventListener("beforeunload", (event) => {
  const unsaved = JSON.stringify(state.answers) !== saved && Object.keys(state.answers).length;
  if (!stored && unsaved) event.preventDefault();
});

recall();
byId("name").value = state.name;
if (data.persona) {
  byId("persona").textContent = "Judge for a reader who wants this: " + data.persona;
  byId("persona").hidden = false;
}
at = data.pairs.length - 1;
at = nextOpen();
show();
