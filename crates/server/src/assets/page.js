"use strict";

// Everything that comes from the network is put in place as text, never as markup.
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

/** Makes an element with a class, children or text. */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** Makes an SVG element. */
function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const number = (rtt) => (rtt === 0 ? "0" : rtt.toFixed(rtt < 1 ? 3 : rtt < 10 ? 2 : 1));
const milliseconds = (rtt) => `${number(rtt)} ms`;

/** What is known of the present trace. */
let trace = null;
let abort = null;

/** Nothing of an earlier target stays. */
function clear() {
  for (const id of ["document", "summary", "end", "warnings", "paths-summary", "paths-notes", "graph"]) at(id).textContent = "";
  for (const id of ["results", "end", "paths", "node-info", "raw"]) at(id).hidden = true;
}

function begin(probes) {
  // Per TTL, by run: who answered, when, and what is known besides.
  trace = { hops: new Map(), lost: new Map(), e2e: [], probes, last: Infinity };
  clear();
  at("results").hidden = false;
  schedule();
}

function hop(ttl, run, address, rtt, destination, names = [], notes = []) {
  if (!trace.hops.has(ttl)) trace.hops.set(ttl, new Map());
  const runs = trace.hops.get(ttl);
  runs.set(run, { address, rtt, destination, names, notes });
  if (destination) trace.last = Math.min(trace.last, ttl);
}

/** Takes over the final document, which is right where events were provisional. */
function finish(report) {
  trace.hops.clear();
  trace.last = Infinity;
  report.traceroute.runs.forEach((run, index) => {
    const details = report.details.runs[index];
    run.hops.forEach((h, place) => {
      const more = details.hops[place];
      if (!trace.hops.has(h.ttl)) trace.hops.set(h.ttl, new Map());
      count(h.ttl, more);
      const notes = [more.notation, more.nat && "NAT", more.mpls && "MPLS"].filter(Boolean);
      if (h.reachable) hop(h.ttl, index, h.ip_address, h.rtt, more.destination, h.reverse_dns, notes);
    });
  });
  trace.e2e = report.e2e_probe.rtts;
  trace.probes = trace.e2e.length;
  at("summary").textContent = summary(report.e2e_probe, report.details.e2e);
  at("end").textContent = ends(report);
  at("end").hidden = at("end").textContent === "";
  at("warnings").replaceChildren(...report.details.warnings.map(({ text }) => make("li", "", text)));
  showDocument(report);
}

function showDocument(result) {
  at("document").textContent = JSON.stringify(result, null, 2);
  at("raw").hidden = false;
}

/** Adds up what became of the probes with one TTL. */
function count(ttl, details) {
  const sum = trace.lost.get(ttl) ?? { attempts: 0, causes: {} };
  sum.attempts += details.attempts;
  for (const [cause, lost] of Object.entries(details.lost ?? {})) {
    sum.causes[cause] = (sum.causes[cause] ?? 0) + lost;
  }
  trace.lost.set(ttl, sum);
}

const WORDS = {
  network: "lost", rate_limited: "rate limited", silent: "silent", filtered: "filtered",
  local: "lost on the server", unknown: "unknown",
};

/** The share that the network lost, or in a word why else probes went unanswered. */
function loss(ttl) {
  const { attempts, causes } = trace.lost.get(ttl) ?? { attempts: 0, causes: {} };
  const real = (causes.network ?? 0) + (causes.unknown ?? 0);
  const all = Object.values(causes).reduce((sum, lost) => sum + lost, 0);
  if (real === 0 && all > 0) {
    const [main] = Object.entries(causes).sort((one, other) => other[1] - one[1]);
    return WORDS[main[0]] ?? main[0];
  }
  const counted = attempts - all + real;
  return counted > 0 ? `${(real / counted * 100).toFixed(1)} %` : "";
}

function summary(e2e, details) {
  if (e2e.packets_sent === 0) return "No end-to-end probes.";
  const causes = Object.entries(details.lost).map(([cause, lost]) => `${lost} ${WORDS[cause] ?? cause}`);
  let text = `${e2e.packets_received} of ${e2e.packets_sent} answered, ` +
    `${(e2e.packet_loss_percentage * 100).toFixed(1)} % not` + (causes.length ? ` (${causes.join(", ")})` : "");
  if (e2e.packets_received > 0) {
    text += `. RTT ${milliseconds(e2e.rtt.min)} to ${milliseconds(e2e.rtt.max)}, mean ` +
      `${milliseconds(e2e.rtt.avg)}, jitter ${milliseconds(e2e.jitter)}`;
  }
  return text;
}

