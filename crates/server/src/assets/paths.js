"use strict";

// All paths to a target: a row for each TTL, nodes beside each other, links between them.

/** The graph as far as it is known: nodes by TTL, links, and what the document says in the end. */
let graph = null;

const LAYER = 86, BOX = 40, GAP = 22, TTL_WIDTH = 46;
/** At both sides, for what is written beside the outermost links. */
const MARGIN = 24;
const SILENT = "";

function beginPaths() {
  graph = { layers: new Map(), links: new Map(), moved: new Set(), target: at("target").value.trim(), paths: null };
  clear();
  at("paths").hidden = false;
  schedulePaths();
}

function addNode(ttl, address, more = {}) {
  if (!graph.layers.has(ttl)) graph.layers.set(ttl, new Map());
  graph.layers.get(ttl).set(address, { ttl, address, names: [], ...more });
}

function addLink(ttl, from, to, more = {}) {
  graph.links.set(`${ttl} ${from} ${to}`, { ttl, from, to, ...more });
}

/** Takes over the document, which is right where events were provisional. */
function finishPaths(paths) {
  graph.layers.clear();
  graph.links.clear();
  graph.moved.clear();
  graph.paths = paths;
  for (const hop of paths.hops) {
    for (const node of hop.nodes) {
      const destination = node.ip_address !== SILENT && node.ip_address === paths.destination.ip_address;
      addNode(hop.ttl, node.ip_address, { names: node.reverse_dns, destination, measured: node, mixed: hop.balancing === "per_packet", hashed: hop.hashed });
    }
  }
  for (const link of paths.links) addLink(link.ttl, link.from, link.to, link);
  at("paths-summary").textContent = summarizePaths(paths);
  at("paths-notes").replaceChildren(...pathNotes(paths).map((text) => make("li", "", text)));
  showDocument(paths);
}

const percent = (share) => `${(share * 100).toFixed(1)} %`;
const atMost = (share) => (share < 0.001 ? "less than 0.1 %" : `at most ${percent(share)}`);
const called = (address) => (address === SILENT ? "a silent node" : address);

function summarizePaths(paths) {
  const [sent, received] = paths.flows.reduce(([s, r], { e2e }) => [s + e2e.sent, r + e2e.received], [0, 0]);
  const end = sent > 0 ? ` End to end: ${received} of ${sent} probes answered.` : "";
  const bound = paths.bound === null ? "" : ` Next hops of a node are incomplete with a probability of ${atMost(paths.bound.per_node)}, ` +
    `something anywhere with ${atMost(paths.bound.graph)}.`;
  return `${paths.flows.length} flows, ${paths.probes_sent} probes, ${(paths.duration_ms / 1000).toFixed(1)} s.${end}${bound}`;
}

const PATH_ENDS = {
  refused: (end) => `Destination not reached: refused from ${end.from}`,
  max_ttl: () => "Destination not reached: it is beyond the highest TTL",
  gap_limit: () => "Destination not reached: nobody answers any more",
  limit: () => "Ended early: no more probes or time",
};

/** What must be known to read the graph rightly. */
function pathNotes(paths) {
  const notes = paths.loss_begins.map((loss) =>
    `Loss begins between ${called(loss.from)} and ${called(loss.to)}: ${percent(loss.ratio)} (${percent(loss.low)} to ${percent(loss.high)}).`);
  if (paths.path_changed) notes.push("The path changed meanwhile: what is missing cannot be said.");
  const mixed = paths.hops.filter((hop) => hop.balancing === "per_packet").map((hop) => hop.ttl);
  if (mixed.length) notes.push(`Balanced per packet at TTL ${mixed.join(", ")}: links from there are not known.`);
  const end = PATH_ENDS[paths.end.reason];
  if (end) notes.push(end(paths.end) + ".");
  return notes;
}

let pathsScheduled = false;
function schedulePaths() {
  if (pathsScheduled) return;
  pathsScheduled = true;
  requestAnimationFrame(() => {
    pathsScheduled = false;
    if (graph) drawGraph();
  });
}

