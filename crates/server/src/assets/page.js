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

const milliseconds = (rtt) => (rtt === 0 ? "0" : rtt.toFixed(rtt < 1 ? 3 : rtt < 10 ? 2 : 1)) + " ms";

/** What is known of the present trace. */
let trace = null;
let abort = null;

function begin(probes) {
  // Per TTL: addresses, each with its round-trip times, names and whether it is the destination.
  trace = { hops: new Map(), e2e: [], probes, last: Infinity };
  at("document").textContent = "";
  at("summary").textContent = "";
  at("results").hidden = false;
  schedule();
}

function hop(ttl, run, address, rtt, destination, names = []) {
  if (!trace.hops.has(ttl)) trace.hops.set(ttl, new Map());
  const runs = trace.hops.get(ttl);
  runs.set(run, { address, rtt, destination, names });
  if (destination) trace.last = Math.min(trace.last, ttl);
}

/** Takes over the final document, which is right where events were provisional. */
function finish(report) {
  trace.hops.clear();
  trace.last = Infinity;
  report.traceroute.runs.forEach((run, index) => {
    for (const h of run.hops) {
      if (!trace.hops.has(h.ttl)) trace.hops.set(h.ttl, new Map());
      const destination = h.ip_address !== "" && h.ip_address === run.destination.ip_address;
      if (h.reachable) hop(h.ttl, index, h.ip_address, h.rtt, destination, h.reverse_dns);
    }
  });
  trace.e2e = report.e2e_probe.rtts;
  trace.probes = trace.e2e.length;
  const e2e = report.e2e_probe;
  at("summary").textContent = e2e.packets_sent === 0 ? "No end-to-end probes." :
    `${e2e.packets_received} of ${e2e.packets_sent} answered, ` +
    `loss ${(e2e.packet_loss_percentage * 100).toFixed(1)} %, RTT ${milliseconds(e2e.rtt.min)} to ` +
    `${milliseconds(e2e.rtt.max)}, mean ${milliseconds(e2e.rtt.avg)}, jitter ${milliseconds(e2e.jitter)}`;
  at("document").textContent = JSON.stringify(report, null, 2);
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
  const highest = Math.max(0, ...ttls);
  const all = ttls.flatMap((ttl) => [...trace.hops.get(ttl).values()].map((h) => h.rtt));
  const longest = Math.max(...all, 0.001);
  const rows = [];
  for (let ttl = 1; ttl <= highest; ttl++) {
    const found = [...(trace.hops.get(ttl) ?? new Map()).values()];
    rows.push(drawHop(ttl, found, longest, ttl === highest));
  }
  at("path").replaceChildren(...rows);
  if (rows.length === 0) at("path").textContent = "Nobody has answered.";
}

function drawHop(ttl, found, longest, last) {
  // 0: somebody answered, but to which probe is not known.
  const times = found.map((h) => h.rtt).filter((rtt) => rtt > 0);
  const best = times.length ? Math.min(...times) : 0;
  const state = found.length === 0 ? " silent" : found.some((h) => h.destination) ? " destination" : "";
  const node = draw("svg", { viewBox: "0 0 24 32", height: 32, "aria-hidden": "true" });
  node.append(draw("line", { class: "edge", x1: 12, x2: 12, y1: 0, y2: last ? 16 : 32 }));
  node.append(draw("circle", { class: "node", cx: 12, cy: 16, r: 6 }));
  const who = make("span", "who");
  const addresses = new Map(found.map((h) => [h.address, h.names]));
  if (addresses.size === 0) who.append("no answer");
  for (const [address, names] of addresses) {
    who.append(make("div", "address", address));
    if (names.length) who.append(make("div", "names", names.join(", ")));
  }
  const meter = draw("svg", { class: "meter", viewBox: "0 0 100 10", height: 10, preserveAspectRatio: "none" });
  meter.append(draw("rect", { class: "bar", x: 0, y: 1, height: 8, width: times.length ? Math.max(1, best / longest * 100) : 0 }));
  const rtt = make("span", "rtt", times.length ? milliseconds(best) : "–");
  return make("div", "hop" + state, make("span", "ttl", String(ttl)), node, who, rtt, meter);
}

function drawPlot() {
  const width = 900, height = 200, left = 58, bottom = 22, top = 10;
  const count = Math.max(trace.probes, 1);
  const known = trace.e2e.filter((rtt) => rtt > 0);
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

function query() {
  const protocol = at("protocol").value;
  const parameters = new URLSearchParams({
    target: at("target").value.trim(),
    protocol: protocol === "sack" ? "tcp" : protocol,
    "tcp-method": protocol === "sack" ? "sack" : "syn",
    port: at("port").value,
    "traceroute-queries": at("runs").value,
    "e2e-queries": at("probes").value,
    "reverse-dns": at("names").checked,
    ipv6: at("ipv6").checked,
  });
  return parameters.toString();
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
      break;
    case "error":
      status(event.message, true);
      break;
  }
  schedule();
  return name === "report" || name === "error";
}

async function run() {
  abort = new AbortController();
  at("start").disabled = true;
  at("stop").disabled = false;
  status("Tracing…");
  try {
    const headers = { accept: "text/event-stream, application/json;q=0.9" };
    if (at("token").value) headers.authorization = `Bearer ${at("token").value}`;
    const response = await fetch(`/traceroute/stream?${query()}`, { headers, signal: abort.signal });
    if (!response.ok) {
      if (response.status === 401) at("token-label").hidden = false;
      const error = await response.json().catch(() => ({ message: `HTTP status ${response.status}` }));
      status(error.message, true);
      return;
    }
    begin(Number(at("probes").value));
    let ended = false;
    for await (const event of events(response)) ended = show(event);
    if (!ended) status("The connection was closed before the end.", true);
  } catch (error) {
    if (error.name === "AbortError") status("Stopped.");
    else status(`The server does not answer: ${error.message}`, true);
  } finally {
    at("start").disabled = false;
    at("stop").disabled = true;
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("stop").addEventListener("click", () => abort?.abort());
at("protocol").addEventListener("change", () => {
  const usual = { udp: "33434", icmp: "33434", tcp: "443", sack: "443" };
  at("port").value = usual[at("protocol").value];
});