/** Why paths end before their destination; nothing where they do not. */
function ends(report) {
  const reasons = report.details.runs.map(({ end, distance, hops }) => {
    if (distance === "unknown") return "The destination answers, but its distance is unknown";
    const answered = hops.filter((h) => h.ip_address).at(-1);
    if (end.reason === "destination") return "";
    if (end.reason === "refused") return `Destination not reached: ${answered?.notation ?? "refused"} from ${end.from ?? "a private hop"}`;
    if (answered && answered === hops.at(-1)) return `Destination not reached: it is beyond TTL ${answered.ttl}`;
    return `Destination not reached: no answer ${answered ? `after TTL ${answered.ttl}` : "at any TTL"}`;
  });
  return [...new Set(reasons.filter(Boolean))].join(". ");
}

let scheduled = false;
/** Draws once per frame, however many events there are. */
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    drawPath();
    drawPlot();
  });
}

function drawPath() {
  const ttls = [...trace.hops.keys()].filter((ttl) => ttl <= trace.last);
  const answered = ttls.filter((ttl) => trace.hops.get(ttl).size > 0);
  const [first, highest, final] = [Math.min(...ttls), Math.max(0, ...ttls), Math.max(0, ...answered)];
  const all = ttls.flatMap((ttl) => [...trace.hops.get(ttl).values()].map((h) => h.rtt));
  const longest = Math.max(...all, 0.001);
  drawScale(longest);
  const rows = [];
  for (let ttl = first; ttl <= Math.min(highest, final); ttl++) rows.push(...drawHop(ttl, longest));
  // Silence at the end is one row.
  if (highest > final) {
    const from = Math.max(final + 1, first);
    rows.push(row(" silent", [cell("ttl", from < highest ? `${from}–${highest}` : from), cell("who", "no answer"), cell("loss", loss(from)), cell("rtt", ""), cell("meter", "")]));
  }
  at("hops").replaceChildren(...rows);
}

const cell = (className, ...children) => make("td", className, ...children);
const row = (state, cells) => make("tr", "hop" + state, ...cells);

/** A row for each address at a TTL, with its own round-trip times. */
function drawHop(ttl, longest) {
  const hosts = new Map();
  for (const found of (trace.hops.get(ttl) ?? new Map()).values()) {
    if (!hosts.has(found.address)) hosts.set(found.address, { ...found, rtts: [], notes: new Set() });
    const host = hosts.get(found.address);
    // 0: somebody answered, but to which probe is not known.
    if (found.rtt > 0) host.rtts.push(found.rtt);
    found.notes.forEach((note) => host.notes.add(note));
  }
  if (hosts.size === 0) {
    return [row(" silent", [cell("ttl", ttl), cell("who", "no answer"), cell("loss", loss(ttl)), cell("rtt", ""), cell("meter", "")])];
  }
  return [...hosts].map(([address, host], index) => {
    const who = cell("who", make("span", "address", address));
    for (const note of host.notes) who.append(" ", make("span", "note", note));
    if (host.names.length) who.append(make("div", "names", host.names.join(", ")));
    const [least, most] = [Math.min(...host.rtts), Math.max(...host.rtts)].map(number);
    const times = host.rtts.length > 3 ? `${least} to ${most}` : host.rtts.map(number).join(", ");
    return row(host.destination ? " destination" : "", [
      cell("ttl", index === 0 ? ttl : ""), who, cell("loss", index === 0 ? loss(ttl) : ""),
      cell("rtt", times || "not known"), cell("meter", drawMeter(host.rtts, longest)),
    ]);
  });
}

const METER = { class: "meter", viewBox: "0 0 200 16", "aria-hidden": "true" };

/** From the shortest to the longest time, on the scale above. */
function drawMeter(rtts, longest) {
  const meter = draw("svg", METER);
  if (rtts.length === 0) return meter;
  const at = (rtt) => rtt / longest * 198;
  const [least, most] = [at(Math.min(...rtts)), at(Math.max(...rtts))];
  meter.append(draw("rect", { class: "bar", x: 0, y: 5, height: 6, width: least }));
  meter.append(draw("rect", { class: "spread", x: least, y: 3, height: 10, width: Math.max(2, most - least) }));
  return meter;
}

