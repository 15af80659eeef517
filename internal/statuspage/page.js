// SPDX-License-Identifier: Apache-2.0

// The script of the status page. It reads the server-sent events of "events" and keeps a copy of
// the newest state. For each message it marks what has changed, and the next frame changes only the
// parts of the document that show it.
//
// Everything from the server is inserted as text. The page's Content-Security-Policy demands
// Trusted Types and allows no policy, so that the browser refuses any insertion as HTML.

// Elements

const $ = (id) => document.getElementById(id);

// h returns a new element. Attributes whose value is null or false are left out, as are children
// that are empty. Children that are strings become text.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(Boolean));
  return element;
}

// s returns a new SVG element.
function s(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

// setText and setAttribute change the document only if they have to.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (value === null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== value) {
    element.setAttribute(name, value);
  }
}

// Text

const integer = new Intl.NumberFormat("en");
const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const exactTime = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
});
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

const count = (n, noun) => `${integer.format(n)} ${noun}${n === 1 ? "" : "s"}`;
const join = (separator, ...texts) => texts.filter(Boolean).join(separator);
const be = (n) => (n === 1 ? "is" : "are");

// duration returns a duration in a unit that gives it two or three digits.
function duration(seconds) {
  const digits = (n) => (n < 10 ? n.toFixed(1) : n.toFixed(0));
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${digits(seconds * 1e3)} ms`;
  if (seconds < 120) return `${digits(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

// clockTime returns the time of day in the browser's time zone, with the day unless it is today's.
function clockTime(date, format = time) {
  const text = format.format(date);
  return date.toDateString() === new Date().toDateString() ? text : `${day.format(date)} ${text}`;
}

const timeElement = (text) => h("time", { datetime: text, title: text }, clockTime(new Date(text), exactTime));

function bitRate(bits) {
  for (const [unit, size] of [["Gbit/s", 1e9], ["Mbit/s", 1e6], ["kbit/s", 1e3]]) {
    if (bits >= size) return `${(bits / size).toFixed(bits / size < 10 ? 1 : 0)} ${unit}`;
  }
  return `${bits.toFixed(0)} bit/s`;
}

// shortResource returns the name without the namespace, which is the same for all resources.
const shortResource = (name) => name.slice(name.lastIndexOf("/") + 1);

const isAddress = (text) => /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/.test(text);
const pciAddress = /\b[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b/g;

// compareAddresses orders PCI addresses. A domain may have more than four digits.
function compareAddresses(a, b) {
  const width = Math.max(a.length, b.length);
  a = a.padStart(width, "0");
  b = b.padStart(width, "0");
  return a < b ? -1 : a > b ? 1 : 0;
}

// State

// The newest state, from the messages "snapshot" and "update".
const state = {
  about: null, // the Snapshot without its devices; null before the first one
  pfs: new Map(), // by address
  vfs: new Map(), // by address; in mode kernel, the process units by ID
  telemetry: new Map(), // by address of the PF
  events: [], // the oldest first
};

const maxEvents = 1000;
const plotSeconds = 600;

// The clock of the server: its time at the moment that performance.now() returned at.
let serverClock = { time: Date.now(), at: performance.now() };
const serverNow = () => serverClock.time + performance.now() - serverClock.at;
const secondsAgo = (at) => (serverNow() - at) / 1000;

function setServerClock(text) {
  serverClock = { time: Date.parse(text), at: performance.now() };
}

// The kinds of cell. A VF in use is one that is listed and that a pod holds.
const cellStates = {
  free: "Offered",
  used: "In use",
  binding: "Being bound",
  unhealthy: "Unhealthy",
  skipped: "Not listed",
};

function cellState(vf) {
  if (vf.state === "listed") return vf.holder ? "used" : "free";
  return vf.state === "unhealthy" || vf.state === "binding" ? vf.state : "skipped";
}

// In mode kernel, a process unit is shown as a VF is, and a resource as a PF.
const inKernelMode = () => state.about.mode === "kernel";
const noun = () => (inKernelMode() ? "process unit" : "VF");
const nameOf = (vf) => `${vf.unit ? "Process unit" : "VF"} ${vf.address}`;

const unitAsVF = (unit) => ({
  unit: true, address: unit.id, pf: unit.resource, resource: unit.resource, numaNode: -1, reason: unit.reason,
  state: unit.health === "healthy" ? "listed" : "unhealthy",
});

const isOffered = (vf) => vf.state === "listed";

// Rendering: messages mark what is dirty, and the next frame renders that.

const dirty = { pfs: new Set(), vfs: new Set(), parts: new Set() };
let frame = 0;

function invalidate(...parts) {
  for (const part of parts) dirty.parts.add(part);
  if (!frame) frame = requestAnimationFrame(render);
}

function render() {
  frame = 0;
  const parts = new Set(dirty.parts);
  dirty.parts.clear();
  if (!state.about) return;
  if (dirty.pfs.size || dirty.vfs.size) {
    renderMap([...dirty.pfs], [...dirty.vfs]);
    dirty.pfs.clear();
    dirty.vfs.clear();
  }
  if (parts.has("about")) renderAbout();
  if (parts.has("verdict")) renderVerdict();
  if (parts.has("resources")) {
    renderResources();
    renderPool();
  }
  if (parts.has("health")) renderHealth();
  if (parts.has("provisioning")) renderProvisioning();
  if (parts.has("counters")) renderCounters();
  if (parts.has("events")) renderEvents();
  if (parts.has("details") || parts.has("events")) renderDetails();
  if (parts.has("latency")) renderLatency();
  if (parts.has("utilization")) renderUtilization();
}

// Messages

function onSnapshot(snapshot) {
  const restarted = !state.about || state.about.started !== snapshot.started;
  const { pfs, vfs, processes, ...about } = snapshot;
  state.about = about;
  setServerClock(snapshot.time);
  if (restarted) {
    state.events = [];
    state.telemetry.clear();
    utilization.length = 0;
    clearEvents();
  }
  replaceAll(state.pfs, pfs ?? [], dirty.pfs);
  replaceAll(state.vfs, [...(vfs ?? []), ...(processes ?? []).map(unitAsVF)], dirty.vfs);
  $("main").removeAttribute("aria-busy");
  invalidate("about", "verdict", "resources", "health", "provisioning", "counters", "details", "events", "latency",
    "utilization");
}

// replaceAll makes list the content of map and marks what differs.
function replaceAll(map, list, marks) {
  const kept = new Set(list.map((item) => item.address));
  for (const address of [...map.keys()]) {
    if (!kept.has(address)) {
      map.delete(address);
      marks.add(address);
    }
  }
  for (const item of list) {
    if (JSON.stringify(map.get(item.address)) === JSON.stringify(item)) continue;
    map.set(item.address, item);
    marks.add(item.address);
  }
}

function onUpdate(update) {
  if (!state.about) return;
  setServerClock(update.time);
  for (const pf of update.pfs ?? []) {
    state.pfs.set(pf.address, pf);
    dirty.pfs.add(pf.address);
  }
  for (const vf of update.vfs ?? []) {
    announceChange(state.vfs.get(vf.address), vf);
    state.vfs.set(vf.address, vf);
    dirty.vfs.add(vf.address);
  }
  for (const address of update.removed ?? []) {
    if (state.pfs.delete(address)) dirty.pfs.add(address);
    if (state.vfs.delete(address)) {
      dirty.vfs.add(address);
      announce(`VF ${address} is gone.`);
    }
  }
  if (inKernelMode()) replaceAll(state.vfs, (update.processes ?? []).map(unitAsVF), dirty.vfs);
  const { time, resources, loops, checks, provisioning, dra, counters } = update;
  Object.assign(state.about, { time, resources, loops, checks, provisioning, dra, counters });
  invalidate("verdict", "resources", "health", "provisioning", "counters", "details");
}

function onEvent(event) {
  const last = state.events.at(-1);
  if (last && event.seq <= last.seq) return; // it came again after a reconnect
  state.events.push(event);
  if (state.events.length > maxEvents) state.events.splice(0, state.events.length - maxEvents);
  invalidate("events");
  if (isLatency(event)) invalidate("latency", "verdict");
}

// Utilization of each slice type, averaged over the PFs: {at, types}. The oldest is first.
const utilization = [];

function onTelemetry(list) {
  state.telemetry = new Map((list ?? []).map((item) => [item.address, item]));
  const sums = new Map();
  for (const item of list ?? []) {
    for (const [type, value] of Object.entries(item.device?.utilization ?? {})) {
      const sum = sums.get(type) ?? { total: 0, n: 0 };
      sums.set(type, { total: sum.total + value, n: sum.n + 1 });
    }
  }
  if (sums.size) {
    const types = Object.fromEntries([...sums].map(([type, sum]) => [type, sum.total / sum.n]));
    utilization.push({ at: serverNow(), types });
    while (utilization[0].at < serverNow() - plotSeconds * 1000) utilization.shift();
  }
  invalidate("utilization", "details");
}

// Connection

const connection = { source: null, lostAt: null, delay: 0, timer: 0, heard: performance.now() };

function connect() {
  clearTimeout(connection.timer);
  connection.source?.close();
  const source = new EventSource("events");
  connection.source = source;
  const on = (type, handle) => source.addEventListener(type, (message) => {
    if (source !== connection.source) return;
    connection.heard = performance.now();
    handle(JSON.parse(message.data));
    if (type === "snapshot") connected();
  });
  on("snapshot", onSnapshot);
  on("update", onUpdate);
  on("event", onEvent);
  on("telemetry", onTelemetry);
  source.addEventListener("error", () => {
    if (source === connection.source) disconnected();
  });
}

function connected() {
  connection.delay = 0;
  if (connection.lostAt) announce("Connected again.");
  connection.lostAt = null;
  showConnection("live", "Live");
}

// disconnected tries again, first at once and then with longer pauses.
function disconnected() {
  connection.source.close();
  connection.lostAt ??= new Date();
  showConnection("lost", `Not connected since ${clockTime(connection.lostAt)}`);
  clearTimeout(connection.timer);
  connection.timer = setTimeout(connect, connection.delay);
  connection.delay = Math.min(Math.max(connection.delay * 2, 500), 5000);
}

function showConnection(value, text) {
  $("connection").dataset.state = value;
  setText($("connection"), text);
  $("retry").hidden = value !== "lost";
  document.documentElement.classList.toggle("stale", value === "lost");
  showTitle();
}

// checkConnection finds a connection that has ended without a word, for example because the node
// lost its power. EventSource does not report the server's keep-alive comments.
async function checkConnection() {
  if (connection.lostAt || performance.now() - connection.heard < 20000) return;
  connection.heard = performance.now();
  const source = connection.source;
  try {
    await fetch("livez", { cache: "no-store", signal: AbortSignal.timeout(5000) });
  } catch {
    if (source === connection.source) disconnected();
  }
}

function tryNow() {
  if (connection.lostAt) connect();
}

$("retry").addEventListener("click", tryNow);
addEventListener("online", tryNow);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") tryNow();
});

// Announcements for screen readers: at most one in five seconds, and a summary of many.

const announcements = { pending: [], last: -Infinity, timer: 0 };

function announce(text) {
  announcements.pending.push(text);
  if (announcements.timer) return;
  const wait = Math.max(300, announcements.last + 5000 - performance.now());
  announcements.timer = setTimeout(() => {
    announcements.timer = 0;
    announcements.last = performance.now();
    const list = announcements.pending.splice(0);
    const text = list.length <= 3 ? list.join(" ") : `${list.length} changes. ${$("headline").textContent}.`;
    $("announcer").textContent = text;
  }, wait);
}

function announceChange(before, vf) {
  const now = cellState(vf);
  if (before && cellState(before) === now && before.reason === vf.reason) return;
  announce(`${nameOf(vf)}: ${cellStates[now].toLowerCase()}${vf.reason ? `, ${vf.reason}` : ""}.`);
}

// Header

function renderAbout() {
  const { node, version, mode, started, dra } = state.about;
  const program = dra ? "QAT DRA driver" : "QAT device plugin";
  setText($("node"), node || program);
  const up = duration(Math.max(0, secondsAgo(Date.parse(started))));
  setText($("about"), join(" · ", node && program, version, mode && !dra && `mode ${mode}`, `up ${up}`));
}

function showTitle() {
  const name = state.about?.node || "QAT";
  const tone = $("verdict").dataset.tone;
  const mark = { wait: "…", ok: "✓" }[tone] ?? $("headline").textContent;
  document.title = `${name} ${connection.lostAt ? "⚠ not connected" : mark}`;
}

// What is wrong

// findProblems returns the problems: {tone, what, why, where: addresses}.
function findProblems() {
  const { checks, loops, resources, provisioning, dra } = state.about;
  const problems = [];
  const add = (tone, what, why = "", where = []) => problems.push({ tone, what, why, where });
  for (const check of checks ?? []) {
    if (check.err) add("bad", `Check ${check.name} fails`, check.err);
  }
  for (const loop of loops ?? []) {
    if (loop.err) add("bad", `The state of loop ${loop.name} is that of an earlier time`, loop.err);
    if (loop.uevents) add("warn", "Kernel uevents may not arrive", loop.uevents);
    if (!loop.complete) add("warn", `Loop ${loop.name} has not read the whole host yet`);
  }
  for (const { name, phase, err } of resources ?? []) {
    if (phase !== "watching") add("bad", `${name}: ${phases[phase]?.text ?? phase}`, err);
    else if (err) add("warn", `The kubelet does not follow the whole list of ${name}`, err);
  }
  for (const reason of dra?.skipped ?? []) add("warn", "A device is not in the pool", reason);
  if (dra?.gone) add("warn", `Claims hold ${count(dra.gone, "VF")} that the host has lost`);
  const blamed = new Set(); // VFs that are unhealthy because of their PF
  const unhealthy = [...state.pfs.values()].filter((pf) => pf.health !== "healthy");
  for (const [reason, pfs] of groupBy(unhealthy, (pf) => pf.reason ?? "")) {
    const addresses = new Set(pfs.map((pf) => pf.address));
    const isBlamed = (vf) => vf.state === "unhealthy" && addresses.has(vf.pf) && vf.reason?.includes(vf.pf);
    const vfs = [...state.vfs.values()].filter(isBlamed);
    for (const vf of vfs) blamed.add(vf.address);
    const of = vfs.length ? ` and ${pfs.length === 1 ? "its" : "their"} ${count(vfs.length, "VF")}` : "";
    add("bad", `${count(pfs.length, "PF")}${of} ${be(pfs.length + vfs.length)} unhealthy`, reason, [...addresses]);
  }
  for (const pf of state.pfs.values()) {
    if (pf.readErr) add("warn", "PF cannot be read in full", pf.readErr, [pf.address]);
    if (pf.withdrawn) add("warn", "VFs of a PF are withdrawn", pf.withdrawn, [pf.address]);
  }
  for (const { state, reason, vfs } of groupByReason(blamed)) {
    const what = `${count(vfs.length, noun())} ${be(vfs.length)} ${groupText[state]}`;
    add(state === "binding" ? "warn" : "bad", what, reason, vfs.map((vf) => vf.address));
  }
  for (const loop of loops ?? []) {
    for (const [name, reason] of Object.entries(loop.skipped ?? {})) {
      if (!state.vfs.has(name) && !state.pfs.has(name)) add("warn", name, reason);
    }
  }
  if (provisioning?.err) add("bad", "The provisioning configuration is not in force", provisioning.err);
  for (const pf of provisioning?.pfs ?? []) {
    if (pf.state === "failed") add("bad", "PF cannot be provisioned", pf.reason, [pf.address]);
  }
  return mergeProblems(problems);
}

const groupText = { unhealthy: "unhealthy", binding: "being bound", skipped: "not listed" };

function groupBy(list, keyOf) {
  const groups = new Map();
  for (const item of list) {
    const key = keyOf(item);
    if (groups.has(key)) groups.get(key).push(item);
    else groups.set(key, [item]);
  }
  return groups;
}

// groupByReason returns the VFs that are not offered, without those in a set, the largest group
// first. Reasons that differ only in addresses or group numbers are one group.
function groupByReason(without) {
  const groups = new Map();
  for (const vf of state.vfs.values()) {
    if (isOffered(vf) || without.has(vf.address)) continue;
    const value = cellState(vf);
    const reason = vf.reason ?? "";
    const pattern = reason.replace(pciAddress, "…").replace(/\bgroup \d+/g, "group …")
      .replace(/\/dev\/[\w/-]+/g, "/dev/…");
    const key = `${value} ${pattern}`;
    const group = groups.get(key) ?? { state: value, reason, vfs: [] };
    if (group.reason !== reason) group.reason = pattern;
    group.vfs.push(vf);
    groups.set(key, group);
  }
  return [...groups.values()].sort((a, b) => b.vfs.length - a.vfs.length);
}

// mergeProblems joins problems that are the same for several devices.
function mergeProblems(problems) {
  const merged = new Map();
  for (const problem of problems) {
    const key = `${problem.tone}\n${problem.what}\n${problem.why}`;
    const other = merged.get(key);
    if (other) other.where.push(...problem.where);
    else merged.set(key, problem);
  }
  const list = [...merged.values()];
  return [...list.filter((p) => p.tone === "bad"), ...list.filter((p) => p.tone !== "bad")];
}

// headline returns the answer to "is everything offered" and a tone.
function headline(problems) {
  const total = state.vfs.size;
  const offered = [...state.vfs.values()].filter(isOffered).length;
  const rest = total - offered;
  let tone = problems.some((p) => p.tone === "bad") ? "bad" : problems.length ? "warn" : "ok";
  let text;
  if (total === 0) {
    text = state.pfs.size ? `${count(state.pfs.size, "PF")}, and no ${noun()}s` : `No ${noun()}s on this host`;
    if (tone === "ok") tone = "warn";
  } else if (rest > 0) {
    text = `${integer.format(rest)} of ${count(total, noun())} ${be(rest)} not offered`;
  } else {
    text = total === 1 ? `The only ${noun()} is offered` : `All ${count(total, noun())} are offered`;
    const n = problems.length;
    if (n > 0) text += `, and ${count(n, "problem")} ${n === 1 ? "needs" : "need"} attention`;
  }
  return { text, tone, total, offered };
}

function renderVerdict() {
  const problems = findProblems();
  const { text, tone, total, offered } = headline(problems);
  if ($("verdict").dataset.tone !== "wait" && $("headline").textContent !== text) announce(`${text}.`);
  $("verdict").dataset.tone = tone;
  setText($("headline"), text);

  const resources = (state.about.resources ?? []).filter((resource) => resource.devices > 0);
  const watched = resources.filter((resource) => resource.phase === "watching");
  const some = watched.length === resources.length ? "" : `${watched.length} of `;
  const { dra } = state.about;
  setText($("subline"), dra ? poolText(dra) : resources.length === 0 ? "No resource has a device."
    : `The kubelet follows ${some}${count(resources.length, "resource")} on this node.`);

  reconcile($("problems"), problems, (p) => `${p.what}\n${p.why}`, problemItem, updateProblem);
  renderFigures(total, offered);
  showTitle();
}

function problemItem() {
  return h("li", {}, h("span", { class: "sign", "aria-hidden": "true" }), h("div", {},
    h("p", {}, h("b"), h("span")), h("p", { class: "where" })));
}

const maxChips = 8;

// shortenPlaces returns the places of devices, {address, whole}. Where it has all the VFs of a PF,
// and there are several, whole is true and the address is that of the PF.
function shortenPlaces(addresses) {
  const byPF = new Map();
  for (const address of addresses) {
    const pf = state.vfs.get(address)?.pf;
    if (pf) byPF.set(pf, (byPF.get(pf) ?? 0) + 1);
  }
  const whole = new Set([...byPF].filter(([pf, n]) => n > 1 && n === rows.get(pf)?.cells.size).map(([pf]) => pf));
  const places = [...whole].map((address) => ({ address, whole: true }));
  for (const address of addresses) {
    if (!whole.has(state.vfs.get(address)?.pf)) places.push({ address, whole: false });
  }
  return places.sort((a, b) => compareAddresses(a.address, b.address));
}

function updateProblem(item, problem) {
  const [sign, body] = item.children;
  const [sentence, where] = body.children;
  item.dataset.tone = problem.tone;
  setText(sign, problem.tone === "bad" ? "!" : "–");
  setText(sentence.firstChild, problem.what);
  setText(sentence.lastChild, problem.why ? `: ${problem.why}` : "");
  const list = shortenPlaces(problem.where);
  const chips = list.slice(0, list.length > maxChips + 1 ? maxChips : list.length);
  reconcile(where, chips, (place) => `${place.whole} ${place.address}`,
    (place) => h("span", {}, place.whole && "all of ", addressButton(place.address)), () => {});
  const more = list.length - chips.length;
  if (more) where.append(h("span", {}, `and ${more} more`));
  where.hidden = list.length === 0;
}

function renderFigures(total, offered) {
  const used = [...state.vfs.values()].filter((vf) => vf.holder);
  const broken = used.filter((vf) => !isOffered(vf)).length;
  const pfs = [...state.pfs.values()];
  const latencies = latencyPoints().map((point) => point.seconds).sort((a, b) => a - b);
  const [median, unit] = latencies.length ? duration(latencies[Math.floor(latencies.length / 2)]).split(" ") : ["–"];
  const healthy = pfs.filter((pf) => pf.health === "healthy").length;
  const figures = [["Offered", integer.format(offered), `of ${integer.format(total)}`]];
  if (!inKernelMode()) {
    figures.push(["In use", used.length ? integer.format(used.length) : "–", broken ? `${broken} not healthy` : ""]);
  }
  if (pfs.length) figures.push(["PFs healthy", integer.format(healthy), `of ${integer.format(pfs.length)}`]);
  figures.push(["Event to list", median, unit ? `${unit} median` : ""]);
  reconcile($("figures"), figures, (f) => f[0],
    (f) => h("div", {}, h("dt", {}, f[0]), h("dd", {}, h("span"), " ", h("small"))),
    (item, f) => {
      setText(item.querySelector("span"), f[1]);
      setText(item.querySelector("small"), f[2]);
    });
}

// reconcile makes the children of parent those of list, in its order. Children are found again by
// their key, so that what has focus keeps it.
function reconcile(parent, list, keyOf, create, update) {
  const known = new Map();
  for (const child of [...parent.children]) {
    if (child.dataset.key === undefined || known.has(child.dataset.key)) child.remove();
    else known.set(child.dataset.key, child);
  }
  let previous = null;
  for (const item of list) {
    const key = keyOf(item);
    let child = known.get(key);
    known.delete(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
    }
    const place = previous ? previous.nextSibling : parent.firstChild;
    if (child !== place) parent.insertBefore(child, place);
    update(child, item);
    previous = child;
  }
  for (const child of known.values()) child.remove();
}

// addressButton returns a button that opens the details of a device.
function addressButton(address) {
  return h("button", { type: "button", class: "address", "data-address": address }, address);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.address");
  if (button) openDetails(button.dataset.address, button);
});

// Resources

const phases = {
  idle: { tone: "bad", text: "no kubelet" },
  registering: { tone: "warn", text: "registering" },
  failed: { tone: "bad", text: "registration refused" },
  registered: { tone: "warn", text: "registered, and the kubelet does not follow the list yet" },
  watching: { tone: "ok", text: "follows the list" },
  lost: { tone: "bad", text: "the kubelet has ended its stream" },
};

// numberCell returns a cell of a table. On a phone, it shows the name of its column.
const numberCell = (label) => h("td", { role: "cell", class: "number", "data-label": label });

function renderResources() {
  const resources = state.about.resources ?? [];
  const held = [...state.vfs.values()].filter((vf) => vf.holder);
  $("resources").hidden = resources.length === 0;
  $("no-resources").hidden = resources.length > 0;
  reconcile($("resources").tBodies[0], resources, (r) => r.name,
    (r) => h("tr", { role: "row" }, h("th", { role: "rowheader", scope: "row", class: "mono" }, r.name),
      h("td", { role: "cell", class: "broad" }, h("span", { class: "badge" }), h("small")),
      numberCell("Healthy"), numberCell("In use"), numberCell("Allocated"), numberCell("Lists sent"),
      h("td", { role: "cell", "data-label": "Last list" })),
    (row, r) => {
      const [, kubelet, healthy, used, allocated, lists, last] = row.cells;
      const phase = phases[r.phase] ?? { tone: "warn", text: r.phase };
      kubelet.firstChild.dataset.tone = phase.tone;
      setText(kubelet.firstChild, phase.text);
      setText(kubelet.lastChild, r.err ?? "");
      setText(healthy, `${integer.format(r.healthy)} of ${integer.format(r.devices)}`);
      const inUse = held.filter((vf) => vf.resource === shortResource(r.name)).length;
      setText(used, held.length ? integer.format(inUse) : "–"); // no VF is in use, or the kubelet does not say
      setText(allocated, integer.format(r.allocated) + (r.failed ? `, ${integer.format(r.failed)} failed` : ""));
      setText(lists, integer.format(r.lists));
      setText(last, r.lastList ? clockTime(new Date(r.lastList)) : "–");
    });
}

// poolText says how far a DRA driver has come with its devices.
const poolText = (dra) => dra.publishErr ? "The API server does not have the newest state of all devices."
  : `The API server has ${count(dra.devices, "device")} in ${count(dra.slices.length, "ResourceSlice")} of this node.`;

// renderPool shows what a DRA driver offers instead of resources.
function renderPool() {
  const { dra } = state.about;
  $("pool").hidden = !dra;
  $("resources-section").hidden = !!dra;
  if (!dra) return;
  setText($("pool-name"), `${dra.pool} of ${dra.driver}`);
  setText($("latency-title"), "Event to slice");
  const gone = dra.gone ? `, ${integer.format(dra.gone)} gone` : "";
  fillFacts($("pool-facts"), [
    ["Devices", `${integer.format(dra.healthy)} of ${integer.format(dra.devices)} healthy${gone}`],
    ["Kubelet", dra.registered ? "registered" : `not registered: ${dra.registrationErr ?? ""}`,
      dra.registered ? "" : "bad"],
    ["Runtime", join(": ", dra.runtime, dra.runtimeErr) || "unknown", dra.runtimeErr ? "bad" : ""],
  ]);
  reconcile($("slice-rows"), dra.slices, (slice) => slice.name,
    (slice) => h("tr", { role: "row" }, h("th", { role: "rowheader", scope: "row", class: "mono" }, slice.name),
      numberCell("Devices"), numberCell("With taints"), h("td", { role: "cell", "data-label": "Last write" })),
    (row, slice) => {
      setText(row.cells[1], integer.format(slice.devices));
      setText(row.cells[2], integer.format(slice.tainted));
      setText(row.cells[3], slice.written ? clockTime(new Date(slice.written)) : "–");
    });
  $("claims").hidden = dra.claims.length === 0;
  reconcile($("claim-rows"), dra.claims, (claim) => claim.uid,
    (claim) => h("tr", { role: "row" }, h("th", { role: "rowheader", scope: "row", class: "mono" }, claim.name),
      h("td", { role: "cell", "data-label": "Prepared" }), h("td", { role: "cell", class: "broad mono" })),
    (row, claim) => {
      setText(row.cells[1], clockTime(new Date(claim.prepared)));
      const text = (device) => device.address + (device.adminAccess ? " (admin)" : "");
      setText(row.cells[2], claim.devices.map(text).join(", "));
    });
}

// The map

const map = $("map");
const numaNodes = new Map(); // NUMA node -> {node, section, list, detail}
const rows = new Map(); // key of a PF -> {key, numa, element, …, cells: Map of address -> button}
const filter = { words: [], state: "" };
let rendered = false; // true after the first snapshot: a new cell is a change

// keyOfVF returns the row of a VF. In a guest, a VF has no PF.
const keyOfVF = (vf) => vf.pf || `no PF, NUMA node ${vf.numaNode}`;

function renderMap(pfs, vfs) {
  for (const address of pfs) renderPF(address);
  const touched = new Set(pfs);
  for (const address of vfs) {
    const vf = state.vfs.get(address);
    const cell = findCell(address);
    if (cell && (!vf || cell.row.key !== keyOfVF(vf))) {
      touched.add(cell.row.key);
      removeCell(cell);
    }
    if (vf) touched.add(renderVF(vf).key);
  }
  for (const key of touched) {
    const row = rows.get(key);
    if (!row) continue;
    if (!row.cells.size && !state.pfs.has(key)) removeRow(row);
    else setAttribute(row.none, "hidden", row.cells.size ? "" : null);
  }
  applyFilter([...touched].map((key) => rows.get(key)).filter(Boolean));
  $("legend").hidden = rows.size === 0;
  renderLegend();
  $("no-devices").hidden = rows.size > 0;
  keepTabStop();
  rendered = true;
}

const cellRows = new Map(); // address of a VF -> its row

function findCell(address) {
  const row = cellRows.get(address);
  return row && { row, element: row.cells.get(address), address };
}

function removeCell({ row, element, address }) {
  if (element === document.activeElement) {
    const [before, after] = [element.previousElementSibling, element.nextElementSibling];
    [after, before, row.head].find((other) => other?.matches("button:enabled"))?.focus();
  }
  row.cells.delete(address);
  cellRows.delete(address);
  element.remove();
}

function numaNode(node) {
  let numa = numaNodes.get(node);
  if (numa) return numa;
  const id = `numa${node}`;
  const detail = h("small");
  const list = h("div", { class: "pfs" });
  const title = inKernelMode() ? "By resource" : node < 0 ? "NUMA node unknown" : `NUMA node ${node}`;
  const heading = h("h3", { id }, title, detail);
  const section = h("div", { class: "numa", role: "group", "aria-labelledby": id }, heading, list);
  numa = { node, section, list, detail };
  numaNodes.set(node, numa);
  const after = [...numaNodes.values()].filter((other) => other.node > node).sort((a, b) => a.node - b.node)[0];
  map.insertBefore(section, after?.section ?? null);
  return numa;
}

// rowOf returns the row of a PF, and creates it or moves it to another NUMA node if necessary.
function rowOf(key, node) {
  let row = rows.get(key);
  if (row && row.numa.node === node) return row;
  const numa = numaNode(node);
  if (!row) {
    const head = h("button", { type: "button", "data-pf": key, tabindex: "-1" });
    row = {
      key, numa, head, cells: new Map(),
      state: h("span", { class: "state" }),
      meta: h("p", { class: "meta" }),
      why: h("p", { class: "why", hidden: true }),
      none: h("p", { class: "none" }, "No VFs"),
      list: h("div", { class: "cells" }),
    };
    row.list.append(row.none);
    const name = inKernelMode() ? `Resource ${key}` : `PF ${key}`;
    row.element = h("div", { class: "pf", role: "group", "aria-label": name },
      h("h4", {}, head, row.state), row.meta, row.why, row.list);
    rows.set(key, row);
  } else {
    const old = row.numa;
    row.numa = numa;
    if (old.list.children.length === 1) dropNUMANode(old);
  }
  const after = [...rows.values()].filter((other) => other.numa === numa && compareAddresses(other.key, key) > 0)
    .sort((a, b) => compareAddresses(a.key, b.key))[0];
  numa.list.insertBefore(row.element, after?.element ?? null);
  return row;
}

function removeRow(row) {
  row.element.remove();
  rows.delete(row.key);
  if (!row.numa.list.children.length) dropNUMANode(row.numa);
}

function dropNUMANode(numa) {
  numa.section.remove();
  numaNodes.delete(numa.node);
}

function renderPF(address) {
  const pf = state.pfs.get(address);
  if (!pf) {
    const row = rows.get(address);
    if (row) {
      setText(row.meta, "");
      setText(row.state, "gone");
      row.head.disabled = true;
    }
    return;
  }
  const row = rowOf(address, pf.numaNode);
  row.head.disabled = false;
  const healthy = pf.health === "healthy";
  setText(row.head, address);
  setAttribute(row.head, "aria-label", `PF ${address}, ${healthy ? "healthy" : "unhealthy"}`);
  setText(row.state, healthy ? pf.state || pf.driver || "no driver" : "✕ unhealthy");
  const offer = pf.services && pf.services !== pf.resource ? `${pf.services} → ${pf.resource}` : pf.resource;
  const meta = join(" · ", pf.family, offer, pf.totalVFs ? `${pf.vfs} of ${pf.totalVFs} VFs` : count(pf.vfs, "VF"));
  setText(row.meta, meta);
  row.meta.title = meta;
  setText(row.why, !healthy && pf.reason || pf.withdrawn || pf.readErr || "");
  row.why.hidden = !row.why.textContent;
  row.element.dataset.tone = healthy ? "ok" : "bad";
}

function renderVF(vf) {
  const key = keyOfVF(vf);
  const row = rows.get(key) ?? rowOf(key, vf.numaNode);
  if (!state.pfs.has(key)) {
    setText(row.head, vf.pf || "VFs without a PF");
    row.head.disabled = true; // there are no details
  }
  let cell = row.cells.get(vf.address);
  const isNew = !cell;
  if (isNew) {
    cell = h("button", { type: "button", class: "cell", "data-vf": vf.address, tabindex: "-1" });
    let after = row.none;
    if (row.cells.size) {
      after = null;
      for (const other of row.list.children) {
        if (other.dataset.vf && compareAddresses(other.dataset.vf, vf.address) > 0) {
          after = other;
          break;
        }
      }
    }
    row.list.insertBefore(cell, after);
    row.cells.set(vf.address, cell);
    cellRows.set(vf.address, row);
  }
  const value = cellState(vf);
  const changed = cell.dataset.state !== undefined && cell.dataset.state !== value || isNew && rendered;
  cell.dataset.state = value;
  const name = join(", ", nameOf(vf), cellStates[value].toLowerCase(), vf.holder && `by ${vf.holder}`, vf.reason);
  setAttribute(cell, "aria-label", name);
  if (changed) flash(cell);
  return row;
}

function flash(cell) {
  cell.classList.remove("changed");
  void cell.offsetWidth; // restarts the animation
  cell.classList.add("changed");
  cell.addEventListener("animationend", () => cell.classList.remove("changed"), { once: true });
}

// The legend counts the VFs in each state, and is a filter.

const legendButtons = new Map(Object.entries(cellStates).map(([value, name]) => {
  const button = h("button", { type: "button", "aria-pressed": "false" },
    h("span", { class: "cell", "data-state": value, "aria-hidden": "true" }), name, h("b"));
  button.addEventListener("click", () => {
    filter.state = filter.state === value ? "" : value;
    filterChanged();
  });
  $("legend").append(button);
  return [value, button];
}));

function renderLegend() {
  const counts = Object.fromEntries(Object.keys(cellStates).map((value) => [value, 0]));
  for (const vf of state.vfs.values()) counts[cellState(vf)]++;
  for (const [value, button] of legendButtons) {
    setText(button.lastChild, integer.format(counts[value]));
    setAttribute(button, "aria-pressed", String(filter.state === value));
  }
  for (const numa of numaNodes.values()) {
    const pfs = count(numa.list.children.length, inKernelMode() ? "resource" : "PF");
    setText(numa.detail, `${pfs}, ${count(numa.list.querySelectorAll(".cell").length, noun())}`);
  }
}

// The search

function textOf(vf) {
  const group = vf.iommuGroup === undefined ? "" : `group ${vf.iommuGroup}`;
  return join("\n", vf.address, vf.pf, vf.family, vf.driver, vf.node, vf.state, vf.resource, vf.reason, vf.holder,
    group, cellStates[cellState(vf)]).toLowerCase();
}

function matches(vf) {
  if (filter.state && cellState(vf) !== filter.state) return false;
  if (!filter.words.length) return true;
  const text = textOf(vf);
  return filter.words.every((word) => text.includes(word));
}

function applyFilter(list) {
  const active = filter.state !== "" || filter.words.length > 0;
  for (const row of list) {
    let any = false;
    for (const [address, cell] of row.cells) {
      const match = matches(state.vfs.get(address));
      cell.classList.toggle("dim", !match);
      any ||= match;
    }
    if (!any && !filter.state && filter.words.length) {
      const pf = state.pfs.get(row.key);
      const text = pf ? Object.values(pf).join("\n").toLowerCase() : "";
      any = filter.words.every((word) => text.includes(word));
    }
    row.element.classList.toggle("out", active && !any);
  }
  for (const numa of numaNodes.values()) {
    numa.section.classList.toggle("out", !numa.list.querySelector(".pf:not(.out)"));
  }
  if (!active) {
    setText($("found"), "");
    return;
  }
  let found = 0;
  for (const vf of state.vfs.values()) if (matches(vf)) found++;
  setText($("found"), found ? count(found, noun()) : "No match");
}

function filterChanged() {
  filter.words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  applyFilter([...rows.values()]);
  renderLegend();
  keepTabStop();
}

$("search").addEventListener("input", filterChanged);
$("search").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // the device that gets the focus must not get the key too
  map.querySelector(".pf:not(.out) .cell:not(.dim)")?.focus();
});