/** Nodes of a layer in the order of the middles of those before them, so that few links cross. */
function arrange(nodes, ttl, places) {
  const middle = (node) => {
    const before = [...graph.links.values()].filter((link) => link.ttl === ttl && link.to === node.address);
    const known = before.map((link) => places.get(`${ttl - 1} ${link.from}`)).filter(Boolean);
    return known.length ? known.reduce((sum, place) => sum + place.x, 0) / known.length : Infinity;
  };
  const middles = new Map(nodes.map((node) => [node, middle(node)]));
  return nodes.sort((one, other) => (middles.get(one) === middles.get(other) ? 0 : middles.get(one) - middles.get(other)));
}

function drawGraph() {
  const ttls = [...graph.layers.keys()].sort((one, other) => one - other);
  const first = ttls[0] ?? 1, last = ttls.at(-1) ?? 0;
  const source = { ttl: first - 1, address: graph.paths?.source.ip_address ?? "this server", names: [], source: true };
  const layers = [[source], ...Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => [...(graph.layers.get(first + index) ?? new Map()).values()])];
  const longest = Math.max(...layers.flat().map((node) => label(node).length));
  const box = Math.min(270, Math.max(110, 16 + longest * 6.8));
  const widest = Math.max(...layers.map((nodes) => nodes.length), 1);
  const width = widest * (box + GAP) + 2 * MARGIN, height = layers.length * LAYER - LAYER + BOX + 20;
  const places = new Map();
  layers.forEach((nodes, index) => {
    const ttl = first - 1 + index;
    const left = MARGIN + (widest - nodes.length) * (box + GAP) / 2;
    arrange(nodes, ttl, places).forEach((node, place) => {
      places.set(`${ttl} ${node.address}`, { node, x: left + (place + 0.5) * (box + GAP), y: 10 + BOX / 2 + index * LAYER });
    });
  });
  if (!graph.paths) for (const address of graph.layers.get(first)?.keys() ?? []) addLink(first, source.address, address);

  const focused = document.activeElement?.dataset.node;
  const svg = draw("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `All paths to ${graph.target}, by TTL from top to bottom` });
  // Beside the graph, where they stay when it is scrolled. Nodes say their TTL themselves.
  const numbers = draw("svg", { class: "ttls", width: TTL_WIDTH, height, "aria-hidden": "true" });
  for (let index = 1; index < layers.length; index++) {
    numbers.append(draw("text", { x: 2, y: 14 + BOX / 2 + index * LAYER }, `TTL ${first - 1 + index}`));
  }
  const labels = [];
  const most = Math.max(1, ...[...graph.links.values()].map((link) => link.flows ?? 1));
  for (const link of graph.links.values()) {
    const ends = [places.get(`${link.ttl - 1} ${link.from}`), places.get(`${link.ttl} ${link.to}`)];
    if (!ends.every(Boolean) || graph.moved.has(link.ttl) || graph.moved.has(link.ttl - 1)) continue;
    svg.append(drawLink(link, ends, most));
    if (link.loss) labels.push(drawLoss(link, ends));
  }
  svg.append(...labels);
  for (const { node, x, y } of places.values()) svg.append(drawNode(node, x, y, box));
  // The middle stays where it is, however wide the graph becomes.
  const area = at("graph");
  const aside = area.scrollLeft - (area.scrollWidth - area.clientWidth) / 2;
  area.replaceChildren(numbers, svg);
  area.scrollLeft = aside + (area.scrollWidth - area.clientWidth) / 2;
  // The one that was read is drawn anew.
  if (focused) at("graph").querySelector(`[data-node="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  if (!graph.paths) {
    at("paths-summary").textContent = `${layers.flat().length - 1} nodes so far.`;
  }
}

const label = (node) => (node.address === SILENT ? "no answer" : node.address);

function drawLink(link, [from, to], most) {
  const [top, bottom] = [from.y + BOX / 2, to.y - BOX / 2];
  const bend = (top + bottom) / 2;
  const state = link.loss ? (link.loss.ratio > HEAVY ? " heavy" : " light") : "";
  const path = draw("path", {
    class: "link" + state, d: `M${from.x} ${top}C${from.x} ${bend} ${to.x} ${bend} ${to.x} ${bottom}`,
    "stroke-width": link.loss ? 4 : (1.2 + 2.3 * (link.flows ?? 0) / most).toFixed(1),
  });
  const flows = link.flows === undefined ? "" : `: ${link.flows} flows`;
  path.append(draw("title", {}, `${called(link.from)} to ${called(link.to)}${flows}`));
  return path;
}

/** From this share on loss is heavy. */
const HEAVY = 0.05;

/** The share as text, beside the further end of the link: not everybody can tell colours apart. */
function drawLoss(link, [from, to]) {
  // Not on the side from which the link comes.
  const [x, anchor] = from.x > to.x ? [to.x - 6, "end"] : [to.x + 6, "start"];
  return draw("text", { class: "loss-label", x, y: to.y - BOX / 2 - 6, "text-anchor": anchor }, `${percent(link.loss.ratio)} lost`);
}

/** What was measured at a node, in words. */
function measured(node) {
  if (node.source) return "Probes come from here.";
  const words = [`TTL ${node.ttl}`];
  if (node.names.length) words.push(node.names.join(", "));
  if (node.destination) words.push("the destination");
  if (node.mixed) words.push("balanced per packet");
  if (node.hashed?.length) words.push(`chosen by ${node.hashed.join(", ").replaceAll("_", " ")}`);
  const found = node.measured;
  if (!found) return words.join(", ");
  words.push(found.rtt ? `RTT min ${milliseconds(found.rtt.min)}, avg ${milliseconds(found.rtt.avg)}, max ${milliseconds(found.rtt.max)}` : "RTT not known");
  words.push(`${found.flows} ${found.flows === 1 ? "flow" : "flows"}`, `${found.answered} of ${found.sent} probes answered`);
  const lost = Object.entries(found.lost).map(([cause, count]) => `${count} ${WORDS[cause] ?? cause}`);
  if (lost.length) words.push(lost.join(", "));
  if (found.mpls.length) words.push(`MPLS ${found.mpls.map((entry) => entry.label).join(", ")}`);
  return words.join(", ");
}

function drawNode(node, x, y, box) {
  const state = [["source", node.source], ["destination", node.destination], ["silent", node.address === SILENT], ["mixed", node.mixed]];
  const name = node.names[0] ?? (node.mixed ? "per packet" : node.source ? "source" : "");
  const group = draw("g", {
    class: ["node", ...state.filter(([, is]) => is).map(([word]) => word)].join(" "),
    tabindex: 0, role: "img", "aria-label": `${label(node)}: ${measured(node)}`,
    "data-node": `${node.ttl} ${node.address}`, transform: `translate(${x} ${y})`,
  });
  group.append(draw("rect", { x: -box / 2, y: -BOX / 2, width: box, height: BOX, rx: 6 }));
  group.append(draw("text", { class: "address", y: name ? -3 : 4, "text-anchor": "middle" }, label(node)));
  if (name) {
    const letters = Math.floor(box / 6.2);
    group.append(draw("text", { y: 13, "text-anchor": "middle" }, name.length > letters ? name.slice(0, letters - 1) + "…" : name));
  }
  const tell = () => {
    at("node-info").replaceChildren(make("strong", "", label(node)), ` ${measured(node)}`);
    at("node-info").hidden = false;
  };
  for (const event of ["pointerenter", "focus", "click"]) group.addEventListener(event, tell);
  return group;
}

/** Shows one event; true when it was the last. */
function showPaths({ name, data }) {
  const event = JSON.parse(data);
  switch (name) {
    case "node":
      addNode(event.ttl, event.ip_address, { destination: event.destination });
      break;
    case "link":
      addLink(event.ttl, event.from, event.to);
      break;
    case "moved":
      graph.moved.add(event.ttl);
      break;
    case "result": {
      finishPaths(event);
      status("Done.");
      const widest = Math.max(0, ...event.hops.map((hop) => hop.nodes.length));
      remember(`all paths, ${event.hops.length} hops, up to ${widest} wide`);
      break;
    }
    case "error":
      status(event.message, true);
      remember(event.message);
      break;
  }
  schedulePaths();
  return name === "result" || name === "error";
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape") at("node-info").hidden = true;
});
