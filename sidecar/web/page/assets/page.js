// Live updates, and ages that stay true. Everything works without this file.

const ages = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];

function ago(seconds) {
  if (seconds < 5) return "just now";
  const [size, unit] = ages.find(([size]) => seconds >= size);
  const count = Math.floor(seconds / size);
  return `${count} ${unit}${count === 1 ? "" : "s"} ago`;
}

// The server's clock counts, not this one: only what passed since the part arrived is added.
function age() {
  for (const span of document.querySelectorAll("[data-age]")) {
    span.arrived ??= performance.now();
    span.textContent = ago(Number(span.dataset.age) + (performance.now() - span.arrived) / 1000);
  }
}

const said = document.getElementById("said");
function say(text, trouble = false) {
  said.toggleAttribute("data-trouble", trouble);
  if (said.textContent !== text) said.textContent = text;
}

// Put a newer version of a part in place, leaving open what was open and the focus where it was.
function replace(old, html) {
  const open = [...old.querySelectorAll("details[open][id]")].map((one) => one.id);
  const focused = document.activeElement?.closest("[id]")?.id;
  const box = document.createElement("template");
  box.innerHTML = html;
  const log = old.querySelector(".log");
  const following = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const top = log?.scrollTop;
  old.replaceChildren(...(old.id === "main" ? box.content.childNodes : box.content.firstElementChild.childNodes));
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  const newer = old.querySelector(".log");
  if (newer) newer.scrollTop = following ? newer.scrollHeight : top;
  if (focused && document.activeElement === document.body) document.getElementById(focused)?.focus({ preventScroll: true });
  age();
}

const main = document.getElementById("main");
const panel = document.getElementById("now");

function follow(address) {
  const source = new EventSource(address);
  const sentence = () => main.querySelector("[data-say]")?.textContent;
  source.addEventListener("open", () => say(sentence() ?? ""));
  source.addEventListener("panel", (event) => {
    replace(document.getElementById("now"), JSON.parse(event.data));
    say(sentence() ?? "");
  });
  source.addEventListener("end", (event) => {
    source.close();
    replace(main, JSON.parse(event.data));
    say(sentence() ?? "");
  });
  source.addEventListener("error", () => {
    say("The connection broke; trying again.", true);
    // The browser tries again by itself, but not after an answer that is no stream: a daemon that restarts.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => follow(address), 2000);
  });
}

if (panel?.dataset.live) follow(panel.dataset.live);

// Nothing is asked while nothing is under way, because every request keeps an idle machine awake. Coming back
// to the page is a wish to know.
let looked = performance.now();
document.addEventListener("visibilitychange", async () => {
  if (document.hidden || !panel?.dataset.state || panel.dataset.live || performance.now() - looked < 10000) return;
  looked = performance.now();
  const answer = await fetch("status", { headers: { Accept: "application/json" } }).catch(() => null);
  if (!answer?.ok) return;
  const status = await answer.json();
  const now = document.getElementById("now").dataset;
  if (`${status.sync.state} ${status.health.state}` !== now.state || String(status.generation.current ?? "") !== now.generation) location.reload();
});

// One press is enough.
document.addEventListener("submit", (event) => {
  const button = event.target.querySelector("button");
  if (button.ariaDisabled === "true") event.preventDefault();
  button.ariaDisabled = "true";
});
addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[aria-disabled]")) button.removeAttribute("aria-disabled");
});

age();
setInterval(age, 10000);