// The keyboard in the map: one element is in the tab order, and the arrow keys move it.

const mapItems = () => [...map.querySelectorAll(".pf:not(.out) h4 button:enabled, .pf:not(.out) .cell")];

function setTabStop(element) {
  for (const old of map.querySelectorAll('[tabindex="0"]')) if (old !== element) old.tabIndex = -1;
  element.tabIndex = 0;
}

function keepTabStop() {
  const current = map.querySelector('.pf:not(.out) [tabindex="0"]');
  if (current) return;
  const first = map.querySelector(".pf:not(.out) .cell") ?? mapItems()[0];
  if (first) setTabStop(first);
}

const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

map.addEventListener("focusin", (event) => {
  if (event.target.matches("button")) setTabStop(event.target);
});

map.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  let next;
  if (arrows[event.key]) next = nearest(event.target, ...arrows[event.key]);
  else if (event.key === "Home") next = mapItems()[0];
  else if (event.key === "End") next = mapItems().at(-1);
  else return;
  event.preventDefault();
  next?.focus();
});

// nearest returns the item that is nearest in a direction. An offset across the direction counts
// more, so that the keys stay in the line or column.
function nearest(from, dx, dy) {
  const start = from.getBoundingClientRect();
  const between = (a, b, c, d) => Math.max(0, c - b, a - d); // the gap of two intervals
  let best = null;
  let bestCost = Infinity;
  for (const item of mapItems()) {
    const box = item.getBoundingClientRect();
    const right = (box.left + box.right - start.left - start.right) / 2;
    const down = (box.top + box.bottom - start.top - start.bottom) / 2;
    const along = right * dx + down * dy;
    if (along < 4) continue;
    const gap = dx ? between(start.top, start.bottom, box.top, box.bottom)
      : between(start.left, start.right, box.left, box.right);
    const cost = along + 6 * gap + 0.1 * Math.abs(dx ? box.top - start.top : box.left - start.left);
    if (cost < bestCost) [best, bestCost] = [item, cost];
  }
  return best;
}

