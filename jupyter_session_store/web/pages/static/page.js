// Shows times as ages, and what has changed, without a reload. The page works without it.
"use strict";

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const KEY = "jupyter-session-store-refresh";

function showAges() {
  for (const time of document.querySelectorAll("time")) {
    const moment = Date.parse(time.dateTime);
    if (Number.isNaN(moment)) continue;
    const seconds = (moment - Date.now()) / 1000;
    const [unit, length] = UNITS.find(([, one]) => Math.abs(seconds) >= one) ?? UNITS[3];
    time.textContent = words.format(Math.round(seconds / length), unit);
    time.title = time.dateTime;
  }
}

async function refresh() {
  if (document.hidden) return;
  let answer;
  try {
    answer = await fetch(location.href, { credentials: "same-origin" });
  } catch {
    return;
  }
  if (document.getElementById("retry")) {
    if (answer.ok) location.reload();
    return;
  }
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement?.closest("tbody") ? document.activeElement.href : null;
  for (const selector of ["#summary", "#rows tbody", ".paging"]) {
    const [now, then] = [document, page].map((one) => one.querySelector(selector));
    if (now && then && now.innerHTML !== then.innerHTML) now.replaceWith(then);
  }
  showAges();
  if (focused) {
    [...document.querySelectorAll("tbody a")].find((one) => one.href === focused)?.focus();
  }
}

showAges();
const box = document.getElementById("refresh");
if (box) {
  box.checked = localStorage.getItem(KEY) === "yes";
  box.addEventListener("change", () => localStorage.setItem(KEY, box.checked ? "yes" : "no"));
}
setInterval(() => {
  if (document.getElementById("retry") || box?.checked) refresh();
}, 10000);
