"use strict";
// The page asks /live/state once a second and draws it; a prompt goes to /v1/chat/completions like anybody's.
const SVG = "http://www.w3.org/2000/svg";
const EVERY_MS = 1000;
const MISSING = "–";
const TIER_Y = { cloud: 6, edge: 30, end: 54 };
const at = (id) => document.getElementById(id);
let asking = null;

function made(name, attributes = {}, ...children) {
  const node = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const number = (value, digits = 2) => (value === null ? MISSING : value.toFixed(digits));
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : MISSING);

function rows(id, found, cells, none) {
  const lines = found.map((entry) => made("tr", {}, ...cells(entry).map((cell) => {
    if (cell instanceof Node) return cell.nodeName === "TD" ? cell : made("td", {}, cell);
    return made("td", {}, cell === null || cell === "" ? MISSING : String(cell));
  })));
  if (!lines.length) lines.push(made("tr", {}, made("td", { colspan: 8 }, none)));
  at(id).querySelector("tbody").replaceChildren(...lines);
}

function options(select, found) {
  const before = select.value;
  const same = select.options.length === found.length && found.every(([value], i) => select.options[i].value === value);
  if (same || document.activeElement === select) return;
  select.replaceChildren(...found.map(([value, label]) => made("option", { value }, label)));
  if (found.some(([value]) => value === before)) select.value = before;
}

function drawn(state) {
  const map = at("map");
  const placed = state.nodes.filter((node) => node.x_m !== null);
  const around = [...placed, ...state.ends, ...state.cells];
  const xs = around.map((item) => item.x_m), ys = around.map((item) => item.y_m);
  const low = [Math.min(...xs), Math.min(...ys)];
  const wide = Math.max(...xs) - low[0];
  const scale = Math.min(82 / Math.max(wide, 1), 40 / Math.max(Math.max(...ys) - low[1], 1));
  const rowOf = (node) => (placed.length ? TIER_Y.cloud : TIER_Y[node.tier]);
  const x = (item) => {
    if (item.x_m !== null) return 50 + scale * (item.x_m - low[0] - wide / 2);
    const row = state.nodes.filter((node) => node.x_m === null && rowOf(node) === rowOf(item)); // it stands nowhere
    return (100 * (row.indexOf(item) + 0.5)) / row.length;
  };
  const y = (item) => (item.x_m === null ? rowOf(item) : 54 - scale * (item.y_m - low[1]));
  const busy = Math.max(...state.nodes.map((node) => node.running), 1);
  const parts = state.cells.map((cell) => made("svg:circle", { class: "cell", cx: x(cell), cy: y(cell), r: 5 }));
  const cellOf = (end) => state.cells[end.cell];
  for (const end of state.ends.filter((item) => cellOf(item))) {
    parts.push(made("svg:line", { class: "to", x1: x(end), y1: y(end), x2: x(cellOf(end)), y2: y(cellOf(end)) }));
  }
  const named = new Set(state.nodes.filter((node) => node.end !== null).map((node) => node.end));
  for (const end of state.ends.filter((item) => !named.has(item.number))) {
    parts.push(made("svg:circle", { class: "node end", cx: x(end), cy: y(end), r: 0.6 }));
  }
  for (const node of state.nodes) {
    const radius = 1.2 + 1.6 * Math.sqrt(node.running / busy);
    const shape = made("svg:circle", { class: `node ${node.up ? node.tier : "down"}`, cx: x(node), cy: y(node), r: radius });
    shape.append(made("svg:title", {}, `${node.name}: ${node.running} running, ${node.waiting} waiting`));
    parts.push(shape, made("svg:text", { x: x(node) + radius + 0.6, y: y(node) + 0.8 }, node.name));
  }
  map.replaceChildren(...parts);
  map.setAttribute("aria-label", state.nodes.map((node) => `${node.name} runs ${node.running}`).join(", "));
}

