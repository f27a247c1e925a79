
"use strict";
// Updates come as server-sent events; each is the whole of what is to be seen. They are read with fetch, since an
// EventSource can't send the token. Rows are kept and changed in place, so that the focus and a reader's place stay. Text
// only ever becomes text: nothing here parses markup.

const byId = id => document.getElementById(id);
const HISTORY = 60; // points of a sparkline
const PATIENCE = 4000; // milliseconds without an update before the connection counts as lost
const AGAIN = 500; // milliseconds until a stream of updates that has ended is asked for again
const REFUSED = 1000; // the same after an answer that is no stream
const TOKEN = "streamproxy admin token"; // its key in sessionStorage: it is forgotten with the tab
const SVG = "http://www.w3.org/2000/svg";

const wanted = { sort: "age", order: "desc", route: "" };
const histories = new Map(); // stream id: event rates, one an update
let source = null; // ends the stream of updates
let token = stored();
let locked = false; // the proxy asks for a token, or for another one
let latest = null;
let heard = 0;
let paused = false;
let saying = 0;

// The token. A browser that is told to keep nothing throws here: it asks again after each load of the page.

function stored() {
  try { return sessionStorage.getItem(TOKEN); } catch (error) { return null; }
}

function store(text) {
  token = text;
  try { sessionStorage.setItem(TOKEN, text); } catch (error) { /* it lasts as long as the page */ }
}

// Numbers for people.

const none = value => value === null || value === undefined;

function duration(seconds) {
  if (none(seconds)) return "–";
  if (seconds < 0.9995) return `${digits(seconds * 1000)} ms`;
  if (seconds < 60) return `${digits(seconds)} s`;
  const whole = Math.floor(seconds);
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d) return `${d} d ${h} h`;
  return h ? `${h} h ${m} min` : `${m} min ${s} s`;
}

const milliseconds = value => duration(none(value) ? null : value / 1000);

function age(seconds) { // steady while it grows: no decimals
  return seconds < 60 ? `${Math.floor(seconds)} s` : duration(seconds);
}

function digits(number) {
  if (number >= 99.95 || Number.isInteger(number)) return Math.round(number).toLocaleString("en");
  return number >= 9.995 ? number.toFixed(1) : number.toFixed(2);
}

const count = value => none(value) ? "–" : Math.round(value).toLocaleString("en");

function rate(value) {
  if (none(value)) return "–";
  return value >= 99.95 ? count(value) : value ? value.toFixed(value < 9.995 ? 2 : 1) : "0";
}

