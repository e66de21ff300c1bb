// The page works without this script. With it, parts are swapped in place, items are found as one
// types, and events can be sent. Text of others is only ever set as text.
"use strict";

(() => {
  const WAIT_MS = 120; // after the last key, before items are searched
  const NUM_FOUND = 8;
  const main = document.getElementById("main");
  const said = document.getElementById("said");
  const trouble = document.getElementById("trouble");
  let turn = 0; // of swaps: an answer that comes late is dropped
  let timer = 0; // of the next search
  let searching = null; // the search that is under way

  document.documentElement.classList.add("js");

  function tell(text) {
    trouble.textContent = text;
    trouble.hidden = text === "";
  }

  // Swapping

  async function swap(address, { push = true } = {}) {
    const mine = ++turn;
    const back = placeOfFocus();
    main.setAttribute("aria-busy", "true");
    tell("");
    let next = null;
    let page = null;
    try {
      const answer = await fetch(address, { headers: { accept: "text/html" } });
      page = new DOMParser().parseFromString(await answer.text(), "text/html");
      next = page.getElementById("main");
    } catch {
      next = null;
    }
    if (mine !== turn) return;
    main.removeAttribute("aria-busy");
    if (next === null) {
      tell("The service did not answer. Try again in a moment.");
      return;
    }
    closeOptions();
    main.replaceChildren(...next.childNodes);
    main.className = next.className;
    document.title = page.title;
    if (push) history.pushState(null, "", address);
    back().focus({ preventScroll: true });
    const changes = [...main.querySelectorAll("[data-summary]")].map((one) => one.dataset.summary);
    const heading = main.querySelector("h1");
    said.textContent = [heading ? heading.textContent : "", ...changes].join(". ");
  }

  // Returns a function that finds the element in the new page that stands where the focus was.
  function placeOfFocus() {
    const active = document.activeElement;
    const id = active && active.id;
    const card = active && active.closest(".card[data-model]");
    const kind = active && active.classList.contains("remove") ? ".remove" : ".small";
    const area = () =>
      card ? [...main.querySelectorAll(".card[data-model]")].find(isSame) || main : main;
    const isSame = (other) => other.dataset.model === card.dataset.model;
    const place = active ? [...area().querySelectorAll(kind)].indexOf(active) : -1;
    return () => {
      if (id && document.getElementById(id)) return document.getElementById(id);
      const others = place < 0 ? [] : [...area().querySelectorAll(kind)];
      return others[Math.min(place, others.length - 1)] || main;
    };
  }

  function addressOf(form) {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value !== "") query.append(name, value);
    return query.size ? `/?${query}` : "/";
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-swap]");
    const sender = event.target.closest("button[data-event]");
    if (sender) send(sender.dataset.event, sender);
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    swap(link.getAttribute("href"));
  });

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!("swap" in form.dataset)) return;
    event.preventDefault();
    if (form.dataset.chosen) send(form.dataset.chosen, form);
    else swap(addressOf(form));
  });

  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-at-once]");
    if (form) swap(addressOf(form));
  });

  window.addEventListener("popstate", () => swap(location.href, { push: false }));

  // Events

  // The id is made once for each event: pressing the button again after a failure sends the same.
  function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  async function send(item, holder) {
    const user = main.querySelector("form[data-user]").dataset.user;
    const query = new URLSearchParams(location.search);
    for (const row of main.querySelectorAll(".card[data-model] li[data-item]")) {
      query.append(`before.${row.closest(".card").dataset.model}`, row.dataset.item);
    }
    query.delete("find");
    query.append("added", item);
    holder.dataset.id = holder.dataset.id || newId();
    let answer = null;
    try {
      answer = await fetch("/v1/events", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ events: [{ user, item, id: holder.dataset.id }] }),
      });
    } catch {
      answer = null;
    }
    if (answer === null || !answer.ok) {
      tell("The event was not stored: the service or its store is away. Press the button again.");
      return;
    }
    delete holder.dataset.id;
    await swap(`/?${query}`, { push: false });
  }

  // Searching: a text field with a list of options, as the ARIA practices describe it

  const field = () => document.getElementById("find");
  const list = () => document.getElementById("options");
  const options = () => [...list().children];

  function closeOptions() {
    clearTimeout(timer);
    if (searching) searching.abort();
    if (!field()) return;
    list().hidden = true;
    list().replaceChildren();
    field().setAttribute("aria-expanded", "false");
    field().removeAttribute("aria-activedescendant");
  }

  function showOptions(items) {
    list().replaceChildren(
      ...items.map((item, place) => {
        const option = document.createElement("li");
        const id = document.createElement("small");
        option.id = `option-${place}`;
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        option.dataset.item = item.id;
        option.dataset.title = item.title || item.id;
        id.textContent = item.id;
        option.append(option.dataset.title, id);
        return option;
      }),
    );
    list().hidden = items.length === 0;
    field().setAttribute("aria-expanded", String(items.length > 0));
    field().removeAttribute("aria-activedescendant");
    said.textContent = items.length === 1 ? "1 item" : `${items.length} items`;
  }

  async function search() {
    const text = field().value.trim();
    if (text === "") return;
    searching = new AbortController();
    const query = new URLSearchParams({ query: text, limit: NUM_FOUND, model: field().dataset.model });
    try {
      const answer = await fetch(`/v1/items?${query}`, { signal: searching.signal });
      if (answer.ok) showOptions((await answer.json()).items);
    } catch (error) {
      if (error.name !== "AbortError") tell("The service did not answer. Try again in a moment.");
    }
  }

  function choose(option) {
    const form = field().form;
    if (form.dataset.user !== undefined) {
      // An event is for good: it is sent by the button, not by the choice.
      field().value = option.dataset.title;
      form.dataset.chosen = option.dataset.item;
      form.querySelector("button").textContent = "Add event";
      closeOptions();
      return;
    }
    const query = new URLSearchParams(new FormData(form));
    query.delete("find");
    query.append("item", option.dataset.item);
    closeOptions();
    swap(`/?${query}`);
  }

  function point(place) {
    const all = options();
    const active = (place + all.length) % all.length;
    all.forEach((option, n) => option.setAttribute("aria-selected", String(n === active)));
    field().setAttribute("aria-activedescendant", all[active].id);
    all[active].scrollIntoView({ block: "nearest" });
  }

  document.addEventListener("input", (event) => {
    if (event.target.id !== "find") return;
    const form = event.target.form;
    if (form.dataset.chosen) {
      delete form.dataset.chosen;
      delete form.dataset.id;
      form.querySelector("button").textContent = "Search";
    }
    closeOptions();
    timer = setTimeout(search, WAIT_MS);
  });

  document.addEventListener("keydown", (event) => {
    if (event.target.id !== "find" || list().hidden) return;
    const selected = options().findIndex((one) => one.getAttribute("aria-selected") === "true");
    if (event.key === "ArrowDown") point(selected + 1);
    else if (event.key === "ArrowUp") point(selected < 0 ? -1 : selected - 1);
    else if (event.key === "Enter" && selected >= 0) choose(options()[selected]);
    else if (event.key === "Escape") closeOptions();
    else return;
    event.preventDefault();
  });

  document.addEventListener("mousedown", (event) => {
    const option = event.target.closest("[role=option]");
    if (!option) return;
    event.preventDefault(); // the field keeps the focus
    choose(option);
  });

  document.addEventListener("focusout", (event) => {
    if (event.target.id === "find") closeOptions();
  });
})();