map.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) openDetails(button.dataset.vf ?? button.dataset.pf, button);
});

// The tip repeats in the map what the details say, for a mouse.

map.addEventListener("pointerover", (event) => {
  const cell = event.pointerType === "mouse" && event.target.closest(".cell");
  const vf = cell && state.vfs.get(cell.dataset.vf);
  $("tip").hidden = !vf;
  if (!vf) return;
  const text = join(" ", cellStates[cellState(vf)], vf.holder && `by ${vf.holder}`);
  $("tip").replaceChildren(h("b", {}, vf.address), join(": ", text, vf.reason));
  const box = cell.getBoundingClientRect();
  const tip = $("tip").getBoundingClientRect();
  $("tip").style.left = `${Math.max(4, Math.min(box.left, innerWidth - tip.width - 4))}px`;
  $("tip").style.top = `${box.top > tip.height + 10 ? box.top - tip.height - 6 : box.bottom + 6}px`;
});
map.addEventListener("pointerleave", () => { $("tip").hidden = true; });
addEventListener("scroll", () => { $("tip").hidden = true; }, { passive: true });

// Details

const details = { address: "", opener: null };

function openDetails(address, opener) {
  markCurrent(false);
  if (!details.address || !$("details").contains(opener)) details.opener = opener;
  details.address = address;
  markCurrent(true);
  $("details").hidden = false;
  $("facts").replaceChildren();
  renderDetails();
  $("details").scrollTop = 0;
  $("details-title").focus({ preventScroll: getComputedStyle($("details")).position === "fixed" });
}

