"use strict";
// Traces contain input from anywhere, so everything that is shown is set as text, never as HTML.

const byId = (id) => document.getElementById(id);
const PAGE = 200;
const state = {
  traces: [], selected: null, limit: PAGE,   // the list, and the id that is selected in it
  open: null, rows: [], span: null,          // the open trace, its visible rows, its selected span
  folded: new Set(), shown: null,            // collapsed spans; the span whose contents are shown
};

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = String(text);
  return element;
}

async function ask(path) {
  const response = await fetch(path);
  if (response.status === 404) return null;
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

function duration(ms) {
  if (ms < 0.9995) return `${Math.max(0, Math.round(ms * 1000))} µs`;
  if (ms < 999.5) return `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
  if (ms < 59950) return `${(ms / 1000).toFixed(ms < 9995 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${String(seconds % 60).padStart(2, "0")}s`;
  return `${Math.floor(seconds / 3600)}h ${String(Math.floor(seconds / 60) % 60).padStart(2, "0")}m`;
}

function clock(ms) {
  const then = new Date(ms);
  const isToday = then.toDateString() === new Date().toDateString();
  const time = then.toLocaleTimeString([], { hourCycle: "h23" });
  return isToday ? time : `${then.toLocaleDateString()} ${time}`;
}

function short(count) { return count < 1000 ? String(count) : count < 1e6 ? `${(count / 1000).toFixed(1)}k` : `${(count / 1e6).toFixed(1)}M`; }
function money(cost) { return `$${cost < 0.01 ? cost.toPrecision(2) : cost.toFixed(2)}`; }
function plural(count, what) { return `${count} ${what}${count === 1 ? "" : "s"}`; }
function tokens(into, out) { return `${into ?? 0} → ${out ?? 0} tokens`; }

// ---- the list -------------------------------------------------------------------------------

let listing = null, isListStale = false;
function loadTraces() {
  isListStale = true;
  listing ??= (async () => {
    try {
      while (isListStale) { isListStale = false; await readTraces(); }
    } finally { listing = null; }
  })();
  return listing;
}

async function readTraces() {
  const query = new URLSearchParams({ limit: state.limit, search: byId("search").value, tenant: byId("tenant").value });
  if (byId("errors").checked) query.set("errors", "1");
  const found = await ask(`/api/traces?${query}`);
  state.traces = found.traces;
  if (state.selected === null && found.traces.length) state.selected = found.traces[0].id;
  showTenants(found.tenants);
  showTraces();
  byId("more").hidden = !found.more;
  showWelcome(found.tenants.length === 0 && found.traces.length === 0);
}

function showTenants(tenants) {
  const select = byId("tenant"), chosen = select.value;
  const options = [new Option("all tenants", "")];
  for (const tenant of tenants) options.push(new Option(`${tenant.id} (${tenant.traces})`, tenant.id));
  if (chosen && !tenants.some((tenant) => tenant.id === chosen)) options.push(new Option(chosen, chosen));
  select.replaceChildren(...options);
  select.value = chosen;
}

function traceItem(trace) {
  const item = make("div", "item");
  item.id = `t-${trace.id}`;
  item.dataset.id = trace.id;
  item.setAttribute("role", "option");
  const top = make("div", "top"), sub = make("div", "sub"), { text, style } = verdict(trace);
  const name = make("span", "name", trace.name || "(no name)");
  name.title = trace.name || "";
  top.append(name, make("span", `num small ${style}`, text), make("span", "num soft", duration(trace.end - trace.start)));
  const session = make("span", "grow", sessionOf(trace));
  session.title = trace.session_id || "";
  sub.append(make("span", "tenant", trace.tenant || "no tenant"), session);
  if (trace.generations) sub.append(make("span", "num", `${short((trace.tokens_in ?? 0) + (trace.tokens_out ?? 0))} tokens`));
  sub.append(make("span", "num", clock(trace.start)));
  item.append(top, sub);
  return item;
}

// Sessions default to workflow IDs, which begin with the tenant; the tenant is shown beside them.
function sessionOf(trace) {
  const prefix = `${trace.tenant}:`, session = trace.session_id || "";
  return session.startsWith(prefix) ? session.slice(prefix.length) : session;
}

function verdict(trace) {
  if (!trace.has_root) return { text: "incomplete", style: "open" };
  if (trace.level === "ERROR") return { text: "failed", style: "bad" };
  if (trace.level === "WARNING") return { text: "stopped", style: "warn" };
  if (trace.errors) return { text: plural(trace.errors, "error"), style: "warn" };
  return { text: plural(trace.spans, "span"), style: "" };
}

function showTraces() {
  const list = byId("traces");
  list.replaceChildren(...state.traces.map(traceItem));
  const none = byId("none");
  none.hidden = state.traces.length > 0;
  const isFiltered = byId("search").value || byId("tenant").value || byId("errors").checked;
  none.textContent = isFiltered ? "No traces match." : "No traces yet.";
  markTrace();
}

function markTrace() {
  const list = byId("traces");
  for (const item of list.children) item.setAttribute("aria-selected", String(item.dataset.id === state.selected));
  const id = state.selected === null ? null : `t-${state.selected}`;
  if (id && byId(id)) list.setAttribute("aria-activedescendant", id);
  else list.removeAttribute("aria-activedescendant");
}

function moveInList(step) {
  const at = state.traces.findIndex((trace) => trace.id === state.selected);
  const to = Math.max(0, Math.min(state.traces.length - 1, at + step));
  if (!state.traces[to]) return;
  state.selected = state.traces[to].id;
  markTrace();
  byId(`t-${state.selected}`).scrollIntoView({ block: "nearest" });
}

function showWelcome(isEmpty) {
  const welcome = byId("welcome");
  welcome.hidden = state.open !== null;
  welcome.replaceChildren(make("h2", "", isEmpty ? "Waiting for the first trace" : "Select a trace"));
  const words = isEmpty
    ? "Start a workflow to see its spans here while it runs. The traces stay on this machine."
    : "Each workflow is one trace, with its activities, child workflows and later runs.";
  welcome.append(make("p", "", words));
  if (isEmpty) {
    const how = make("p", "", "To send traces here, set LANGFUSE_BASE_URL=");
    how.append(make("code", "", location.origin));
    welcome.append(how);
  }
}

// ---- one trace ------------------------------------------------------------------------------

let opening = 0;
async function openTrace(id, { push = true, focus = true, span = null } = {}) {
  if (state.open === null || state.open.trace.id !== id) {
    state.folded = new Set();
    state.span = span;
    state.shown = null;
    byId("span").replaceChildren();
  }
  state.selected = id;
  markTrace();
  if (push && location.pathname !== `/trace/${id}`) history.pushState(null, "", `/trace/${id}`);
  await loadTrace(id);
  if (focus && state.open) byId("tree").focus();
}

async function loadTrace(id) {
  const turn = ++opening;
  const found = await ask(`/api/traces/${encodeURIComponent(id)}`);
  if (turn !== opening) return;
  document.body.classList.add("one");
  byId("welcome").hidden = found !== null;
  byId("trace").hidden = found === null;
  state.open = found;
  if (found === null) {
    byId("welcome").replaceChildren(make("h2", "", "Trace not found"), make("p", "", "It was deleted, or has not been received yet."));
    return;
  }
  found.roots = treeOf(found);
  if (!state.span || !found.nodes.has(state.span)) {
    const failed = [...found.nodes.values()].filter((node) => node.level === "ERROR").pop();
    state.span = (found.trace.level === "ERROR" && failed ? failed : found.roots[0]).key;
  }
  showHead();
  showTree();
}

// A span whose parent is missing gets a placeholder: the span of a workflow is sent when it ends.
function treeOf(found) {
  const nodes = new Map(), known = new Map();
  for (const span of found.spans) {
    const node = { ...span, key: `${span.span_id}-${span.start}`, children: [] };
    nodes.set(node.key, node);
    if (!known.has(span.span_id)) known.set(span.span_id, node);
  }
  const roots = [];
  for (const node of [...nodes.values()]) {
    if (!node.parent_id) { roots.push(node); continue; }
    let parent = known.get(node.parent_id);
    if (!parent && node.is_root) { roots.push(node); continue; }
    if (!parent) {
      parent = ghost(node);
      known.set(node.parent_id, parent);
      nodes.set(parent.key, parent);
      roots.push(parent);
    }
    if (parent.isGhost) { parent.start = Math.min(parent.start, node.start); parent.end = Math.max(parent.end, node.end); }
    parent.children.push(node);
  }
  const reached = new Set();
  const reach = (start) => {
    const waiting = [start];
    while (waiting.length) {
      const node = waiting.pop();
      if (reached.has(node)) continue;
      reached.add(node);
      node.children = node.children.filter((child) => !reached.has(child));
      waiting.push(...node.children);
    }
  };
  roots.forEach(reach);
  for (const node of nodes.values()) if (!reached.has(node)) { roots.push(node); reach(node); }
  found.nodes = nodes;
  return roots.sort((a, b) => a.start - b.start);
}

function ghost(child) {
  const name = child.workflow_type && child.type === "tool" ? `workflow:${child.workflow_type}` : "not received";
  return {
    key: `ghost-${child.parent_id}`, span_id: child.parent_id, parent_id: null, isGhost: true, name,
    type: "chain", level: "DEFAULT", start: child.start, end: child.end, children: [],
  };
}

function fact(facts, label, value, className) {
  if (value === null || value === undefined || value === "") return;
  const one = make("span", "", `${label} `);
  one.append(make("b", className, value));
  facts.append(one);
}

function showHead() {
  const { trace } = state.open, { text, style } = verdict(trace);
  const title = make("h2"), back = make("button", "", "←");
  back.id = "back";
  back.type = "button";
  back.setAttribute("aria-label", "Back to the list");
  back.addEventListener("click", leave);
  title.append(back, make("span", "", trace.name || "(no name)"));
  const facts = make("div", "facts");
  fact(facts, "tenant", trace.tenant || "none");
  fact(facts, "", trace.has_root && !style ? "completed" : text, style);
  fact(facts, "duration", duration(trace.end - trace.start));
  fact(facts, "start", clock(trace.start));
  fact(facts, "spans", trace.spans > state.open.spans.length ? `${state.open.spans.length} of ${trace.spans}` : trace.spans);
  if (trace.generations) {
    fact(facts, plural(trace.generations, "generation"), tokens(trace.tokens_in, trace.tokens_out));
    if (trace.cost) fact(facts, "cost", money(trace.cost));
  }
  fact(facts, "session", trace.session_id);
  fact(facts, "user", trace.user_id);
  fact(facts, "environment", trace.environment);
  fact(facts, "id", trace.id, "id");
  byId("head").replaceChildren(title, facts);
  document.title = `${trace.name || "trace"} · traces`;
}

function bounds() {
  let start = Infinity, end = -Infinity;
  for (const node of state.open.nodes.values()) {
    start = Math.min(start, node.start);
    end = Math.max(end, node.end);
  }
  return { start, whole: Math.max(end - start, 0.001) };
}

function visibleRows() {
  const rows = [], waiting = state.open.roots.map((node) => ({ node, depth: 1 })).reverse();
  while (waiting.length) {
    const row = waiting.pop();
    rows.push(row);
    if (state.folded.has(row.node.key)) continue;
    for (let i = row.node.children.length - 1; i >= 0; i--) waiting.push({ node: row.node.children[i], depth: row.depth + 1 });
  }
  return rows;
}

function showTree() {
  const { start, whole } = bounds();
  state.rows = visibleRows();
  const rows = state.rows.map((row) => treeRow(row, start, whole));
  if (state.open.trace.spans > state.open.spans.length) rows.push(make("p", "none", `Only the first ${state.open.spans.length} spans are shown.`));
  byId("tree").replaceChildren(...rows);
  const ticks = [0, 0.25, 0.5, 0.75].map((share) => {
    const tick = make("span", "", share ? duration(whole * share) : "0");
    tick.style.left = `${share * 100}%`;
    return tick;
  });
  byId("ticks").replaceChildren(...ticks);
  markSpan();
}

const KINDS = new Set(["chain", "tool", "generation", "span"]);
function treeRow({ node, depth }, start, whole) {
  const kind = node.type === "embedding" ? "generation" : KINDS.has(node.type) ? node.type : "other";
  const row = make("div", `row k-${kind} l-${node.level.toLowerCase()}`);
  if (node.isGhost) row.classList.add("ghost");
  row.id = `s-${node.key}`;
  row.dataset.key = node.key;
  row.setAttribute("role", "treeitem");
  row.setAttribute("aria-level", String(depth));
  if (node.children.length) row.setAttribute("aria-expanded", String(!state.folded.has(node.key)));
  const label = make("div", "label");
  label.style.paddingLeft = `${6 + Math.min(depth - 1, 20) * 14}px`;
  const fold = make("span", "fold", node.children.length ? (state.folded.has(node.key) ? "▶" : "▼") : "");
  fold.setAttribute("aria-hidden", "true");
  const text = make("span", "text", node.name || "(no name)");
  text.title = node.name;
  label.append(fold, make("span", "kind"), text);
  if (node.attempt > 1) label.append(make("span", "extra whole", `attempt ${node.attempt}`));
  const extra = extraOf(node);
  if (extra) label.append(make("span", "extra", extra));
  const lane = make("div", "lane"), bar = make("div", "bar");
  bar.style.left = `${Math.min(((node.start - start) / whole) * 100, 99.7)}%`;
  bar.style.width = `${((node.end - node.start) / whole) * 100}%`;
  bar.title = node.message || "";
  lane.append(bar);
  row.append(label, lane, make("div", "took num", node.isGhost ? "…" : duration(node.end - node.start)));
  return row;
}

function extraOf(node) {
  if (node.isGhost) return "still runs, or not sent";
  const words = [];
  if (node.model) words.push(node.model);
  if (node.tokens_in !== null && node.tokens_in !== undefined) words.push(tokens(node.tokens_in, node.tokens_out));
  return words.join(" · ");
}

function markSpan({ scroll = false } = {}) {
  const tree = byId("tree");
  for (const row of tree.children) if (row.dataset.key) row.setAttribute("aria-selected", String(row.dataset.key === state.span));
  const row = byId(`s-${state.span}`);
  if (row) {
    tree.setAttribute("aria-activedescendant", row.id);
    if (scroll) row.scrollIntoView({ block: "nearest" });
  } else tree.removeAttribute("aria-activedescendant");
  showSpan();
}

function select(key) { state.span = key; markSpan({ scroll: true }); }

function setFolded(key, isFolded) {
  if (isFolded) state.folded.add(key); else state.folded.delete(key);
  showTree();
}

// ---- one span -------------------------------------------------------------------------------

async function showSpan() {
  const node = state.open.nodes.get(state.span);
  if (!node || state.shown === node.key) return;
  const { id } = state.open.trace;
  state.shown = node.key;
  if (node.isGhost) {
    const words = "This span has not been received. A workflow sends its span when it ends; a terminated workflow sends none.";
    byId("span").replaceChildren(make("h3", "", node.name), make("p", "soft", words));
    return;
  }
  const found = await ask(`/api/traces/${encodeURIComponent(id)}/spans/${encodeURIComponent(node.span_id)}`);
  if (state.shown !== node.key || found === null) return;
  byId("span").replaceChildren(...spanParts(found));
  byId("span").scrollTop = 0;
}

function spanParts(span) {
  const facts = make("div", "facts");
  fact(facts, "", span.type);
  fact(facts, "", span.level === "DEFAULT" ? "" : span.level.toLowerCase(), span.level === "ERROR" ? "bad" : "warn");
  fact(facts, "duration", duration(span.end - span.start));
  fact(facts, "start", clock(span.start));
  fact(facts, "model", span.model);
  if (span.tokens_in !== null || span.tokens_out !== null) fact(facts, "", tokens(span.tokens_in, span.tokens_out));
  if (span.cost) fact(facts, "cost", money(span.cost));
  const parts = [make("h3", "", span.name || "(no name)"), facts];
  if (span.message) parts.push(...block(span.level === "ERROR" ? "Error" : "Message", span.message, span.level === "ERROR" ? "bad" : "warn"));
  if (span.input !== null) parts.push(...block("Input", span.input));
  if (span.output !== null) parts.push(...block("Output", span.output));
  if (span.events.length) parts.push(make("h4", "", "Events"), make("div", "", span.events.join(", ")));
  parts.push(...attributes(span));
  return parts;
}

function block(title, text, style) {
  const heading = make("h4", "", title), copy = make("button", "", "copy");
  copy.type = "button";
  copy.setAttribute("aria-label", `Copy ${title.toLowerCase()}`);
  copy.addEventListener("click", () => navigator.clipboard.writeText(text).then(() => { copy.textContent = "copied"; }));
  heading.append(copy);
  return [heading, make("pre", style, pretty(text))];
}

function pretty(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "string" ? value : JSON.stringify(value, null, 2);
  } catch { return text; }
}

function attributes(span) {
  const groups = new Map([["Metadata", []], ["Trace", []], ["Attributes", []]]);
  for (const [key, value] of Object.entries(span.attributes)) {
    const text = typeof value === "string" ? pretty(value) : JSON.stringify(value);
    if (key.startsWith("langfuse.observation.metadata.")) groups.get("Metadata").push([key.slice(30), text]);
    else if (key.startsWith("langfuse.trace.metadata.")) groups.get("Trace").push([key.slice(24), text]);
    else if (key === "langfuse.trace.tags") groups.get("Trace").push(["tags", value.join ? value.join(", ") : text]);
    else groups.get("Attributes").push([key.replace(/^langfuse\./, ""), text]);
  }
  groups.get("Attributes").push(["span id", span.span_id]);
  return [...groups].filter(([, rows]) => rows.length).flatMap(([title, rows]) => {
    const table = make("table");
    for (const [key, text] of rows.sort((a, b) => (a[0] < b[0] ? -1 : 1))) {
      const row = make("tr");
      row.append(make("td", "", key), make("td", "", text));
      table.append(row);
    }
    return [make("h4", "", title), table];
  });
}

// ---- keys, clicks and updates ------------------------------------------------------------------

function leave() {
  opening++;
  state.open = null;
  byId("trace").hidden = true;
  document.body.classList.remove("one");
  document.title = "Local traces";
  if (location.pathname !== "/") history.pushState(null, "", "/");
  showWelcome(state.traces.length === 0);
  byId("traces").focus();
}

const STEPS = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: 10, PageUp: -10, Home: -1e6, End: 1e6 };

function onListKey(event) {
  if (event.key in STEPS) moveInList(STEPS[event.key]);
  else if ((event.key === "Enter" || event.key === "ArrowRight") && state.selected) openTrace(state.selected);
  else return;
  event.preventDefault();
}

function onTreeKey(event) {
  if (!state.open) return;
  const at = state.rows.findIndex((row) => row.node.key === state.span);
  const node = at < 0 ? null : state.rows[at].node;
  if (event.key in STEPS) {
    const to = state.rows[Math.max(0, Math.min(state.rows.length - 1, at + STEPS[event.key]))];
    if (to) select(to.node.key);
  } else if (event.key === "ArrowRight" && node) {
    if (state.folded.has(node.key)) setFolded(node.key, false);
    else if (node.children.length) select(node.children[0].key);
  } else if (event.key === "ArrowLeft" && node) {
    if (node.children.length && !state.folded.has(node.key)) setFolded(node.key, true);
    else {
      const above = state.rows.slice(0, at).reverse().find((row) => row.depth < state.rows[at].depth);
      if (above) select(above.node.key); else leave();
    }
  } else if (event.key === "Enter") byId("span").focus();
  else return;
  event.preventDefault();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input[type=search], select");
  if (event.key === "Escape") {
    if (event.target === byId("search")) {
      if (byId("search").value) { byId("search").value = ""; refilter(); } else byId("traces").focus();
    } else if (event.target === byId("span")) byId("tree").focus();
    else if (state.open) leave();
    event.preventDefault();
  } else if (event.target === byId("search") && (event.key === "Enter" || event.key === "ArrowDown")) {
    byId("traces").focus();
    event.preventDefault();
  } else if (!isTyping && event.key === "/") {
    byId("search").focus();
    byId("search").select();
    event.preventDefault();
  } else if (!isTyping && event.key === "e") {
    byId("errors").checked = !byId("errors").checked;
    refilter();
  }
}

function refilter() {
  state.limit = PAGE;
  loadTraces().then(() => {
    if (!state.open && state.traces.length && !state.traces.some((trace) => trace.id === state.selected)) {
      state.selected = state.traces[0].id;
      markTrace();
    }
  });
}

function later(what, ms) {
  let timer = null;
  return () => { clearTimeout(timer); timer = setTimeout(what, ms); };
}

function listen() {
  const live = byId("live"), source = new EventSource("/api/changes");
  source.onopen = () => {
    live.textContent = "live";
    live.classList.add("on");
    loadTraces();
    if (state.open) loadTrace(state.open.trace.id);
  };
  source.onerror = () => { live.textContent = "not connected"; live.classList.remove("on"); };
  source.onmessage = (event) => {
    const changed = JSON.parse(event.data);
    live.classList.remove("new");
    void live.offsetWidth;
    live.classList.add("new");
    loadTraces();
    if (state.open && changed.includes(state.open.trace.id)) loadTrace(state.open.trace.id);
  };
}

function route() {
  const match = location.pathname.match(/^\/trace\/([^/]+)$/);
  if (match) openTrace(decodeURIComponent(match[1]), { push: false });
  else if (state.open) leave();
}

document.addEventListener("keydown", onKey);
byId("traces").addEventListener("keydown", onListKey);
byId("tree").addEventListener("keydown", onTreeKey);
byId("traces").addEventListener("click", (event) => {
  const item = event.target.closest(".item");
  if (item) openTrace(item.dataset.id, { focus: false });
});
byId("tree").addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (!row) return;
  select(row.dataset.key);
  if (event.target.closest(".fold") && row.hasAttribute("aria-expanded")) setFolded(row.dataset.key, !state.folded.has(row.dataset.key));
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("search").addEventListener("input", later(refilter, 150));
byId("tenant").addEventListener("change", refilter);
byId("errors").addEventListener("change", refilter);
byId("more").addEventListener("click", () => { state.limit += PAGE; loadTraces(); });
addEventListener("popstate", route);

byId("traces").focus();
loadTraces();
route();
listen();
