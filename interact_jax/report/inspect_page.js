"use strict";
// Hides the conversations that do not hold what is typed, counts the others, and marks the text.
(() => {
  const box = document.getElementById("query");
  const told = document.getElementById("matches");
  const cards = [...document.querySelectorAll(".conversation")];
  const plain = (text) => text.replace(/\s+/g, " ").toLowerCase();
  const texts = cards.map((card) =>
    plain([...card.querySelectorAll(".find")].map((part) => part.textContent).join(" \u0000 ")));
  const MOST_MARKS = 2000;

  function mark(wanted) {
    if (!window.CSS || !CSS.highlights) return;
    const ranges = [];
    for (const card of wanted ? cards : []) {
      if (card.hidden || !card.open) continue;
      for (const part of card.querySelectorAll(".find")) {
        const walker = document.createTreeWalker(part, NodeFilter.SHOW_TEXT);
        for (let node; (node = walker.nextNode());) {
          const text = node.data.toLowerCase();
          for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) {
            if (ranges.length >= MOST_MARKS || at + wanted.length > node.length) break;
            const range = new Range();
            range.setStart(node, at);
            range.setEnd(node, at + wanted.length);
            ranges.push(range);
          }
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  function filter() {
    const wanted = plain(box.value).trim();
    let count = 0;
    cards.forEach((card, number) => {
      card.hidden = !texts[number].includes(wanted);
      count += !card.hidden;
    });
    told.textContent = `${count.toLocaleString("en")} of ${cards.length.toLocaleString("en")} ` +
      (wanted ? "match" : "conversations shown");
    mark(wanted);
  }

  function look_for(text) {
    box.value = text;
    filter();
    box.focus();
    document.getElementById("conversations").scrollIntoView();
  }

  box.addEventListener("input", filter);
  document.addEventListener("toggle", () => mark(plain(box.value).trim()), true);
  document.addEventListener("keydown", (event) => {
    if (event.target === box) {
      if (event.key === "Escape") look_for("");
    } else if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      box.focus();
      box.select();
    }
  });
  for (const button of document.querySelectorAll("[data-query]")) {
    button.addEventListener("click", () => look_for(button.dataset.query));
  }
  for (const [name, open] of [["open-all", true], ["close-all", false]]) {
    document.getElementById(name).addEventListener("click", () => {
      for (const card of cards) if (!card.hidden) card.open = open;
    });
  }
  document.getElementById("search").hidden = false;
  filter();
})();