function closeDetails() {
  markCurrent(false);
  const { address, opener } = details;
  details.address = "";
  details.opener = null;
  $("details").hidden = true;
  const target = opener?.isConnected ? opener : deviceOnMap(address) ?? map.querySelector('[tabindex="0"]');
  target?.focus();
}

function deviceOnMap(address) {
  const name = CSS.escape(address);
  return map.querySelector(`[data-vf="${name}"], [data-pf="${name}"]`);
}

function markCurrent(current) {
  const element = details.address && deviceOnMap(details.address);
  if (element) setAttribute(element, "aria-current", current ? "true" : null);
}

$("details-close").addEventListener("click", closeDetails);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && details.address && event.target.type !== "search") closeDetails();
});

function renderDetails() {
  if (!details.address) return;
  markCurrent(true);
  const vf = state.vfs.get(details.address);
  const pf = state.pfs.get(details.address);
  setText($("details-title"), vf ? nameOf(vf) : `${pf ? "PF" : noun()} ${details.address}`);
  fillFacts($("facts"), vf ? factsOfVF(vf) : pf ? factsOfPF(pf) : [["State", "It does not exist.", "bad"]]);
  const { address } = details;
  const concerns = (event) => event.device === address || event.devices?.includes(address);
  const history = joinEvents(state.events.filter(concerns));
  $("history-title").hidden = history.length === 0;
  const text = (event) => join(": ", event.action || kindName(event.kind), event.text, event.err);
  reconcile($("history"), history.slice(-6).reverse(), (event) => String(event.seq),
    (event) => h("li", {}, timeElement(event.time), h("span", {}, text(event))), () => {});
}

