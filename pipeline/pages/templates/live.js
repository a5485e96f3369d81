"use strict";
// Asks the server for the page once per second and replaces the parts that differ. Folded details stay as they are.
const PERIOD = 1000;
const seen = new Map();
let tag = "";

function replace(part, html) {
  const open = [...part.querySelectorAll("details[open] > summary")].map((one) => one.textContent);
  const focusable = "a, button, summary, [tabindex]";
  const focus = [...part.querySelectorAll(focusable)].indexOf(document.activeElement);
  part.innerHTML = html;
  for (const summary of part.querySelectorAll("details > summary")) {
    if (open.includes(summary.textContent)) summary.parentElement.open = true;
  }
  makeSortable(part);
  if (focus >= 0) part.querySelectorAll(focusable)[focus]?.focus({ preventScroll: true });
}

function update(text) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const name = part.dataset.part;
    if (seen.get(name) !== part.innerHTML) {
      const old = document.querySelector(`[data-part="${name}"]`);
      if (old) replace(old, part.innerHTML);
      seen.set(name, part.innerHTML);
    }
  }
  document.title = fresh.title;
  document.body.dataset.updates = Number(document.body.dataset.updates ?? 0) + 1;
}

async function follow() {
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 200) {
      update(await answer.text());
      tag = answer.headers.get("ETag") ?? "";
    }
    document.getElementById("lost").hidden = answer.status < 400;
  } catch {
    document.getElementById("lost").hidden = false;
  }
  for (const one of document.querySelectorAll("[data-since]")) {
    const seconds = Math.max(0, Math.round(Date.now() / 1000 - Number(one.dataset.since)));
    one.textContent = ` · last epoch ${seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`} ago`;
  }
  setTimeout(follow, PERIOD);
}
follow();