function bytes(value) {
  if (none(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (value >= 1023.5 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return unit ? `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}` : `${Math.round(value)} B`;
}

const routeName = name => name === "-" ? "no route" : name;

// Elements.

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setClass(node, name) {
  if (node.className !== name) node.className = name;
}

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Make a table's rows those of `items`, in their order: kept by their key, made by `make`, filled by `fill`. */
function rows(body, items, key, make, fill) {
  const old = new Map(Array.from(body.rows, row => [row.key, row]));
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const at = focused === null ? 0 : focused.closest("tr").sectionRowIndex;
  let place = body.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let row = old.get(name);
    if (row === undefined) {
      row = make(item);
      row.key = name;
    } else {
      old.delete(name);
    }
    fill(row, item);
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const row of old.values()) row.remove();
  // A row that was moved has lost the focus that was in it; of one that is gone, the row that took its place has it.
  if (focused === null || document.activeElement === focused) return;
  const next = body.rows[Math.min(at, body.rows.length - 1)];
  const heir = focused.isConnected ? focused : next && next.querySelector("button") || body.closest(".scroll");
  heir.focus({ preventScroll: true });
}

/** A row of cells of these classes; the first one is the row's header. */
function cells(classes) {
  const row = element("tr");
  classes.forEach((name, number) => {
    const cell = element(number ? "td" : "th", name);
    if (!number) cell.scope = "row";
    row.append(cell);
  });
  return row;
}

/** Two lines in a cell, the second one of less weight. */
function lines(cell, ...texts) {
  if (!cell.firstElementChild) cell.append(element("div"), element("div"));
  texts.forEach((text, number) => {
    const line = cell.children[number];
    setText(line, text);
    if (line.title !== text) line.title = text;
  });
}

function requestCell(cell, item) {
  lines(cell, `${item.method} ${item.path}`, [item.id, item.endpoint].filter(Boolean).join(" → "));
}

/** The model of a stream that is understood, and what it has said: when its first event came, and its tokens. */
function modelCell(cell, item) {
  const said = [];
  if (!none(item.first_event_ms)) said.push(`first event ${milliseconds(item.first_event_ms)}`);
  if (!none(item.input_tokens)) said.push(`${count(item.input_tokens)} in`);
  if (!none(item.output_tokens)) said.push(`${count(item.output_tokens)} out`);
  if (!none(item.tokens_per_s)) said.push(`${rate(item.tokens_per_s)} tokens/s`);
  lines(cell, item.model || "–", said.join(", "));
}

// The streams.

function streamRow(item) {
  const row = cells(["", "request", "less", "less", "least", "number", "number", "number", "number", "number", ""]);
  const spark = document.createElementNS(SVG, "svg");
  spark.setAttribute("viewBox", `0 0 ${HISTORY - 1} 20`);
  spark.setAttribute("preserveAspectRatio", "none");
  spark.setAttribute("aria-hidden", "true");
  spark.setAttribute("class", "spark");
  spark.append(document.createElementNS(SVG, "polyline"));
  const holder = element("div", "rate");
  holder.append(spark, element("span"));
  row.cells[9].append(holder);
  const button = element("button", "", "Stop");
  button.type = "button";
  button.setAttribute("aria-label", `Stop ${item.method} ${item.path} of ${item.client || "unknown"}, ${item.id}`);
  button.addEventListener("click", () => ask(row.item));
  row.cells[10].append(button);
  return row;
}

function fillStream(row, item) {
  row.item = item;
  const cell = row.cells;
  setText(cell[0], routeName(item.route));
  requestCell(cell[1], item);
  modelCell(cell[2], item);
  lines(cell[3], item.client || "–", item.principal || "");
  lines(cell[4], item.error ? `${item.phase}, ${words(item.error)}` : item.phase, item.draining ? "draining" : "");
  setText(cell[5], age(item.duration_ms / 1000));
  setText(cell[6], milliseconds(item.ttfb_ms));
  setText(cell[7], bytes(item.response_bytes));
  setText(cell[8], count(item.events));
  setText(cell[9].querySelector("span"), rate(item.rate));
  draw(cell[9].querySelector("polyline"), histories.get(item.id) || []);
}

function draw(line, history) {
  const most = Math.max(...history, 0.001);
  const start = HISTORY - history.length;
  const points = history.map((value, number) => `${start + number},${(18.5 - 17 * value / most).toFixed(1)}`).join(" ");
  if (line.getAttribute("points") !== points) line.setAttribute("points", points);
}

function remember(streams) {
  const seen = new Set();
  for (const stream of streams) {
    const history = histories.get(stream.id) || [];
    history.push(stream.rate);
    if (history.length > HISTORY) history.shift();
    histories.set(stream.id, history);
    seen.add(stream.id);
  }
  for (const id of histories.keys()) if (!seen.has(id)) histories.delete(id);
}

function showStreams(update) {
  const streams = update.streams;
  rows(byId("stream-table").tBodies[0], streams, item => item.id, streamRow, fillStream);
  byId("no-streams").hidden = streams.length > 0;
  const order = { age: ["oldest", "newest"], bytes: ["largest", "smallest"], events: ["with the most events", "with the fewest events"], rate: ["fastest", "slowest"] };
  const which = order[wanted.sort][wanted.order === "desc" ? 0 : 1];
  setText(byId("shown"), streams.length < update.matching ? `the ${streams.length} ${which} of ${count(update.matching)}` : "");
}

// Routes, endpoints, ends.

function fillRoute(row, item) {
  const times = item[document.querySelector("[name=span]:checked").value];
  const texts = [routeName(item.route), item.upstream || "–", count(item.live), count(item.waiting), rate(item.requests_per_s),
    rate(item.events_per_s), none(item.bytes_per_s) ? "–" : bytes(item.bytes_per_s)];
  for (const name of ["ttfb", "chunk_gap", "stream_duration"]) {
    for (const quantile of ["p50", "p90", "p99"]) texts.push(duration(times[name] && times[name][quantile]));
  }
  texts.forEach((text, number) => setText(row.cells[number], text));
}

function routeRow() {
  const times = ["number first", "number", "number"];
  return cells(["", "less", "number", "number", "number", "number", "number", ...times, ...times, ...times]);
}

function showRoutes(update) {
  rows(byId("route-table").tBodies[0], update.routes, item => item.route, routeRow, fillRoute);
  const notes = [];
  if (update.hidden_routes) notes.push(`${count(update.hidden_routes)} more are not shown`);
  if (document.querySelector("[name=span]:checked").value === "window" && update.window < 55) {
    notes.push(`of the last minute ${age(update.window)} are known so far`);
  }
  setText(byId("routes-note"), notes.join("; "));
  const select = byId("route");
  const names = update.routes.map(item => item.route).filter(name => name !== "-").sort();
  if (wanted.route && !names.includes(wanted.route)) names.push(wanted.route);
  const have = Array.from(select.options, option => option.value).slice(1);
  if (names.join("\n") !== have.join("\n")) {
    select.replaceChildren(select.options[0], ...names.map(name => new Option(name, name)));
    select.value = wanted.route;
  }
}

// What an engine says of itself.
function engine(load) {
  const cache = load.cache === undefined ? "" : `, cache ${Math.round(load.cache * 100)} %`;
  return `${count(load.running)} running, ${count(load.waiting)} waiting${cache}`;
}

function showEndpoints(update) {
  const connections = new Map(update.upstreams.map(item => [item.upstream, item]));
  const make = () => cells(["", "", "", "number", "", ""]);
  rows(byId("endpoint-table").tBodies[0], update.endpoints, item => `${item.upstream}\n${item.endpoint}`, make, (row, item) => {
    const held = connections.get(item.upstream);
    setText(row.cells[0], item.upstream);
    setText(row.cells[1], item.endpoint);
    setText(row.cells[2], item.up ? "up" : "down");
    setClass(row.cells[2], item.up ? "good" : "bad");
    setText(row.cells[3], count(item.streams));
    setText(row.cells[4], held ? `${count(held.active)} active, ${count(held.idle)} idle` : "–");
    setText(row.cells[5], item.load ? engine(item.load) : "–");
  });
  setText(byId("endpoints-note"), update.hidden_endpoints ? `${count(update.hidden_endpoints)} more are not shown` : "");
}

const tone = end => end === "complete" ? "good" : end === "client_disconnect" || end === "cancelled" || end === "rejected" ? "warn" : "bad";
const words = name => name.replaceAll("_", " ");

function fillEnded(row, item) {
  setText(row.cells[0], routeName(item.route));
  requestCell(row.cells[1], item);
  modelCell(row.cells[2], item);
  lines(row.cells[3], item.client || "–", item.principal || "");
  const why = item.error && item.end !== "client_disconnect" ? `${words(item.error)}, ` : "";
  lines(row.cells[4], words(item.end), item.end === "complete" ? "" : `${why}in phase ${item.phase}`);
  setClass(row.cells[4].firstElementChild, tone(item.end));
  const texts = [String(item.status), milliseconds(item.ttfb_ms), milliseconds(item.duration_ms), bytes(item.response_bytes), count(item.events), age(item.ago)];
  texts.forEach((text, number) => setText(row.cells[number + 5], text));
}

function showEnded(update) {
  const items = byId("only-failed").checked ? update.ended.filter(item => item.end !== "complete") : update.ended;
  const make = () => cells(["", "request", "less", "less", "end", "number", "number", "number", "number", "number", "number"]);
  rows(byId("ended-table").tBodies[0], items.slice(0, 40), item => item.number, make, fillEnded);
  byId("no-ended").hidden = items.length > 0;
}

function showSums(update) {
  const sums = update.totals;
  setText(byId("sum-live"), count(sums.live));
  setText(byId("sum-active"), count(sums.active));
  setText(byId("sum-waiting"), count(sums.waiting));
  setText(byId("sum-requests"), rate(sums.requests_per_s));
  setText(byId("sum-events"), rate(sums.events_per_s));
  setText(byId("sum-bytes"), bytes(sums.bytes_per_s));
  setText(byId("version"), update.version);
  const ends = Object.entries(update.ends).sort((a, b) => b[1] - a[1]);
  const text = ends.map(([end, number]) => `${words(end)} ${count(number)}`).join("\n");
  const holder = byId("sum-ends");
  if (holder.said === text) return;
  holder.said = text;
  holder.replaceChildren(...(ends.length ? ends.map(([end, number]) => {
    const item = element("span", "", `${words(end)} `);
    item.append(element("b", tone(end), count(number)));
    return item;
  }) : ["none yet"]));
}

function showState() {
  const lost = performance.now() - heard > PATIENCE;
  const is = locked ? "locked" : latest === null ? "connecting" : paused ? "paused" : lost ? "lost" : latest.ready ? "ready" : "waiting";
  const texts = { locked: "a token is needed", connecting: lost && heard ? "no connection" : "connecting", paused: "paused", lost: "connection lost, trying again", ready: "ready" };
  if (byId("state").dataset.is !== is) byId("state").dataset.is = is;
  setText(byId("state-text"), is === "waiting" ? `not ready: ${latest.reasons.join("; ")}` : texts[is]);
}

function showTrouble(update) {
  const text = update.reload.length ? `The configuration was not reloaded:\n${update.reload.join("\n")}` : "";
  setText(byId("trouble"), text);
  byId("trouble").hidden = !text;
}

function show(update) {
  for (const part of [showState, showTrouble, showSums, showStreams, showRoutes, showEndpoints, showEnded]) part(update);
}

// What the operator does.

const request = (url, options) => fetch(url, { ...options, cache: "no-store", headers: token === null ? {} : { authorization: `Bearer ${token}` } });

function connect() {
  if (source !== null) source.abort();
  const query = new URLSearchParams({ sort: wanted.sort, order: wanted.order });
  if (wanted.route) query.set("route", wanted.route);
  source = new AbortController();
  follow(`streams/live?${query}`, source);
}

/** Show the updates of a stream. The proxy ends it now and then, to be asked again. */
async function follow(url, mine) {
  let wait = REFUSED;
  try {
    const response = await request(url, { signal: mine.signal });
    if (mine !== source) return;
    if (response.status === 401) return askForToken();
    locked = false;
    if (response.ok) {
      wait = AGAIN;
      for await (const data of events(response.body)) {
        if (mine !== source || paused) return;
        heard = performance.now();
        latest = JSON.parse(data);
        remember(latest.streams);
        show(latest);
      }
    }
  } catch (error) {
    // There is no connection, or another stream has taken the place of this one.
  }
  if (mine === source && !paused) setTimeout(() => mine === source && !paused && connect(), wait);
}

/** The data of each event of a body; an event of the proxy has one line of data. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

function askForToken() {
  const dialog = byId("unlock");
  locked = true;
  showState();
  setText(byId("unlock-why"), token === null ? "The proxy asks for the token of its admin listener." : "That is not the token of the admin listener.");
  byId("unlock-token").value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
}

function unlock() {
  store(byId("unlock-token").value);
  byId("unlock-token").value = "";
  heard = performance.now();
  connect();
}

function pause() {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  if (paused) source.abort();
  else { heard = performance.now(); connect(); }
  showState();
}

function sort(by) {
  wanted.order = wanted.sort === by && wanted.order === "desc" ? "asc" : "desc";
  wanted.sort = by;
  markSort();
  connect();
}

function markSort() {
  for (const button of document.querySelectorAll("[data-sort]")) {
    const header = button.closest("th");
    if (button.dataset.sort === wanted.sort) header.setAttribute("aria-sort", wanted.order === "desc" ? "descending" : "ascending");
    else header.removeAttribute("aria-sort");
  }
}

function ask(item) {
  const dialog = byId("stop");
  dialog.item = item;
  setText(byId("stop-what"), `${item.method} ${item.path}\nof ${item.client || "unknown"}, running for ${age(item.duration_ms / 1000)}, ${bytes(item.response_bytes)} so far\n${item.id}`);
  dialog.returnValue = "";
  dialog.showModal();
}

async function stop(item) {
  let said = `${item.method} ${item.path} was stopped`;
  try {
    const response = await request(`streams/${encodeURIComponent(item.id)}`, { method: "DELETE" });
    if (response.status === 401) askForToken();
    if (response.status === 404) said = "The stream had ended already";
    else if (!response.ok) said = `The stream was not stopped: status ${response.status}`;
  } catch (error) {
    said = "The stream was not stopped: no connection";
  }
  say(said);
}

function say(text) {
  setText(byId("said"), text);
  clearTimeout(saying);
  saying = setTimeout(() => setText(byId("said"), ""), 8000);
}

byId("pause").addEventListener("click", pause);
byId("unlock").addEventListener("close", () => byId("unlock").returnValue === "unlock" && unlock());
byId("route").addEventListener("change", () => { wanted.route = byId("route").value; connect(); });
byId("stop").addEventListener("close", () => {
  if (byId("stop").returnValue === "stop") stop(byId("stop").item);
  // The button that asked may be gone with its stream; the focus is then still in here, or nowhere.
  const focused = document.activeElement;
  if (focused === document.body || byId("stop").contains(focused)) byId("stream-table").closest(".scroll").focus({ preventScroll: true });
});
for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => sort(button.dataset.sort));
for (const input of document.querySelectorAll("[name=span]")) input.addEventListener("change", () => latest && showRoutes(latest));
byId("only-failed").addEventListener("change", () => latest && showEnded(latest));
setInterval(showState, 1000);
heard = performance.now();
markSort();
connect();