const numaText = (node) => (node < 0 ? "unknown" : String(node));

function factsOfVF(vf) {
  const value = cellState(vf);
  const pf = state.pfs.get(vf.pf);
  const facts = [
    ["State", cellStates[value], { unhealthy: "bad", skipped: "bad", binding: "warn" }[value]],
    ["Reason", vf.reason],
    ["Held by", vf.holder],
    ["Resource", vf.resource],
  ];
  return vf.unit ? facts : [
    ...facts,
    ["PF", vf.pf ? { address: vf.pf } : null],
    ["PF's state", pf && join(", ", pf.health, pf.state), pf && pf.health !== "healthy" ? "bad" : ""],
    ["Driver", vf.driver || "none"],
    ["Device node", vf.node || "none"],
    ["IOMMU group", vf.iommuGroup === undefined || vf.iommuGroup === null ? "none" : String(vf.iommuGroup)],
    ["NUMA node", numaText(vf.numaNode)],
    ["Family", `${vf.family} (8086:${vf.deviceID})`],
  ];
}

function factsOfPF(pf) {
  const healthy = pf.health === "healthy";
  const { last, lastAt, good, failed } = pf.heartbeat ?? {};
  const beat = last && join("\n", join(" at ", last, lastAt && clockTime(new Date(lastAt))),
    `${integer.format(good)} good, ${integer.format(failed)} failed`);
  const rule = state.about.provisioning?.pfs?.find((item) => item.address === pf.address);
  const facts = [
    ["Health", healthy ? "Healthy" : "Unhealthy", healthy ? "" : "bad"],
    ["Reason", pf.reason],
    ["Withdrawn", pf.withdrawn, "warn"],
    ["Not readable", pf.readErr, "warn"],
    ["State", pf.state || "not shown by the driver"],
    ["Services", pf.services],
    ["Resource", pf.resource],
    ["VFs", pf.totalVFs ? `${pf.vfs} of ${pf.totalVFs}` : String(pf.vfs)],
    ["Heartbeat", beat || "not checked", last === "failed" ? "bad" : ""],
    ["Driver", pf.driver || "none"],
    ["NUMA node", numaText(pf.numaNode)],
    ["Family", `${pf.family} (8086:${pf.deviceID})`],
    ["Provisioning", rule && join("\n", rule.state, rule.reason, rule.rule), rule?.state === "failed" ? "bad" : ""],
  ];
  return facts.concat(factsOfTelemetry(state.telemetry.get(pf.address)));
}