function shown(state) {
  at("scenario").textContent = state.scenario ? `· ${state.scenario}` : "";
  at("key-field").hidden = !state.keys;
  options(at("model"), state.models.map((model) => [model, model]));
  options(at("end"), [["", "the gateway"], ...state.ends.map((end) => [String(end.number), `end ${end.number}`])]);
  drawn(state);
  rows("nodes", state.nodes, (node) => [
    node.name, made("span", { class: `tier ${node.tier}` }, node.tier), node.up ? "up" : "down",
    node.running, node.waiting, node.served, node.failed, node.models.join(", "),
  ], "none");
  rows("services", state.services, (service) => [
    service.name, service.asked, percent(service.satisfied, service.asked), number(service.p50_s), number(service.p95_s),
  ], "nothing was asked yet");
  const dear = Math.max(...state.prices.map((price) => price.value), 1e-12);
  at("prices").replaceChildren(...state.prices.map((price) => {
    const bar = made("b");
    bar.style.width = `${(100 * price.value) / dear}%`; // an attribute would be against the page's own policy
    return made("li", {}, made("span", {}, price.name), made("span", {}, bar), made("span", {}, price.value.toPrecision(2)));
  }));
  if (!state.prices.length) at("prices").append(made("li", {}, "no resource is scarce"));
  rows("versions", state.versions, (version) => [version.alias, version.version, version.used], "no aliases");
  rows("recent", state.recent, (one) => [
    new Date(1000 * one.at_s).toLocaleTimeString(), one.model, one.end === null ? "gateway" : `end ${one.end}`,
    made("span", { class: `tier ${one.ok ? one.tier : "down"}` }, one.ok ? one.node || "kept" : `${one.node} failed`.trim()),
    number(one.latency_s), made("td", { class: "why" }, one.why),
  ], "nothing was asked yet");
}

class KeyNeeded extends Error {}

async function refreshed() {
  try {
    const headers = at("key").value ? { authorization: `Bearer ${at("key").value}` } : {};
    const answer = await fetch("/live/state", { headers, cache: "no-store" });
    if (!answer.ok) throw answer.status === 401 ? new KeyNeeded("a key is needed") : new Error(`status ${answer.status}`);
    shown(await answer.json());
    if (at("status").textContent !== "live") at("status").textContent = "live";
    at("status").classList.remove("lost");
  } catch (error) {
    const said = `no news: ${error.message}`;
    if (at("status").textContent !== said) at("status").textContent = said; // screen readers are told once
    at("status").classList.add("lost");
    if (error instanceof KeyNeeded) at("key-field").hidden = false;
  }
  setTimeout(refreshed, EVERY_MS);
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let left = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (left + value).split("\n");
    left = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

async function ask(event) {
  event.preventDefault();
  if (asking) return;
  asking = new AbortController();
  const answer = at("answer"), routed = at("routed");
  answer.textContent = "";
  answer.setAttribute("aria-busy", "true");
  answer.className = "answer";
  routed.textContent = "";
  at("send").disabled = true;
  at("stop").disabled = false;
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  if (at("end").value) headers["x-gainnet-end"] = at("end").value;
  if (at("deadline").value) headers["x-gainnet-deadline-ms"] = String(Math.round(1000 * at("deadline").value));
  const body = JSON.stringify({
    model: at("model").value, messages: [{ role: "user", content: at("prompt").value }],
    max_tokens: Number(at("tokens").value) || 32, stream: true,
  });
  const began = performance.now();
  try {
    const found = await fetch("/v1/chat/completions", { method: "POST", headers, body, signal: asking.signal });
    if (!found.ok) throw new Error((await found.json()).error.message);
    const tier = found.headers.get("x-gainnet-tier"), node = found.headers.get("x-gainnet-node");
    answer.classList.add(tier);
    for await (const data of events(found.body)) {
      if (data === "[DONE]") break;
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      answer.append(piece.choices[0]?.delta?.content ?? "");
    }
    const seconds = ((performance.now() - began) / 1000).toFixed(2);
    routed.textContent = `${tier} · ${node} · ${seconds} s · ${found.headers.get("x-gainnet-why") ?? ""}`;
  } catch (error) {
    answer.classList.add("failed");
    routed.textContent = error.name === "AbortError" ? "stopped" : error.message;
  } finally {
    asking = null;
    answer.removeAttribute("aria-busy");
    at("send").disabled = false;
    at("stop").disabled = true;
  }
}

at("ask").addEventListener("submit", ask);
at("stop").addEventListener("click", () => asking?.abort());
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
refreshed();