function drawScale(longest) {
  const scale = at("scale");
  scale.setAttribute("viewBox", METER.viewBox);
  scale.replaceChildren(draw("text", { x: 0, y: 12 }, "0"),
    draw("text", { x: 100, y: 12, "text-anchor": "middle" }, milliseconds(longest / 2)),
    draw("text", { x: 200, y: 12, "text-anchor": "end" }, milliseconds(longest)));
}

function drawPlot() {
  const width = 900, height = 200, left = 58, bottom = 22, top = 10;
  const count = Math.max(trace.probes, 1);
  const known = trace.e2e.filter((rtt) => rtt > 0);
  at("plot").hidden = known.length === 0;
  const most = Math.max(...known, 0.01) * 1.15;
  const x = (index) => left + (width - left - 10) * (count === 1 ? 0.5 : index / (count - 1));
  const y = (rtt) => top + (height - top - bottom) * (1 - rtt / most);
  const plot = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Round-trip time of each end-to-end probe" });
  for (let step = 0; step <= 4; step++) {
    const rtt = most * step / 4;
    plot.append(draw("line", { class: "axis", x1: left, x2: width - 10, y1: y(rtt), y2: y(rtt) }));
    plot.append(draw("text", { x: left - 6, y: y(rtt) + 4, "text-anchor": "end" }, milliseconds(rtt)));
  }
  plot.append(draw("text", { x: left, y: height - 5 }, "probe 1"));
  if (count > 1) plot.append(draw("text", { x: width - 10, y: height - 5, "text-anchor": "end" }, `probe ${count}`));
  let line = "";
  const marks = [];
  for (let index = 0; index < count; index++) {
    const rtt = trace.e2e[index];
    if (rtt === undefined) { line += " "; continue; }
    if (rtt > 0) {
      line += `${/\S$/.test(line) ? "L" : "M"}${x(index).toFixed(1)},${y(rtt).toFixed(1)}`;
      marks.push(draw("circle", { class: "dot", cx: x(index), cy: y(rtt), r: 3 }));
    } else {
      line += " ";
      marks.push(draw("line", { class: "lost", x1: x(index), x2: x(index), y1: y(0) - 12, y2: y(0) }));
    }
  }
  plot.append(draw("path", { class: "curve", d: line.trim() || "M0,0" }), ...marks);
  at("plot").replaceChildren(plot);
}