function factsOfTelemetry(telemetry) {
  if (!telemetry) return [];
  const { device, firmware, compressErrors, ras } = telemetry;
  const facts = [];
  if (device) {
    const busy = ([type, value]) => `${sliceNames[type] ?? type} ${value.toFixed(0)}%`;
    const latency = (average, max) => average && join(", at most ", duration(average), max && duration(max));
    facts.push(
      ["Utilization", Object.entries(device.utilization ?? {}).map(busy).join("\n")],
      ["Bandwidth", `${bitRate(device.bandwidthIn)} in, ${bitRate(device.bandwidthOut)} out`],
      ["Read latency", latency(device.readLatency, device.maxReadLatency)],
      ["Get-put latency", latency(device.getPutLatency, device.maxGetPutLatency)],
    );
  }
  if (firmware?.length) {
    const sum = (name) => integer.format(firmware.reduce((n, engine) => n + engine[name], 0));
    const of = count(firmware.length, "engine");
    facts.push(["Firmware", `${sum("requests")} requests, ${sum("responses")} responses\nof ${of}`]);
  }
  const total = (object) => Object.values(object ?? {}).reduce((n, value) => n + value, 0);
  if (compressErrors) {
    facts.push(["Compress errors", integer.format(total(compressErrors)), total(compressErrors) ? "warn" : ""]);
  }
  if (ras) {
    const errors = Object.entries(ras).map(([severity, n]) => `${integer.format(n)} ${severity}`);
    facts.push(["RAS errors", errors.join(", "), ras.fatal || ras.nonfatal ? "bad" : ""]);
  }
  return facts;
}

// fillFacts shows [label, value, tone]. A value is a text, or {address} for a device. Facts without
// a value are left out.
function fillFacts(list, facts) {
  const items = facts.filter(([, value]) => value)
    .flatMap(([label, value, tone]) => [{ key: `dt ${label}`, label }, { key: `dd ${label}`, value, tone }]);
  reconcile(list, items, (item) => item.key, (item) => h(item.label === undefined ? "dd" : "dt"), (element, item) => {
    if (item.label !== undefined) {
      setText(element, item.label);
    } else if (item.value.address) {
      const { address } = item.value;
      if (element.textContent !== address) element.replaceChildren(addressButton(address));
    } else {
      setText(element, item.value);
      setAttribute(element, "data-tone", item.tone || null);
    }
  });
}

// Events

const kindGroups = [
  ["Kernel", ["uevent", "inotify"]],
  ["Changes", ["change", "drift", "resync"]],
  ["Lists", ["list", "slice", "published"]],
  ["Allocations", ["allocation", "claim"]],
  ["Kubelet", ["kubelet"]],
];
const kindNames = {
  uevent: "Uevent", inotify: "File", resync: "Resync", drift: "Drift", change: "Change", list: "List",
  allocation: "Allocation", kubelet: "Kubelet", slice: "Slice", published: "Published", claim: "Claim",
};
const kindName = (kind) => kindNames[kind] ?? kind;
const maxEventRows = 300;

const eventView = { shown: 0, paused: false, kinds: new Set(), text: "" };

for (const [name, kinds] of kindGroups) {
  const button = h("button", { type: "button", "aria-pressed": "false" }, name);
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(pressed));
    for (const kind of kinds) eventView.kinds[pressed ? "add" : "delete"](kind);
    refillEvents();
  });
  $("kinds").append(button);
}
$("event-filter").addEventListener("input", () => {
  eventView.text = $("event-filter").value.toLowerCase().trim();
  refillEvents();
});
$("pause").addEventListener("click", () => {
  eventView.paused = !eventView.paused;
  $("pause").setAttribute("aria-pressed", String(eventView.paused));
  invalidate("events");
});

function clearEvents() {
  eventView.shown = 0;
  $("events").replaceChildren();
}

function refillEvents() {
  clearEvents();
  invalidate("events");
}

function eventMatches(event) {
  if (eventView.kinds.size && !eventView.kinds.has(event.kind)) return false;
  return !eventView.text || JSON.stringify(event).toLowerCase().includes(eventView.text);
}

// renderEvents adds the events since the last call on top of the list. The first of them may belong
// to the row that is on top.
function renderEvents() {
  const list = $("events");
  const next = state.events.filter((event) => event.seq > eventView.shown);
  if (eventView.paused && list.children.length) {
    setText($("pause"), next.length ? `Resume (${next.length} new)` : "Resume");
    return;
  }
  setText($("pause"), eventView.paused ? "Resume" : "Pause");
  if (next.length) eventView.shown = next.at(-1).seq;
  if (next.some(eventMatches)) {
    const top = list.firstChild;
    const from = Number(top?.dataset.seq ?? 0);
    const rows = joinEvents(state.events.filter((event) => event.seq >= from && eventMatches(event)));
    if (top && rows[0].seq === from) {
      const event = rows.shift();
      if ((event.devices?.length ?? 0) > Number(top.dataset.devices)) top.replaceWith(eventItem(event));
    }
    list.prepend(...rows.slice(-maxEventRows).reverse().map(eventItem));
  }
  while (list.children.length > maxEventRows) list.lastChild.remove();
  $("no-events").hidden = list.children.length > 0;
  setText($("no-events"), state.events.length ? "No event matches the filter." : "Nothing has happened yet.");
}

// joinEvents makes one event of those that follow one another within a second and differ only in
// the device, such as of all VFs of a PF. It has the number of the first of them.
function joinEvents(events) {
  const joined = [];
  let first = { key: "", at: 0 };
  for (const event of events) {
    const { seq, time, device, path, ...rest } = event;
    const key = device && !event.devices ? JSON.stringify(rest) : "";
    const at = Date.parse(time);
    if (key && key === first.key && at - first.at < 1000) {
      const { devices } = joined.at(-1);
      if (!devices.includes(device)) devices.push(device);
      continue;
    }
    joined.push(key ? { ...event, device: "", path: "", devices: [device] } : event);
    first = { key, at };
  }
  return joined;
}

function eventItem(event) {
  const what = h("span", { class: "what" });
  const add = (...nodes) => { if (nodes[0]) what.append(what.hasChildNodes() ? " " : "", ...nodes); };
  add(event.action && h("b", {}, event.action));
  const devices = event.devices ?? [];
  const shown = devices.slice(0, devices.length > 5 ? 4 : 5);
  for (const id of shown) {
    add(isAddress(id) || state.vfs.has(id) ? addressButton(id) : h("span", { class: "mono" }, id));
  }
  if (devices.length > shown.length) add(`and ${devices.length - shown.length} more`);
  if (!devices.length) add(event.path && h("span", { class: "mono" }, event.path));
  add(event.resource && h("span", { class: "mono" }, shortResource(event.resource)));
  // What a kernel event and a list led to is on a line of its own.
  let led = event.text;
  if (isLatency(event) || event.kind === "list") {
    add(event.text);
    const end = event.kind === "list" ? "sent" : "stored";
    led = event.seconds ? `${end} ${duration(event.seconds)} after the event` : "";
  } else if (event.kind !== "uevent" && event.kind !== "inotify") {
    add(event.text);
    led = "";
  }
  return h("li", { "data-kind": event.kind, "data-seq": event.seq, "data-devices": devices.length },
    h("div", { class: "at" }, h("span", { class: "kind" }, kindName(event.kind)), timeElement(event.time)),
    h("div", {}, what, led && h("span", { class: "led" }, led), event.err && h("span", { class: "err" }, event.err)));
}

// Plots

// spanOf returns how many seconds a plot shows if its oldest point is so many seconds old.
const spanOf = (oldest) => [60, 120, 300].find((span) => span >= oldest) ?? plotSeconds;

// frameOf prepares an SVG of the size that it has on the page, and returns functions from values to
// coordinates. ticks are [value, text] of the vertical axis, and span is the number of seconds of
// the horizontal one.
function frameOf(svg, ticks, scale, span) {
  const width = Math.max(200, svg.clientWidth || 400);
  const height = 150;
  const [left, right, top, bottom] = [46, 8, 8, 20];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  const x = (secondsAgo) => width - right - (width - left - right) * (secondsAgo / span);
  const y = (value) => height - bottom - (height - top - bottom) * scale(value);
  for (const [value, text] of ticks) {
    svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text));
  }
  for (const [at, anchor] of [[span, "start"], [span / 2, "middle"], [0, "end"]]) {
    const text = at === 0 ? "now" : at % 60 ? `−${at} s` : `−${at / 60} min`;
    svg.append(s("text", { x: x(at), y: height - 5, "text-anchor": anchor }, text));
  }
  return { x, y, left, right: width - right };
}

// isLatency reports whether an event ends the time since a kernel event: the kubelet or the API
// server has its effect.
const isLatency = (event) => (event.kind === "list" || event.kind === "published") && event.seconds > 0;

function latencyPoints() {
  return state.events.filter(isLatency)
    .map((event) => ({ ago: secondsAgo(Date.parse(event.time)), seconds: event.seconds }))
    .filter((point) => point.ago <= plotSeconds);
}