function status(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

const isPaths = () => at("mode").value === "paths";

/** What only one of the two has is not there for the other. */
function choose() {
  at("runs-label").hidden = isPaths();
  at("confidence-label").hidden = !isPaths();
  at("sack").disabled = isPaths();
  if (isPaths() && at("protocol").value === "sack") at("protocol").value = "tcp";
}

function query() {
  const protocol = at("protocol").value;
  const own = isPaths() ? { confidence: at("confidence").value } : {
    "tcp-method": protocol === "sack" ? "sack" : "syn",
    "traceroute-queries": at("runs").value,
  };
  const parameters = new URLSearchParams({
    target: at("target").value.trim(),
    protocol: protocol === "sack" ? "tcp" : protocol,
    port: at("port").value,
    ...own,
    "e2e-queries": at("probes").value,
    "reverse-dns": at("names").checked,
    ipv6: at("ipv6").checked,
  });
  return parameters;
}

/** The same as an address of this page. */
const pageAddress = () => (isPaths() ? "?mode=paths&" : "?") + query();

/** Fills in the form as an address of this page says. What it does not say has its default. */
function fill(parameters) {
  const value = (name) => parameters.get(name);
  at("target").value = value("target") ?? "";
  at("mode").value = value("mode") === "paths" ? "paths" : "trace";
  const protocol = (value("protocol") ?? "").toLowerCase();
  at("protocol").value = protocol === "tcp" && value("tcp-method") === "sack" ? "sack" : protocol;
  if (at("protocol").selectedIndex < 0) at("protocol").value = "udp";
  for (const [id, name] of [["port", "port"], ["runs", "traceroute-queries"], ["probes", "e2e-queries"], ["confidence", "confidence"]]) {
    at(id).value = value(name) ?? "";
    if (at(id).value === "") at(id).value = id === "probes" && isPaths() ? 0 : at(id).defaultValue;
  }
  for (const [id, name] of [["names", "reverse-dns"], ["ipv6", "ipv6"]]) at(id).checked = value(name) === "true";
  choose();
}

/** What was traced in this tab, the latest first. */
const past = JSON.parse(sessionStorage.getItem("past") ?? "[]");

function remember(result) {
  const address = pageAddress();
  const known = past.findIndex((entry) => entry.address === address);
  if (known >= 0) past.splice(known, 1);
  past.unshift({ address, text: `${at("target").value.trim()}, ${at("protocol").selectedOptions[0].text}: ${result}` });
  past.length = Math.min(past.length, 20);
  sessionStorage.setItem("past", JSON.stringify(past));
  listPast();
}

function listPast() {
  at("past").hidden = past.length === 0;
  at("history").replaceChildren(...past.map(({ address, text }) => {
    const link = make("a", "", text);
    link.href = address;
    link.addEventListener("click", (event) => {
      event.preventDefault();
      fill(new URLSearchParams(address));
      run();
    });
    return make("li", "", link);
  }));
}

/** Yields the events of a response as {name, data}. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = { name: "message", data: "" };
      for (const line of text.slice(0, end).split("\n")) {
        if (line.startsWith("event: ")) event.name = line.slice(7);
        if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      text = text.slice(end + 2);
      if (event.data) yield event;
    }
  }
}

/** Shows one event; true when it was the last. */
function show({ name, data }) {
  const event = JSON.parse(data);
  switch (name) {
    case "hop":
      hop(event.ttl, event.run, event.ip_address, event.rtt, event.destination);
      break;
    case "e2e":
      trace.e2e[event.index] = event.rtt;
      break;
    case "report":
      finish(event);
      status("Done.");
      remember(at("end").textContent || `${event.traceroute.hop_count.max} hops`);
      break;
    case "error":
      status(event.message, true);
      remember(event.message);
      break;
  }
  schedule();
  return name === "report" || name === "error";
}

async function run() {
  abort?.abort();
  const mine = abort = new AbortController();
  clear();
  const paths = isPaths();
  const address = pageAddress();
  // So that the address of the page is this trace's.
  if (location.search !== address) history.pushState(null, "", address);
  at("start").disabled = true;
  at("stop").disabled = false;
  status(paths ? "Looking for paths…" : "Tracing…");
  try {
    const headers = { accept: "text/event-stream, application/json;q=0.9" };
    if (at("token").value) headers.authorization = `Bearer ${at("token").value}`;
    const response = await fetch(paths ? `/paths/stream?${query()}` : `/traceroute/stream?${query()}&details=true`, { headers, signal: mine.signal });
    if (!response.ok) {
      if (response.status === 401) at("token-label").hidden = false;
      const error = await response.json().catch(() => ({ message: `HTTP status ${response.status}` }));
      status(error.message, true);
      return;
    }
    if (paths) beginPaths();
    else begin(Number(at("probes").value));
    let ended = false;
    for await (const event of events(response)) ended = paths ? showPaths(event) : show(event);
    if (!ended) status("The connection was closed before the end.", true);
  } catch (error) {
    if (abort !== mine) return;
    if (error.name === "AbortError") status("Stopped.");
    else status(`The server does not answer: ${error.message}`, true);
  } finally {
    // Unless another one has begun.
    if (abort === mine) {
      at("start").disabled = false;
      at("stop").disabled = true;
    }
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("mode").addEventListener("change", () => {
  choose();
  // Each has its usual number of probes.
  at("probes").value = isPaths() ? 0 : 20;
});
at("stop").addEventListener("click", () => abort?.abort());
at("protocol").addEventListener("change", () => {
  const usual = { udp: "33434", icmp: "33434", tcp: "443", sack: "443" };
  at("port").value = usual[at("protocol").value];
});
// Back and forward: the form of that address, and no result of another one.
addEventListener("popstate", () => {
  abort?.abort();
  abort = null;
  at("start").disabled = false;
  at("stop").disabled = true;
  clear();
  fill(new URLSearchParams(location.search));
  status(location.search ? FILLED_IN : "");
});

const FILLED_IN = "Filled in from the address; press Trace.";

listPast();
if (location.search) {
  fill(new URLSearchParams(location.search));
  // Another site may lead here, but makes nobody trace.
  if (document.documentElement.dataset.openedBy === "user" && at("target").value) run();
  else status(FILLED_IN);
}