function renderLatency() {
  const points = latencyPoints();
  const values = points.map((point) => point.seconds).sort((a, b) => a - b);
  const low = Math.floor(Math.log10(Math.min(1e-4, values[0] ?? 1)));
  const high = Math.ceil(Math.log10(Math.max(1e-2, values.at(-1) ?? 0)));
  const ticks = [];
  for (let decade = low; decade <= high; decade++) ticks.push([10 ** decade, duration(10 ** decade).replace(".0", "")]);
  const span = spanOf(points.length ? Math.max(...points.map((point) => point.ago)) : plotSeconds);
  const scale = (seconds) => (Math.log10(seconds) - low) / (high - low);
  const { x, y, left, right } = frameOf($("latency"), ticks, scale, span);
  for (const { ago, seconds } of points) {
    $("latency").append(s("circle", { class: "dot", cx: x(Math.max(0, ago)), cy: y(seconds), r: 2.75 }));
  }
  if (!values.length) {
    setText($("latency-caption"), `No event has led to a ${state.about?.dra ? "write" : "list"} in this time.`);
    return;
  }
  const median = values[Math.floor(values.length / 2)];
  $("latency").append(s("line", { class: "median", x1: left, x2: right, y1: y(median), y2: y(median) }));
  const [what, end] = state.about?.dra ? ["change", "the API server had its effect"]
    : ["list", "the list was sent to the kubelet"];
  const result = `${count(values.length, what)}, median ${duration(median)}, longest ${duration(values.at(-1))}`;
  setText($("latency-caption"), `From an event until ${end}: ${result}.`);
}

// Slice types (Documentation/ABI/testing/debugfs-driver-qat_telemetry).
const sliceNames = {
  cpr: "Compression", xlt: "Translator", dcpr: "Decompression", cnv: "Compress and verify", dcprz: "Decompression",
  pke: "Public key", ucs: "Unified crypto",
  wat: "Wireless authentication", wcp: "Wireless cipher", cph: "Cipher", ath: "Authentication",
};

// The lines of the types differ in their dashes as well as in their colours.
const dashes = ["", "6 3", "2 3", "8 3 2 3", "12 3", "4 2", "1 4", "10 2 1 2 1 2", "5 5"];
const lineStyle = (i) => ({ class: `line s${i % dashes.length + 1}`, "stroke-dasharray": dashes[i % dashes.length] });

function renderUtilization() {
  const newest = utilization.at(-1)?.types ?? {};
  const types = [...new Set([...Object.keys(sliceNames), ...Object.keys(newest)])]
    .filter((type) => utilization.some((sample) => sample.types[type] > 0));
  const span = spanOf(utilization.length ? secondsAgo(utilization[0].at) : plotSeconds);
  const ticks = [[0, "0%"], [50, "50%"], [100, "100%"]];
  const { x, y } = frameOf($("utilization"), ticks, (percent) => Math.min(100, percent) / 100, span);
  types.forEach((type, i) => {
    const points = utilization.filter((sample) => type in sample.types && secondsAgo(sample.at) <= span)
      .map(({ at, types }) => `${x(Math.max(0, secondsAgo(at))).toFixed(1)},${y(types[type]).toFixed(1)}`);
    $("utilization").append(s("polyline", { ...lineStyle(i), points: points.join(" ") }));
  });
  reconcile($("utilization-legend"), types.map((type, i) => ({ type, i })), ({ type, i }) => `${type} ${i}`,
    ({ type, i }) => {
      const swatch = s("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" });
      swatch.append(s("line", { ...lineStyle(i), x1: 0, x2: 22, y1: 4, y2: 4 }));
      return h("li", {}, swatch, sliceNames[type] ?? type, h("b"));
    },
    (item, { type }) => setText(item.lastChild, type in newest ? `${newest[type].toFixed(0)}%` : "–"));
  const devices = [...state.telemetry.values()].filter((item) => item.device).length;
  setText($("utilization-caption"),
    types.length ? `By slice type, the mean of ${count(devices, "PF")}. Idle types are not shown.`
    : utilization.length ? "All slices have been idle."
    : "No telemetry. The flag -telemetry turns it on, for 4xxx and newer devices with Linux 6.8 or newer.");
}

// Provisioning, checks, loops and counters

function renderProvisioning() {
  const provisioning = state.about.provisioning;
  $("provisioning").hidden = !provisioning;
  if (!provisioning) return;
  setText($("provisioning-file"), provisioning.file ?? "");
  setText($("provisioning-err"), provisioning.err ?? "");
  $("provisioning-err").hidden = !provisioning.err;
  const tones = { done: "ok", running: "warn", waiting: "warn", failed: "bad" };
  reconcile($("provisioning-rows"), provisioning.pfs ?? [], (pf) => pf.address,
    (pf) => h("tr", { role: "row" }, h("th", { role: "rowheader", scope: "row" }, addressButton(pf.address)),
      h("td", { role: "cell" }, h("span", { class: "badge" })), h("td", { role: "cell", class: "mono" }),
      h("td", { role: "cell", class: "broad" })),
    (row, pf) => {
      row.cells[1].firstChild.dataset.tone = tones[pf.state] ?? "warn";
      setText(row.cells[1].firstChild, pf.state);
      setText(row.cells[2], pf.rule);
      setText(row.cells[3], pf.reason ?? "");
    });
}

function renderHealth() {
  const { checks, loops } = state.about;
  reconcile($("checks"), checks ?? [], (check) => check.name,
    (check) => h("li", {}, h("span", { class: "badge" }, check.name, h("span", { class: "unseen" })), " ",
      h("span", { class: "why" })),
    (item, check) => {
      item.firstChild.dataset.tone = check.err ? "bad" : "ok";
      setText(item.firstChild.lastChild, check.err ? " fails:" : " passes");
      setText(item.lastChild, check.err ?? "");
    });
  fillFacts($("loops"), (loops ?? []).map((loop) => [`Loop ${loop.name}`, join(" ",
    loop.err || (loop.complete ? "The whole host has been read." : "The host is being read."),
    loop.uevents ? `Kernel uevents may not arrive: ${loop.uevents}` : "Kernel uevents arrive.",
    loop.mayMissEvents && "Events may be missed, so audits run more often.",
    loop.nextAudit && `The next audit is at ${clockTime(new Date(loop.nextAudit))}.`,
  ), loop.err ? "bad" : ""]));
}

function renderCounters() {
  const counters = state.about.counters ?? {};
  const sorted = (object) => Object.entries(object ?? {}).sort(([a], [b]) => (a < b ? -1 : 1));
  const list = (object) => sorted(object).map(([name, n]) => `${name} ${integer.format(n)}`).join(", ");
  const number = (name) => (counters[name] === undefined ? null : integer.format(counters[name]));
  fillFacts($("counters"), [
    ...sorted(counters.uevents).map(([action, subsystems]) => [`Uevents “${action}”`, list(subsystems)]),
    ["Inotify events", number("inotify")],
    ["Messages rejected", number("rejected")],
    ["Messages malformed", number("malformed")],
    ["Buffer overflows", number("overflows")],
    ["Messages dropped", number("dropped")],
    ...sorted(counters.loops).map(([name, loop]) => [`Loop ${name}`, list(loop)]),
    ["Bind attempts", list(counters.binds)],
  ]);
}

// What depends on the time is rendered again each second while somebody looks.

setInterval(() => {
  checkConnection();
  if (document.visibilityState !== "visible" || !state.about) return;
  invalidate("about");
  if (latencyPoints().length || $("latency").querySelector(".dot")) invalidate("latency");
  if (utilization.length) invalidate("utilization");
}, 1000);

new ResizeObserver(() => invalidate("latency", "utilization")).observe($("latency"));

connect();
